"""The viewer and the rating in a real browser: every control, left and right, and no request."""

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image
from scipy.spatial.transform import Rotation

from bids_stroke.reports import pages, viewer
from bids_stroke.reports.collect import sessions
from bids_stroke.reports.participant import write_participant_report
from tests.reports import fake
from tests.reports.browsing import Visit

pytestmark = pytest.mark.slow  # WebGL is drawn by the processor

READY = ".viewer[data-ready]"
PATIENCE = 120_000  # WebGL on a busy processor
CENTRE = (-25.0, 20.0, 15.0)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with one bright block at the patient's left, to the front and high up."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -50, -60, -40
    data = np.full((50, 60, 40), 60, np.float32)
    x, y, z = (np.rint((c - o) / 2).astype(int) for c, o in zip(CENTRE, affine[:3, 3], strict=True))
    data[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4] = 255
    turned = (
        data[::-1, :, ::-1],
        affine @ np.array([[-1, 0, 0, 49], [0, 1, 0, 0], [0, 0, -1, 39], [0, 0, 0, 1]]),
    )
    volume = viewer.Volume(name="T1w", data=turned[0], limits=(0, 255))
    html = viewer.viewer_html([volume], turned[1], name="v", title="Phantom", centre=CENTRE)
    path = tmp_path_factory.mktemp("phantom") / "phantom.html"
    return pages.render("citation.html.j2", path, methods=html, **viewer.assets())


@pytest.fixture(scope="module")
def open_phantom(gl_browser: Any, phantom: Path) -> Iterator[Any]:
    with Visit(gl_browser, phantom, "phone") as visit:
        visit.page.set_default_timeout(PATIENCE)
        visit.page.wait_for_selector(READY, timeout=PATIENCE)
        yield visit.page


@pytest.fixture(scope="module")
def subject(gl_browser: Any, outputs: Path) -> Iterator[Visit]:
    with Visit(gl_browser, outputs / "sub-01.html", "phone") as visit:
        visit.page.set_default_timeout(PATIENCE)
        visit.page.wait_for_selector(READY, timeout=PATIENCE)
        yield visit


def picture(page: Any) -> np.ndarray:
    """Grey values [row, column] of the canvas as it is seen."""
    page.wait_for_timeout(300)
    shot = page.locator("canvas").first.screenshot(timeout=PATIENCE)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("L"), float)


def bright_place(page: Any) -> tuple[float, float]:
    """Where the block lies in the drawn head: 0..1 from the left and from the top."""
    seen = picture(page)
    head = np.argwhere((seen > 30) & (seen < 120))
    (top, left), (bottom, right) = head.min(axis=0), head.max(axis=0)
    rows, columns = np.nonzero(seen > 200)
    return (columns.mean() - left) / (right - left), (rows.mean() - top) / (bottom - top)


def choose(page: Any, view: str) -> None:
    page.locator(f'label[for="v-view-{view}"]').click()


@pytest.mark.parametrize(
    ("view", "radiological", "side", "high"),
    [
        ("axial", True, "right", 0.5),
        ("axial", False, "left", 0.5),
        ("coronal", True, "right", 0.5),
        ("coronal", False, "left", 0.5),
        ("sagittal", True, "left", 0.5),
        ("sagittal", False, "left", 0.5),
    ],
)
def test_left_and_right_on_the_screen(
    open_phantom: Any, view: str, radiological: bool, side: str, high: float
) -> None:
    """The patient's left is on the right of the screen, unless it is asked for otherwise."""
    page = open_phantom
    page.get_by_label("Show the crosshair").uncheck()
    choose(page, view)
    page.get_by_label("Radiological convention").set_checked(radiological)
    x, y = bright_place(page)
    assert (x > 0.6) if side == "right" else (x < 0.4)
    assert y < high, "front and head are up"


def test_the_convention_is_said(open_phantom: Any) -> None:
    sides = open_phantom.locator(".sides")
    box = open_phantom.get_by_label("Radiological convention")
    box.check()
    assert "(L) is on the right" in sides.inner_text()
    box.uncheck()
    assert "(L) is on the left" in sides.inner_text()


