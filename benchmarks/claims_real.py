"""Sessions on which claims of the papers are tried: real scans with real lesion shapes in them.

The heads are the real scans of the shared data, each turned, scaled, bent and mirrored anew for a
session, at 3 mm. The shapes are those of ``stroke_masks``; their look is painted. A group has the
scans of one person, so that its scanner is a real one, and held-out sessions are of a person whom
no training saw. **Synthetic lesions in real heads of people with multiple sclerosis.**
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from claims_cohort import (
    BOTH,
    FLAIR_ONLY,
    LESION_ML,
    VOXEL_MM,
    Cohort,
    write_case,
)
from numpy.typing import NDArray
from painted import Scan
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.filters import threshold_otsu

from bids_stroke.core import fields, geometry, synthesis
from bids_stroke.models import sampling
from bids_stroke.models.dataset import Case

SHAPE = (64, 76, 64)  # x, y, z of the common grid
MODALITIES = ("T1w", "FLAIR")
Float3D = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sessions made of some scans. With ``hidden`` every second lesion is on the FLAIR alone."""

    name: str
    train: int = 0
    scans: tuple[str, ...] = ()
    held_out: int = 0
    hidden: bool = False


HELD_OUT_SCANS = ("sub-01_ses-01", "sub-01_ses-02")
GROUPS = (
    Group(name="large", train=20, scans=("patient26",)),
    Group(name="target", held_out=12),
    Group(name="flair", train=8, scans=("sub-04_ses-01",), held_out=8, hidden=True),
)


@dataclass(frozen=True)
class Head:
    """T1w and FLAIR within the brain on one grid, smoothed for voxels of 3 mm, and the brain."""

    images: dict[str, Float3D]
    brain: NDArray[np.bool_]
    grid: geometry.Grid


def write_cohort(folder: Path, seed: int, shared: Path, groups: Sequence[Group] = GROUPS) -> Cohort:
    """Draw all sessions of a seed, as files."""
    train: dict[str, list[Case]] = {}
    held_out: dict[str, list[Case]] = {}
    for place, group in enumerate(groups):
        kinds = [group.scans] * group.train + [HELD_OUT_SCANS] * group.held_out
        made = [
            _write(folder, group, number, scans[number % len(scans)], shared, [seed, place, number])
            for number, scans in enumerate(kinds)
        ]
        train[group.name], held_out[group.name] = made[: group.train], made[group.train :]
    return Cohort(train, held_out)


def _write(
    folder: Path, group: Group, number: int, scan: str, shared: Path, seed: list[int]
) -> Case:
    """Draw a session and write it, cut to the brain."""
    rng = np.random.default_rng(seed)
    images, brain = _varied(head(scan, shared), rng)
    lesion = _lesion(images["T1w"], brain, shared, rng)
    seen_on = FLAIR_ONLY if group.hidden and number % 2 else BOTH
    shown = images if seen_on == BOTH else {"FLAIR": images["FLAIR"]}
    stage: synthesis.Stage = "chronic" if not group.hidden and rng.random() < 0.4 else "subacute"
    strength = rng.uniform(0.6, 1.0)
    painted = images | synthesis.paint(
        shown, lesion, rng, stage=stage, brain=brain, strength=strength
    )
    scanned = {name: _scan(image, rng) * brain for name, image in painted.items()}
    box = geometry.bounding_box(brain, 2)
    arrays = {**scanned, "brain": brain, "label": lesion >= 0.5}
    return write_case(
        folder / f"sub-{group.name}{number:02d}",
        {name: array[box] for name, array in arrays.items()},
        {"training_set": group.name, "seen_on": seen_on, "scan": scan},
    )


