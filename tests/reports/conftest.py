"""One fake output folder for all tests of the pages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bids_stroke.core.files import save_image
from bids_stroke.reports.group import write_group
from bids_stroke.reports.participant import write_participant_report
from tests.reports import fake
from tests.reports.browsing import NO_GL, SOFTWARE_GL, chromium


@pytest.fixture(scope="package")
def playwright_driver() -> Iterator[Any]:
    """Playwright, which runs once in a process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def browser(playwright_driver: Any) -> Iterator[Any]:
    """A browser without WebGL, in which pages are fast and must work as well."""
    with chromium(playwright_driver, *NO_GL) as running:
        yield running


@pytest.fixture(scope="package")
def gl_browser(playwright_driver: Any) -> Iterator[Any]:
    """A browser whose WebGL runs on the processor."""
    with chromium(playwright_driver, *SOFTWARE_GL) as running:
        yield running


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder with all pages; reference masks lie in ``references`` beside it."""
    folder = tmp_path_factory.mktemp("dataset")
    out = fake.write_outputs(folder / "out")
    probability = fake.lesion_probability(1)
    anat = folder / "references" / "sub-01" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    save_image(
        probability >= 0.5,
        fake.AFFINE,
        anat / "sub-01_ses-1_space-FLAIR_label-lesion_mask.nii.gz",
        dtype="uint8",
    )
    for subject in ("01", "sub-02", "03"):
        write_participant_report(out, subject)
    write_group(folder, out, [folder / "references"])
    return out
