"""What became of each lesion between two sessions of one person, and what of it is noise.

Lesions are matched on one grid, into which the later session's labels were carried; volumes are
those that each session has on its own grid, so that no interpolation changes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bids_stroke.core.geometry import voxel_volume_mm3

Array = NDArray[Any]
Floats = NDArray[np.float64]

TOLERANCE_MM = 2.0
"""Lesions this close to each other are one: about what a rigid registration leaves."""
JITTER = 0.1
"""Step of the probability threshold, up and down, that gives the noise of a volume."""
FATES = ("new", "resolved", "grown", "shrunken", "stable")

CHANGE_COLUMNS = {
    "fate": "new: no lesion lay there before; resolved: none lies there now; grown or shrunken: "
    "the volume changed by more than the noise floor; stable: it did not.",
    "before": "Numbers of the earlier session's lesions, with a comma between them; n/a for none.",
    "after": "Numbers of the later session's lesions.",
    "volume_before_ml": "Their volume in the earlier session, on its own grid, in millilitres.",
    "volume_after_ml": "Their volume in the later session, on its own grid, in millilitres.",
    "change_ml": "Later minus earlier volume in millilitres.",
    "noise_floor_ml": "Noise floor of the change: for each session half of the volume between the "
    "contours at the model's threshold plus and minus .1; the root of the sum of both squares, and "
    "at least the smallest lesion that the model keeps.",
    "beyond_noise": "Does the change exceed the noise floor?",
}


def links(before: Array, after: Array, spacing_mm: Sequence[float], tolerance_mm: float) -> Array:
    """Pairs (earlier, later label) of lesions that lie within ``tolerance_mm`` of each other.

    Label images [x, y, z] of one grid, 0 is background. With a tolerance of 0 they must share a
    voxel. Returns n x 2 labels, sorted.
    """
    if not before.any() or not after.any():
        return np.zeros((0, 2), dtype=int)
    found = set()
    for label, where in enumerate(ndimage.find_objects(before.astype(np.int32)), 1):
        if where is None:
            continue
        box = _grown(where, before.shape, spacing_mm, tolerance_mm)
        away = ndimage.distance_transform_edt(before[box] != label, sampling=spacing_mm)
        near = np.unique(after[box][away <= tolerance_mm + 1e-6])
        found |= {(label, int(other)) for other in near if other}
    return np.array(sorted(found), dtype=int).reshape(-1, 2)


def _grown(
    box: tuple[slice, ...], shape: tuple[int, ...], spacing_mm: Sequence[float], by_mm: float
) -> tuple[slice, ...]:
    """A box with a margin in mm, cut to the array."""
    margin = [int(np.ceil(by_mm / side)) for side in spacing_mm]
    return tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n))
        for s, m, n in zip(box, margin, shape, strict=True)
    )


def groups(n_before: int, n_after: int, pairs: Array) -> list[tuple[list[int], list[int]]]:
    """Lesions that belong together: labels of the earlier and of the later session.

    Lesions that merge or split are in one group; a lesion without a partner is a group alone.
    Labels are 1..n; ``pairs`` as ``links`` gives them.
    """
    size = n_before + n_after
    edges = (np.ones(len(pairs)), (pairs[:, 0] - 1, n_before + pairs[:, 1] - 1))
    count, member = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    found: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
    for node, group in enumerate(member):
        later = node >= n_before
        found[group][later].append(node - n_before * later + 1)
    return found


def threshold_noise(
    labels: Array, probability: Array, threshold: float, voxel_ml: float, jitter: float = JITTER
) -> Floats:
    """Half of the volume (mL) by which each lesion changes as the threshold moves by ``jitter``.

    ``labels`` 1..n and ``probability`` in [0, 1] are [x, y, z] on one grid. A voxel between the two
    contours counts for the lesion that is nearest in voxels, where it touches one through such
    voxels (26-connected); elsewhere it counts for none.
    """
    count = int(labels.max(initial=0))
    if not count:
        return np.zeros(0)
    wide = (probability >= threshold - jitter) | (labels > 0)
    narrow = (probability >= threshold + jitter) & (labels > 0)
    region, _ = ndimage.label(wide, np.ones((3, 3, 3)))
    touched = np.isin(region, np.unique(region[labels > 0]))
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    owner = labels[tuple(nearest)]
    between = owner[wide & touched & ~narrow]
    return np.bincount(between, minlength=count + 1)[1:] * voxel_ml / 2


def noise_floor(before_ml: Floats, after_ml: Floats, smallest_ml: float) -> float:
    """Noise of a change: both sessions' noise added in squares, at least the smallest lesion."""
    within = np.hypot(np.sum(before_ml), np.sum(after_ml))
    return max(float(within), smallest_ml)


