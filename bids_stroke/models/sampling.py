"""Training patches made on the fly: an anatomy, lesions put into it, a scanner's imperfections.

Volumes are [x, y, z] on one isotropic grid in template space; a sample is [channel, z, y, x], as
nnU-Net's networks see a RAS+ image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional
from torch.utils.data import IterableDataset

from bids_stroke.core import fields, synthesis
from bids_stroke.core.bias import n4
from bids_stroke.core.geometry import BESIDE_BRAIN_VOX, bounding_box
from bids_stroke.models.channels import MIRRORED, MODALITIES

IGNORE = 2
VISIBLE = 0.4  # standard deviations of the brain
THICKEST_MM = 6.0
BORDER_MM = 5.0
PLANE_OFF_DEG, PLANE_OFF_MM = 1.0, 1.05
"""By how much a midsagittal plane is off that is looked for in an image (standard deviations)."""
VOLUMES = ("t1w", "flair", "csf", "gm", "wm", "brain", "ignore", "ventricle")
Float3D = NDArray[np.float32]
Patches = dict[str, Float3D]


@dataclass(frozen=True)
class Anatomy:
    """One head: its VOLUMES stacked on the training grid, and the voxels (n, 3) of its brain."""

    name: str
    volumes: torch.Tensor
    brain: NDArray[np.int16]
    brain_ml: float
    box: NDArray[np.float64]  # first and last voxel of the brain
    has_flair: bool


@dataclass(frozen=True)
class Shape:
    """A real lesion: soft mask cut to its box, the box's centre on the grid, its volume."""

    mask: NDArray[np.uint8]
    centre: NDArray[np.float64]
    ml: float