def test_the_crosshair_moves_by_keyboard(open_phantom: Any) -> None:
    page = open_phantom
    page.get_by_role("button", name="Reset").click()
    slider = page.get_by_label("Left to right", exact=True)
    slider.focus()
    page.keyboard.press("ArrowRight")
    before = float(page.locator(".viewer").get_attribute("data-mm").split(",")[0])
    page.keyboard.press("ArrowRight")
    after = float(page.locator(".viewer").get_attribute("data-mm").split(",")[0])
    assert after - before == pytest.approx(2.0, abs=0.1), "one voxel to the patient's right"
    assert "mm" in slider.get_attribute("aria-valuetext")
    assert f"x {after:.0f}" in page.locator(".place").inner_text()


def pull(page: Any, selector: str, value: float) -> None:
    page.locator(selector).first.fill(str(value))


@pytest.fixture(scope="module")
def oblique(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort's map on a grid that is turned by 30 degrees, with its peak far from the middle."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zx", [30, 10], degrees=True).as_matrix() * 2
    turn[:3, 3] = -30, -20, -40
    head, counts = np.full((40, 50, 30), 100, np.float32), np.zeros((40, 50, 30), np.uint16)
    counts[4:9, 38:44, 20:25], counts[6, 41, 22] = 1, 3
    volumes = [
        viewer.Volume(name="Template", data=head, limits=(0, 400), role="template"),
        viewer.Volume(
            name="Number",
            data=counts,
            kind="map",
            role="count",
            limits=(0.5, 3),
            color="#ff0000,#00ff00",
        ),
    ]
    peak = nib.affines.apply_affine(turn, [6, 41, 22])
    shown = [
        viewer.viewer_html(volumes, turn, name="peak", title="t", centre=peak.tolist()),
        viewer.viewer_html(volumes, turn, name="plain", title="t"),
    ]
    path = tmp_path_factory.mktemp("oblique") / "page.html"
    return pages.render("citation.html.j2", path, methods=Markup().join(shown), **viewer.assets())


@pytest.fixture(scope="module")
def open_oblique(gl_browser: Any, oblique: Path) -> Iterator[Any]:
    with Visit(gl_browser, oblique, "phone") as visit:
        visit.page.set_default_timeout(PATIENCE)
        for name in ("peak", "plain"):
            visit.page.locator(f"#{name}").scroll_into_view_if_needed()
            visit.page.wait_for_selector(f"#{name}[data-ready]", timeout=PATIENCE)
        yield visit.page


def test_the_crosshair_is_where_it_is_sent_on_an_oblique_grid(open_oblique: Any) -> None:
    """The peak is one voxel: any error of a voxel would tell another number."""
    assert open_oblique.locator("#peak .place").inner_text().endswith("mm · Number 3")


def test_without_a_place_the_crosshair_starts_in_the_middle(open_oblique: Any) -> None:
    """A corner would show three black slices."""
    axes = open_oblique.locator("#plain [data-control=axis]")
    for i, n in enumerate((40, 50, 30)):
        assert abs(int(axes.nth(i).input_value()) - n / 2) <= 1


def test_counts_have_the_colours_of_their_scale(open_oblique: Any) -> None:
    page = open_oblique
    page.locator("#peak label[for=peak-view-axial]").click()
    page.locator("#peak").get_by_label("Show the crosshair").uncheck()
    page.wait_for_timeout(300)
    shot = page.locator("#peak canvas").screenshot(timeout=PATIENCE)
    red, green, blue = np.moveaxis(
        np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int), 2, 0
    )
    assert ((red > 240) & (green < 12) & (blue < 60)).sum() > 50, "one: the first colour"
    assert ((green > 180) & (red < 90) & (blue < 60)).any(), "the peak: the last colour"


def test_the_lowest_count_is_told_and_reset(open_oblique: Any) -> None:
    page = open_oblique
    slider = page.locator("#peak [data-control=low]")
    told = page.locator("#peak output[for=peak-low-0]")
    assert told.inner_text() == "1"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert told.inner_text() == slider.get_attribute("aria-valuetext") == "2"
    page.locator("#peak").get_by_role("button", name="Reset").click()
    assert told.inner_text() == "1"


