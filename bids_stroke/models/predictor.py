"""Prediction with an nnU-Net v2 model folder, from images in memory to a probability map.

nnU-Net's own preprocessing, network and resampling are used, so that a map equals nnU-Net's; only
the sum over windows is ours: it adds in float32, where nnU-Net adds in float16 even on a CPU.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from bids_stroke.core.files import read_json
from bids_stroke.errors import UnusableData
from bids_stroke.models.descriptor import Descriptor
from bids_stroke.models.weights import load_checkpoint

LESION = 1  # label of the lesion in the models of this field
_SURE = 20.0  # logit of the background where no window looks
_NETWORK_CLASS = re.compile(  # whole names, because torch.nn.x.torch.os.system is a name as well
    r"dynamic_network_architectures\.(architectures|building_blocks)\.\w+\.[A-Z]\w*"
    r"|bids_stroke\.models\.networks\.\w+\.[A-Z]\w*"
    r"|torch\.nn\.(modules\.\w+\.)?[A-Z]\w*"
)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A loaded model: nnU-Net's managers, the network, and one set of weights a fold."""

    descriptor: Descriptor
    plans: PlansManager
    configuration: ConfigurationManager
    dataset: Mapping[str, Any]
    network: nn.Module
    folds: Mapping[str, Mapping[str, torch.Tensor]]
    device: torch.device


def available_folds(model: Descriptor) -> tuple[str, ...]:
    """Names of the folds that are in the model folder, for example ``("0", "1", "all")``."""
    found = model.model_folder.glob(f"fold_*/{model.inference.checkpoint}")
    return tuple(sorted(p.parent.name.removeprefix("fold_") for p in found))


def _chosen_folds(model: Descriptor, asked: Sequence[str]) -> tuple[str, ...]:
    """Folds asked for, else those of the descriptor, else all that are there."""
    there = available_folds(model)
    folds = tuple(map(str, asked or model.inference.folds)) or there
    if missing := [f for f in folds if f not in there]:
        raise UnusableData(
            f"Model '{model.name}' has no fold {missing[0]} in {model.model_folder}: "
            f"there are {', '.join(there) or 'none'}."
        )
    return folds


def check_architecture(architecture: Mapping[str, Any], path: Path) -> None:
    """Plans name Python classes to import: allow those of networks only."""
    kwargs = architecture["arch_kwargs"]
    names = [architecture["network_class_name"]]
    names += [kwargs[k] for k in architecture["_kw_requires_import"] if kwargs.get(k)]
    for name in names:
        if not _NETWORK_CLASS.fullmatch(str(name)):
            raise UnusableData(f"{path} asks for the class {name}, which is no network: refused.")


def load(
    model: Descriptor, *, folds: Sequence[str] = (), device: str | torch.device = "cpu"
) -> Predictor:
    """Load a model folder; ``folds`` default to the descriptor's, else to all that are there.

    Raises InputMissing or UnusableData when a file of the model is missing, damaged or hostile.
    """
    plans_file = model.model_folder / "plans.json"
    try:
        plans_table = read_json(plans_file)
        dataset = read_json(model.model_folder / "dataset.json")
    except (OSError, ValueError) as error:
        raise UnusableData(f"{model.model_folder} is no nnU-Net v2 model: {error}.") from error
    checkpoints = {
        fold: load_checkpoint(model.model_folder / f"fold_{fold}" / model.inference.checkpoint)
        for fold in _chosen_folds(model, folds)
    }
    first = next(iter(checkpoints.values()))
    plans = PlansManager(plans_table)
    configuration = plans.get_configuration(first["init_args"]["configuration"])
    check_architecture(configuration.configuration["architecture"], plans_file)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )
    weights = {fold: c["network_weights"] for fold, c in checkpoints.items()}
    for fold, state in weights.items():
        _load_state(network, state, model.model_folder / f"fold_{fold}")
    device = torch.device(device)
    return Predictor(
        model, plans, configuration, dataset, network.to(device).eval(), weights, device
    )


