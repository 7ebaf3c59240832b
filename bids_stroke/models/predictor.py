"""Prediction with an nnU-Net v2 model folder, from images in memory to a probability map.

The map is that of nnU-Net's own preprocessing, network and resampling; what is done otherwise is
done for time (``executors``, ``resampling``), or because windows are summed in float32, where
nnU-Net sums in float16 even on a CPU.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from bids_stroke.core.files import read_json
from bids_stroke.errors import UnusableData
from bids_stroke.models import preparation, windows
from bids_stroke.models.channels import with_mirrored
from bids_stroke.models.descriptor import Descriptor
from bids_stroke.models.executors import LOGGER, Executor, executor
from bids_stroke.models.members import available_folds as available_folds
from bids_stroke.models.members import chosen_folds
from bids_stroke.models.members import mirror_axes as axes_to_mirror
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
    """A loaded model: nnU-Net's managers, the network, and one set of weights a fold.

    ``network`` stays on the CPU; ``executors`` holds, by fold, what runs it on ``device`` in
    ``precision``, made at first use. With ``exact`` that is always torch.
    """

    descriptor: Descriptor
    plans: PlansManager
    configuration: ConfigurationManager
    dataset: Mapping[str, Any]
    network: nn.Module
    folds: Mapping[str, Mapping[str, torch.Tensor]]
    device: torch.device
    precision: str = "auto"
    exact: bool = False
    executors: dict[str, Executor] = field(default_factory=dict)


def check_architecture(architecture: Mapping[str, Any], path: Path) -> None:
    """Plans name Python classes to import: allow those of networks only."""
    kwargs = architecture["arch_kwargs"]
    names = [architecture["network_class_name"]]
    names += [kwargs[k] for k in architecture["_kw_requires_import"] if kwargs.get(k)]
    for name in names:
        if not _NETWORK_CLASS.fullmatch(str(name)):
            raise UnusableData(f"{path} asks for the class {name}, which is no network: refused.")


def load(
    model: Descriptor,
    *,
    folds: Sequence[str] = (),
    device: str | torch.device = "cpu",
    precision: str = "auto",
    exact: bool = False,
) -> Predictor:
    """Load a model folder; ``folds`` default to the descriptor's, else to all that are there.

    ``precision`` is one of ``executors.PRECISIONS``; ``exact`` asks for torch, whatever is faster.
    Raises InputMissing or UnusableData when a file of the model is missing, damaged or hostile.
    """
    plans_file = model.model_folder / "plans.json"
    try:
        plans_table = read_json(plans_file)
        dataset = read_json(model.model_folder / "dataset.json")
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableData(f"{model.model_folder} is no nnU-Net v2 model: {error}.") from error
    checkpoints = {
        fold: load_checkpoint(model.model_folder / f"fold_{fold}" / model.inference.checkpoint)
        for fold in chosen_folds(model, folds)
    }
    first = next(iter(checkpoints.values()))
    with _sound(plans_file):
        wanted = first["init_args"]["configuration"]
        if wanted not in plans_table["configurations"]:
            raise LookupError(f"no configuration {wanted}")
        plans = PlansManager(plans_table)
        configuration = plans.get_configuration(wanted)
        network = _build(plans, configuration, dataset, plans_file)
    weights = {fold: c["network_weights"] for fold, c in checkpoints.items()}
    for fold, state in weights.items():
        _load_state(network, state, model.model_folder / f"fold_{fold}")
    where = torch.device(device)
    return Predictor(
        model, plans, configuration, dataset, network.eval(), weights, where, precision, exact
    )


@contextmanager
def _sound(plans_file: Path) -> Iterator[None]:
    """Turn errors of nnU-Net about plans that lack something into one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UnusableData(
            f"{plans_file}, dataset.json or the weights lack something ({type(error).__name__}: "
            f"{error}): install the model again."
        ) from error


