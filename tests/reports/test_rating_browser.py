"""The rating, the methods and the page without WebGL or scripts, in a real browser."""

from pathlib import Path
from typing import Any

import pytest

from bids_stroke.bids import ratings
from bids_stroke.core.files import read_json
from tests.reports import fake
from tests.reports.browsing import Visit, serious_findings, unreached


def test_a_rating_is_kept_and_exported(browser: Any, outputs: Path, tmp_path: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "desktop", accept_downloads=True) as visit:
        page = visit.page
        article = page.locator("article").first
        article.get_by_role("button", name="Save the table").click()
        assert "Say who rates" in article.locator("[data-rating=said]").inner_text()
        article.get_by_label("Rater").fill("Dr. A\tB")
        article.get_by_label("Comment").fill("faint\nborder\t" + fake.HOSTILE)
        article.locator("label", has_text="Doubtful").click()
        article.get_by_role("checkbox", name="Lesion 2 is not a lesion").check()
        article.get_by_role("button", name="Missed lesion at the crosshair").click()
        assert "Start the viewer" in article.locator("[data-rating=said]").inner_text()
        place = "-12.50,3.00,40.25"
        page.evaluate(f"document.querySelector('.viewer').dataset.mm = '{place}'")
        article.get_by_role("button", name="Missed lesion at the crosshair").click()
        page.reload()
        assert article.get_by_label("Comment").input_value().startswith("faint")
        assert article.get_by_role("radio", name="Doubtful").is_checked()
        table = saved(page, article, "Save the table", tmp_path)
        columns = saved(page, article, "Save its columns", tmp_path)
        article.get_by_role("button", name="Remove the mark").click()
        assert article.locator(".marks li").count() == 0
        article.get_by_role("button", name="Clear").click()
        assert not article.get_by_role("radio", name="Doubtful").is_checked()
    assert table.name == "sub-01_ses-1_desc-DrAB_ratings.tsv"
    assert list(read_json(columns)) == list(ratings.COLUMNS)
    assert table.read_text().splitlines()[0].split("\t") == list(ratings.COLUMNS)
    whole, marked, missed = ratings.read([table])
    assert (whole.rating, whole.rater) == ("doubtful", "Dr. A B")
    assert whole.comment == f"faint border {fake.HOSTILE}"
    assert whole.key == ("01", "1", None)
    assert (marked.lesion, marked.mark, missed.mark) == (2, "not_a_lesion", "missed")
    assert ",".join(table.read_text().splitlines()[3].split("\t")[8:11]) == place


def saved(page: Any, article: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        article.get_by_role("button", name=button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_without_webgl_the_pictures_speak(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "phone") as visit:
        page = visit.page
        assert page.locator(".viewer-off").first.is_visible()
        assert not page.locator(".viewer-on").first.is_visible()
        assert page.get_by_role("button", name="Show lesion 1").count() == 0
        assert page.locator("article img").first.is_visible()


def test_without_scripts_nothing_pretends_to_work(browser: Any, outputs: Path) -> None:
    path = outputs / "sub-01.html"
    with Visit(browser, path, "desktop", java_script_enabled=False) as visit:
        buttons = [b for b in visit.page.locator("button").all() if b.is_visible()]
        assert buttons == []
        assert not visit.page.locator("input[type=checkbox]").first.is_visible()


def test_methods_are_copied(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-02.html", "desktop") as visit:
        visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit.page.get_by_role("button", name="Copy the BibTeX").click()
        visit.page.get_by_text("Copied.").wait_for()
        assert visit.page.evaluate("navigator.clipboard.readText()").startswith("@misc{a,")


@pytest.mark.parametrize("width", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["sub-01.html", "sub-02.html", "sub-03.html", "model-embedded.html"]
)
def test_axe_finds_nothing_serious(
    browser: Any, outputs: Path, name: str, scheme: str, width: str
) -> None:
    with Visit(browser, outputs / name, width, color_scheme=scheme) as visit:
        assert serious_findings(visit.page) == {}


def test_the_keyboard_comes_to_every_control(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-02.html", "desktop") as visit:
        assert unreached(visit.page) == []


def test_what_can_be_rated_can_be_rated_by_keyboard(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-02.html", "desktop", accept_downloads=True) as visit:
        page = visit.page
        page.get_by_label("Rater").focus()
        page.keyboard.type("AB")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("radio", name="Doubtful").is_checked()
        page.get_by_role("button", name="Save the table").focus()
        with page.expect_download() as waiting:
            page.keyboard.press("Enter")
        assert waiting.value.suggested_filename == "sub-02_desc-AB_ratings.tsv"


def test_every_flicker_shows_its_first_two_in_turn(browser: Any, outputs: Path) -> None:
    with Visit(browser, outputs / "sub-01.html", "desktop") as visit:
        buttons = visit.page.locator("article").first.locator(".views > .flicker")
        names = [b.locator("..").locator("legend").inner_text() for b in buttons.all()]
        assert names == ["Lesions", "Registration"] + [
            f"Bias correction of {m}" for m in ("T1w", "FLAIR")
        ]
        for button in buttons.all():
            pictures = button.locator("..").locator("figure")
            first = pictures.nth(0).is_visible()
            button.click()
            pictures.nth(0).wait_for(state="hidden" if first else "visible", timeout=30_000)
            button.click()
            assert button.get_attribute("aria-pressed") == "false"
