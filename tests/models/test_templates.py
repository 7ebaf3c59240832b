"""The template of nilearn's wheel, and TemplateFlow's folder without a network."""

from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.config import TEMPLATES
from bids_stroke.errors import InputMissing
from bids_stroke.models.templates import (
    SHIPPED,
    find_template,
    require_template,
    templateflow_files,
    templateflow_home,
    tissues,
)


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
    for ask in (find_template, require_template):
        with pytest.raises(InputMissing, match="MNI152NLin6Asym is not on this machine"):
            ask("MNI152NLin6Asym")
    require_template(SHIPPED)


@pytest.mark.parametrize("name", TEMPLATES)
def test_files_are_named_as_templateflow_names_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package holds the names of all files of all templates: some say res-1, some res-01."""
    spec = find_spec("templateflow")
    assert spec and spec.origin
    with ZipFile(Path(spec.origin).parent / "conf" / "templateflow-skel.zip") as names:
        names.extractall(tmp_path, [n for n in names.namelist() if n.startswith(f"tpl-{name}/")])
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    for path in (tmp_path / f"tpl-{name}").glob("*.nii.gz"):
        path.write_bytes(b"fetched")
    head, mask = templateflow_files(name)
    assert head.name in (f"tpl-{name}_res-1_T1w.nii.gz", f"tpl-{name}_res-01_T1w.nii.gz")
    assert mask.name == head.name.replace("T1w", "desc-brain_mask")


def test_home_is_where_templateflow_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert templateflow_home() == tmp_path / "templateflow"
    monkeypatch.setenv("TEMPLATEFLOW_HOME", "/mine")
    assert templateflow_home() == Path("/mine")
