"""The pages in a real browser: whole, offline, usable by mouse and keyboard at every width."""

from pathlib import Path
from typing import Any

import pytest

from tests.reports.browsing import WIDTHS, Visit

PAGES = ("sub-01.html", "sub-02.html", "sub-03.html", "group.html", "model-embedded.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_and_offline(
    browser: Any, outputs: Path, name: str, width: str, scheme: str
) -> None:
    with Visit(browser, outputs / name, width, color_scheme=scheme) as visit:
        outside = [url for url in visit.requests[1:] if not url.startswith("data:")]
        assert outside == []
        assert visit.complaints == []
        wide, seen = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, "the page scrolls sideways"
        loaded = "[...document.images].every((i) => i.complete && i.naturalWidth > 0)"
        assert visit.page.evaluate(loaded)


@pytest.mark.parametrize("scripts", [True, False])
def test_before_and_after_by_label(browser: Any, outputs: Path, scripts: bool) -> None:
    with Visit(browser, outputs / "sub-01.html", "phone", java_script_enabled=scripts) as visit:
        views = visit.page.locator("fieldset:has(legend:text-is('Registration'))").first
        before, after = views.locator("img").nth(0), views.locator("img").nth(1)
        assert (before.is_visible(), after.is_visible()) == (False, True)
        views.locator("label", has_text="Before").click()
        assert (before.is_visible(), after.is_visible()) == (True, False)


def test_before_and_after_by_keyboard(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "desktop") as visit:
        views = visit.page.locator("fieldset:has(legend:text-is('Registration'))").first
        views.get_by_role("radio", name="After").focus()
        visit.page.keyboard.press("ArrowLeft")
        assert views.locator("img").nth(0).is_visible()


def test_flicker_starts_and_stops(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "desktop") as visit:
        views = visit.page.locator("fieldset:has(legend:text-is('Registration'))").first
        button, before = views.get_by_role("button", name="Flicker"), views.locator("img").nth(0)
        button.click()
        assert before.is_visible()
        before.wait_for(state="hidden", timeout=30_000)
        before.wait_for(state="visible", timeout=30_000)
        button.click()
        assert button.get_attribute("aria-pressed") == "false"


def test_a_table_sorts_both_ways(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "group.html", "desktop") as visit:
        table = visit.page.locator("#cohort-table")
        button = table.get_by_role("button", name="Volume (mL)")
        orders = []
        for _ in range(2):
            button.click()
            orders.append(table.locator("tbody th").all_inner_texts())
        assert orders[0] == ["sub-02", "sub-01_ses-2", "sub-01_ses-1"]
        assert orders[1] == orders[0][::-1]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_in_print(browser: Any, outputs: Path, name: str) -> None:
    """At the width of an A4 sheet within its margins every table is whole."""
    with Visit(browser, outputs / name, "desktop") as visit:
        visit.page.set_viewport_size({"width": 718, "height": 1000})
        visit.page.emulate_media(media="print")
        cut = """[...document.querySelectorAll('table')]
          .filter((t) => t.scrollWidth > t.closest('main').clientWidth)
          .map((t) => t.outerHTML.slice(0, 200))"""
        assert visit.page.evaluate(cut) == []
        assert visit.page.locator(".rating, .on-screen").filter(visible=True).count() == 0


def test_the_rule_of_the_lesions_is_read_whole_on_a_phone(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "phone") as visit:
        table = visit.page.locator("table.sortable").first
        rule = visit.page.locator(f"[id='{table.get_attribute('aria-describedby')}']")
        assert "Threshold" in rule.inner_text()
        box = rule.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_only_headings_of_columns_have_the_arrow_of_sorting(browser: Any, outputs: Path) -> None:
    arrows = "(e) => getComputedStyle(e, '::after').content"
    with Visit(browser, outputs / "sub-01.html", "desktop") as visit:
        table = visit.page.locator("table.sortable").first
        assert "↕" in table.locator("thead button").first.evaluate(arrows)
        assert table.locator("tbody button").first.evaluate(arrows) == "none"


def test_print_shows_both_views(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "desktop") as visit:
        visit.page.emulate_media(media="print")
        views = visit.page.locator("fieldset:has(legend:text-is('Registration'))").first
        assert [image.is_visible() for image in views.locator("img").all()] == [True, True]
        assert not views.locator("button").is_visible()


@pytest.mark.parametrize("name", PAGES)
def test_structure_for_screen_readers(browser: Any, outputs: Path, name: str) -> None:
    with Visit(browser, outputs / name, "desktop") as visit:
        levels = visit.page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])"
        )
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False)), levels
        bare = "[...document.querySelectorAll('button,a,input,img')].filter((e) => !(e.alt || "
        bare += "e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"
        assert visit.page.evaluate(bare) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_has_contrast(browser: Any, outputs: Path, name: str, scheme: str) -> None:
    """WCAG 2 AA: 4.5 to 1 against the nearest painted background."""
    script = """() => {
      const parse = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = (e) => {
        for (; e; e = e.parentElement) {
          const c = parse(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] > 0) return c;
        }
        return [255, 255, 255];
      };
      const poor = [];
      for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || e.closest('script,style,svg') || !e.offsetParent) continue;
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) poor.push(`${e.tagName} ${e.textContent.trim().slice(0, 30)} ${ratio}`);
      }
      return poor;
    }"""
    with Visit(browser, outputs / name, "desktop", color_scheme=scheme) as visit:
        assert visit.page.evaluate(script) == []
