"""A small BIDS dataset of round brains with lesions, in which a tiny network learns in seconds."""

from pathlib import Path

import numpy as np

from bids_stroke.core.files import save_image, write_json, write_text
from bids_stroke.models.recipe import Recipe, from_table

SIDE = 26
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])

NETWORK = {
    "class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "imports": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    "kwargs": {
        "n_stages": 3,
        "features_per_stage": [8, 16, 16],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
}
RECIPE = {
    "name": "tiny",
    "title": "Tiny network",
    "description": "For tests.",
    "channels": ["T1w", "FLAIR"],
    "preprocessing": {"steps": ["reorient", "brain_extraction", "zscore"], "reference": "T1w"},
    "plan": {"spacing": [3, 3, 3], "patch": [16, 16, 16], "batch_size": 2},
    "network": NETWORK,
    "optimiser": {"name": "adam", "learning_rate": 5e-3},
    "schedule": {"epochs": 4, "iterations": 12, "validation_iterations": 2},
    "augmentation": {"set": "none"},
    "folds": {"count": 2},
}


def tiny_recipe(**sections: object) -> Recipe:
    """The tiny recipe with other sections."""
    return from_table({**RECIPE, **sections})


def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """A ball of voxels, as booleans [x, y, z]."""
    grid = np.indices((SIDE,) * 3)
    distance = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
    return distance <= radius**2


def session(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """T1w and FLAIR [x, y, z], brain and lesion: dark on the T1w, bright on the FLAIR."""
    rng = np.random.default_rng(seed)
    middle = (SIDE - 1) / 2
    brain = ball((middle, middle, middle), 10)
    side = rng.choice([-4.0, 4.0])
    lesion = ball((middle + side, *(middle + rng.uniform(-3, 3, 2))), rng.uniform(2.0, 3.2)) & brain
    images = {
        "T1w": 100 - 45 * lesion + rng.normal(0, 6, brain.shape),
        "FLAIR": 100 + 45 * lesion + rng.normal(0, 6, brain.shape),
    }
    return {name: np.where(brain, image, 0) for name, image in images.items()}, brain, lesion


def write_dataset(root: Path, participants: int = 4, **changed: np.ndarray) -> Path:
    """Write the dataset with manual masks in its derivatives; ``changed`` replaces masks by label.

    Participants are of two centres, by turns.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "dataset_description.json", {"Name": "Balls", "BIDSVersion": "1.10.0"})
    manual = root / "derivatives" / "manual"
    rows = ["participant_id\tcentre"]
    for number in range(1, participants + 1):
        label = f"sub-{number:02d}"
        images, _, lesion = session(number)
        anat = root / label / "anat"
        anat.mkdir(parents=True)
        for suffix, image in images.items():
            save_image(image, AFFINE, anat / f"{label}_{suffix}.nii.gz", dtype=np.float32)
        folder = manual / label / "anat"
        folder.mkdir(parents=True)
        mask = changed.get(label.replace("-", "_"), lesion)
        save_image(mask, AFFINE, folder / f"{label}_label-L_mask.nii.gz", dtype=np.float32)
        rows.append(f"{label}\t{'AB'[number % 2]}")
    write_json(
        manual / "dataset_description.json",
        {"Name": "Manual", "BIDSVersion": "1.10.0", "DatasetType": "derivative"},
    )
    write_text(root / "participants.tsv", "\n".join(rows) + "\n")
    return root