def fate(before_ml: float, after_ml: float, floor_ml: float) -> str:
    """One of FATES for the volumes of a group of lesions in mL."""
    if before_ml == 0 or after_ml == 0:
        return "new" if before_ml == 0 else "resolved"
    if abs(after_ml - before_ml) <= floor_ml:
        return "stable"
    return "grown" if after_ml > before_ml else "shrunken"


def changes(
    matched: Sequence[tuple[Sequence[int], Sequence[int]]],
    volumes_ml: tuple[Mapping[int, float], Mapping[int, float]],
    noise_ml: tuple[Floats, Floats],
    smallest_ml: float,
) -> pd.DataFrame:
    """One row a group of lesions, largest change first: CHANGE_COLUMNS.

    ``volumes_ml`` and ``noise_ml`` are those of the earlier and of the later session, by label and
    in the order of the labels.
    """
    rows = []
    for members in matched:
        first, second = (
            sum(volumes[label] for label in labels)
            for volumes, labels in zip(volumes_ml, members, strict=True)
        )
        noise = [
            of[np.array(labels, int) - 1] for of, labels in zip(noise_ml, members, strict=True)
        ]
        floor = noise_floor(noise[0], noise[1], smallest_ml)
        names = [",".join(map(str, labels)) or None for labels in members]
        values = [fate(first, second, floor), *names, first, second, second - first, floor]
        rows.append([*values, abs(second - first) > floor])
    table = pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))
    order = table["change_ml"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def compare(
    before: Array,
    after: Array,
    affine: Array,
    volumes_ml: tuple[Mapping[int, float], Mapping[int, float]],
    noise_ml: tuple[Floats, Floats],
    *,
    smallest_ml: float,
    tolerance_mm: float = TOLERANCE_MM,
) -> pd.DataFrame:
    """What became of each lesion: ``links``, ``groups`` and ``changes`` of two label images.

    Both are [x, y, z] on the grid of ``affine`` (RAS+ mm). Labels are the keys of ``volumes_ml``.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    pairs = links(before, after, spacing, tolerance_mm)
    matched = groups(len(volumes_ml[0]), len(volumes_ml[1]), pairs)
    return changes(matched, volumes_ml, noise_ml, smallest_ml)


def label_volumes(labels: Array, affine: Array) -> dict[int, float]:
    """Volume in mL of each label 1..n of an image [x, y, z] on its own grid."""
    sizes = np.bincount(labels.ravel().astype(int))[1:] * voxel_volume_mm3(affine) / 1000
    return {label: float(size) for label, size in enumerate(sizes, 1)}


def totals(table: pd.DataFrame) -> dict[str, float]:
    """Numbers of groups and volumes (mL) by fate, and the volume change with its noise floor.

    The floor of the total is that of all groups together, added in squares.
    """
    counts = {f"n_{name}": int((table["fate"] == name).sum()) for name in FATES}
    of = {name: table[table["fate"] == name] for name in ("new", "resolved")}
    change = float(table["change_ml"].sum())
    floor = float(np.sqrt((table["noise_floor_ml"].astype(float) ** 2).sum()))
    return {
        **counts,
        "new_ml": float(of["new"]["volume_after_ml"].sum()),
        "resolved_ml": float(of["resolved"]["volume_before_ml"].sum()),
        "volume_before_ml": float(table["volume_before_ml"].sum()),
        "volume_after_ml": float(table["volume_after_ml"].sum()),
        "change_ml": change,
        "noise_floor_ml": floor,
        "beyond_noise": abs(change) > floor,
    }