@cache
def head(scan: str, shared: Path) -> Head:
    """A real scan: FLAIR on the T1w's grid by the publisher's transform, brain by their mask."""
    if scan == "patient26":
        files = {name: nib.load(shared / "ms_mni" / f"{scan}_{name}.nii.gz") for name in MODALITIES}
        ways = dict.fromkeys(MODALITIES, np.eye(4))
        masks = {
            name: np.abs(file.get_fdata(dtype=np.float32)) > 1e-3 for name, file in files.items()
        }
    else:
        raw = Scan(shared, scan)
        files = {name: raw.image(name) for name in MODALITIES}
        ways = {"T1w": np.eye(4), "FLAIR": np.linalg.inv(raw.flair_to_t1w())}
        masks = {name: np.asarray(raw.brain(name).dataobj) > 0 for name in MODALITIES}
    grid = geometry.grid_of(files["T1w"])
    images, brains = {}, []
    for name, file in files.items():
        whole = file.get_fdata(dtype=np.float32) * masks[name]
        source, world = geometry.grid_of(file), ways[name]
        images[name] = geometry.resample(whole, source, grid, transform=world)
        inside = geometry.resample(masks[name], source, grid, transform=world)
        brains.append(inside > 0.5)
    brain = ndimage.binary_fill_holes(brains[0] & brains[1])
    sigma = [0.4 * VOXEL_MM / mm for mm in files["T1w"].header.get_zooms()[:3]]
    smooth = {name: ndimage.gaussian_filter(image, sigma) for name, image in images.items()}
    return Head(smooth, brain, grid)


def _varied(real: Head, rng: np.random.Generator) -> tuple[dict[str, Float3D], NDArray[np.bool_]]:
    """The head turned, scaled, mirrored and bent, on the common grid; images in 0..1."""
    middle = np.argwhere(real.brain).mean(axis=0)
    turn = Rotation.from_euler("xyz", rng.normal(0, 8, 3), degrees=True).as_matrix()
    stretch = rng.uniform(0.92, 1.08, 3) * (rng.choice([-1, 1]), 1, 1)
    way = np.eye(4)
    way[:3, :3] = turn * stretch
    way[:3, 3] = nib.affines.apply_affine(real.grid.affine, middle)
    bend = fields.displacement(SHAPE, rng, amplitude=rng.uniform(0.3, 1.0), scale=10)

    def moved(volume: NDArray) -> Float3D:
        straight = geometry.resample(volume, real.grid, common(), transform=way)
        return fields.warp(straight, bend)

    brain = moved(real.brain) > 0.5
    images = {name: sampling.unit_range(moved(image), brain) for name, image in real.images.items()}
    return {name: image * brain for name, image in images.items()}, brain


def _scan(image: Float3D, rng: np.random.Generator) -> Float3D:
    """Contrast curve, coil and noise of a session; voxels of 3 mm leave no slices to be thick."""
    curved = np.clip(image, 0, None) ** np.float32(np.exp(rng.normal(0, 0.15)))
    coil = fields.bias_field(image.shape, rng, strength=rng.uniform(0.02, 0.12), scale=20)
    return fields.rician(curved * coil, rng, rng.uniform(0.01, 0.04))


def common() -> geometry.Grid:
    """The grid of all sessions, with its middle at 0."""
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -VOXEL_MM * (np.array(SHAPE) - 1) / 2
    return geometry.Grid(SHAPE, affine)


def _lesion(
    t1w: Float3D, brain: NDArray[np.bool_], shared: Path, rng: np.random.Generator
) -> Float3D:
    """A real shape of LESION_ML somewhere in the brain, soft, and not in open fluid."""
    fluid = brain & (t1w < threshold_otsu(t1w[brain]))
    tissue = brain & ~sampling.open_fluid(fluid.astype(np.float32))
    files = _shapes(shared)
    low, high = LESION_ML
    while True:
        shape = _shape(files[rng.integers(len(files))])
        if shape is None:
            continue
        varied = synthesis.transform_mask(shape, rng, flip=bool(rng.random() < 0.5))
        soft = synthesis.place(varied, tissue, rng) * tissue
        if low <= (soft >= 0.5).sum() * VOXEL_MM**3 / 1000 <= high:
            return np.clip(soft, 0, 1).astype(np.float32)


@cache
def _shapes(shared: Path) -> list[Path]:
    files = sorted((shared / "stroke_masks" / "soop").glob("*.nii.gz"))
    if not files:
        raise SystemExit(f"{shared / 'stroke_masks' / 'soop'} has no lesion masks.")
    return files


@cache
def _shape(file: Path) -> Float3D | None:
    """A mask of 1 mm at 3 mm, cut to its box; None if it is not of a size to be used."""
    whole = np.asarray(nib.load(file).dataobj) > 0.5
    if not LESION_ML[0] * 500 < whole.sum() < LESION_ML[1] * 2000:
        return None
    soft = ndimage.gaussian_filter(whole.astype(np.float32), 1.0)
    part = soft[geometry.bounding_box(whole, 6)]
    return ndimage.zoom(part, 1 / VOXEL_MM, order=1)
