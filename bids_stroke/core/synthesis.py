"""Synthetic stroke lesions: their shapes, places and looks, and random brain contrasts.

Arrays are [x, y, z] (any voxel size); a lesion is a soft mask in 0..1, so that borders keep their
partial volume. The looks follow the radiology of infarcts: sub-acute tissue is bright on FLAIR and
mildly dark on T1w; a chronic infarct is a cavity like CSF with a gliotic rim bright on FLAIR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from . import fields

Float3D = NDArray[np.float32]
Stage = Literal["subacute", "chronic"]
STAGES: tuple[Stage, ...] = ("subacute", "chronic")

# Ranges of the mean of each tissue, on a scale where the brightest is about 1.
CONTRASTS: dict[str, dict[str, tuple[float, float]]] = {
    "T1w": {"csf": (0.10, 0.30), "gm": (0.45, 0.68), "wm": (0.75, 1.00)},
    "FLAIR": {"csf": (0.05, 0.25), "gm": (0.62, 0.85), "wm": (0.48, 0.68)},
}


def random_shape(
    shape: Sequence[int], rng: np.random.Generator, volume_vox: float
) -> NDArray[np.bool_]:
    """Draw one lobulated blob of at most ``volume_vox`` voxels in the middle of a grid.

    The level set, of that volume, of an ellipsoid's distance plus smooth noise; its largest piece
    is kept, which is nearly always most of it.

    Raises
    ------
    ValueError
        If the grid holds fewer voxels than asked for.
    """
    if volume_vox > np.prod(shape):
        raise ValueError(f"A grid of {tuple(shape)} can't hold {volume_vox:.0f} voxels.")
    radius = max((3.0 * volume_vox / (4.0 * np.pi)) ** (1 / 3), 0.6)
    stretch = rng.uniform(0.6, 1.6, 3)
    axes = (stretch / np.prod(stretch) ** (1 / 3)) * radius
    rotation = Rotation.random(random_state=rng).as_matrix()
    points = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"), -1)
    distance = np.linalg.norm((points @ rotation) / axes, axis=-1)
    lobes = rng.uniform(0.15, 0.45) * fields.smooth_field(shape, rng, max(0.8 * radius, 1.0))
    level = distance + lobes
    cut = np.partition(level, int(volume_vox) - 1, axis=None)[int(volume_vox) - 1]
    pieces, count = ndimage.label(level <= cut)
    if count <= 1:
        return pieces > 0
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def transform_mask(
    mask: NDArray[np.generic],
    rng: np.random.Generator,
    *,
    scale: float = 1.0,
    rotation_deg: float = 20.0,
    flip: bool = False,
) -> Float3D:
    """Vary a lesion mask: turn, scale, bend and, if asked, mirror it left to right.

    Parameters
    ----------
    mask : lesion in 0..1; axis 0 runs left-right.
    scale : linear scale of the result.
    rotation_deg : standard deviation of each Euler angle.
    flip : mirror along axis 0.

    Returns
    -------
    Soft mask in 0..1 about the same centre, on a grid padded so that the lesion fits.
    """
    mask = np.asarray(mask, np.float32)
    mask = mask[::-1] if flip else mask
    turn = Rotation.from_euler("xyz", rng.normal(0.0, rotation_deg, 3), degrees=True).as_matrix()
    stretch = scale * rng.uniform(0.85, 1.18, 3)
    size = np.array(mask.shape)
    reach = np.abs(turn * stretch[None, :]) @ size
    shape = np.ceil(reach * 1.15).astype(int) + 4
    matrix = np.linalg.inv(turn * stretch[None, :])
    bend = max(float(size.mean()), 4.0)
    steps = fields.displacement(shape, rng, amplitude=0.05 * bend, scale=0.35 * bend)
    out = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))
    source = np.tensordot(matrix, out, axes=1).astype(np.float32) + steps
    source += ((size - 1) / 2).astype(np.float32)[:, None, None, None]
    return ndimage.map_coordinates(mask, source, output=np.float32, order=1, mode="constant")


def place(
    lesion: NDArray[np.generic],
    tissue: NDArray[np.generic],
    rng: np.random.Generator,
    *,
    centre: Sequence[float] | NDArray[np.floating] | None = None,
) -> Float3D:
    """Put a lesion into a volume: soft mask on the grid of ``tissue``.

    Its centre is ``centre`` (voxels) or, without one, a random voxel where ``tissue`` > .5. What
    falls outside the volume is cut off; the tissue itself does not cut the lesion.
    """
    if centre is None:
        candidates = np.flatnonzero(np.asarray(tissue).ravel() > 0.5)
        centre = np.array(np.unravel_index(rng.choice(candidates), tissue.shape))
    out = np.zeros(tissue.shape, np.float32)
    start = np.round(np.asarray(centre) - (np.array(lesion.shape) - 1) / 2).astype(int)
    stop = start + lesion.shape
    inside = [slice(max(a, 0), min(b, n)) for a, b, n in zip(start, stop, out.shape, strict=True)]
    if any(part.stop <= part.start for part in inside):
        return out
    taken = tuple(slice(p.start - a, p.stop - a) for p, a in zip(inside, start, strict=True))
    out[tuple(inside)] = lesion[taken]
    return out


def contrast_from_tissues(
    tissues: Mapping[str, NDArray[np.floating]], rng: np.random.Generator, kind: str
) -> Float3D:
    """Make an image of a random T1w or FLAIR contrast out of tissue maps.

    Parameters
    ----------
    tissues : partial volumes in 0..1 by the names ``csf``, ``gm``, ``wm``.
    kind : ``"T1w"`` or ``"FLAIR"``; each tissue's mean is drawn around that contrast's usual one.

    Returns
    -------
    Image of about 0..1; 0 where no tissue is.
    """
    image = np.zeros(next(iter(tissues.values())).shape, np.float32)
    for name, (low, high) in CONTRASTS[kind].items():
        texture = fields.smooth_field(image.shape, rng, rng.uniform(1.0, 3.0))
        mean = rng.uniform(low, high)
        image += tissues[name] * (mean + rng.uniform(0.01, 0.06) * texture)
    return np.clip(image, 0.0, None)


def _box(lesion: Float3D, margin: int) -> tuple[slice, ...]:
    """Bounding box of a soft mask with a margin."""
    spans = []
    for axis in range(3):
        line = np.flatnonzero(lesion.max(axis=tuple({0, 1, 2} - {axis})) > 0.01)
        spans.append(slice(max(line[0] - margin, 0), line[-1] + 1 + margin))
    return tuple(spans)


def _levels(image: NDArray[np.floating], brain: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Intensity like CSF (dark), of ordinary tissue, and the distance between bright and dark."""
    values = image[brain]
    dark, middle, bright = np.percentile(values[:: max(values.size // 40000, 1)], [3, 50, 97])
    return float(dark), float(middle), float(max(bright - dark, 1e-6))


def _cavity(lesion: Float3D, rng: np.random.Generator) -> Float3D:
    """Part of a chronic lesion that has become fluid: its inside, with an uneven edge."""
    depth = ndimage.gaussian_filter(lesion, rng.uniform(0.7, 1.8))
    depth = depth + rng.uniform(0.05, 0.25) * fields.smooth_field(lesion.shape, rng, 4.0)
    edge = rng.uniform(0.35, 0.95)
    return np.clip((depth - edge) / 0.2, 0.0, 1.0) * lesion


def _blend(
    image: Float3D, target: float, weight: Float3D, span: float, rng: np.random.Generator
) -> Float3D:
    """Move an image towards a target level, with texture in proportion to its range."""
    roughness = rng.uniform(0.02, 0.10) * span
    texture = roughness * fields.smooth_field(image.shape, rng, rng.uniform(1.0, 4.0))
    return image + weight * (target + texture - image)


def _paint_t1w(
    image: Float3D,
    levels: tuple[float, float, float],
    lesion: Float3D,
    cavity: Float3D,
    stage: Stage,
    strength: float,
    levelled: bool,
    rng: np.random.Generator,
) -> Float3D:
    """Darken tissue towards CSF, cavities fully."""
    dark, middle, span = levels
    depth = rng.uniform(0.35, 0.9) if stage == "chronic" else rng.uniform(0.15, 0.6)
    tissue = image + strength * lesion * depth * (dark - image)
    if levelled:
        level = middle + depth * (dark - middle)
        tissue = _blend(tissue, level, 0.5 * strength * lesion, span, rng)
    return _blend(tissue, dark + 0.05 * span, cavity, span, rng)


def _paint_flair(
    image: Float3D,
    levels: tuple[float, float, float],
    lesion: Float3D,
    cavity: Float3D,
    strength: float,
    rng: np.random.Generator,
) -> Float3D:
    """Brighten tissue, darken cavities."""
    dark, middle, span = levels
    rise = strength * rng.uniform(0.35, 1.1) * span
    tissue = image + lesion * rise
    tissue = _blend(tissue, middle + rise, rng.uniform(0.2, 0.8) * lesion, span, rng)
    return _blend(tissue, dark + 0.05 * span, cavity, span, rng)


def paint(
    images: Mapping[str, NDArray[np.floating]],
    lesion: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    stage: Stage,
    brain: NDArray[np.bool_] | None = None,
    strength: float | None = None,
    levelled: bool = True,
) -> dict[str, Float3D]:
    """Give a lesion its look on T1w and FLAIR images of one grid.

    Parameters
    ----------
    images : by modality, ``T1w`` and/or ``FLAIR``, any units.
    lesion : soft mask in 0..1 on the same grid.
    stage : ``"subacute"`` (FLAIR bright, T1w mildly dark) or ``"chronic"`` (T1w towards CSF; on
        FLAIR a bright rim and, for part of the lesions, a dark cavity).
    brain : where intensities are measured; the voxels other than 0 if absent.
    strength : contrast, .35 (subtle) to 1 (strong); drawn if absent.
    levelled : on T1w, even out what lies in the lesion, at a level below the brain's median.
        Without it the tissue is darkened in proportion only, and white matter may end as cortex.

    Returns
    -------
    New images; they differ from the old ones only where ``lesion`` > 0.
    """
    lesion = np.asarray(lesion, np.float32)
    out = {name: np.array(image, np.float32) for name, image in images.items()}
    if lesion.max() <= 0.01:
        return out
    box = _box(lesion, margin=3)
    part = lesion[box]
    hollow = stage == "chronic" and rng.random() < 0.75
    cavity = _cavity(part, rng) if hollow else np.zeros_like(part)
    strength = rng.uniform(0.35, 1.0) if strength is None else strength
    for name, image in out.items():
        levels = _levels(image, image != 0 if brain is None else brain)
        if name == "T1w":
            new = _paint_t1w(image[box], levels, part, cavity, stage, strength, levelled, rng)
        else:
            new = _paint_flair(image[box], levels, part, cavity, strength, rng)
        image[box] = np.where(part > 0, new, image[box])
    return out