def _build(
    plans: PlansManager, configuration: ConfigurationManager, dataset: Any, plans_file: Path
) -> nn.Module:
    """The network with random weights; raises UnusableData for plans that ask for other classes."""
    check_architecture(configuration.configuration["architecture"], plans_file)
    _check_preprocessor(configuration, plans_file)
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )


def _check_preprocessor(configuration: ConfigurationManager, path: Path) -> None:
    name = configuration.configuration["preprocessor_name"]
    if name != "DefaultPreprocessor":
        raise UnusableData(f"{path} asks for the preprocessor {name}, which is not known here.")


def _load_state(network: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UnusableData(
            f"The weights in {where} don't fit the network of plans.json: install the model again."
        ) from error


def load_cached(
    descriptor_file: Path, folds: tuple[str, ...], device: str, precision: str = "auto"
) -> Predictor:
    """``load`` once in a process, so that a worker reads a model once and not once a subject.

    A model whose files have changed since is loaded again.
    """
    from bids_stroke.models.descriptor import load as load_descriptor

    model = load_descriptor(descriptor_file)
    return _load_cached(descriptor_file, folds, device, precision, _stamp(model))


@lru_cache(maxsize=4)
def _load_cached(
    descriptor_file: Path, folds: tuple[str, ...], device: str, precision: str, stamp: Any
) -> Predictor:
    from bids_stroke.models.descriptor import load as load_descriptor

    return load(load_descriptor(descriptor_file), folds=folds, device=device, precision=precision)


def _stamp(model: Descriptor) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of the files of a model."""
    files = [model.file, *sorted(p for p in model.model_folder.rglob("*") if p.is_file())]
    return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files)


def fold_executor(predictor: Predictor, fold: str) -> Executor:
    """What runs the network with the weights of a fold; made once."""
    if fold not in predictor.executors:
        network = predictor.network
        if len(predictor.folds) > 1:
            network = deepcopy(network)
            where = predictor.descriptor.model_folder / f"fold_{fold}"
            _load_state(network, predictor.folds[fold], where)
        channels = determine_num_input_channels(
            predictor.plans, predictor.configuration, predictor.dataset
        )
        predictor.executors[fold] = executor(
            network,
            (channels, *predictor.configuration.patch_size),
            device=predictor.device,
            precision=predictor.precision,
            threads=torch.get_num_threads(),
            exact=predictor.exact,
        )
    return predictor.executors[fold]


def execution(predictor: Predictor) -> dict[str, str]:
    """What ran the network: executor and precision."""
    run = fold_executor(predictor, next(iter(predictor.folds)))
    return {"Executor": run.name, "Precision": run.precision, "Device": run.device.type}


def _averages_logits(model: Descriptor) -> bool:
    """nnU-Net v2 averages and resamples logits; nnU-Net v1 does both with probabilities."""
    return model.inference.resample == "logits"


@torch.inference_mode()
def logits(
    predictor: Predictor,
    image: torch.Tensor,
    *,
    mirror_axes: Sequence[int],
    step_size: float,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits [class, z, y, x] of a preprocessed image [channel, z, y, x], averaged over folds.

    Arguments are those of ``member_logits``.
    """
    members = member_logits(
        predictor, image, mirror_axes=mirror_axes, step_size=step_size, seen=seen
    )
    return _mean(members)


def _mean(members: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(members[1:], start=members[0]) / len(members)


def member_logits(
    predictor: Predictor,
    image: torch.Tensor,
    *,
    mirror_axes: Sequence[int],
    step_size: float,
    seen: torch.Tensor | None = None,
    split_copies: bool = False,
) -> list[torch.Tensor]:
    """Logits [class, z, y, x] of an image [channel, z, y, x] by each member of a model.

    A member is a fold; with ``split_copies`` and one fold only, it is a mirrored copy. They
    are probabilities, and averaged as such, where the descriptor resamples probabilities.
    Windows that hold no voxel of ``seen`` [z, y, x], by default of the brain, are skipped; a voxel
    that no window sees is background. A GPU whose memory is too small hands over to the CPU.
    """
    seen = (image != 0).any(dim=0) if seen is None else seen
    cover = windows.Cover(
        patch=tuple(predictor.configuration.patch_size),
        step=step_size,
        mirror_axes=tuple(mirror_axes),
        centre=predictor.descriptor.inference.centre_crop,
    )
    covers = [cover]
    if split_copies and len(predictor.folds) == 1:
        covers = [replace(cover, copy=copy) for copy in cover.copies]
    jobs = list(product(predictor.folds, covers))
    try:
        return [_member(predictor, fold, image, seen, one) for fold, one in jobs]
    except torch.OutOfMemoryError:
        if predictor.device.type == "cpu":
            raise
        LOGGER.warning("The memory of %s is too small: the CPU is used.", predictor.device)
        predictor = replace(predictor, device=torch.device("cpu"), executors={})
        return [_member(predictor, fold, image, seen, one) for fold, one in jobs]


def _member(
    predictor: Predictor,
    fold: str,
    image: torch.Tensor,
    seen: torch.Tensor,
    cover: windows.Cover,
) -> torch.Tensor:
    """Logits, or probabilities, of one fold."""
    are_logits = _averages_logits(predictor.descriptor)
    finish = (lambda outputs: outputs) if are_logits else (lambda outputs: outputs.softmax(1))
    run = fold_executor(predictor, fold)
    values, unseen = windows.averaged(run, image, seen, cover, finish)
    run.release()  # 1.2 GB for a window of a whole brain, which other steps of the worker may want
    values[0][unseen] = _SURE if are_logits else 1.0
    return values


def predict(
    predictor: Predictor,
    channels: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    *,
    tta: bool | None = None,
    brain: np.ndarray | None = None,
    members: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Lesion probability [x, y, z] as float32 in [0, 1], on the grid of the input images.

    ``channels`` are images [x, y, z] in RAS by modality, background exactly 0, on one grid with
    ``spacing`` (mm along x, y, z). A mirrored channel is made where it is not given; any other
    channel of the model that is not given is filled with zeros. ``tta`` switches mirroring on or
    off; None takes the descriptor's axes. With a ``brain`` mask on the same grid, for images of
    whole heads, the map is valid in it only.
    A list given as ``members`` is filled with the maps of the folds or, with one fold, of the
    mirrored copies, where there are two or more.
    Raises UnusableData for images without a brain and for a network that gives NaN.
    Source: nnU-Net v2 (Isensee et al. 2021), whose preprocessing and resampling are followed.
    """
    model = predictor.descriptor
    given = [channels[name] for name in model.channels if name in channels]
    if not any(image.any() for image in given) or (brain is not None and not brain.any()):
        raise UnusableData("No brain was left in the images after preprocessing: look at the mask.")
    seen = with_mirrored(channels, model.channels, brain, spacing)
    empty = np.zeros(given[0].shape, dtype=np.float32)
    stack = np.stack([seen.get(name, empty) for name in model.channels]).astype(np.float32)
    case = preparation.prepare(stack, spacing, brain, predictor.plans, predictor.configuration)
    values = member_logits(
        predictor,
        case.image,
        mirror_axes=axes_to_mirror(model, tta),
        step_size=model.inference.step_size,
        seen=case.seen,
        split_copies=members is not None,
    )
    restore = partial(
        preparation.restore,
        case,
        label=LESION,
        plans=predictor.plans,
        configuration=predictor.configuration,
        are_logits=_averages_logits(model),
    )
    if members is not None and len(values) > 1:
        members += [restore(of_one) for of_one in values]
    probability = restore(_mean(values))
    if not np.isfinite(probability).all():
        raise UnusableData(f"The weights in {model.model_folder} give NaN: install them again.")
    return probability
