"""A page in headless Chromium: what it asks for and what it complains of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDTHS = {"desktop": (1280, 900), "phone": (360, 740)}
SOFTWARE_GL = (
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)
NO_GL = ("--disable-gpu", "--disable-3d-apis")


SERIOUS = ("serious", "critical")


@contextmanager
def chromium(playwright: Any, *arguments: str) -> Iterator[Any]:
    """The system's Chromium, driven by Playwright; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        pytest.skip("no chromium on this machine: apt install chromium")
    running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *arguments])
    yield running
    running.close()


class Visit:
    """A page that is open, and all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, width: str, **options: Any) -> None:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        self.context = browser.new_context(viewport=size, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def serious_findings(page: Any) -> dict[str, list[str]]:
    """What axe-core 4 (MPL-2.0, in axe-playwright-python) finds serious, by its rule.

    Also what only WebGL would show is looked at.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.evaluate("document.querySelectorAll('[hidden]').forEach((e) => { e.hidden = false; })")
    return {
        found["id"]: [node["html"] for node in found["nodes"]]
        for found in axe.run(page).response["violations"]
        if found["impact"] in SERIOUS
    }


def unreached(page: Any) -> list[str]:
    """Visible controls that the Tab key does not come to; of a group of radios one counts."""
    page.evaluate(
        """() => {
          const radio = (e) => e.type === "radio";
          const seen = (e) => e.offsetParent !== null && !e.disabled;
          const kinds = "button,input,select,textarea,summary,a[href]";
          window.wanted = [...document.querySelectorAll(kinds)]
            .filter((e) => seen(e) && (!radio(e) || e.checked) && !e.closest("svg"));
          document.body.tabIndex = -1;
          document.body.focus();
          window.reached = new Set();
        }"""
    )
    for _ in range(page.evaluate("document.querySelectorAll('*').length")):
        page.keyboard.press("Tab")
        if page.evaluate("reached.size === reached.add(document.activeElement).size"):
            break
    return page.evaluate("wanted.filter((e) => !reached.has(e)).map((e) => e.outerHTML)")
