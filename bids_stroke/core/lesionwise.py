"""Which lesions are found, and which found ones are real, under each convention in use.

A lesion is a 26-connected component. The name of each column ends in its convention: one model
scores quite differently by two of them, so a number without its convention says nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]

OVERLAP = 0.1
OUTSIDE = 0.7
CUMULATED = 0.65
MATCH_IOU = 0.25

_RULES = {
    "onevoxel": "it shares at least one voxel with the other mask (ATLAS challenge)",
    "overlap10": "at least 10 % of it lies in the other mask (Meddahi et al. 2024)",
    "anima": "more than 10 % of it lies in the other mask and, taken by decreasing overlap until "
    "65 % of that overlap is reached, no lesion there has more than 70 % of itself in the "
    "background (Commowick et al. 2018)",
    "iou25": "it has a partner of its own in the other mask, pairs taken by decreasing "
    "intersection over union down to .25 (panoptica)",
}
_F1 = {
    "onevoxel": "2 TP / (2 TP + FP + FN) over lesions: TP are reference lesions that "
    "share at least one voxel with the prediction, FN the others, FP predicted lesions that share "
    "none with the reference; 1 where both masks are empty.",
    "overlap10": "Harmonic mean of lesion_sensitivity_overlap10 and lesion_ppv_overlap10; 1 where "
    "both masks are empty, 0 where one is.",
    "anima": "Harmonic mean of lesion_sensitivity_anima and lesion_ppv_anima; 1 where both masks "
    "are empty, 0 where one is.",
    "iou25": "2 TP / (2 TP + FP + FN) over lesions: TP are pairs, FN and FP lesions without a "
    "partner; 1 where both masks are empty.",
}


def _columns(rule: str) -> dict[str, str]:
    found = f"lesions, each counted where {_RULES[rule]}; 1 where both masks are empty"
    return {
        f"lesion_sensitivity_{rule}": f"Share of reference {found}, n/a where only the reference "
        "is.",
        f"lesion_ppv_{rule}": f"Share of predicted {found}, n/a where only the prediction is.",
        f"lesion_f1_{rule}": _F1[rule],
    }


COLUMNS = {
    "reference_lesions": "Number of 26-connected components of the reference.",
    "predicted_lesions": "Number of 26-connected components of the prediction.",
    **{name: text for rule in _RULES for name, text in _columns(rule).items()},
}


@dataclass(frozen=True)
class Overlaps:
    """Sizes of the lesions of two masks, and how many voxels each overlapping pair shares.

    ``pairs`` is n x 2: indices of the reference lesion and of the predicted one, from 0; ``shared``
    is n numbers of voxels.
    """

    reference_sizes: NDArray[np.int64]
    predicted_sizes: NDArray[np.int64]
    pairs: NDArray[np.int64]
    shared: NDArray[np.int64]

    @property
    def swapped(self) -> "Overlaps":
        """The same with the roles of reference and prediction exchanged."""
        return Overlaps(
            self.predicted_sizes, self.reference_sizes, self.pairs[:, ::-1], self.shared
        )

    @property
    def covered(self) -> NDArray[np.float64]:
        """Share of each reference lesion that lies in the predicted mask."""
        inside = np.bincount(self.pairs[:, 0], self.shared, len(self.reference_sizes))
        return inside / self.reference_sizes


@dataclass(frozen=True)
class Detection:
    """Whether each reference lesion is found and each predicted lesion is real."""

    found: NDArray[np.bool_]
    real: NDArray[np.bool_]


def overlaps(reference: Array, predicted: Array, connectivity: int = 26) -> Overlaps:
    """Lesions of two masks [x, y, z] of one shape (non-zero is lesion) and their overlaps.

    ``connectivity`` is 6, 18 or 26. Anima's program takes 6-connected lesions above 3 mm3; here
    all conventions judge the same lesions.
    """
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    truth, n_truth = ndimage.label(reference > 0, structure)
    found, n_found = ndimage.label(predicted > 0, structure)
    both = (truth > 0) & (found > 0)
    keys = (truth[both] - 1).astype(np.int64) * n_found + found[both] - 1
    pairs, shared = np.unique(keys, return_counts=True)
    return Overlaps(
        np.bincount(truth.ravel(), minlength=n_truth + 1)[1:],
        np.bincount(found.ravel(), minlength=n_found + 1)[1:],
        np.stack(np.divmod(pairs, max(n_found, 1)), axis=1),
        shared,
    )


def by_share(lesions: Overlaps, share: float = OVERLAP) -> Detection:
    """A lesion counts when at least ``share`` of it lies in the other mask.

    "A candidate lesion was considered correctly detected if its connected voxels overlapped with
    the ground truth by at least 10 %" (Meddahi et al. 2024); the reference's lesions are judged
    alike. Others ask for more than 10 %, which differs at exactly 10 % only.
    """
    return Detection(lesions.covered >= share, lesions.swapped.covered >= share)


def by_one_voxel(lesions: Overlaps) -> Detection:
    """A lesion counts when it shares a voxel with the other mask (ATLAS challenge)."""
    return Detection(lesions.covered > 0, lesions.swapped.covered > 0)


def by_anima(
    lesions: Overlaps,
    overlap: float = OVERLAP,
    outside: float = OUTSIDE,
    cumulated: float = CUMULATED,
) -> Detection:
    """A lesion counts by the rule of Anima (Commowick et al. 2018, doi:10.1038/s41598-018-31911-7).

    More than ``overlap`` of it must lie in the other mask. The other mask's lesions are then taken
    by decreasing overlap until their cumulated share of that overlap reaches ``cumulated``; none
    of these may have more than ``outside`` of itself in the background. Among equal overlaps the
    lesion that lies less outside comes first. The predicted lesions are judged with the roles
    swapped.
    """
    limits = overlap, outside, cumulated
    return Detection(_anima(lesions, *limits), _anima(lesions.swapped, *limits))


def _anima(
    lesions: Overlaps, overlap: float, outside: float, cumulated: float
) -> NDArray[np.bool_]:
    """The rule of Anima for the reference's lesions.

    Sorted by lesion and overlap, a pair is looked at when those before it have not reached
    ``cumulated``; a lesion fails by one looked-at pair whose partner lies too far outside.
    """
    inside = np.bincount(lesions.pairs[:, 1], lesions.shared, len(lesions.predicted_sizes))
    astray = (lesions.predicted_sizes - inside) / lesions.predicted_sizes
    lesion, partner = lesions.pairs.T
    order = np.lexsort((astray[partner], -lesions.shared, lesion))
    lesion, partner, shared = lesion[order], partner[order], lesions.shared[order]
    total = np.bincount(lesion, shared, len(lesions.reference_sizes))
    before = np.cumsum(shared) - shared
    before -= before[np.searchsorted(lesion, lesion)]
    looked_at = before / total[lesion] < cumulated
    spoilt = lesion[looked_at & (astray[partner] > outside)]
    found = lesions.covered > overlap
    found[spoilt] = False
    return found


def one_to_one(lesions: Overlaps, iou: float = MATCH_IOU) -> Detection:
    """A lesion counts when it has a partner of its own in the other mask.

    Pairs are made by decreasing intersection over union, down to ``iou`` included; of equal ones
    the first in array order (panoptica's naive threshold matching: Kofler et al. 2023,
    arXiv:2312.02608).
    """
    found = np.zeros(len(lesions.reference_sizes), dtype=bool)
    real = np.zeros(len(lesions.predicted_sizes), dtype=bool)
    reference, predicted = lesions.pairs.T
    union = lesions.reference_sizes[reference] + lesions.predicted_sizes[predicted] - lesions.shared
    score = lesions.shared / union
    for pair in np.argsort(-score, kind="stable"):
        i, j = reference[pair], predicted[pair]
        if score[pair] >= iou and not (found[i] or real[j]):
            found[i] = real[j] = True
    return Detection(found, real)


def _share(part: float, whole: float, both_empty: bool) -> float:
    """Part of a whole; 1 where both masks are empty, NaN where the whole is nothing."""
    if both_empty:
        return 1.0
    return part / whole if whole else float("nan")


def _scores(rule: str, detection: Detection) -> dict[str, float]:
    """Sensitivity, PPV and F1 of one convention."""
    found, real = int(detection.found.sum()), int(detection.real.sum())
    n_found, n_real = len(detection.found), len(detection.real)
    empty = n_found + n_real == 0
    sensitivity, ppv = _share(found, n_found, empty), _share(real, n_real, empty)
    if rule in ("onevoxel", "iou25"):
        f1 = _share(2 * found, 2 * found + (n_found - found) + (n_real - real), empty)
    else:
        f1 = 2 * sensitivity * ppv / (sensitivity + ppv) if found and real else float(empty)
    return {
        f"lesion_sensitivity_{rule}": sensitivity,
        f"lesion_ppv_{rule}": ppv,
        f"lesion_f1_{rule}": f1,
    }


def lesionwise(reference: Array, predicted: Array) -> dict[str, float]:
    """All numbers of COLUMNS for two masks [x, y, z] of one shape (non-zero is lesion)."""
    lesions = overlaps(reference, predicted)
    detections = {
        "onevoxel": by_one_voxel(lesions),
        "overlap10": by_share(lesions),
        "anima": by_anima(lesions),
        "iou25": one_to_one(lesions),
    }
    values: dict[str, float] = {
        "reference_lesions": len(lesions.reference_sizes),
        "predicted_lesions": len(lesions.predicted_sizes),
    }
    for rule, detection in detections.items():
        values |= _scores(rule, detection)
    return values
