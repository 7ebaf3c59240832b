"""Input check: is a file a usable 3-D MR image, and the same image as clean float32."""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, SpatialImage

from bids_stroke.core.files import UNREADABLE
from bids_stroke.core.geometry import corners
from bids_stroke.errors import InputMissing, TryAgain, UnusableData

MIN_VOXELS = (4, 16, 16)
"""Fewest voxels along the shortest, middle and longest axis."""
VOXEL_MM = (0.1, 20.0)
"""Shortest and longest side of a voxel."""
MAX_SHEAR = 1e-2
"""Largest cosine between two axes; above it no rigid tool reads the grid alike."""
MAX_NONFINITE = 0.01
"""Largest share of NaN and infinite voxels that is repaired; above it the file is refused."""
SMALL_VIEW_MM = 100.0

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MAX_RATIO = 1032
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Conformed:
    """A checked image: float32 [x, y, z], RAS+ mm affine, and one sentence for each repair.

    ``dtype`` is the name of the type on disk.
    """

    data: np.ndarray
    affine: np.ndarray
    dtype: str
    notes: tuple[str, ...]


def load(path: Path) -> SpatialImage:
    """Open an image file; its voxels are read later.

    Raises InputMissing when there is no such file or it may not be read, UnusableData when it is
    empty, is no image or holds fewer bytes than its header says.
    """
    path = Path(path)
    if not path.is_file():
        raise InputMissing(f"{path} does not exist: check the path or fetch the file's content.")
    if path.stat().st_size == 0:
        raise UnusableData(f"{path} is empty (0 bytes): copy or convert it again.")
    try:
        _read_to_the_end(path)
        image = cast(SpatialImage, nib.load(path))
        shape, dtype = image.shape, image.get_data_dtype()
    except PermissionError as error:
        raise InputMissing(f"{path} may not be read: check its permissions.") from error
    except UNREADABLE as error:
        raise UnusableData(
            f"{path} can't be read as an image: it is truncated, corrupt or no NIfTI."
        ) from error
    if math.prod(shape) * dtype.itemsize > path.stat().st_size * _GZIP_MAX_RATIO:
        raise UnusableData(f"{path} holds less data than the shape {shape} in its header needs.")
    return image


def _read_to_the_end(path: Path) -> None:
    """Have the checksum at the end of a gzip file tested: nibabel stops reading before it."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == _GZIP_MAGIC
    if compressed:
        with gzip.open(path) as stream:
            while stream.read(_CHUNK):
                pass


def conform(path: Path) -> Conformed:
    """Check an image file and give its voxels as finite float32 on the file's own grid.

    A 4-D image of one volume becomes 3-D. At most 1 % of NaN or infinite voxels become 0. Where
    sform and qform disagree the sform is used, as in nibabel. Every such repair is noted. Negative
    values are kept and noted. Raises InputMissing or UnusableData, in one sentence, for a file that
    is missing, corrupt, truncated, empty, 2-D, of several volumes, RGB or complex, constant, a
    mask, too small, or of an impossible affine.
    """
    image = load(path)
    notes = [*_check_header(path, image), *_check_view(image.affine, image.shape[:3])]
    if len(image.shape) > 3:
        notes.append("The file is 4-D with one volume: it was read as 3-D.")
    data, repairs = _finite(path, _voxels(path, image))
    _check_contrast(path, data)
    if (negative := float((data < 0).mean())) > 0:
        notes.append(f"{negative:.2%} of the voxels are negative: kept as they are.")
    affine = np.asarray(image.affine, dtype=float)
    return Conformed(data, affine, str(image.get_data_dtype()), (*notes, *repairs))


def read_mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mask of an image file, uint8 [x, y, z] with 1 where it is above 0.5, and its affine.

    Raises InputMissing or UnusableData as ``conform`` does, and when no voxel is in the mask.
    """
    image = load(path)
    _check_header(path, image)
    with np.errstate(invalid="ignore"):
        mask = (_voxels(path, image) > 0.5).astype(np.uint8)
    if not mask.any():
        raise UnusableData(f"{path} is an empty mask: remove it or make it again.")
    return mask, np.asarray(image.affine, dtype=float)


def load_header(path: Path) -> SpatialImage:
    """Open a 3-D image, which may be a part of a head; its header is checked, its voxels not read.

    Raises InputMissing or UnusableData as ``conform`` does for what file and header tell.
    """
    image = load(path)
    _check_header(path, image, fewest=(2, 2, 2))
    return image


def load_labels(path: Path) -> SpatialImage:
    """Read a 3-D mask or label image, which may be empty or a part of a head; checked.

    Raises InputMissing or UnusableData as ``conform`` does for all but what the voxels hold.
    """
    image = load_header(path)
    try:
        data = np.asanyarray(image.dataobj).reshape(image.shape[:3])
    except UNREADABLE as error:
        raise UnusableData(f"{path} is truncated or corrupt: its voxels can't be read.") from error
    return type(image)(data, image.affine, image.header)


def is_placed(image: SpatialImage) -> bool:
    """Does the header say where the image lies? A NIfTI has an sform or a qform for that."""
    if not isinstance(image, nib.Nifti1Image):
        return True
    return bool(image.header["sform_code"] or image.header["qform_code"])


