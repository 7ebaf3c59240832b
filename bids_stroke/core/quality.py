"""What a reader should look at twice: flags from numbers and masks, and the record of a session."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke.core.geometry import bounding_box

Array = NDArray[Any]
Severity = Literal["note", "warning"]

USUAL_LESION_ML = (0.1, 400.0)  # over 400 mL is more than a whole middle cerebral artery territory
EDGE_MM = 2.0
EDGE_SHARE = 0.5
MIN_CONFIDENCE = 0.5
GRID_SHARE, GRID_ML = 0.2, 0.5


@dataclass(frozen=True)
class Flag:
    """One thing to look at: a stable code, how much it matters, and one sentence."""

    code: str
    severity: Severity
    message: str


def step_flags(code: str, sentences: Iterable[str], about: str = "") -> list[Flag]:
    """Warnings of an earlier step (``similarity.registration_flags``, ``brain.brain_flags``)."""
    prefix = f"{about}: " if about else ""
    return [Flag(code, "warning", f"{prefix}{sentence}") for sentence in sentences]


def lesion_volume_flags(count: int, volume_ml: float) -> list[Flag]:
    """Flag no lesion at all, and a total volume (mL) outside the usual range."""
    if not count:
        message = "No lesion was found; a small or faint one may have been missed."
        return [Flag("no_lesion", "note", message)]
    low, high = USUAL_LESION_ML
    if volume_ml < low:
        message = f"All that was found is {volume_ml:.3f} mL: it may be a false positive."
        return [Flag("lesion_volume_small", "warning", message)]
    if volume_ml > high:
        message = f"The lesion volume of {volume_ml:.0f} mL is more than {high:.0f} mL: check it."
        return [Flag("lesion_volume_large", "warning", message)]
    return []


def brain_shell(brain: Array, zooms: Sequence[float], depth_mm: float = EDGE_MM) -> Array:
    """Voxels of a brain mask that lie within ``depth_mm`` of what is outside it."""
    shell = brain > 0
    if shell.any():
        inside = shell[bounding_box(shell)]
        padded = np.pad(inside, 1)
        depth = ndimage.distance_transform_edt(padded, sampling=zooms)[1:-1, 1:-1, 1:-1]
        inside &= depth <= max(depth_mm, 1.01 * min(zooms))
    return shell


def edge_flags(labels: Array, brain: Array, zooms: Sequence[float]) -> list[Flag]:
    """Flag lesions with voxels outside the brain mask, or mostly within 2 mm of its edge.

    ``labels`` (0 background, 1..n) and ``brain`` are on one grid [x, y, z], ``zooms`` in mm.
    """
    count = int(labels.max(initial=0))
    if not count:
        return []
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    outside = np.bincount(labels[brain == 0], minlength=count + 1)[1:]
    shell = np.bincount(labels[brain_shell(brain, zooms)], minlength=count + 1)[1:]
    flags = []
    if numbers := _numbers(np.flatnonzero(outside) + 1):
        message = f"Outside the brain mask in part: {numbers}."
        flags.append(Flag("lesion_outside_brain", "warning", message))
    if numbers := _numbers(np.flatnonzero(shell > EDGE_SHARE * sizes) + 1):
        message = f"Mostly within {EDGE_MM:.0f} mm of the edge of the brain mask: {numbers}."
        flags.append(Flag("lesion_at_brain_edge", "note", message))
    return flags


def _numbers(indices: Iterable[int], limit: int = 5) -> str:
    """Which lesions: "lesion 4", "lesions 1, 2 and 3 others", or "" for none."""
    numbers = [str(i) for i in indices]
    if not numbers:
        return ""
    rest = f" and {len(numbers) - limit} others" if len(numbers) > limit else ""
    noun = "lesion" if len(numbers) == 1 else "lesions"
    return f"{noun} {', '.join(numbers[:limit])}{rest}"


def confidence_flags(mean_probabilities: Sequence[float]) -> list[Flag]:
    """Flag lesions in which the model's mean probability is under one half."""
    numbers = _numbers(i for i, p in enumerate(mean_probabilities, 1) if p < MIN_CONFIDENCE)
    if not numbers:
        return []
    message = f"To be looked at closely, mean probability under {MIN_CONFIDENCE:g}: {numbers}."
    return [Flag("lesion_low_confidence", "note", message)]


def grid_flags(volumes_ml: Mapping[str, float]) -> list[Flag]:
    """Flag total lesion volumes (mL) that differ much between the grids of one session."""
    if len(volumes_ml) < 2:
        return []
    low, high = min(volumes_ml.values()), max(volumes_ml.values())
    if high - low <= max(GRID_SHARE * high, GRID_ML):
        return []
    text = ", ".join(f"{volume:.2f} mL on {space}" for space, volume in volumes_ml.items())
    message = f"The lesion volume depends on the grid: {text}."
    return [Flag("grids_disagree", "warning", message)]


def qc_record(
    *,
    label: str,
    entities: Mapping[str, Any],
    inputs: Mapping[str, Any],
    reason: str,
    reference: str,
    registration: Mapping[str, Any] | None,
    model: Mapping[str, Any],
    lesions: Mapping[str, Mapping[str, Any]],
    flags: Iterable[Flag],
    versions: Mapping[str, str],
    normalization: Mapping[str, Any] | None = None,
    location: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of one session, from which reports and group tables are made.

    ``inputs`` maps each modality to ``{"file", "conform", "brain"}``, ``lesions`` each space to
    ``{"count", "volume_ml"}``; ``reference`` is the space that the reports show first. Warnings
    come before notes. ``normalization`` and ``location`` are there with a template only.
    """
    ordered = sorted(flags, key=lambda flag: flag.severity != "warning")
    return {
        "label": label,
        "entities": dict(entities),
        "inputs": {modality: dict(of) for modality, of in inputs.items()},
        "reason": reason,
        "reference": reference,
        "registration": dict(registration) if registration else None,
        **({"normalization": dict(normalization)} if normalization else {}),
        **({"location": dict(location)} if location else {}),
        "model": dict(model),
        "lesions": {space: dict(of) for space, of in lesions.items()},
        "flags": [asdict(flag) for flag in ordered],
        "versions": dict(versions),
    }
