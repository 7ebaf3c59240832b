"""The cohort's page in a real browser: every control, at both widths, light and dark."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_stroke.bids.masks import reference_roots
from bids_stroke.config import Group
from bids_stroke.reports.group import write_group
from tests.reports import cohorts
from tests.reports.browsing import Visit, serious_findings, unreached
from tests.reports.cohorts import block
from tests.reports.fake import CRASH
from tests.reports.test_cohort import rating_file

SESSIONS = 120


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A page with every section: 120 sessions, two runs, references, ratings, a map, failures."""
    root = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(4)
    lines = ["participant_id\tcentre"]
    for number in range(SESSIONS):
        subject = f"{number:03}"
        mask = block(int(rng.integers(3, 9)), number % 5)
        far = 80.0 if number == 77 else float(rng.normal(2, 0.3))
        entities = {"subject": subject}
        cohorts.write_session(root / "out", entities, mask, template=True, rotation=far)
        if number < 12:
            cohorts.write_reference(root, subject, block(5, 3))
            cohorts.write_session(root / "other", entities, block(5, 3 + number % 2))
        lines.append(f"sub-{subject}\tcentre-{number % 3}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    logs = root / "out" / "logs" / "run" / "sub-500"
    logs.mkdir(parents=True)
    (logs / "crash-1.txt").write_text(CRASH)
    ratings = tuple(
        rating_file(root, rater, {"001": "fail", "002": "pass", "003": level})
        for rater, level in {"AB": "doubtful", "CD": "pass", "EF": "pass"}.items()
    )
    options = Group(
        compare={"other": root / "other"}, strata=("centre",), ratings=ratings, bootstraps=100
    )
    roots = reference_roots(root, derivatives={}, output_dir=root / "out")
    yield write_group(root, root / "out", roots, options=options)


def shown(visit: Visit) -> list[str]:
    return visit.page.locator("#cohort-table tbody th").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_page_is_whole_and_offline(browser: Any, page: Path, width: str, scheme: str) -> None:
    with Visit(browser, page, width, color_scheme=scheme) as visit:
        outside = [u for u in visit.requests[1:] if not u.startswith(("data:", "blob:"))]
        assert outside == []
        wide, seen = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, "the page scrolls sideways"
        for section in ("cohort", "failed", "sessions", "map", "quality", "agreement", "runs"):
            assert visit.page.locator(f"h2#{section}").is_visible(), section
        assert visit.page.locator("h2#ratings").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_axe_finds_nothing_serious(browser: Any, page: Path, width: str, scheme: str) -> None:
    with Visit(browser, page, width, color_scheme=scheme) as visit:
        assert serious_findings(visit.page) == {}


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_plots_are_seen_whole(browser: Any, page: Path, width: str) -> None:
    """A dot outside the screen is an outlier that nobody sees; texts must not touch."""
    with Visit(browser, page, width) as visit:
        parts = visit.page.locator("svg.plot circle, svg.plot.strip text")
        boxes = [box for part in parts.all() if (box := part.bounding_box())]
        assert min(box["x"] for box in boxes) >= 0
        assert max(box["x"] + box["width"] for box in boxes) <= visit.page.viewport_size["width"]
        for plot in visit.page.locator("svg.plot.strip").all():
            texts = sorted(
                (b["x"], b["x"] + b["width"])
                for t in plot.locator("text").all()
                if (b := t.bounding_box())
            )
            assert all(a[1] <= b[0] for a, b in zip(texts, texts[1:], strict=False)), texts


def test_print_has_headings_only_over_what_is_printed(browser: Any, page: Path) -> None:
    """Chromium leaves buttons out of a table's head that it repeats on the next sheet."""
    with Visit(browser, page, "desktop") as visit:
        visit.page.emulate_media(media="print")
        assert not visit.page.get_by_role("heading", name="In three planes").is_visible()
        display = "(b) => getComputedStyle(b).display"
        head = visit.page.locator("#cohort-table thead button").first
        assert head.evaluate(display) == "contents"
        row = visit.page.locator("#cohort-table tbody th").first
        assert row.evaluate("(th) => getComputedStyle(th).whiteSpace") == "nowrap"


def test_the_keyboard_comes_to_every_control(browser: Any, page: Path) -> None:
    with Visit(browser, page, "desktop") as visit:
        assert unreached(visit.page) == []


def test_pages_of_the_table(browser: Any, page: Path) -> None:
    with Visit(browser, page, "desktop") as visit:
        assert len(shown(visit)) == 50
        assert "1 to 50 of 120" in visit.page.locator("#shown").inner_text()
        visit.page.locator("#next").click()
        assert shown(visit)[0] == "sub-050"
        visit.page.locator("#last").click()
        assert len(shown(visit)) == 20
        assert visit.page.locator("#next").is_disabled()
        visit.page.locator("#previous").click()
        assert shown(visit)[0] == "sub-050"
        visit.page.locator("#first").click()
        assert shown(visit)[0] == "sub-000"
        assert visit.page.locator("#previous").is_disabled()


def test_sorting_takes_all_rows_not_the_page(browser: Any, page: Path) -> None:
    with Visit(browser, page, "desktop") as visit:
        head = visit.page.locator("#cohort-table thead th", has_text="Volume")
        head.get_by_role("button").focus()
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert shown(visit)[0] == "sub-000"  # a block of no size
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert all(int(label[-3:]) % 5 == 4 for label in shown(visit)[:24])


def test_filters(browser: Any, page: Path) -> None:
    with Visit(browser, page, "desktop") as visit:
        visit.page.get_by_label("Search").fill("sub-07 centre-2")
        assert shown(visit) == [f"sub-{i:03}" for i in range(70, 80) if i % 3 == 2]
        visit.page.get_by_role("button", name="Clear").click()
        visit.page.locator("#cohort-table tbody tr").nth(49).wait_for()
        visit.page.locator("#filter-kind").select_option("outlier")
        assert shown(visit) == ["sub-077"]
        visit.page.locator("#filter-kind").select_option("none")
        assert len(shown(visit)) == 24
        visit.page.locator("#filter-kind").select_option("")
        visit.page.locator("#filter-low").fill("1")
        visit.page.locator("#filter-high").fill("2")
        assert all(int(label[-3:]) % 5 == 3 for label in shown(visit))  # 27 voxels of .064 mL
        assert "24 (120 in all)" in visit.page.locator("#shown").inner_text()


def test_what_is_shown_can_be_downloaded(browser: Any, page: Path, tmp_path: Path) -> None:
    with Visit(browser, page, "desktop") as visit:
        visit.page.get_by_label("Search").fill("sub-01")
        with visit.page.expect_download() as waiting:
            visit.page.locator("#download").click()
        waiting.value.save_as(tmp_path / "shown.tsv")
    text = (tmp_path / "shown.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    assert [row["Session"] for row in rows] == [f"sub-{i:03}" for i in range(10, 20)]
    assert rows[0]["Flags"] == "n/a"
    assert rows[1]["centre"] == "centre-2"


def test_from_an_outlier_to_its_page_in_one_click(browser: Any, page: Path) -> None:
    (page.parent / "sub-077.html").write_text("<!doctype html><title>seventy-seven</title>")
    with Visit(browser, page, "desktop") as visit:
        marked = visit.page.locator("svg .marked")
        assert marked.count() == 1
        marked.click()
        visit.page.wait_for_url(re.compile(r"sub-077\.html#sub-077$"))
        assert visit.page.title() == "seventy-seven"


def test_all_is_there_without_scripts_but_the_table_says_where(browser: Any, page: Path) -> None:
    with Visit(browser, page, "desktop", java_script_enabled=False) as visit:
        assert visit.page.locator("noscript p", has_text="needs JavaScript").is_visible()
        assert visit.page.locator("img.map").is_visible()
        assert not visit.page.locator(".filters").is_visible()


def test_a_label_that_tries_to_be_markup_stays_text(browser: Any, tmp_path: Path) -> None:
    cohorts.write_session(tmp_path / "out", {"subject": "01"}, block(4, 3))
    hostile = "</script><img src=x onerror=alert(1)>"
    (tmp_path / "participants.tsv").write_text(f"participant_id\tcentre\nsub-01\t{hostile}\n")
    path = write_group(tmp_path, tmp_path / "out", options=Group(strata=("centre",)))
    with Visit(browser, path, "desktop") as visit:
        assert visit.page.locator("#cohort-table td", has_text=hostile).count() == 1
        assert visit.page.locator("img[src=x]").count() == 0