def test_the_library_starts_with_the_first_viewer_that_is_seen(
    gl_browser: Any, tmp_path: Path
) -> None:
    """Before that it is text, which costs the page no time; after it, it is there once."""
    volume = viewer.Volume(name="T1w", data=np.ones((9, 9, 9), np.float32))
    space = Markup('<div style="height: 400vh"></div>')
    below = [
        space + viewer.viewer_html([volume], np.eye(4), name=name, title=name) for name in "ab"
    ]
    path = tmp_path / "page.html"
    pages.render("citation.html.j2", path, methods=Markup().join(below), **viewer.assets())
    with Visit(gl_browser, path, "phone") as visit:
        visit.page.wait_for_timeout(500)
        assert visit.page.evaluate("typeof niivue") == "undefined"
        scripts = visit.page.locator("script").count()
        for name in "ab":
            visit.page.locator(f"#{name}").scroll_into_view_if_needed()
            visit.page.wait_for_selector(f"#{name}[data-ready]", timeout=PATIENCE)
        assert visit.page.evaluate("typeof niivue") == "object"
        assert visit.page.locator("script").count() == scripts + 1


def test_nothing_is_asked_of_the_network(subject: Visit) -> None:
    assert [url for url in subject.requests[1:] if not url.startswith(("data:", "blob:"))] == []
    assert [c for c in subject.complaints if "GPU stall" not in c] == []


def test_opacity_changes_what_is_seen(subject: Visit) -> None:
    page = subject.page
    page.get_by_role("button", name="Reset").first.click()
    before = picture(page)
    pull(page, '[data-control="opacity"][data-layer="0"]', 0)
    dark = picture(page)
    assert dark.mean() < before.mean()
    page.get_by_role("button", name="Reset").first.click()
    np.testing.assert_allclose(picture(page).mean(), before.mean(), rtol=0.02)


def test_images_are_switched(subject: Visit) -> None:
    page = subject.page
    page.get_by_role("button", name="Reset").first.click()
    over = page.locator('[data-control="opacity"][data-layer="1"]').first
    values = []
    for _ in range(2):
        page.get_by_role("button", name="Switch FLAIR / T1w").first.click()
        values.append(over.input_value())
    assert values == ["100", "0"]


def test_every_view_draws_something_else(subject: Visit) -> None:
    page = subject.page
    drawn = []
    for view in ("axial", "coronal", "sagittal", "render", "multi"):
        page.locator(f'label[for="viewer-sub-01_ses-1-view-{view}"]').click()
        drawn.append(picture(page))
    assert all(one.max() > 100 for one in drawn)
    assert all((a != b).mean() > 0.02 for a, b in zip(drawn, drawn[1:], strict=False))


def test_another_threshold_has_its_volume(subject: Visit) -> None:
    """What is said is what the program would write; what is drawn shrinks with it."""
    page = subject.page
    page.get_by_role("button", name="Reset").first.click()
    slider = page.locator('[data-control="cut"]').first
    output = page.locator(".threshold output").first
    drawn = "document.querySelector('.viewer').viewer.layer('lesions').img.filter(Boolean).length"
    own = output.inner_text()
    assert own.startswith("0.50 (the model’s own): 7.30 mL in 2 lesions")
    voxels = page.evaluate(drawn)
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert output.inner_text().startswith("0.70: ")
    assert slider.get_attribute("aria-valuetext") == output.inner_text()
    assert 0 < page.evaluate(drawn) < voxels
    page.get_by_role("button", name="Reset").first.click()
    assert output.inner_text() == own and page.evaluate(drawn) == voxels


def test_small_lesions_are_left_out_of_the_drawn_mask(subject: Visit) -> None:
    """At a low threshold the reduced mask is the program's, voxel by voxel (nothing is reduced)."""
    page = subject.page
    pull(page, '[data-control="cut"]', 0)
    drawn = page.evaluate(
        "document.querySelector('.viewer').viewer.layer('lesions').img.filter(Boolean).length"
    )
    text = page.locator(".threshold output").first.inner_text()
    assert text.startswith("0.05: ")
    volume = float(text.split()[1])
    assert drawn * 64 / 1000 == pytest.approx(volume, abs=0.3)