@dataclass(frozen=True)
class Placed:
    """A lesion in an anatomy: its soft mask, and the anatomy's voxel where the mask begins."""

    mask: Float3D
    start: NDArray[np.int64]

    @property
    def inside(self) -> NDArray[np.int64]:
        """Voxels (n, 3) of the anatomy that the lesion fills by half."""
        return np.argwhere(self.mask > 0.5) + self.start


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the samples are like. ``grid`` and ``spacing``: mm of the anatomies, of the samples.

    ``channels``: those of the network; ``both_channels`` and ``t1w_only`` say which a sample shows.
    """

    channels: tuple[str, ...] = MODALITIES
    patch: tuple[int, int, int] = (64, 80, 64)  # x, y, z
    grid: float = 1.5
    spacing: float = 1.5
    lesion_free: float = 0.2
    real_shape: float = 0.7
    at_home: float = 0.7  # a real shape stays near the place where it was found
    lesion_ml: tuple[float, float] = (0.05, 200.0)
    many_small: float = 0.4  # samples of several small lesions beside each other
    small_count: tuple[int, int] = (3, 6)
    small_ml: tuple[float, float] = (0.03, 1.5)
    flair_only: float = 0.15  # lesions that leave the T1w as it is, where there is a FLAIR
    own_relief: float = 0.0  # lesions that darken the T1w in proportion, at no level of their own
    brain_ml: tuple[float, float] = (1000.0, 1800.0)  # brains are scaled to such volumes
    synthetic_contrast: float = 0.4
    white_matter_disease: float = 0.35
    flowing_fluid: float = 0.3
    n4: float = 0.0  # samples that N4 has been over, by which a large lesion loses contrast
    n4_levels: int = 2
    n4_box: bool = False  # its splines span the brain, and not the window
    both_channels: float = 0.5
    t1w_only: float = 0.25
    atrophy: float = 0.0  # brains whose fluid spaces are wider, as those of the old
    wider_mm: tuple[float, float] = (1.0, 5.0)  # what a border of fluid moves by, about


def load_anatomies(folder: Path, grid: float) -> list[Anatomy]:
    """Read every ``anatomy_*.npz`` of a folder, in order of name."""
    anatomies = []
    for path in sorted(folder.glob("anatomy_*.npz")):
        with np.load(path) as arrays:
            # Side by side in memory, for a point is read in all of them.
            stack = np.stack([arrays[name].astype(np.float32) for name in VOLUMES], axis=-1)
        stack = np.moveaxis(stack, -1, 0)
        brain = np.argwhere(stack[VOLUMES.index("brain")] > 0.5).astype(np.int16)
        ml = len(brain) * grid**3 / 1000
        box = np.stack([brain.min(0), brain.max(0)]).astype(float)
        has_flair = bool(stack[VOLUMES.index("flair")].any())
        name = path.stem.removeprefix("anatomy_")
        anatomies.append(Anatomy(name, torch.from_numpy(stack), brain, ml, box, has_flair))
    return anatomies


def load_shapes(path: Path, split: str) -> list[Shape]:
    """Read the lesion masks of one split (``train``, ``tune``, ``report``)."""
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in ("voxels", "shapes", "corners", "splits", "ml")}
    ends = np.cumsum([int(np.prod(shape)) for shape in kept["shapes"]])
    shapes = []
    for i in np.flatnonzero(kept["splits"] == split):
        size = kept["shapes"][i]
        mask = kept["voxels"][ends[i] - np.prod(size) : ends[i]].reshape(size)
        shapes.append(Shape(mask, kept["corners"][i] + (size - 1) / 2, float(kept["ml"][i])))
    return shapes


class Sampler:
    """Draws training samples; all randomness comes from the generator passed to ``sample``."""

    def __init__(
        self, anatomies: Sequence[Anatomy], shapes: Sequence[Shape], recipe: Recipe
    ) -> None:
        self.anatomies = anatomies
        self.shapes = sorted(shapes, key=lambda shape: shape.ml)
        self.recipe = recipe
        self._log_ml = np.log([shape.ml for shape in self.shapes])
        self._slopes: dict[str, torch.Tensor] = {}

    def sample(self, rng: np.random.Generator) -> tuple[Float3D, NDArray[np.int8]]:
        """Draw (image [channel, z, y, x] float32, label [z, y, x] of 0, 1 and IGNORE)."""
        channels = self._channels(rng)
        anatomy = self._anatomy(channels, rng)
        lesions = self._lesions(anatomy, rng)
        points = self._points(anatomy, lesions, rng)
        patches = dict(zip(VOLUMES, pull(anatomy.volumes, points), strict=True))
        brain = patches["brain"] > 0.5
        tissue = brain & ~open_fluid(patches["csf"])
        soft = [np.clip(pulled(lesion, points), 0, 1) * tissue for lesion in lesions]
        healthy = self._images(anatomy, patches, rng)
        if rng.random() < self.recipe.white_matter_disease:
            healthy = white_matter_disease(healthy, patches, rng)
        if rng.random() < self.recipe.flowing_fluid:
            healthy["FLAIR"] = flowing_fluid(healthy["FLAIR"], patches["csf"], rng)
        painted = self._paint(healthy, soft, brain, channels, rng)
        scanner = int(rng.integers(2**63))
        image = scanned(painted, brain, channels, self.recipe, scanner)
        without = scanned(healthy, brain, channels, self.recipe, scanner) if soft else image
        label = _label(soft, np.abs(image - without), patches["ignore"], brain)
        made = self._mirrored(dict(zip(MODALITIES, image, strict=True)), points, anatomy, rng)
        kept = np.stack([made[name] for name in self.recipe.channels])
        return np.ascontiguousarray(kept.transpose(0, 3, 2, 1)), label.transpose(2, 1, 0).copy()

    def _channels(self, rng: np.random.Generator) -> tuple[str, ...]:
        draw = rng.random() - self.recipe.both_channels
        if draw < 0:
            return MODALITIES
        return ("T1w",) if draw < self.recipe.t1w_only else ("FLAIR",)

    def _anatomy(self, channels: tuple[str, ...], rng: np.random.Generator) -> Anatomy:
        """Any anatomy; one that has a FLAIR of its own twice as often where a FLAIR is seen."""
        twice = [a for a in self.anatomies if a.has_flair and "FLAIR" in channels]
        candidates = [*self.anatomies, *twice]
        return candidates[int(rng.integers(len(candidates)))]

    def _lesions(self, anatomy: Anatomy, rng: np.random.Generator) -> list[Placed]:
        """No lesion, some small ones beside each other, or one to three of any size."""
        draw = rng.random() - self.recipe.lesion_free
        if draw < 0:
            return []
        if draw < self.recipe.many_small:
            near, limits = self._part(anatomy, rng), self.recipe.small_ml
            count = rng.integers(*self.recipe.small_count, endpoint=True)
        else:
            near, limits = anatomy.brain, self.recipe.lesion_ml
            count = rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])
        return [self._lesion(anatomy, near, limits, rng) for _ in range(count)]

    def _part(self, anatomy: Anatomy, rng: np.random.Generator) -> NDArray[np.int16]:
        """The brain's voxels within a third of a patch of one of them."""
        away = np.abs(anatomy.brain - rng.choice(anatomy.brain))
        return anatomy.brain[(away <= [round(n / 3) for n in self.recipe.patch]).all(axis=1)]

    def _lesion(
        self,
        anatomy: Anatomy,
        near: NDArray[np.int16],
        limits: tuple[float, float],
        rng: np.random.Generator,
    ) -> Placed:
        """A lesion of a volume even in log between ``limits`` (mL), around a voxel of ``near``.

        A real shape mostly lies near the place where it was found, if that is among ``near``.
        """
        ml = float(np.exp(rng.uniform(*np.log(limits))))
        voxels = ml * 1000 / self.recipe.grid**3
        if rng.random() > self.recipe.real_shape:
            side = int(np.ceil(2.2 * voxels ** (1 / 3))) + 4
            mask = synthesis.random_shape((side,) * 3, rng, voxels).astype(np.float32)
            return placed(ndimage.gaussian_filter(mask, 0.5), rng.choice(near))
        alike = np.flatnonzero(np.abs(self._log_ml - np.log(ml)) < 0.4)
        nearest = int(np.argmin(np.abs(self._log_ml - np.log(ml))))
        shape = self.shapes[rng.choice(alike) if alike.size else nearest]
        flip = bool(rng.random() < 0.5)
        scale = float(np.clip((ml / shape.ml) ** (1 / 3), 0.6, 1.5))
        mask = synthesis.transform_mask(shape.mask / np.float32(255), rng, scale=scale, flip=flip)
        home = self._home(anatomy, shape, flip, rng)
        at_home = rng.random() < self.recipe.at_home and (near == np.round(home)).all(axis=1).any()
        return placed(mask, home if at_home else rng.choice(near))

    def _home(
        self, anatomy: Anatomy, shape: Shape, flip: bool, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """About where a real lesion was found, in voxels: within some 4.5 mm, maybe mirrored."""
        centre = shape.centre + rng.normal(0, 4.5, 3) / self.recipe.grid
        if flip:
            centre[0] = anatomy.volumes.shape[1] - 1 - centre[0]
        return centre

    def _points(
        self, anatomy: Anatomy, lesions: Sequence[Placed], rng: np.random.Generator
    ) -> Float3D:
        """Where each voxel of the patch looks in the anatomy: (3, x, y, z) in voxels."""
        patch = self.recipe.patch
        target = (
            lesions[int(rng.integers(len(lesions)))] if lesions and rng.random() < 0.8 else None
        )
        hot = anatomy.brain if target is None else target.inside
        centre = rng.choice(hot if len(hot) else anatomy.brain).astype(float)
        zoom = (anatomy.brain_ml / rng.uniform(*self.recipe.brain_ml)) ** (1 / 3)
        zoom *= self.recipe.spacing / self.recipe.grid
        turn = Rotation.from_euler("xyz", rng.normal(0, 8, 3), degrees=True).as_matrix()
        matrix = turn * (zoom * rng.uniform(0.93, 1.08, 3))[None, :]
        matrix[:, 0] *= rng.choice([-1, 1])  # left-right mirror
        centre = centre + rng.uniform(-0.3, 0.3, 3) * patch
        centre = within(centre, np.array(patch) * zoom, anatomy, slack=6.0 / self.recipe.grid)
        out = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in patch], indexing="ij"))
        points = np.tensordot(matrix, out, axes=1)
        bend = fields.displacement(
            patch,
            rng,
            amplitude=rng.uniform(0, 3.0) / self.recipe.grid,
            scale=rng.uniform(18, 37.5) / self.recipe.spacing,
        )
        points = (points + at_each(centre) + bend).astype(np.float32)
        return self._atrophied(anatomy, points, rng) if self.recipe.atrophy else points

    def _atrophied(self, anatomy: Anatomy, points: Float3D, rng: np.random.Generator) -> Float3D:
        """Some brains with wider fluid spaces; the slope of an anatomy's fluid is kept."""
        if rng.random() > self.recipe.atrophy:
            return points
        if anatomy.name not in self._slopes:
            csf = anatomy.volumes[VOLUMES.index("csf")].numpy()
            self._slopes[anatomy.name] = torch.from_numpy(fluid_slope(csf, self.recipe.grid))
        wider = rng.uniform(*self.recipe.wider_mm) / self.recipe.grid
        return towards_fluid(points, self._slopes[anatomy.name], wider)

    def _mirrored(
        self, images: Patches, points: Float3D, anatomy: Anatomy, rng: np.random.Generator
    ) -> Patches:
        """The images, and the mirrored ones among the channels: by a plane about the anatomy's."""
        asked = [name for name in self.recipe.channels if name in MIRRORED]
        if not asked:
            return images
        slightly = moved_slightly(images["T1w"].shape, self.recipe.spacing, rng)
        matrix = reflection_of(points, anatomy.volumes.shape[1]) @ slightly
        mirrored = {}
        for name in asked:
            image = images[MIRRORED[name]]
            there = ndimage.affine_transform(image, matrix[:3, :3], matrix[:3, 3], order=1)
            mirrored[name] = np.where(image != 0, there, np.float32(0))
        return {**images, **mirrored}

    def _images(self, anatomy: Anatomy, patches: Patches, rng: np.random.Generator) -> Patches:
        """Both modalities, about 0..1: the scan, a contrast made of tissues, or a mixture."""
        brain = patches["brain"] > 0.5
        tissues = {name: patches[name] for name in ("csf", "gm", "wm")}
        images = {}
        for name in MODALITIES:
            real = unit_range(patches[name.lower()], brain)
            exists = name == "T1w" or anatomy.has_flair
            if exists and rng.random() > self.recipe.synthetic_contrast:
                images[name] = real
                continue
            made = unit_range(synthesis.contrast_from_tissues(tissues, rng, name), brain)
            share = rng.uniform(0.3, 1.0) if exists else 1.0
            images[name] = share * made + (1 - share) * real
        return images

    def _paint(
        self,
        images: Patches,
        lesions: Sequence[Float3D],
        brain: NDArray[np.bool_],
        channels: tuple[str, ...],
        rng: np.random.Generator,
    ) -> Patches:
        """Paint each lesion; a small one is sub-acute as a rule.

        One that is small or seen on T1w alone is clear: what can't be seen teaches nothing.
        """
        for lesion in lesions:
            ml = lesion.sum() * self.recipe.spacing**3 / 1000
            chronic = 0.25 if ml < 0.5 else 0.65 if channels == ("T1w",) else 0.5
            stage: synthesis.Stage = "chronic" if rng.random() < chronic else "subacute"
            strength = rng.uniform(0.6 if channels == ("T1w",) or ml < 0.5 else 0.35, 1.0)
            shown = images
            if "FLAIR" in channels and rng.random() < self.recipe.flair_only:
                shown = {"FLAIR": images["FLAIR"]}
            relief = self.recipe.own_relief
            levelled = not relief or rng.random() >= relief  # without it seeds keep their samples
            painted = synthesis.paint(
                shown, lesion, rng, stage=stage, brain=brain, strength=strength, levelled=levelled
            )
            images = {**images, **painted}
        return images


