"""Every fault of a training set is named, for all sessions at once, and good ones pass."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_stroke.bids import training_checks
from bids_stroke.bids.pairs import Pair
from bids_stroke.bids.training_checks import (
    Reference,
    check_place,
    check_references,
    choose_reference,
    lines,
    table,
)
from bids_stroke.core.files import save_image

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (12, 12, 12)


def _write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_image(data, affine, path, dtype=np.float32)


def _reference(
    root: Path,
    subject: str,
    mask: np.ndarray,
    *,
    affine: np.ndarray = AFFINE,
    image: np.ndarray | None = None,
    session: str | None = None,
    image_affine: np.ndarray = AFFINE,
) -> Reference:
    """A reference of a session with a T1w of its own noise."""
    label = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    noise = np.random.default_rng(sum(map(ord, label))).normal(100, 10, SHAPE)
    scan = _write(root / f"{label}_T1w.nii.gz", noise if image is None else image, image_affine)
    entities = {"subject": subject} | ({"session": session} if session else {})
    pair = Pair(subject=subject, session=session, t1w=scan, entities=entities)
    file = _write(root / f"{label}_label-L_mask.nii.gz", mask, affine)
    return Reference(pair=pair, space="T1w", file=file)


def _mask(start: int = 3, value: float = 1) -> np.ndarray:
    data = np.zeros(SHAPE)
    data[start : start + 3, 3:6, 3:6] = value
    return data


def _codes(references: list[Reference]) -> set[tuple[str, str, str]]:
    return {(f.label, f.severity, f.code) for f in check_references(references)}


def test_good_masks_pass(tmp_path):
    references = [_reference(tmp_path, "01", _mask(3)), _reference(tmp_path, "02", _mask(4, 255))]
    assert check_references(references) == []


def test_voxels_of_a_mask(tmp_path):
    blurred = _mask()
    blurred[4, 4, 4] = 0.5
    unknown = _mask(5)
    unknown[0, 0, 0] = np.nan
    found = _codes(
        [
            _reference(tmp_path, "01", np.zeros(SHAPE)),
            _reference(tmp_path, "02", blurred),
            _reference(tmp_path, "03", unknown),
            _reference(tmp_path, "04", np.ones(SHAPE)),
        ]
    )
    assert found == {
        ("sub-01", "warning", "empty"),
        ("sub-02", "error", "not_binary"),
        ("sub-03", "error", "not_finite"),
        ("sub-04", "error", "not_binary"),
    }


def test_an_inverted_mask_is_too_large(tmp_path):
    wide = np.diag([10.0, 10.0, 10.0, 1.0])
    inverted = 1 - _mask()
    one = _reference(tmp_path, "01", inverted, affine=wide, image_affine=wide)
    assert _codes([one]) == {("sub-01", "error", "too_large")}


def test_a_broken_file_is_named(tmp_path):
    one = _reference(tmp_path, "01", _mask())
    one.file.write_bytes(one.file.read_bytes()[:60])
    found = check_references([one])
    assert [f.code for f in found] == ["unreadable"]
    assert one.file.name in found[0].message


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_broken_scan_is_named_once(tmp_path, suffix):
    """Also where its header is whole: the voxels of an uncompressed file just end."""
    whole, one = (_reference(tmp_path, label, _mask(int(label))) for label in ("03", "04"))
    image = one.pair.images[one.space]
    scan = np.random.default_rng(1).normal(100, 10, SHAPE)
    broken = save_image(scan, AFFINE, image.with_name(f"broken.{suffix}"), dtype=np.float32)
    broken.write_bytes(broken.read_bytes()[:-400])
    pair = replace(one.pair, **{one.space.lower(): broken})
    found = check_references([whole, replace(one, pair=pair)])
    assert [(f.label, f.code) for f in found] == [("sub-04", "unreadable")]
    assert str(broken) in found[0].message


def test_the_other_image_of_a_pair_is_looked_at_as_well(tmp_path):
    one = _reference(tmp_path, "01", _mask())
    flair = tmp_path / "sub-01_FLAIR.nii"
    flair.write_bytes(b"no image")
    found = check_references([replace(one, pair=replace(one.pair, flair=flair))])
    assert [f.code for f in found] == ["unreadable"]
    assert str(flair) in found[0].message


def test_voxels_of_scans_are_read_once(tmp_path, monkeypatch):
    """Two T1w of a session share a FLAIR."""
    ones = [_reference(tmp_path, label, _mask(int(label))) for label in ("03", "04")]
    flair = ones[0].pair.t1w
    ones = [replace(one, pair=replace(one.pair, flair=flair)) for one in ones]
    read = []
    digest = training_checks._digest_of
    monkeypatch.setattr(training_checks, "_digest_of", lambda p: read.append(p) or digest(p))
    assert check_references(ones) == []
    assert len(read) == 3


def test_grids(tmp_path):
    shifted, far = AFFINE.copy(), AFFINE.copy()
    shifted[0, 3], far[0, 3] = 3.0, 60.0
    found = _codes(
        [
            _reference(tmp_path, "01", _mask(3), affine=shifted),
            _reference(tmp_path, "02", _mask(4), affine=far),
        ]
    )
    assert found == {("sub-01", "warning", "other_grid"), ("sub-02", "error", "elsewhere")}


def test_the_mask_of_another_session(tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] = 1.0
    found = _codes(
        [
            _reference(tmp_path, "01", _mask(3), session="1", affine=moved),
            _reference(tmp_path, "01", _mask(4), session="2", affine=moved, image_affine=moved),
        ]
    )
    assert found == {("sub-01_ses-1", "error", "other_session")}


def test_equal_content_under_two_names(tmp_path):
    scan = np.random.default_rng(0).normal(100, 10, SHAPE)
    found = _codes(
        [
            _reference(tmp_path, "01", _mask(3), image=scan),
            _reference(tmp_path, "02", _mask(4), image=scan),
            _reference(tmp_path, "03", _mask(5)),
            _reference(tmp_path, "04", _mask(5)),
            _reference(tmp_path, "05", np.zeros(SHAPE)),
            _reference(tmp_path, "06", np.zeros(SHAPE)),
        ]
    )
    assert found == {
        ("sub-01", "error", "equal_t1w"),
        ("sub-02", "error", "equal_t1w"),
        ("sub-03", "error", "equal_mask"),
        ("sub-04", "error", "equal_mask"),
        ("sub-05", "warning", "empty"),
        ("sub-06", "warning", "empty"),
    }


def test_the_wanted_space_is_chosen_and_a_template_serves_where_the_image_is_in_it(tmp_path):
    pair = _reference(tmp_path, "01", _mask()).pair
    file = tmp_path / "sub-01_label-L_mask.nii.gz"
    assert choose_reference(pair, {"FLAIR": file, "T1w": file}, "FLAIR") == Reference(
        pair=pair, space="T1w", file=file
    )
    chosen = choose_reference(pair, {"MNI152NLin2009aSym": file}, "T1w")
    assert chosen is not None and chosen.space == "T1w"
    other = _write(tmp_path / "mni.nii.gz", np.zeros((5, 5, 5)))
    assert choose_reference(pair, {"MNI152NLin2009aSym": other}, "T1w") is None


def test_place_and_side():
    found = [
        [(f.severity, f.code) for f in check_place("a", outside, contrast)]
        for outside, contrast in [(0.0, 1.0), (0.1, None), (0.8, None), (0.0, -0.9)]
    ]
    assert found == [
        [],
        [("warning", "outside_brain")],
        [("error", "outside_brain")],
        [("warning", "other_side")],
    ]


def test_words_and_table():
    findings = [f for label in "abc" for f in check_place(label, 0.0, -1.0)]
    said = lines(findings, 3)
    assert said[0] == "Check of 3 sessions: 0 errors, 3 warnings."
    assert "orientation of the whole dataset" in said[-1]
    assert table(findings).splitlines()[1].split("\t")[:3] == ["a", "warning", "other_side"]
