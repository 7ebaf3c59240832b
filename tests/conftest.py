"""Fixtures that every part of the tests shares."""

import os

os.environ.setdefault("NO_ET", "1")
# ITK reads it once in a process: one test that uses ITK first would decide for all.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _crash_files_stay_out_of_the_checkout(tmp_path: Path) -> None:
    from nipype import config

    config.set("execution", "crashdump_dir", str(tmp_path))


@pytest.fixture(autouse=True)
def _models_of_the_user_stay_out_of_the_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIDS_STROKE_MODELS", str(tmp_path / "empty-store"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real scans, or a skip that says where it was looked for."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BIDS_STROKE_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}: set BIDS_STROKE_TEST_DATA to have these tests run")
    return folder