def test_the_table_leads_to_each_lesion(subject: Visit, outputs: Path) -> None:
    page = subject.page
    first = page.locator("article").first
    for number in (2, 1):
        button = first.get_by_role("button", name=f"Show lesion {number}")
        button.click()
        wanted = [float(x) for x in button.get_attribute("data-mm").split(",")]
        there = [
            float(x) for x in page.locator(".viewer").first.get_attribute("data-mm").split(",")
        ]
        np.testing.assert_allclose(there, wanted, atol=2.1)
        assert "Lesions" in page.locator(".place").first.inner_text()
    before = page.locator(".viewer").first.get_attribute("data-mm")
    page.get_by_role("button", name="Next lesion").first.click()
    assert page.locator(".viewer").first.get_attribute("data-mm") != before
    page.get_by_role("button", name="Previous lesion").first.click()
    assert page.locator(".viewer").first.get_attribute("data-mm") == before


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that leaves the images beside it."""
    out = tmp_path_factory.mktemp("linked")
    fake.write_session(out, {"subject": "07"}, ("FLAIR",), count=1)
    return write_participant_report(out, "07", linked=True)


def test_linked_images_are_chosen_by_hand(gl_browser: Any, linked: Path) -> None:
    with Visit(gl_browser, linked, "phone") as visit:
        page = visit.page
        page.set_default_timeout(PATIENCE)
        chooser = page.get_by_label("Full files")
        chooser.wait_for(timeout=PATIENCE)
        names = [a.get_attribute("href") for a in page.locator(".controls a[download]").all()]
        chooser.set_input_files([linked.parent / names[0]])
        assert f"all {len(names)}" in page.locator(".place").inner_text()
        chooser.set_input_files([linked.parent / name for name in names])
        page.wait_for_selector(READY, timeout=PATIENCE)
        assert picture(page).max() > 100
        assert visit.requests[1:] == []


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_linked_images_come_from_the_server_of_the_page(gl_browser: Any, linked: Path) -> None:
    handler = partial(Quiet, directory=str(linked.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        context = gl_browser.new_context(viewport={"width": 360, "height": 740})
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        home = f"http://127.0.0.1:{server.server_port}/"
        page.goto(home + linked.name)
        page.wait_for_selector(READY, timeout=PATIENCE)
        assert all(url.startswith((home, "data:", "blob:")) for url in asked)
        context.close()
    finally:
        server.shutdown()
        server.server_close()


def test_sixty_lesions(gl_browser: Any, tmp_path: Path) -> None:
    fake.write_session(tmp_path, {"subject": "60"}, ("FLAIR",), count=1)
    scatter(tmp_path)
    page_file = write_participant_report(tmp_path, "60")
    assert page_file.stat().st_size < 15_000_000
    with Visit(gl_browser, page_file, "phone") as visit:
        page = visit.page
        page.set_default_timeout(PATIENCE)
        page.wait_for_selector(READY, timeout=PATIENCE)
        assert page.locator("tbody tr th button.jump").count() == 60
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen
        page.get_by_role("button", name="Show lesion 60").click()
        assert "Lesions" in page.locator(".place").inner_text()


def scatter(out: Path) -> None:
    """Sixty lesions of one voxel in place of the session's own."""
    from bids_stroke.core import lesions
    from bids_stroke.core.files import save_image, write_json

    session = sessions(out, "60")[0]
    spots = [(x, y, z) for x in range(10, 30, 5) for y in range(10, 40, 6) for z in (12, 18, 24)]
    labels = np.zeros(fake.SHAPE, np.int16)
    for number, spot in enumerate(spots, 1):
        labels[spot] = number
    probability = (labels > 0).astype(np.float32)
    anat = out / "sub-60" / "anat"
    table = lesions.table(labels, probability, fake.AFFINE)
    table.to_csv(next(anat.glob("*_dseg.tsv")), sep="\t", index=False)
    save_image(labels, fake.AFFINE, next(anat.glob("*_dseg.nii.gz")), dtype=np.int16)
    save_image(probability, fake.AFFINE, next(anat.glob("*_probseg.nii.gz")), dtype=np.float32)
    record = {**session.record, "lesions": {"FLAIR": {"count": len(spots), "volume_ml": 3.84}}}
    write_json(next(out.glob("sub-60/figures/*_desc-qc.json")), record)