def placed(mask: Float3D, centre: NDArray[np.number]) -> Placed:
    """A lesion with the middle of its mask nearest to a voxel."""
    start = np.round(centre - (np.array(mask.shape) - 1) / 2)
    return Placed(mask, start.astype(np.int64))


def within(
    centre: NDArray[np.float64], size: NDArray[np.float64], anatomy: Anatomy, *, slack: float
) -> NDArray[np.float64]:
    """Move the centre of a box of ``size`` so that it stays on the brain's box, as windows do.

    All in voxels; the box may reach ``slack`` beyond the brain.
    """
    low, high = anatomy.box[0] + size / 2 - slack, anatomy.box[1] - size / 2 + slack
    middle = (low + high) / 2
    return np.clip(centre, np.minimum(low, middle), np.maximum(high, middle))


def pull(volumes: torch.Tensor, points: Float3D) -> Float3D:
    """Trilinear values of stacked volumes (c, x, y, z) at points (3, x', y', z'); 0 outside."""
    size = torch.tensor(volumes.shape[1:], dtype=torch.float32)
    grid = torch.from_numpy(points).permute(1, 2, 3, 0) * (2 / (size - 1)) - 1
    return functional.grid_sample(
        volumes[None], grid.flip(-1)[None], mode="bilinear", align_corners=True
    )[0].numpy()


