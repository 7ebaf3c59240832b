"""Channel adaptation: a network for some channels becomes one for others, by the channels' names.

After Meddahi et al.: the first convolution is repeated over the channels and divided by their
number, every layer of equal shape is copied, segmentation heads included.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bids_stroke.core.files import read_json, write_json
from bids_stroke.errors import InputMissing, UnusableData, UsageError
from bids_stroke.models import store
from bids_stroke.models.channels import modalities_of
from bids_stroke.models.descriptor import Descriptor
from bids_stroke.models.weights import (
    canonical,
    canonical_state,
    load_checkpoint,
    save_checkpoint,
    with_aliases,
)

NEW_CHANNEL = ("mean", "zero", "copy")
KERNEL = ("centre", "sum")
_FIRST = ("encoder.stages.0.0.convs.0.conv.weight", "encoder.stem.convs.0.conv.weight")

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of each layer, by its canonical name."""

    copied: tuple[str, ...]
    repeated: tuple[str, ...]
    cut: tuple[str, ...]
    rule: str

    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = [f"copied: {len(self.copied)} layers of equal shape, segmentation heads included"]
        lines += [f"repeated: {name} ({self.rule})" for name in self.repeated]
        return lines + [f"cut: {name}" for name in self.cut]


def adapt(
    state: State,
    source_channels: Sequence[str],
    target_channels: Sequence[str],
    new_channel: str = "mean",
    skeleton: State | None = None,
    kernel: str = "centre",
) -> tuple[dict[str, torch.Tensor], Report]:
    """Weights of nnU-Net v2 for other channels; nothing is changed in ``state``.

    ``new_channel`` is how a channel that the source lacks begins, and what becomes of the others:

    - ``mean``: as the mean of the source's channels; all are then divided, so that the target
      network with equal inputs is the source network with equal inputs (a channel that is dropped
      gives its weights to those that stay);
    - ``zero``: at zero, so that the network begins as it was (a dropped channel is taken as zero);
    - ``copy``: as the mean of the source's channels, undivided.

    ``skeleton`` is a state of the target's shapes, with which nnU-Net trains; where it has a kernel
    of 1 and the source one of 3, the ``kernel``'s ``centre`` plane or the ``sum`` over planes is
    taken. Returns the state under all names of the skeleton (else of the source), aliases sharing
    one tensor, and the report. Raises UsageError for a wrong choice and UnusableData with the list
    of layers that can't be adapted.
    """
    _check_choices(source_channels, target_channels, new_channel, kernel)
    source = canonical_state(state)
    first = _first_layer(source, len(source_channels))
    weights = _first_weights(source[first].float(), source_channels, target_channels, new_channel)
    source[first] = weights.to(source[first].dtype)
    names = skeleton if skeleton is not None else state
    shapes = {canonical(n): t.shape for n, t in skeleton.items()} if skeleton is not None else {}
    adapted = _fit(source, shapes or {n: t.shape for n, t in source.items()}, kernel)
    cut = tuple(
        f"{name} from {tuple(source[name].shape[2:])} to {tuple(tensor.shape[2:])} ({kernel})"
        for name, tensor in adapted.items()
        if tensor.shape != source[name].shape
    )
    touched = {first, *(line.split(" ", 1)[0] for line in cut)}
    report = Report(
        copied=tuple(name for name in adapted if name not in touched),
        repeated=(first,),
        cut=cut,
        rule=_rule(source_channels, target_channels, new_channel),
    )
    return with_aliases(adapted, names), report


def _check_choices(
    source: Sequence[str], target: Sequence[str], new_channel: str, kernel: str
) -> None:
    if new_channel not in NEW_CHANNEL:
        raise UsageError(f"--new-channel is one of {', '.join(NEW_CHANNEL)}, not {new_channel}.")
    if kernel not in KERNEL:
        raise UsageError(f"--kernel is one of {', '.join(KERNEL)}, not {kernel}.")
    for channels in (source, target):
        if not channels or len(set(channels)) < len(channels):
            raise UsageError(
                f"The channels {', '.join(channels) or 'none'} are not different ones."
            )
    if new_channel == "zero" and not set(source) & set(target):
        raise UsageError("With --new-channel zero, one channel at least must be kept.")


def _first_layer(source: State, channels: int) -> str:
    """Name of the first convolution."""
    name = next((n for n in _FIRST if n in source), None)
    if name is None:
        raise UnusableData(f"The network has no first convolution by the name of {_FIRST[0]}.")
    if source[name].shape[1] != channels:
        raise UnusableData(
            f"The first convolution takes {source[name].shape[1]} channels, but its model names "
            f"{channels}: correct the descriptor."
        )
    return name


