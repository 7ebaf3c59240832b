"""From images to what a network sees, and from what it says back, as nnU-Net v2 does both.

The steps and their order are nnU-Net's: axes, cut to what is not zero, normalisation, resampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from scipy import ndimage, special

from bids_stroke.models import resampling

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Case:
    """One prepared scan.

    ``image`` is [channel, z, y, x] on the network's grid in nnU-Net's order of axes, ``seen`` what
    of [z, y, x] there the result is wanted for. ``box`` is the part of an image of ``shape`` that
    was kept; ``spacing`` (mm) is that of the images, ``network_spacing`` that of the network.
    """

    image: torch.Tensor
    seen: torch.Tensor
    box: Box
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    network_spacing: tuple[float, ...]

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Shape of the part that was kept, before resampling."""
        return tuple(side.stop - side.start for side in self.box)


def prepare(
    stack: np.ndarray,
    spacing: Sequence[float],
    wanted: np.ndarray | None,
    plans: PlansManager,
    configuration: ConfigurationManager,
) -> Case:
    """Prepare images [channel, x, y, z] with ``spacing`` (mm along x, y, z).

    ``wanted`` [x, y, z] is where the result is looked at; None stands for what is not zero. The
    images must not be zero everywhere.
    """
    order = plans.transpose_forward
    data = stack.transpose(0, 3, 2, 1).transpose(0, *(axis + 1 for axis in order))
    sides = tuple(float(spacing[::-1][axis]) for axis in order)
    filled = (data != 0).any(axis=0)
    box = ndimage.find_objects(filled, max_label=1)[0]
    cut = _normalised(data[(slice(None), *box)], filled[box], plans, configuration)
    target = (sides[0], *configuration.spacing)[-3:]
    shape = tuple(map(int, compute_new_shape(cut.shape[1:], sides, target)))
    resample = resampling.resampler(
        configuration.configuration, "data", configuration.resampling_fn_data
    )
    image = resample(torch.from_numpy(cut), shape, sides, target)
    if wanted is None:
        seen = (image != 0).any(dim=0)
    else:
        seen = _around(wanted.T.transpose(order)[box], shape)
    return Case(image, seen, box, data.shape[1:], sides, target)


def _normalised(
    data: np.ndarray, filled: np.ndarray, plans: PlansManager, configuration: ConfigurationManager
) -> np.ndarray:
    """Images [channel, z, y, x] under the normalisation of the plans, as a float32 copy."""
    masked = any(configuration.use_mask_for_norm)
    inside = ndimage.binary_fill_holes(filled) if masked else filled
    outside = np.where(inside, np.int8(0), np.int8(-1))[None]  # nnU-Net's label for it
    return DefaultPreprocessor(verbose=False)._normalize(
        np.array(data, dtype=np.float32, order="C"),
        outside,
        configuration,
        plans.foreground_intensity_properties_per_channel,
    )


def _around(mask: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Mask [z, y, x] on another grid, with the voxels beside it that an interpolation looks at."""
    values = torch.from_numpy(np.array(mask != 0, dtype=np.float32, order="C"))[None]
    moved = resampling.resample(values, shape, (1, 1, 1), (1, 1, 1), order=1)
    return torch.nn.functional.max_pool3d(moved[None], 3, 1, 1)[0, 0] > 0


def restore(
    case: Case,
    values: torch.Tensor,
    label: int,
    plans: PlansManager,
    configuration: ConfigurationManager,
    *,
    are_logits: bool,
) -> np.ndarray:
    """Probability of a label [x, y, z], float32, on the grid of the images; 0 outside the box.

    ``values`` are logits or probabilities [class, z, y, x] on the network's grid, and interpolated
    as such.
    """
    table = configuration.configuration
    if not are_logits:
        values = values[label : label + 1]
    elif len(values) == 2 and resampling.is_linear(table):
        values = (values[label] - values[1 - label])[None]
    resample = resampling.resampler(
        table, "probabilities", configuration.resampling_fn_probabilities
    )
    on_grid = resample(values, case.box_shape, case.network_spacing, case.spacing)
    whole = np.zeros(case.shape, dtype=np.float32)
    whole[case.box] = _probability(on_grid, label, are_logits).clamp_(0, 1).numpy()
    return np.ascontiguousarray(whole.transpose(plans.transpose_backward).T)


def _probability(values: torch.Tensor, label: int, are_logits: bool) -> torch.Tensor:
    """From [class, ...] logits, or the one row that stands for two classes or a probability."""
    if len(values) == 1:  # torch's sigmoid rounds otherwise where its threads' shares end
        return (
            torch.from_numpy(special.expit(values[0].numpy())) if are_logits else values[0].clone()
        )
    return values.softmax(0)[label]
