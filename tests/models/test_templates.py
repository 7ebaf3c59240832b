"""The template of nilearn's wheel, and TemplateFlow's folder without a network."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.errors import InputMissing
from bids_stroke.models.templates import SHIPPED, find_template, tissues


def test_the_shipped_template_is_the_symmetric_one() -> None:
    """Its mirror image is itself, bit by bit: 2009a *Sym*, at 1 mm, centred on x = 0."""
    template = find_template(SHIPPED)
    assert SHIPPED == "MNI152NLin2009aSym"
    assert template.grid.shape == (197, 233, 189)
    assert template.grid.affine[:3, 3].tolist() == [-98, -134, -72]
    assert np.array_equal(template.t1w, template.t1w[::-1])
    assert 1.8e6 < template.brain.sum() < 2.0e6


def test_tissues_are_probabilities_on_every_second_voxel() -> None:
    maps, template = tissues(), find_template(SHIPPED)
    assert np.array_equal(maps.brain, template.brain[::2, ::2, ::2])
    assert np.allclose(np.linalg.norm(maps.affine[:3, :3], axis=0), 2)
    assert maps.grey.max() <= 1
    assert (maps.grey + maps.white).max() <= 1.02
    assert np.array_equal(maps.grey, maps.grey[::-1])


def test_templateflow_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MNI152NLin2009cAsym"
    folder = tmp_path / f"tpl-{name}"
    folder.mkdir()
    head = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mask = (head > 11).astype(np.uint8)
    nib.save(nib.Nifti1Image(head, np.eye(4)), folder / f"tpl-{name}_res-01_T1w.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / f"tpl-{name}_res-01_desc-brain_mask.nii.gz")
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    template = find_template(name)
    assert np.array_equal(template.t1w, head * mask)
    assert np.array_equal(template.brain, mask > 0)


@pytest.mark.parametrize("made", [False, True])
def test_what_was_never_fetched_is_told(
    made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TemplateFlow keeps empty files for what it knows of but never fetched."""
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    if made:
        (tmp_path / "tpl-MNI152NLin6Asym").mkdir()
        (tmp_path / "tpl-MNI152NLin6Asym/tpl-MNI152NLin6Asym_res-01_T1w.nii.gz").touch()
    with pytest.raises(InputMissing, match="MNI152NLin6Asym is not on this machine"):
        find_template("MNI152NLin6Asym")