def _first_weights(
    weights: torch.Tensor, source: Sequence[str], target: Sequence[str], new_channel: str
) -> torch.Tensor:
    """First convolution [out, target channel, ...] from that of the source."""
    kept = {name: weights[:, source.index(name)] for name in target if name in source}
    mean = weights.mean(dim=1)
    if set(source) == set(target):
        parts = kept
    elif new_channel == "mean":
        parts = _shared(weights, kept, [n for n in source if n not in kept], source, target)
    else:
        new = torch.zeros_like(mean) if new_channel == "zero" else mean
        parts = {name: kept.get(name, new) for name in target}
    return torch.stack([parts[name] for name in target], dim=1)


def _shared(
    weights: torch.Tensor,
    kept: Mapping[str, torch.Tensor],
    dropped: Sequence[str],
    source: Sequence[str],
    target: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Weights of the target's channels whose sum is the sum over the source's channels."""
    if not kept:
        return {name: weights.sum(dim=1) / len(target) for name in target}
    given = sum((weights[:, source.index(n)] for n in dropped), torch.zeros_like(weights[:, 0]))
    full = {name: part + given / len(kept) for name, part in kept.items()}
    new = sum(full.values(), torch.zeros_like(given)) / len(kept)
    return {name: full.get(name, new) * (len(kept) / len(target)) for name in target}


def _rule(source: Sequence[str], target: Sequence[str], new_channel: str) -> str:
    new = [name for name in target if name not in source]
    dropped = [name for name in source if name not in target]
    words = [f"{'+'.join(source)} to {'+'.join(target)}"]
    words += [f"new {'+'.join(new)} by {new_channel}"] if new else []
    words += [f"dropped {'+'.join(dropped)} by {new_channel}"] if dropped else []
    return ", ".join(words if new or dropped else [*words, "in another order, unchanged"])


def _fit(
    source: State, shapes: Mapping[str, Sequence[int]], kernel: str
) -> dict[str, torch.Tensor]:
    """Source weights in the target's shapes, or UnusableData with all layers that don't fit."""
    fitted = {name: _cut(source.get(name), shape, kernel) for name, shape in shapes.items()}
    problems = [
        _describe(name, source.get(name), shapes[name])
        for name, tensor in fitted.items()
        if tensor is None
    ]
    problems += [f"{name} has no place in the target" for name in source if name not in shapes]
    if problems:
        raise UnusableData("The network can't be adapted: " + "; ".join(_some(problems)) + ".")
    return {name: tensor for name, tensor in fitted.items() if tensor is not None}


def _some(problems: Sequence[str], most: int = 20) -> Iterable[str]:
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return [*problems[:most], *more]


def _describe(name: str, tensor: torch.Tensor | None, shape: Sequence[int]) -> str:
    if tensor is None:
        return f"{name} is not in the source"
    return f"{name} is {tuple(tensor.shape)} and should be {tuple(shape)}"


def _cut(tensor: torch.Tensor | None, shape: Sequence[int], kernel: str) -> torch.Tensor | None:
    """The tensor in a shape, where it is equal or differs by kernels of 3 that become 1."""
    if tensor is None or tuple(tensor.shape) == tuple(shape):
        return tensor
    same_layer = len(shape) == tensor.ndim >= 3 and tuple(shape[:2]) == tuple(tensor.shape[:2])
    if not same_layer:
        return None
    for axis in range(2, tensor.ndim):
        if tensor.shape[axis] == shape[axis]:
            continue
        if (tensor.shape[axis], shape[axis]) != (3, 1):
            return None
        planes = tensor.float().sum(axis, keepdim=True).to(tensor.dtype)
        tensor = tensor.narrow(axis, 1, 1) if kernel == "centre" else planes
    return tensor


# A model folder


def adapt_model(
    source: Descriptor,
    channels: Sequence[str],
    models: Path,
    *,
    name: str = "",
    new_channel: str = "mean",
    kernel: str = "centre",
    skeleton: Path | None = None,
    overwrite: bool = False,
) -> tuple[Descriptor, Report]:
    """Write an installed model for other channels into the store ``models``, with its descriptor.

    ``skeleton`` is a ``plans.json`` of nnU-Net v2 (or its folder) whose network and preprocessing
    the new model gets; without it they stay those of the source. The new model was not trained
    further. Raises the errors of ``adapt`` and of ``store.install``.
    """
    from bids_stroke.models.predictor import available_folds

    draft = _describe_adapted(source, tuple(channels), name, new_channel)
    folds = available_folds(source)
    if not folds:
        raise InputMissing(f"'{source.name}' has no weights in {source.model_folder}: install it.")
    store.check_free(draft.name, models, overwrite=overwrite)
    with store.staging(models) as staged:
        target = staged / draft.name
        for fold in folds:
            file = f"fold_{fold}/{source.inference.checkpoint}"
            checkpoint = load_checkpoint(source.model_folder / file)
            shapes = _skeleton_state(skeleton, checkpoint, source, len(channels))
            weights, report = adapt(
                checkpoint["network_weights"],
                source.channels,
                channels,
                new_channel,
                shapes,
                kernel,
            )
            _save(target / file, checkpoint, weights)
        _write_json_files(source, channels, skeleton, target)
        return store.install(draft, staged, models, overwrite=overwrite), report


def _describe_adapted(
    source: Descriptor, channels: tuple[str, ...], name: str, new_channel: str
) -> Descriptor:
    images = modalities_of(channels)
    sets = [tuple(m for m in have if m in images) for have in source.inputs]
    started = [s for s in sets if s and s != images] if new_channel == "zero" else []
    reference = source.preprocessing.reference
    origin = f"adapted from {source.name} {source.version} ({'+'.join(source.channels)})"
    return replace(
        source,
        name=name or f"{source.name}-{'-'.join(c.lower() for c in channels)}",
        title=f"{source.title}, for {'+'.join(channels)}",
        description=f"{origin[0].upper()}{origin[1:]}, new channels by {new_channel}, not trained "
        f"further: to start training from. {source.description}",
        channels=channels,
        automatic=False,  # before it is trained, it finds nothing that can be relied on
        inputs=tuple(dict.fromkeys((images, *started))),
        preprocessing=replace(
            source.preprocessing, reference=reference if reference in images else images[0]
        ),
        source=replace(source.source, manifest="", archive="", note=f"{origin} on this computer."),
        evaluation={"state": f"{origin}, not trained further, not evaluated"},
        files=(),
    )


def _plans_file(skeleton: Path) -> Path:
    path = skeleton / "plans.json" if skeleton.is_dir() else skeleton
    if not path.is_file():
        raise InputMissing(f"There are no plans at {path}: check --plans.")
    return path


def _skeleton_state(
    skeleton: Path | None, checkpoint: Mapping[str, Any], source: Descriptor, channels: int
) -> State | None:
    """State of the network that the skeleton's plans make, for its shapes."""
    if skeleton is None:
        return None
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from bids_stroke.models.predictor import check_architecture

    file = _plans_file(skeleton)
    try:
        plans = PlansManager(read_json(file))
        configuration = plans.get_configuration(checkpoint["init_args"]["configuration"])
        check_architecture(configuration.configuration["architecture"], file)
        labels = plans.get_label_manager(read_json(source.model_folder / "dataset.json"))
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            labels.num_segmentation_heads,
            allow_init=False,
            deep_supervision=False,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UnusableData(f"{file} holds no plans of nnU-Net v2 ({error!r}).") from error
    return network.state_dict()


def _save(path: Path, checkpoint: Mapping[str, Any], weights: State) -> None:
    """Write weights with what a predictor needs of the source's checkpoint; no optimizer."""
    kept = ("init_args", "trainer_name", "inference_allowed_mirroring_axes")
    content = {key: checkpoint[key] for key in kept if key in checkpoint}
    save_checkpoint(path, {"network_weights": dict(weights), **content})


def _write_json_files(
    source: Descriptor, channels: Sequence[str], skeleton: Path | None, target: Path
) -> None:
    dataset = read_json(source.model_folder / "dataset.json")
    names = {str(i): channel for i, channel in enumerate(channels)}
    write_json(target / "dataset.json", {**dataset, "channel_names": names})
    if skeleton is not None:
        plans = read_json(_plans_file(skeleton))
    else:
        plans = read_json(source.model_folder / "plans.json")
        plans = _plans_for(plans, [_like(channel, source.channels) for channel in channels])
    write_json(target / "plans.json", plans)


def _like(channel: str, source: Sequence[str]) -> int:
    """Number of the source's channel whose settings a channel takes: its own, else the first."""
    return source.index(channel) if channel in source else 0


def _plans_for(plans: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """Plans whose settings by channel are those of the source's channels ``order``."""
    intensities = plans.get("foreground_intensity_properties_per_channel", {})
    configurations = {
        key: {
            **table,
            **{
                setting: [table[setting][i] for i in order]
                for setting in ("normalization_schemes", "use_mask_for_norm")
                if setting in table
            },
        }
        for key, table in plans["configurations"].items()
    }
    return {
        **plans,
        "configurations": configurations,
        "foreground_intensity_properties_per_channel": {
            str(new): intensities.get(str(old), {}) for new, old in enumerate(order)
        },
    }
