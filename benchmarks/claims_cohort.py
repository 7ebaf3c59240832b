"""Sessions on which claims of the papers are tried: phantom heads with lesions, all synthetic.

Each session has a head of its own (``core.phantom``: the MNI152 average, varied) and one lesion.
A scanner has a contrast curve and a noise of its own, and so has each group of sessions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_stroke.core import phantom
from bids_stroke.core.fields import rician
from bids_stroke.core.files import save_image
from bids_stroke.core.geometry import bounding_box
from bids_stroke.core.head import Head, Point, average_head
from bids_stroke.core.splits import Split
from bids_stroke.models.dataset import Case

VOXEL_MM = 3.0
CONTRASTS = {"T1w": phantom.T1W, "FLAIR": phantom.FLAIR}
INFARCT = {"T1w": (0.3, 0.42), "FLAIR": (0.74, 0.9)}  # signal of the tissue, from lesion to lesion
LESION_ML = (1.5, 30.0)
UPPER_MM = 20.0  # lesions of an ``upper`` group lie above this MNI plane
BOTH, FLAIR_ONLY = "T1w and FLAIR", "FLAIR alone"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sessions of one scanner. With ``hidden`` every second lesion is not on the T1w at all."""

    name: str
    train: int
    held_out: int = 0
    scanner: int = 0
    upper: bool = False
    hidden: bool = False


GROUPS = (
    Group(name="large", train=20),
    Group(name="intermediate", train=8, scanner=1, upper=True),
    Group(name="target", train=6, held_out=12, scanner=2, upper=True),
    Group(name="flair", train=8, held_out=8, scanner=3, hidden=True),
)


@dataclass(frozen=True)
class Cohort:
    """Sessions by group: those to train on, and those that no training sees."""

    train: dict[str, list[Case]]
    held_out: dict[str, list[Case]]

    def split(self, groups: Sequence[str], target: str) -> tuple[list[Case], Split]:
        """The sessions of some groups, and held-out ones of a target, as one fold."""
        train = [case for group in groups for case in self.train[group]]
        val = self.held_out[target]
        names = [tuple(case.case for case in part) for part in (train, val)]
        return train + val, Split(train=names[0], val=names[1])


def write_cohort(folder: Path, seed: int, groups: Sequence[Group] = GROUPS) -> Cohort:
    """Draw all sessions of a seed, as files."""
    train: dict[str, list[Case]] = {}
    held_out: dict[str, list[Case]] = {}
    for place, group in enumerate(groups):
        made = [
            _write(folder, group, number, np.random.default_rng([seed, place, number]), seed)
            for number in range(group.train + group.held_out)
        ]
        train[group.name], held_out[group.name] = made[: group.train], made[group.train :]
    return Cohort(train, held_out)


@lru_cache(maxsize=1)
def _average() -> Head:
    return average_head(VOXEL_MM)


def _write(folder: Path, group: Group, number: int, rng: np.random.Generator, seed: int) -> Case:
    """Draw a session and write it, cut to the brain."""
    head = phantom.vary(_average(), rng)
    lesion = _lesion(head, group, rng)
    seen_on = FLAIR_ONLY if group.hidden and number % 2 else BOTH
    scanner = np.random.default_rng([seed, group.scanner])
    curves = {name: (scanner.uniform(0.75, 1.3), scanner.uniform(0.02, 0.04)) for name in CONTRASTS}
    images = {
        name: _scan(head, lesion if name == "FLAIR" or seen_on == BOTH else None, name, curve, rng)
        for name, curve in curves.items()
    }
    box = bounding_box(head.brain, 2)
    arrays = {**images, "brain": head.brain, "label": lesion.mask & head.brain}
    return write_case(
        folder / f"sub-{group.name}{number:02d}",
        {name: array[box] for name, array in arrays.items()},
        {"training_set": group.name, "seen_on": seen_on},
    )


def _lesion(head: Head, group: Group, rng: np.random.Generator) -> phantom.Lesion:
    """A lesion anywhere in the tissue of a group's part of the brain."""
    chronic = not group.hidden and rng.random() < 0.4
    while True:
        volume_ml = float(np.exp(rng.uniform(*np.log(LESION_ML))))
        centre = _centre(head, group.upper, rng)
        try:
            mask = phantom.grow_lesion(head, centre, volume_ml, rng)
        except ValueError:  # too little tissue there
            continue
        return phantom.age_lesion(mask, head, rng, chronic=chronic)


def _centre(head: Head, upper: bool, rng: np.random.Generator) -> Point:
    """A place in grey or white matter, in mm."""
    voxels = np.argwhere(head.brain & (head.grey + head.white > 0.8))
    points = voxels @ head.affine[:3, :3].T + head.affine[:3, 3]
    wanted = np.abs(points[:, 0]) > 10
    if upper:
        wanted &= points[:, 2] > UPPER_MM
    x, y, z = rng.choice(points[wanted])
    return float(x), float(y), float(z)


def _scan(
    head: Head,
    lesion: phantom.Lesion | None,
    name: str,
    curve: tuple[float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """One image: tissues, the lesion where it is seen, the coil, the scanner's curve and noise."""
    contrast = replace(CONTRASTS[name], infarct=rng.uniform(*INFARCT[name]))
    image = phantom.render(head, contrast, rng)
    if lesion is not None:
        image = phantom.paint(image, head, lesion, contrast, rng)
    image = phantom.receive(image, head, rng, strength=0.12)
    gamma, noise = curve
    return rician(np.clip(image, 0, None) ** np.float32(gamma), rng, noise) * head.brain


def write_case(folder: Path, arrays: dict[str, NDArray], where: dict[str, str]) -> Case:
    """Write the images and masks of a session, all on one grid."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    kinds = {name: np.float32 if name in CONTRASTS else np.uint8 for name in arrays}
    files = {
        name: str(save_image(array, affine, folder / f"{name}.nii.gz", dtype=kinds[name]))
        for name, array in arrays.items()
    }
    brain, label = arrays["brain"], arrays["label"]
    return Case(
        case=folder.name,
        participant=folder.name,
        session="",
        group=folder.name,
        images={name: files[name] for name in CONTRASTS},
        brain=files["brain"],
        label=files["label"],
        space="T1w",
        native=files["T1w"],
        native_brain=files["brain"],
        truth=files["label"],
        volume_ml=float(label.sum()) * VOXEL_MM**3 / 1000,
        spacing=(VOXEL_MM,) * 3,
        cropped_shape=brain.shape,
        cropped_share=1.0,
        where=where,
    )
