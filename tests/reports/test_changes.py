"""Sessions of one person on disk: matched, registered once, and said when they can't be."""

import os
from pathlib import Path

import numpy as np
import pytest

from bids_stroke.reports import changes, collect
from tests.reports import cohorts, fake
from tests.reports.fake import AFFINE, SHAPE

FLIP = np.diag([-1.0, 1, 1, 1])


def lesions(*places: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for x, size in places:
        mask[x : x + size, 20 : 20 + size, 16 : 16 + size] = True
    return mask


def entities(session: str, subject: str = "01", **more: str) -> dict[str, str]:
    return {"subject": subject, "session": session, **more}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions in one space: one lesion grows, one goes, one comes."""
    out = tmp_path_factory.mktemp("two")
    first, second = lesions((10, 3), (22, 3)), lesions((10, 4), (28, 2))
    cohorts.write_session(out, entities("1"), first, images=True, affine=AFFINE)
    cohorts.write_session(out, entities("2"), second, images=True, affine=AFFINE)
    return out


def test_what_became_of_each_lesion(outputs: Path) -> None:
    table, rows, problems = changes.write_changes(collect.sessions(outputs))
    assert problems == []
    (row,) = table.to_dict("records")
    assert (row["session_before"], row["session_after"]) == ("ses-1", "ses-2")
    assert [row[f"n_{fate}"] for fate in ("new", "resolved", "grown", "shrunken")] == [1, 1, 1, 0]
    voxel = 0.064
    assert row["volume_before_ml"] == pytest.approx(54 * voxel)
    assert row["change_ml"] == pytest.approx((64 + 8 - 54) * voxel)
    assert rows["fate"].tolist() == ["grown", "resolved", "new"]
    assert row["similarity"] > 1.5  # the same head twice
    assert list(table) == list(changes.COLUMNS)
    assert list(rows) == list(changes.LESION_COLUMNS)


def test_the_registration_is_kept_and_used_again(outputs: Path) -> None:
    changes.write_changes(collect.sessions(outputs))
    path = outputs / "sub-01/ses-2/anat/sub-01_ses-2_from-T1w_to-T1wses1_mode-image_xfm.txt"
    record = path.with_suffix(".json")
    written = path.stat().st_mtime_ns
    changes.write_changes(collect.sessions(outputs))
    assert path.stat().st_mtime_ns == written
    os.utime(record, (0, 0))
    changes.write_changes(collect.sessions(outputs))
    assert path.stat().st_mtime_ns > written


def test_a_session_stored_the_other_way_round_matches(tmp_path: Path) -> None:
    """Columns of voxels in reverse, and the affine with them: the same place in mm."""
    mask = lesions((10, 3))
    cohorts.write_session(tmp_path, entities("1"), mask, images=True, affine=AFFINE)
    cohorts.write_session(tmp_path, entities("2"), mask, images=True, affine=AFFINE)
    from bids_stroke.core.files import load_image, save_image

    flipped = AFFINE @ FLIP
    flipped[:3, 3] = (AFFINE @ [SHAPE[0] - 1, 0, 0, 1])[:3]
    for path in (tmp_path / "sub-01" / "ses-2" / "anat").glob("*.nii.gz"):
        image = load_image(path)
        data = np.asarray(image.dataobj)
        save_image(data[::-1], flipped, path, dtype=data.dtype)
    table, _, problems = changes.write_changes(collect.sessions(tmp_path))
    assert problems == []
    assert (table["n_stable"][0], table["n_new"][0], table["n_resolved"][0]) == (1, 0, 0)


def test_pairs_are_consecutive_sessions_of_one_kind(tmp_path: Path) -> None:
    for session in ("10", "2", "1"):
        cohorts.write_session(tmp_path, entities(session), lesions((5, 2)))
    cohorts.write_session(tmp_path, entities("3", acquisition="hr"), lesions((5, 2)))
    cohorts.write_session(tmp_path, {"subject": "02"}, lesions((5, 2)))
    pairs = changes.session_pairs(collect.sessions(tmp_path))
    assert [(a.session, b.session) for a, b in pairs] == [("1", "2"), ("2", "10")]


def test_files_that_are_missing_or_broken_are_said(tmp_path: Path) -> None:
    for session in ("1", "2"):
        cohorts.write_session(tmp_path, entities(session), lesions((5, 2)))
        cohorts.write_session(
            tmp_path, entities(session, "02"), lesions((5, 2)), images=True, affine=AFFINE
        )
    broken = tmp_path / "sub-02/ses-1/anat/sub-02_ses-1_space-T1w_seg-lesions_dseg.nii.gz"
    broken.write_bytes(b"nothing")
    table, rows, problems = changes.write_changes(collect.sessions(tmp_path))
    assert (len(table), len(rows)) == (0, 0)
    assert problems[0] == "sub-01_ses-1 and sub-01_ses-2 share no image with all its files."
    assert "sub-02_ses-1 and sub-02_ses-2 can't be compared" in problems[1]


def test_fake_heads_have_the_expected_grid() -> None:
    assert fake.head()[0].shape == SHAPE
