"""Masks that others made are found by their names."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.bids.layout import build_layout
from bids_stroke.bids.masks import find_reference_masks, matches, reference_roots
from bids_stroke.bids.pairs import Pair, find_pairs
from tests.bids.skeleton import dataset, touch


def brain_masks(tmp_path: Path, raw: list[str], masks: list[str], **filters: dict) -> list[dict]:
    root = dataset(tmp_path / "raw", *raw)
    touch(tmp_path / "other", masks)
    pairs = find_pairs(
        build_layout(root), derivatives={"other": tmp_path / "other"}, filters=filters
    )
    return [{m: path.name[:-7] for m, path in pair.brain_masks.items()} for pair in pairs]


@pytest.mark.parametrize(
    ("raw", "masks", "expected"),
    [
        (
            ["01/T1w", "01/FLAIR"],
            [
                "01/desc-brain_mask",
                "01/space-FLAIR_desc-brain_mask",
                "01/space-MNI_desc-brain_mask",
            ],
            [{"T1w": "sub-01_desc-brain_mask", "FLAIR": "sub-01_space-FLAIR_desc-brain_mask"}],
        ),
        (
            ["01/T1w"],
            ["01/space-T1w_desc-brain_mask"],
            [{"T1w": "sub-01_space-T1w_desc-brain_mask"}],
        ),
        (["01/FLAIR"], ["01/desc-brain_mask"], [{"FLAIR": "sub-01_desc-brain_mask"}]),
        (["01/T1w"], ["01/mask"], [{"T1w": "sub-01_mask"}]),
        (["01/T1w"], ["01/label-brain_mask"], [{"T1w": "sub-01_label-brain_mask"}]),
        (["01/T1w"], ["01/label-L_mask", "01/desc-head_mask", "01/desc-brain_T1w"], [{}]),
        (["01/T1w"], ["02/desc-brain_mask", "01/a/desc-brain_mask"], [{}]),
        (["01/a/T1w"], ["01/desc-brain_mask"], [{}]),
        (["01/a/T1w"], ["01/a/desc-brain_mask"], [{"T1w": "sub-01_ses-a_desc-brain_mask"}]),
        (["01/acq-x_T1w"], ["01/desc-brain_mask"], [{"T1w": "sub-01_desc-brain_mask"}]),
        (["01/acq-x_T1w"], ["01/acq-y_desc-brain_mask"], [{}]),
        (
            ["01/acq-x_T1w"],
            ["01/acq-x_desc-brain_mask", "01/desc-brain_mask"],
            [{"T1w": "sub-01_acq-x_desc-brain_mask"}],
        ),
        (
            ["01/run-1_T1w", "01/run-2_T1w"],
            ["01/run-1_desc-brain_mask", "01/desc-brain_mask"],
            [{"T1w": "sub-01_run-1_desc-brain_mask"}, {}],
        ),
    ],
)
def test_brain_masks(tmp_path: Path, raw: list, masks: list, expected: list) -> None:
    assert brain_masks(tmp_path, raw, masks) == expected


def test_filter_of_masks(tmp_path: Path) -> None:
    masks = ["01/desc-brain_mask", "01/desc-brainManual_mask"]
    chosen = brain_masks(tmp_path, ["01/T1w"], masks, mask={"desc": "brainManual"})
    assert chosen == [{"T1w": "sub-01_desc-brainManual_mask"}]


PAIR = Pair(
    subject="01",
    session="a",
    t1w=Path("sub-01_ses-a_T1w.nii.gz"),
    flair=Path("sub-01_ses-a_FLAIR.nii.gz"),
    entities={"subject": "01", "session": "a"},
)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("space-FLAIR_label-L_mask", "FLAIR"),
        ("label-L_mask", "T1w"),
        ("label-lesion_mask", "T1w"),
        ("space-FLAIR_desc-lesion_mask", "FLAIR"),
        ("space-T1w_label-L_desc-truth_mask", "T1w"),
        ("space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask", "MNI152NLin2009aSym"),
        ("T1w_label-lesion_roi", "T1w"),
        ("label-lesion_roi", "T1w"),
        ("FLAIR_label-lesion_roi", "FLAIR"),
        ("msk", "T1w"),
        ("space-FLAIR_msk", "FLAIR"),
    ],
)
def test_reference_names(tmp_path: Path, name: str, space: str) -> None:
    touch(tmp_path, [f"01/a/{name}"])
    found = find_reference_masks([tmp_path], PAIR)
    assert {s: p.name for s, p in found.items()} == {space: f"sub-01_ses-a_{name}.nii.gz"}


@pytest.mark.parametrize(
    "name",
    [
        "01/a/space-T1w_label-L_desc-stroke_mask",
        "01/a/desc-brain_mask",
        "01/a/space-FLAIR_desc-brainTruth_mask",
        "01/a/label-brain_roi",
        "01/a/label-L_probseg",
        "01/b/label-L_mask",
        "01/label-L_mask",
        "02/a/label-L_mask",
        "01/a/run-2_T1w",
    ],
)
def test_what_is_no_reference(tmp_path: Path, name: str) -> None:
    touch(tmp_path, [name])
    assert find_reference_masks([tmp_path], PAIR) == {}


def test_isles_folders_and_the_first_root_wins(tmp_path: Path) -> None:
    isles = tmp_path / "isles" / "sub-01" / "ses-a" / "sub-01_ses-a_msk.nii.gz"
    isles.parent.mkdir(parents=True)
    isles.touch()
    touch(tmp_path / "second", ["01/a/label-L_mask", "01/a/space-FLAIR_label-L_mask"])
    found = find_reference_masks([tmp_path / "isles", tmp_path / "second"], PAIR)
    assert found["T1w"] == isles
    assert set(found) == {"T1w", "FLAIR"}


def test_without_a_space_the_grid_tells(tmp_path: Path) -> None:
    root = dataset(tmp_path, "01/T1w", "01/FLAIR", "01/label-L_mask")
    for suffix, size in (("T1w", 4), ("FLAIR", 5), ("label-L_mask", 5)):
        path = root / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros((size, 4, 4), "u1"), np.eye(4)), path)
    (pair,) = find_pairs(build_layout(root))
    assert list(find_reference_masks([root], pair)) == ["FLAIR"]


ATLAS_MASK = "space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask"


@pytest.mark.parametrize(("size", "space"), [(4, "T1w"), (5, "MNI152NLin2009aSym")])
def test_a_scan_in_template_space_has_its_mask_there(tmp_path: Path, size: int, space: str) -> None:
    """ATLAS: mask and T1w on one grid belong together, whatever the space is called."""
    root = dataset(tmp_path, "01/T1w", f"01/{ATLAS_MASK}")
    for suffix, side in (("T1w", 4), (ATLAS_MASK, size)):
        path = root / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros((side, 4, 4), "u1"), np.eye(4)), path)
    (pair,) = find_pairs(build_layout(root))
    assert list(find_reference_masks([root], pair)) == [space]


@pytest.mark.parametrize(("shift", "space"), [(0, "MNI152NLin2009aSym"), (1, "T1w")])
def test_a_mask_without_a_space_on_the_grid_of_the_template(
    tmp_path: Path, shift: int, space: str
) -> None:
    root = dataset(tmp_path, "01/T1w", "01/label-L_mask")
    folder, affine = root / "sub-01" / "anat", np.eye(4)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), "u1"), affine), folder / "sub-01_T1w.nii.gz")
    affine[:3, 3] = (-98 + shift, -134, -72)
    mask = nib.Nifti1Image(np.zeros((197, 233, 189), "u1"), affine)
    nib.save(mask, folder / "sub-01_label-L_mask.nii.gz")
    (pair,) = find_pairs(build_layout(root))
    assert list(find_reference_masks([root], pair)) == [space]


def test_reference_roots(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "ours"
    for folder in (out, raw / "derivatives" / "manual", tmp_path / "given"):
        folder.mkdir(parents=True)
    given = {"given": tmp_path / "given"}
    roots = reference_roots(raw, derivatives=given, output_dir=out)
    assert roots == [
        tmp_path / "given",
        raw,
        raw / "derivatives" / "manual",
        raw / "derivatives",
    ]
    named = reference_roots(raw, derivatives=given, output_dir=out, reference="manual")
    assert named == [raw / "derivatives" / "manual"]
    assert reference_roots(raw, derivatives={}, output_dir=out, reference="absent") == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"run": "1"}, True),
        ({"run": "2"}, False),
        ({"run": ["2", "1"]}, True),
        ({"run": "*"}, True),
        ({"run": ""}, False),
        ({"echo": ""}, True),
        ({"echo": "*"}, False),
        ({"acquisition": "x", "run": "01"}, True),
        ({"acquisition": "X"}, False),
    ],
)
def test_matches(wanted: dict, expected: bool) -> None:
    assert matches({"run": "01", "acquisition": "x"}, wanted) is expected
