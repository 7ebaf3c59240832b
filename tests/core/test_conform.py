"""Every way in which a file can be bad is named; what can be used is repaired and said."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core.conform import conform, read_mask
from bids_stroke.errors import BidsStrokeError, InputMissing, UnusableData

AFFINE = np.array([[-2.0, 0.1, 0, 40], [0.1, 2, 0, -50], [0, 0, 5, -30], [0, 0, 0, 1.0]])
SHAPE = (24, 30, 18)


def voxels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(2).uniform(1, 1000, shape).astype(np.float32)


def save(
    path: Path,
    data: np.ndarray | None = None,
    affine: np.ndarray = AFFINE,
    change: Callable[[nib.Nifti1Image], None] | None = None,
) -> Path:
    image = nib.Nifti1Image(voxels() if data is None else data, affine)
    if change:
        change(image)
    nib.save(image, path)
    return path


def truncated_gzip(path: Path) -> None:
    save(path)
    path.write_bytes(path.read_bytes()[:-4000])


def corrupt_gzip(path: Path) -> None:
    save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(bytes(content))


def header_promises_more(path: Path) -> None:
    save(path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = np.array([3000, 3000, 3000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def header_promises_a_little_more(path: Path) -> None:
    save(path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[46:48] = np.array([19], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def with_values(value: float, count: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        data = voxels()
        data.ravel()[:count] = value
        save(path, data)

    return make


def without_pixdim(path: Path) -> None:
    save(path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[80:92] = np.array([0, -2, np.nan], "<f4").tobytes()
    raw[252:256] = np.array([1, 0], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
SHEARED = AFFINE + np.array([[0, 0.5, 0, 0], [0] * 4, [0] * 4, [0] * 4])
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.touch(), "empty"),
    "text": (lambda p: p.write_text("not an image"), "can't be read"),
    "truncated": (truncated_gzip, "truncated"),
    "corrupt": (corrupt_gzip, "corrupt"),
    "huge header": (header_promises_more, "less data"),
    "one slice short": (header_promises_a_little_more, "truncated or corrupt"),
    "2-D": (lambda p: save(p, voxels((40, 40))), "not 3-D"),
    "one slice": (lambda p: save(p, voxels((40, 40, 1))), "not 3-D"),
    "time series": (lambda p: save(p, voxels((24, 30, 18, 5))), "several volumes"),
    "tiny": (lambda p: save(p, voxels((24, 12, 12))), "too small"),
    "colours": (lambda p: save(p, RGB), "colours"),
    "complex": (lambda p: save(p, voxels().astype(np.complex64)), "complex"),
    "NaN": (with_values(np.nan, 500), "NaN"),
    "infinite": (with_values(np.inf, 500), "infinite"),
    "overflow": (lambda p: save(p, voxels().astype(np.float64) * 1e300), "overflow"),
    "zero": (lambda p: save(p, np.zeros(SHAPE, np.int16)), "constant"),
    "constant": (lambda p: save(p, np.full(SHAPE, 7, np.int16)), "constant"),
    "mask": (lambda p: save(p, (voxels() > 500).astype(np.uint8)), "mask"),
    "singular": (lambda p: save(p, affine=AFFINE[[0, 0, 2, 3]]), "singular"),
    "sheared": (lambda p: save(p, affine=SHEARED), "sheared"),
    "metres": (lambda p: save(p, affine=np.diag([2e-3, 2e-3, 2e-3, 1])), "voxel sizes"),
    "giant voxels": (lambda p: save(p, affine=np.diag([2, 2, 50.0, 1])), "voxel sizes"),
    "no voxel size": (without_pixdim, "impossible voxel sizes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence_with_their_name(case: str, tmp_path: Path) -> None:
    make, reason = BAD[case]
    path = tmp_path / "sub-01_T1w.nii.gz"
    make(path)
    before = path.read_bytes()
    with pytest.raises(UnusableData, match=reason) as caught:
        conform(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    assert path.read_bytes() == before


def test_truncated_without_compression(tmp_path: Path) -> None:
    path = save(tmp_path / "sub-01_T1w.nii")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnusableData, match=r"sub-01_T1w\.nii is truncated"):
        conform(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.nii.gz", tmp_path):
        with pytest.raises(InputMissing, match="does not exist"):
            conform(path)


def test_a_good_file_passes_unchanged(tmp_path: Path) -> None:
    path = save(tmp_path / "t1w.nii.gz")
    before = path.read_bytes()
    image = conform(path)
    np.testing.assert_array_equal(image.data, voxels())
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    assert image.data.dtype == np.float32
    assert image.dtype == "float32"
    assert path.read_bytes() == before
    assert [note for note in image.notes if "field of view" not in note] == []


def one_note(path: Path, word: str) -> np.ndarray:
    image = conform(path)
    notes = [note for note in image.notes if "field of view" not in note]
    assert len(notes) == 1
    assert word in notes[0]
    return image.data


def test_repairs_are_noted(tmp_path: Path) -> None:
    path = save(tmp_path / "4d.nii.gz", voxels()[..., None])
    np.testing.assert_array_equal(one_note(path, "4-D with one volume"), voxels())
    with_values(np.nan, 3)(path)
    repaired = one_note(path, "3 NaN")
    np.testing.assert_array_equal(repaired.ravel()[:3], 0)
    np.testing.assert_array_equal(repaired.ravel()[3:], voxels().ravel()[3:])
    with_values(-5, 3)(path)
    np.testing.assert_array_equal(one_note(path, "negative").ravel()[:3], -5)


def test_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)

    def scale(image: nib.Nifti1Image) -> None:
        image.header.set_slope_inter(0.5, -3)

    image = nib.Nifti1Image(stored, AFFINE)
    scale(image)
    path = tmp_path / "scaled.nii.gz"
    raw = image.header.binaryblock + bytes(4) + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(raw))
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[108:112] = np.array([352], "<f4").tobytes()
    header[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header)))
    np.testing.assert_allclose(conform(path).data, stored * 0.5 - 3)


def test_sform_wins_over_qform_and_says_so(tmp_path: Path) -> None:
    other = np.diag([-2.0, 2, 5, 1])

    def conflict(image: nib.Nifti1Image) -> None:
        image.set_sform(AFFINE, 1)
        image.set_qform(other, 1)

    path = save(tmp_path / "t1w.nii.gz", change=conflict)
    np.testing.assert_array_equal(one_note(path, "mm apart"), voxels())
    np.testing.assert_allclose(conform(path).affine, AFFINE, rtol=1e-6)


def test_header_without_orientation_is_noted(tmp_path: Path) -> None:
    def forget(image: nib.Nifti1Image) -> None:
        image.set_sform(None, 0)
        image.set_qform(None, 0)

    one_note(save(tmp_path / "t1w.nii.gz", change=forget), "guess")


def test_masks_are_read_as_zero_and_one(tmp_path: Path) -> None:
    wanted = voxels() > 500
    path = save(tmp_path / "mask.nii.gz", wanted.astype(np.float32)[..., None] * 0.9)
    mask, affine = read_mask(path)
    np.testing.assert_array_equal(mask, wanted)
    assert mask.dtype == np.uint8
    np.testing.assert_allclose(affine, AFFINE, rtol=1e-6)
    with pytest.raises(BidsStrokeError, match="empty mask"):
        read_mask(save(path, np.zeros(SHAPE, np.uint8)))