def _load_state(network: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UnusableData(
            f"The weights in {where} don't fit the network of plans.json: install the model again."
        ) from error


@lru_cache(maxsize=2)
def load_cached(descriptor_file: Path, folds: tuple[str, ...], device: str) -> Predictor:
    """``load`` once in a process, so that a worker reads a model once and not once a subject."""
    from bids_stroke.models.descriptor import load as load_descriptor

    return load(load_descriptor(descriptor_file), folds=folds, device=device)


def _mirrored(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of spatial axes to flip, the empty one first."""
    return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def _network_output(
    predictor: Predictor, patch: torch.Tensor, mirrors: Sequence[tuple[int, ...]]
) -> torch.Tensor:
    """Mean over mirrored copies of a patch [1, c, z, y, x] of what the model averages.

    A 2-D network sees the patch, which is one slice then, without its z axis.
    """
    flat = len(predictor.configuration.patch_size) == 2
    patch = patch.squeeze(2) if flat else patch
    total = torch.zeros((), device=patch.device)
    for axes in mirrors:
        dims = [a + 2 for a in axes]
        output = torch.flip(predictor.network(torch.flip(patch, dims)), dims).float()
        total = total + (output if _averages_logits(predictor.descriptor) else output.softmax(1))
    return (total / len(mirrors)).unsqueeze(2) if flat else total / len(mirrors)


def _averages_logits(model: Descriptor) -> bool:
    """nnU-Net v2 averages and resamples logits; nnU-Net v1 does both with probabilities."""
    return model.inference.resample == "logits"


def _windows(
    shape: Sequence[int], patch: Sequence[int], step: float, centre: bool = False
) -> Iterator[tuple[slice, ...]]:
    """Windows that cover an image, slice by slice with a 2-D patch; or only that in its centre."""
    slices = len(shape) - len(patch)
    inner = tuple(shape[slices:])
    if centre:
        starts = [[(n - p) // 2] for n, p in zip(inner, patch, strict=True)]
    else:
        starts = compute_steps_for_sliding_window(inner, tuple(patch), step)
    size = (1,) * slices + tuple(patch)
    for corner in product(*map(range, shape[:slices]), *starts):
        yield tuple(slice(c, c + p) for c, p in zip(corner, size, strict=True))


@torch.inference_mode()
def logits(
    predictor: Predictor,
    image: torch.Tensor,
    *,
    mirror_axes: Sequence[int],
    step_size: float,
) -> torch.Tensor:
    """Logits [class, z, y, x] of a preprocessed image [channel, z, y, x], averaged over folds.

    They are probabilities, and averaged as such, where the descriptor resamples probabilities.
    Windows as in nnU-Net (Gaussian weights, sigma an eighth of the patch), summed in float32.
    Windows that hold no voxel of the brain are skipped; a voxel that no window sees is background.
    """
    total: torch.Tensor | float = 0.0
    for fold, state in predictor.folds.items():
        if len(predictor.folds) > 1:
            _load_state(
                predictor.network, state, predictor.descriptor.model_folder / f"fold_{fold}"
            )
        total = total + _fold_logits(predictor, image, mirror_axes, step_size)
    return total / len(predictor.folds)  # type: ignore[return-value]


def _fold_logits(
    predictor: Predictor, image: torch.Tensor, mirror_axes: Sequence[int], step_size: float
) -> torch.Tensor:
    patch = tuple(predictor.configuration.patch_size)
    padded, unpad = pad_nd_image(image, patch, "constant", {"value": 0}, True, None)
    padded = padded.to(predictor.device)
    weight = compute_gaussian(
        patch,
        sigma_scale=1 / 8,
        value_scaling_factor=10,
        dtype=torch.float32,
        device=predictor.device,
    )
    heads = predictor.plans.get_label_manager(predictor.dataset).num_segmentation_heads
    total = torch.zeros((heads, *padded.shape[1:]), device=predictor.device)
    weights = torch.zeros(padded.shape[1:], device=predictor.device)
    mirrors = _mirrored(mirror_axes)
    with _half_precision_on_gpu(predictor.device):
        centre = predictor.descriptor.inference.centre_crop
        for window in _windows(padded.shape[1:], patch, step_size, centre):
            inside = padded[(slice(None), *window)]
            if not torch.any(inside):
                continue
            total[(slice(None), *window)] += (
                _network_output(predictor, inside[None], mirrors)[0] * weight
            )
            weights[window] += weight
    total /= weights.clamp(min=torch.finfo(torch.float32).tiny)
    total[0][weights == 0] = _SURE if _averages_logits(predictor.descriptor) else 1.0
    return total[(slice(None), *unpad[1:])].cpu()


@contextmanager
def _half_precision_on_gpu(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        yield


def _to_grid(
    predictor: Predictor, values: torch.Tensor, properties: Mapping[str, Any]
) -> np.ndarray:
    """Bring [class, z, y, x] from the network's spacing to the cropped input's grid."""
    spacing = [properties["spacing"][i] for i in predictor.plans.transpose_forward]
    resampled = predictor.configuration.resampling_fn_probabilities(
        values,
        properties["shape_after_cropping_and_before_resampling"],
        predictor.configuration.spacing,
        spacing,
    )
    return np.asarray(resampled, dtype=np.float32)


def _lesion_share(values: np.ndarray, nonlinear: bool) -> np.ndarray:
    """Probability of the lesion from [class, ...] logits (softmax) or from probabilities."""
    if not nonlinear:
        return values[LESION]
    return torch.softmax(torch.from_numpy(values), dim=0)[LESION].numpy()


def predict(
    predictor: Predictor,
    channels: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    *,
    tta: bool | None = None,
) -> np.ndarray:
    """Lesion probability [x, y, z] as float32 in [0, 1], on the grid of the input images.

    ``channels`` are images [x, y, z] in RAS by modality, background exactly 0, on one grid with
    ``spacing`` (mm along x, y, z). A channel of the model whose modality is not given is filled
    with zeros. ``tta`` switches mirroring on or off; None takes the descriptor's axes.
    Source: nnU-Net v2 (Isensee et al. 2021), whose preprocessing and resampling are called.
    """
    model, manager = predictor.descriptor, predictor.configuration
    first = next(iter(channels.values()))
    empty = np.zeros(first.shape, dtype=np.float32)
    stack = np.stack([channels.get(m, empty) for m in model.channels]).astype(np.float32)
    if not stack.any():
        raise UnusableData("No brain was left in the images after preprocessing: look at the mask.")
    properties: dict[str, Any] = {"spacing": [float(s) for s in spacing][::-1]}
    image, _, properties = manager.preprocessor_class(verbose=False).run_case_npy(
        stack.transpose(0, 3, 2, 1), None, properties, predictor.plans, manager, predictor.dataset
    )
    values = logits(
        predictor,
        torch.from_numpy(np.ascontiguousarray(image)),
        mirror_axes=_mirror_axes(model, tta),
        step_size=model.inference.step_size,
    )
    on_grid = _to_grid(predictor, values, properties)
    whole = np.zeros(properties["shape_before_cropping"], dtype=np.float32)
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    whole[box] = np.clip(_lesion_share(on_grid, _averages_logits(model)), 0, 1)
    return np.ascontiguousarray(whole.transpose(predictor.plans.transpose_backward).T)


def _mirror_axes(model: Descriptor, tta: bool | None) -> tuple[int, ...]:
    if tta is None:
        return model.inference.mirror_axes
    return model.inference.mirror_axes or (0, 1, 2) if tta else ()