def _check_header(
    path: Path, image: SpatialImage, fewest: tuple[int, int, int] = MIN_VOXELS
) -> list[str]:
    """Notes on the header of a usable image; raises UnusableData for any other."""
    _check_dtype(path, image.get_data_dtype())
    _check_shape(path, image.shape, fewest)
    return [*_header_notes(path, image), *_check_affine(path, image.affine)]


def _header_notes(path: Path, image: SpatialImage) -> list[str]:
    """Notes on the two affines and the voxel sizes of a NIfTI header."""
    if not isinstance(image, nib.Nifti1Image):
        return []
    header = image.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    notes = []
    if not sform and not qform:
        notes.append("The header has neither sform nor qform: left and right are a guess.")
    if sform and qform and (apart := _distance_mm(image)) > 0.1:
        notes.append(f"sform and qform lie up to {apart:.1f} mm apart: the sform was used.")
    if (sizes := _raw_pixdim(path)).size and not (np.isfinite(sizes).all() and (sizes > 0).all()):
        shown = " x ".join(f"{size:g}" for size in sizes)
        if not sform:
            raise UnusableData(f"{path} has impossible voxel sizes ({shown} mm): convert it again.")
        notes.append(
            f"The header's voxel sizes ({shown}) are impossible: those of the sform were used."
        )
    return notes


def _distance_mm(image: nib.Nifti1Image) -> float:
    """Largest distance between a corner placed by the sform and by the qform."""
    points = np.c_[corners(image.shape[:3]), np.ones(8)].T
    apart = (image.header.get_sform() - image.header.get_qform()) @ points
    return float(np.linalg.norm(apart, axis=0).max())


def _raw_pixdim(path: Path) -> np.ndarray:
    """Voxel sizes as they are written, before nibabel repairs them; empty if not single-file."""
    with ImageOpener(str(path)) as stream:
        try:
            return np.array(nib.Nifti1Header.from_fileobj(stream, check=False)["pixdim"][1:4])
        except (HeaderDataError, ValueError):
            return np.zeros(0)


def _check_dtype(path: Path, dtype: np.dtype) -> None:
    if dtype.kind not in "iufb":
        kind = "complex numbers" if dtype.kind == "c" else "colours"
        raise UnusableData(f"{path} holds {kind}, not intensities: give the magnitude image.")


def _check_shape(path: Path, shape: tuple[int, ...], fewest: tuple[int, int, int]) -> None:
    shown = " x ".join(map(str, shape))
    if math.prod(shape[3:]) != 1:
        raise UnusableData(f"{path} holds several volumes ({shown}): give one 3-D image.")
    if len(shape) < 3 or 1 in shape[:3]:
        raise UnusableData(f"{path} is not 3-D ({shown}): give a whole volume.")
    if any(size < least for size, least in zip(sorted(shape[:3]), fewest, strict=True)):
        raise UnusableData(f"{path} is too small for a head ({shown} voxels): give a whole volume.")


def _check_affine(path: Path, affine: np.ndarray) -> list[str]:
    if not np.isfinite(affine).all():
        raise UnusableData(f"{path} has an affine that is not finite: repair its header.")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() < VOXEL_MM[0] or sizes.max() > VOXEL_MM[1]:
        shown = " x ".join(f"{size:g}" for size in sizes)
        raise UnusableData(f"{path} has impossible voxel sizes ({shown} mm): repair its header.")
    axes = affine[:3, :3] / sizes
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > MAX_SHEAR:
        raise UnusableData(
            f"{path} has a singular or sheared affine (axes are not at right angles, cosine "
            f"{shear:.2f}): resample it to a regular grid."
        )
    return [f"The affine has a slight shear (cosine {shear:.4f})."] if shear > 1e-3 else []


def _check_view(affine: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    extent = np.linalg.norm(affine[:3, :3], axis=0) * shape
    if extent.min() >= SMALL_VIEW_MM:
        return []
    return [f"The field of view is only {extent.min():.0f} mm along one axis."]


def _voxels(path: Path, image: SpatialImage) -> np.ndarray:
    """Voxels [x, y, z] as float32 with the file's scaling applied."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            voxels = np.asarray(image.dataobj, dtype=np.float64).astype(np.float32)
            return voxels.reshape(image.shape[:3])
    except UNREADABLE as error:
        raise UnusableData(f"{path} is truncated or corrupt: its voxels can't be read.") from error
    except MemoryError as error:
        raise TryAgain(f"Memory ran out while {path} was read: give more.") from error


def _finite(path: Path, data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    wrong = ~np.isfinite(data)
    count, share = int(wrong.sum()), float(wrong.mean())
    if count == 0:
        return data, []
    if share > MAX_NONFINITE:
        raise UnusableData(
            f"{path} has NaN, infinite or overflowing values in {share:.1%} of voxels."
        )
    return np.where(wrong, np.float32(0), data), [f"{count} NaN or infinite voxels were set to 0."]


def _check_contrast(path: Path, data: np.ndarray) -> None:
    low, high = data.min(), data.max()
    if low == high:
        raise UnusableData(f"{path} is constant (every voxel is {low:g}): it holds no image.")
    if np.isin(data, (low, high)).all():
        raise UnusableData(f"{path} holds only the values {low:g} and {high:g}: it is a mask.")
