"""Bare brains of some thousand voxels and a network with random weights: whole runs in seconds."""

import json
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_stroke.core.files import save_image
from tests.bids.skeleton import describe

SHAPE = (26, 30, 22)
AFFINE = np.array([[-6.0, 0, 0, 75], [0, 6, 0, -87], [0, 0, 6, -63], [0, 0, 0, 1]])
FLAGS = ("--device", "cpu", "--brain-extraction", "skip", "--sloppy", "--no-tta")


def brain(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """An ellipsoid with folds and noise, int16 [x, y, z], 0 around it."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (x / 0.85) ** 2 + (y / 0.9) ** 2 + (z / 0.8) ** 2 < 1
    folds = 500 + 120 * np.sin(9 * x + seed) * np.cos(8 * y) + 80 * z
    return np.where(inside, folds + rng.normal(0, 15, shape), 0).astype(np.int16)


def image(seed: int = 0) -> nib.Nifti1Image:
    """The brain as an image with its grid."""
    return nib.Nifti1Image(brain(seed), AFFINE)


def place(bids: Path, subject: str, modality: str = "T1w", ending: str = ".nii.gz") -> Path:
    """Where an image of a participant lies; its folder is made."""
    path = bids / f"sub-{subject}" / "anat" / f"sub-{subject}_{modality}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def add_subject(bids: Path, subject: str, modalities: Iterable[str] = ("T1w",)) -> None:
    """A participant whose images are usable."""
    for seed, modality in enumerate(modalities):
        path = save_image(brain(seed), AFFINE, place(bids, subject, modality), dtype=np.int16)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({}))


def write_dataset(
    bids: Path, subjects: Iterable[str], modalities: Iterable[str] = ("T1w",)
) -> Path:
    """A raw dataset of usable participants."""
    describe(bids)
    for subject in subjects:
        add_subject(bids, subject, tuple(modalities))
    return bids


def write_small_model(folder: Path) -> Path:
    """Descriptor of a network that finds lesions at random, for brains of this size."""
    from tests.tiny_model import write_model  # needs torch, which most callers do without

    point = "threshold = 0.3\nmin_volume_mm3 = 500.0"
    return write_model(folder, spacing=6.0, operating_point=point)
