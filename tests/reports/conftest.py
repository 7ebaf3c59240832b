"""One fake output folder for all tests of the pages."""

from pathlib import Path

import pytest

from bids_stroke.core.files import save_image
from bids_stroke.reports.group import write_group
from bids_stroke.reports.participant import write_participant_report
from tests.reports import fake


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