def pulled(lesion: Placed, points: Float3D) -> Float3D:
    """Soft mask of a lesion at points (3, x, y, z) in voxels of its anatomy."""
    return pull(torch.from_numpy(lesion.mask)[None], points - at_each(lesion.start))[0]


def reflection_of(points: Float3D, width: int) -> NDArray[np.float64]:
    """Reflection (4 x 4) among a patch's voxels at the middle of an anatomy that is so many wide.

    ``points`` (3, x, y, z) is where the patch looks in the anatomy; their best affine counts.
    """
    coarse = points[:, ::8, ::8, ::8]
    voxels = 8.0 * np.indices(coarse.shape[1:]).reshape(3, -1).T
    solved = np.linalg.lstsq(
        np.c_[voxels, np.ones(len(voxels))], coarse.reshape(3, -1).T, rcond=None
    )[0]
    to_anatomy = np.eye(4)
    to_anatomy[:3] = solved.T
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = width - 1
    return np.asarray(np.linalg.inv(to_anatomy) @ flip @ to_anatomy)


def moved_slightly(
    shape: Sequence[int], spacing: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A rigid motion (4 x 4) of a patch's voxels of ``spacing`` mm, about its centre."""
    centre = (np.array(shape) - 1) / 2
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", rng.normal(0, PLANE_OFF_DEG, 3), degrees=True)
    matrix[:3, :3] = turn.as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + rng.normal(0, PLANE_OFF_MM, 3) / spacing
    return matrix


def fluid_slope(csf: Float3D, grid: float) -> Float3D:
    """Direction (3, x, y, z) of fluid from each voxel, of length 1 at a plane border.

    The gradient of the share of fluid, smoothed by BORDER_MM; ``grid``: mm of a voxel's side.
    """
    sigma = BORDER_MM / grid
    smooth = ndimage.gaussian_filter(csf.astype(np.float32), sigma)
    return np.stack(np.gradient(smooth)).astype(np.float32) * np.float32(sigma * np.sqrt(2 * np.pi))


def towards_fluid(points: Float3D, slope: torch.Tensor, wider: float) -> Float3D:
    """Points (3, x, y, z) that look ``wider`` voxels nearer to fluid, so that fluid spaces grow.

    At a border the full way, beyond it less, as ``slope`` (``fluid_slope``) has it.
    """
    return points + np.float32(wider) * pull(slope, points)


def at_each(vector: NDArray[np.number]) -> Float3D:
    """A vector (3,) that is added to points (3, x, y, z)."""
    return vector.astype(np.float32)[:, None, None, None]


def unit_range(image: Float3D, brain: NDArray[np.bool_]) -> Float3D:
    """Scale so that the 1st and 99th percentile of the brain are 0.05 and 0.95."""
    values = image[brain]
    if values.size < 100:
        return np.zeros_like(image)
    low, high = np.percentile(values[:: max(values.size // 40000, 1)], [1, 99])
    return (0.05 + 0.9 * (image - low) / max(high - low, 1e-6)).astype(np.float32)


def white_matter_disease(images: Patches, patches: Patches, rng: np.random.Generator) -> Patches:
    """Bright white matter along the ventricles on FLAIR: common in the old, and no stroke."""
    noise = fields.smooth_field(patches["wm"].shape, rng, rng.uniform(3, 8))
    level = patches["ventricle"] + rng.uniform(0.05, 0.25) * noise
    extent = 1 / (1 + np.exp(-(level - rng.uniform(0.35, 0.8)) / 0.05))
    extent = np.asarray(extent * patches["wm"], np.float32)
    change = {"T1w": -rng.uniform(0.0, 0.15), "FLAIR": rng.uniform(0.15, 0.5)}
    return {name: np.add(images[name], change[name] * extent, dtype=np.float32) for name in change}


def open_fluid(csf: Float3D) -> NDArray[np.bool_]:
    """Ventricles and wide cisterns, where no reader draws a lesion."""
    return ndimage.gaussian_filter(csf, 1.0) > 0.6


def flowing_fluid(flair: Float3D, csf: Float3D, rng: np.random.Generator) -> Float3D:
    """Fluid that FLAIR failed to null: bright in cisterns and ventricles, and no stroke."""
    noise = fields.smooth_field(csf.shape, rng, rng.uniform(4, 12))
    where = np.clip((noise - rng.uniform(0.3, 1.5)) / 0.5, 0, 1) * np.clip(csf, 0, 1)
    return np.add(flair, rng.uniform(0.2, 0.7) * where, dtype=np.float32)


def outside_brain(shape: tuple[int, ...], rng: np.random.Generator) -> Float3D:
    """Skull, dura and fat, of which a fallible mask lets a rim in: dark or bright, uneven."""
    level = rng.uniform(0.0, 0.5) if rng.random() < 0.6 else rng.uniform(0.5, 1.4)
    texture = fields.smooth_field(shape, rng, rng.uniform(2, 6))
    return np.clip(level * (1 + 0.4 * texture), 0, None).astype(np.float32)


def _label(
    lesions: Sequence[Float3D], change: Float3D, ignore: Float3D, brain: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """1 where a lesion fills half a voxel; IGNORE where the scan itself has lesions.

    A lesion that changes no channel by VISIBLE on average is IGNORE too, for no reader could see
    it, but for what it shares with one that can be seen.
    """
    label = np.zeros(brain.shape, np.int8)
    label[(ignore > 0.3) & brain] = IGNORE
    for lesion in lesions:
        inside = lesion >= 0.5
        seen = inside.any() and change[:, inside].mean(axis=1).max() >= VISIBLE
        label[inside if seen else inside & (label != 1)] = 1 if seen else IGNORE
    return label


def scan(image: Float3D, spacing: float, rng: np.random.Generator) -> Float3D:
    """One modality as a scanner gives it: contrast curve, bias, slices, blur, noise.

    Lengths are drawn in mm, for voxels of ``spacing`` mm.
    """
    image = np.clip(image, 0, None) ** np.float32(np.exp(rng.normal(0, 0.2)))
    if rng.random() < 0.5:
        strength = rng.uniform(0.02, 0.15)
        scale = rng.uniform(37.5, 90) / spacing
        image = image * fields.bias_field(image.shape, rng, strength=strength, scale=scale)
    if rng.random() < 0.6:
        axis = int(rng.choice([0, 1, 2], p=[0.1, 0.1, 0.8]))
        image = fields.thick_slices(image, axis, rng.uniform(spacing, THICKEST_MM) / spacing)
    if rng.random() < 0.25:
        image = ndimage.gaussian_filter(image, rng.uniform(0.45, 1.35) / spacing)
    return fields.rician(image, rng, rng.uniform(0.0, 0.06))


def scanned(
    images: Mapping[str, Float3D],
    brain: NDArray[np.bool_],
    channels: Sequence[str],
    recipe: Recipe,
    seed: int,
) -> Float3D:
    """The channels (2, x, y, z) as a scanner of this seed gives them; the missing ones are 0.

    Scan both modalities, move FLAIR a little, cut out a fallible brain, N4, standardise.
    """
    rng, spacing = np.random.default_rng(seed), recipe.spacing
    finished = []
    mask = fallible_mask(brain, spacing, rng)
    corrected = rng.random() < recipe.n4
    for name in MODALITIES:
        whole = np.where(brain, images[name], outside_brain(brain.shape, rng))
        image = scan(whole, spacing, rng)
        if name == "FLAIR" and rng.random() < 0.3:
            image = ndimage.shift(image, rng.normal(0, 0.6, 3) / spacing, order=1, mode="nearest")
        if corrected and name in channels:
            box = bounding_box(mask, BESIDE_BRAIN_VOX) if recipe.n4_box and mask.any() else ...
            image[box] = n4(image[box], mask[box], np.eye(4), levels=recipe.n4_levels)
        image = standardise(image, mask, rng)
        finished.append(image if name in channels else np.zeros_like(image))
    return np.stack(finished)


def fallible_mask(
    brain: NDArray[np.bool_], spacing: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A mask as brain extraction gives it: right, a voxel too small, 1.5 or 3 mm too large."""
    draw = rng.random()
    if draw < 0.2:
        return ndimage.binary_erosion(brain)
    if draw > 0.5:
        return brain
    beyond_mm = 1.5 if draw < 0.4 else 3.0
    return ndimage.binary_dilation(brain, iterations=round(beyond_mm / spacing))


def standardise(image: Float3D, mask: NDArray[np.bool_], rng: np.random.Generator) -> Float3D:
    """z-score in the mask, 0 outside; slightly off, as the whole brain differs from a patch."""
    values = image[mask]
    if values.size < 100:
        return np.zeros_like(image)
    scaled = (image - values.mean()) / max(float(values.std()), 1e-6)
    scaled = scaled * np.exp(rng.normal(0, 0.1)) + rng.normal(0, 0.1)
    return np.where(mask, scaled, 0).astype(np.float32)


class Stream(IterableDataset):
    """Endless samples; worker ``w`` of ``n`` draws numbers w, w + n, ... of one seeded series."""

    def __init__(self, sampler: Sampler, seed: int, start: int = 0) -> None:
        super().__init__()
        self.sampler, self.seed, self.start = sampler, seed, start

    def __iter__(self) -> Iterator[tuple[Float3D, NDArray[np.int8]]]:
        worker = torch.utils.data.get_worker_info()
        index, step = (self.start, 1)
        if worker is not None:
            index, step = self.start + worker.id, worker.num_workers
            torch.set_num_threads(1)
        while True:
            yield self.sampler.sample(np.random.default_rng([self.seed, index]))
            index += step
