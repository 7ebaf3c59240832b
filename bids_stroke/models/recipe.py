"""Recipes: how a method is trained, as TOML. A key that is not known here is an error.

A recipe is sections and a list of stages. A stage may replace single keys of the sections in
``STAGE_SECTIONS`` for itself: ``Recipe.of_stage`` gives the recipe as it is for one stage. That,
as a dictionary (``plain``), is what the plans of nnU-Net hold under the key ``"bids_stroke"``;
trainers read it there: ``plans["bids_stroke"]["optimiser"]["learning_rate"]``.
"""

import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bids_stroke import data
from bids_stroke.errors import InputMissing, UsageError
from bids_stroke.models.channels import CHANNELS
from bids_stroke.models.descriptor import N4_LEVELS, N4_LEVELS_TEXT, Preprocessing

PLANS_KEY = "bids_stroke"
STAGE_SECTIONS = ("plan", "optimiser", "schedule", "augmentation", "loss", "patches", "cases")
STARTS = ("scratch", "pretrained", "previous")
WHEN = ("always", "pretrained", "no_pretrained")
ONE_OF = {
    "method": ("nnunet", "lesiongnb"),
    "optimiser.name": ("sgd", "adam", "adamw"),
    "schedule.name": ("poly", "cosine", "cosine_restarts", "constant"),
    "schedule.keep": ("final", "best_loss", "best_dice"),
    "loss.name": ("dice_ce", "dice_bce", "dice_topk"),
    "augmentation.set": ("nnunet", "none"),
    "inference.resample": ("logits", "probabilities"),
}

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What replaces the plan that nnU-Net makes of the dataset; None leaves it as planned.

    ``configuration`` is ``3d_fullres`` or ``2d``. ``spacing`` (mm) and ``patch`` (voxels) are in
    the network's order (z, y, x); with ``2d`` the patch has two numbers, and the first of
    ``spacing`` is that between slices, which is kept as it is where it is 0.
    """

    configuration: str = "3d_fullres"
    spacing: tuple[float, ...] | None = None
    patch: tuple[int, ...] | None = None
    batch_size: int | None = None
    batch_dice: bool | None = None
    gpu_memory_gb: float = 8.0
    normalization: str = "ZScoreNormalization"


@dataclass(frozen=True, kw_only=True)
class Network:
    """Class of the network by its full name, its keyword arguments, and those of them that name
    classes to import (nnU-Net's ``_kw_requires_import``). An empty name: what nnU-Net plans.

    Arguments are added to those of nnU-Net's plan where the class is empty. ``encoder_weights`` is
    a file of Med3D for the class ``ResNetUNet3d``: what its encoder starts from.
    """

    class_name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    deep_supervision: bool = True
    encoder_weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """The optimizer; defaults are nnU-Net's. ``clip`` is the largest norm of the gradient."""

    name: str = "sgd"
    learning_rate: float = 1e-2
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 3e-5
    clip: float = 12.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs, iterations in each, and how the learning rate falls.

    ``power`` is that of ``poly``; ``restart_epochs`` the period of ``cosine_restarts``; the rate
    rises linearly over ``warmup_iterations``. ``stop_after`` epochs training ends, though the
    learning rate is that of a run of ``epochs``. ``ema`` averages the weights over iterations
    (0: no average). ``keep`` says which weights become the model.
    """

    name: str = "poly"
    epochs: int = 1000
    iterations: int = 250
    validation_iterations: int = 50
    power: float = 0.9
    restart_epochs: int = 50
    warmup_iterations: int = 0
    lowest_rate: float = 0.0
    stop_after: int | None = None
    ema: float = 0.0
    keep: str = "final"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to patches. ``set``: nnU-Net's own transforms, or none; each key that is given
    replaces the setting of that transform, and a probability of 0 leaves the transform out.

    Ranges are (low, high); ``mirror_axes`` count in the network's order (z, y, x: 2 is sagittal).
    ``dropout`` is the probability that a channel of a sample is set to zero.
    """

    set: str = "nnunet"
    scale: Range | None = None
    scale_probability: float | None = None
    rotation_deg: float | None = None
    rotation_probability: float | None = None
    elastic_probability: float | None = None
    gamma: Range | None = None
    gamma_probability: float | None = None
    mirror_axes: tuple[int, ...] | None = None
    dropout: float = 0.0
    noise_probability: float | None = None
    blur_probability: float | None = None
    brightness_probability: float | None = None
    contrast_probability: float | None = None
    low_resolution_probability: float | None = None
    bias_field_probability: float = 0.0
    motion_probability: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Weights of the soft Dice and of the cross-entropy; ``top_k`` is the share of ``dice_topk``
    in per cent."""

    name: str = "dice_ce"
    dice_weight: float = 1.0
    ce_weight: float = 1.0
    top_k: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Patches:
    """How patches are drawn: share of a batch that must hold a lesion."""

    foreground: float = 0.33


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Which cases are trained on; validation cases are never left out.

    ``min_volume_ml``: smaller lesions (whole mask) are dropped. ``drop_regions`` and
    ``super_regions``: a case is dropped, or kept, by the region that holds most of its lesion, as
    participants.tsv says in ``region`` and ``super_region``, else a registration to the template
    (``region`` is then a lobe, cerebellum or brainstem).
    ``where``: values of columns of participants.tsv. ``most``: at most so many cases, by seed.
    """

    min_volume_ml: float = 0.0
    drop_regions: tuple[str, ...] = ()
    super_regions: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Number of folds of the cross-validation, and those that are trained (empty: all)."""

    count: int = 5
    train: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How the trained model is run. ``snapshots`` are epochs of the last stage whose weights become
    members of an ensemble; ``centre_crop`` looks at one central patch and calls the rest negative.
    """

    mirror_axes: tuple[int, ...] = ()
    step_size: float = 0.5
    resample: str = "logits"
    snapshots: tuple[int, ...] = ()
    centre_crop: bool = False


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """From probability to mask. With ``tune`` the values are those of the best mean Dice over the
    cases of the cross-validation; without they stay as they are."""

    tune: bool = True
    threshold: float = 0.5
    min_volume_mm3: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training. ``start``: from new weights, from those of ``--pretrained`` (else of the
    recipe's ``pretrained``), or from those of the stage before. ``channels`` (empty: the recipe's)
    are matched by name, and ``adapt`` says how a channel that the start lacks begins
    (``models.adaptation``: mean, zero, copy). ``when`` limits a stage to runs that have, or have
    not, a pretrained model. The other keys replace those of the sections.
    """

    name: str = "train"
    start: str = "scratch"
    when: str = "always"
    adapt: str = "mean"
    channels: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    optimiser: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    patches: Mapping[str, Any] = field(default_factory=dict)
    cases: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train. ``channels`` (``models.channels``) are in the network's order; ``inputs`` are
    the sets of modalities that the model will accept (empty: all that channels are made of).
    ``pretrained`` is a model by name or path; ``pretrained_required`` says that the recipe makes no
    sense without. ``samples`` are settings of ``models.sampling`` for a network that is trained on
    painted lesions.
    """

    name: str
    title: str
    description: str
    channels: tuple[str, ...]
    preprocessing: Preprocessing
    citation: str = ""
    method: str = "nnunet"
    inputs: tuple[tuple[str, ...], ...] = ()
    pretrained: str = ""
    pretrained_required: bool = False
    seed: int = 1
    plan: Plan = Plan()
    network: Network = Network()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    patches: Patches = Patches()
    cases: Cases = Cases()
    folds: Folds = Folds()
    inference: Inference = Inference()
    operating_point: OperatingPoint = OperatingPoint()
    samples: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = (Stage(),)

    def of_stage(self, stage: Stage) -> "Recipe":
        """The recipe as it is for one stage, which is then its only one."""
        changed = {
            name: _replaced(getattr(self, name), getattr(stage, name), f"{stage.name}.{name}")
            for name in STAGE_SECTIONS
        }
        only = Stage(name=stage.name, start=stage.start, adapt=stage.adapt, when=stage.when)
        channels = stage.channels or self.channels
        return replace(self, **changed, channels=channels, stages=(only,))

    def with_pretrained(self, given: bool) -> "Recipe":
        """The recipe with the stages for a run that has, or has not, a pretrained model."""
        left_out = "no_pretrained" if given else "pretrained"
        return replace(self, stages=tuple(s for s in self.stages if s.when != left_out))

    def shortened(self, *, epochs: int | None = None, iterations: int | None = None) -> "Recipe":
        """The recipe with other numbers of epochs or of iterations an epoch in every stage.

        Snapshots and restarts come at the same share of the run as before, and an epoch has as
        many validation iterations for one of training.
        """
        asked = {"epochs": epochs, "iterations": iterations}
        given: dict[str, Any] = {k: number for k, number in asked.items() if number is not None}
        if epochs is not None:
            given["stop_after"] = None
        shares = [epochs / s.epochs if epochs else 1.0 for s in self._schedules()]
        stages = tuple(
            replace(
                stage,
                schedule={
                    **stage.schedule,
                    **given,
                    **_restarts(schedule, share),
                    **_validation(schedule, iterations),
                },
            )
            for stage, schedule, share in zip(self.stages, self._schedules(), shares, strict=True)
        )
        snapshots = dict.fromkeys(max(1, round(n * shares[-1])) for n in self.inference.snapshots)
        return replace(
            self,
            schedule=replace(self.schedule, **given),
            stages=stages,
            inference=replace(self.inference, snapshots=tuple(snapshots)),
        )

    def _schedules(self) -> list[Schedule]:
        return [self.of_stage(stage).schedule for stage in self.stages]


def _restarts(schedule: Schedule, share: float) -> dict[str, int]:
    """Epochs between restarts in a run of that share; nothing where there are none."""
    if schedule.name != "cosine_restarts":
        return {}
    return {"restart_epochs": max(1, round(schedule.restart_epochs * share))}


def _validation(schedule: Schedule, iterations: int | None) -> dict[str, int]:
    """Validation iterations of an epoch with that many of training; nothing where they stay."""
    if iterations is None:
        return {}
    share = schedule.validation_iterations / schedule.iterations
    return {"validation_iterations": max(1, round(share * iterations))}


Section = TypeVar("Section")


def available() -> list[str]:
    """Names of the recipes that come with the program."""
    files = data.path("recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def find(recipe: str) -> Recipe:
    """Recipe by name, or by path of a TOML file; ``:VARIANT`` behind it takes one of its variants.

    Raises InputMissing where there is none and UsageError for a wrong one.
    """
    name, _, variant = recipe.partition(":")
    if name.endswith(".toml"):
        return load(Path(name), variant)
    if name not in available():
        names = ", ".join(available())
        raise InputMissing(f"There is no recipe '{name}': there are {names}, or give a file.")
    return load(Path(str(data.path("recipes", f"{name}.toml"))), variant)


def variants(recipe: str) -> list[str]:
    """Names of the variants of a recipe that comes with the program."""
    return sorted(_read(Path(str(data.path("recipes", f"{recipe}.toml")))).get("variants", {}))


def load(path: Path, variant: str = "") -> Recipe:
    """Read and check a recipe; its name is that of the file, and of the variant behind it.

    A file may build on another one beside it (``extends = "other.toml"``): tables are merged, other
    values replaced; ``variants``, and a network that names its class, are replaced whole. A variant
    builds on its file in the same way. Raises InputMissing when a file can't be read
    and UsageError, with the key, when it is wrong.
    """
    table = _read(path)
    choices = table.pop("variants", {})
    if variant:
        _require(variant in choices, f"recipe {path} has no variant '{variant}'")
        table = _merged(table, choices[variant])
    name = f"{path.stem}-{variant}" if variant else path.stem
    recipe = from_table({"name": name, **table}, f"recipe {path}")
    # One stage of a recipe, as plans hold it, may well go on from another.
    _require(recipe.stages[0].start != "previous", f"recipe {path}: no stage is before the first")
    return recipe


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged, other values of ``above`` instead of those of ``below``."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        whole = key == "variants" or (key == "network" and "class_name" in value)
        merged[key] = _merged(merged[key], value) if both and not whole else value
    return merged


def _read(path: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Table of a file, over that of the file which it extends, and so on."""
    table = _toml(path)
    if other := table.pop("extends", ""):
        fits = Path(other).name == other and other not in (*above, path.name)
        _require(fits, f"recipe {path} can't extend '{other}'")
        return _merged(_read(path.with_name(other), (*above, path.name)), table)
    return table


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissing(f"The recipe {path} can't be read: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}.") from error


def from_table(table: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Recipe from a nested dictionary, such as ``plain`` makes; raises UsageError."""
    recipe = _make(Recipe, table, where)
    _check(recipe, where)
    return recipe


def plain(recipe: Recipe) -> dict[str, Any]:
    """Recipe as a dictionary of JSON values, which ``from_table`` reads back as an equal one."""
    return _plain(asdict(recipe))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _replaced(section: Section, changes: Mapping[str, Any], where: str) -> Section:
    """Section with some keys replaced, checked as if they stood in the section."""
    kept = {f.name: getattr(section, f.name) for f in fields(section)}  # type: ignore[arg-type]
    return _make(type(section), {**kept, **changes}, where)


def _check(recipe: Recipe, where: str) -> None:
    """Raise UsageError for values that are of the right kind and still make no sense."""
    _require(bool(recipe.stages), f"{where} has no stage")
    for channels in (recipe.channels, *(s.channels for s in recipe.stages if s.channels)):
        _require(
            set(channels) <= set(CHANNELS) and 0 < len(channels) == len(set(channels)),
            f"{where}: channels must be different ones of {', '.join(CHANNELS)}",
        )
    names = [stage.name for stage in recipe.stages]
    _require(len(set(names)) == len(names), f"{where}: two stages have one name")
    _require(
        recipe.preprocessing.n4_levels in N4_LEVELS, f"{where}: preprocessing.{N4_LEVELS_TEXT}"
    )
    _require(recipe.folds.count >= 2, f"{where}: folds.count must be 2 at least")
    for stage in recipe.stages:
        _require(stage.start in STARTS, f"{where}: start is one of {', '.join(STARTS)}")
        _require(stage.when in WHEN, f"{where}: when is one of {', '.join(WHEN)}")
        _check_choices(recipe.of_stage(stage), where)


def _check_choices(recipe: Recipe, where: str) -> None:
    for key, choices in ONE_OF.items():
        value: Any = recipe
        for name in key.split("."):
            value = getattr(value, name)
        _require(value in choices, f"{where}: {key} is one of {', '.join(choices)}, not '{value}'")
    lowest = min(recipe.schedule.epochs, recipe.schedule.iterations)
    _require(lowest >= 1, f"{where}: schedule.epochs and schedule.iterations start at 1")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UsageError(f"{sentence}: correct the recipe.")


def _make(kind: type[Section], table: Any, where: str) -> Section:
    """A section from a table; a wrong or missing key, or a value of another kind, is an error."""
    _require(isinstance(table, Mapping), f"{where} must be a table")
    hints = get_type_hints(kind)
    if unknown := sorted(set(table) - set(hints)):
        raise UsageError(
            f"{where} has an unknown key '{unknown[0]}': there are {', '.join(hints)}."
        )
    values = {key: _converted(v, hints[key], f"{where}: {key}") for key, v in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}.") from error


def _converted(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the annotated kind."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = next(kind for kind in arguments if kind is not type(None))
        return None if value is None else _converted(value, rest, where)
    if origin is tuple:
        return _converted_tuple(value, arguments, where)
    if hasattr(hint, "__dataclass_fields__"):
        return value if isinstance(value, hint) else _make(hint, value, where)
    if origin is not None:
        _require(isinstance(value, Mapping), f"{where} must be a table")
        return dict(value)
    if hint is float and type(value) is int:
        return float(value)
    _require(type(value) is hint, f"{where} must be of type {hint.__name__}, not {value!r}")
    return value


def _converted_tuple(value: Any, kinds: Sequence[Any], where: str) -> tuple[Any, ...]:
    _require(isinstance(value, (list, tuple)), f"{where} must be an array")
    if kinds[-1] is Ellipsis:
        return tuple(_converted(item, kinds[0], where) for item in value)
    _require(len(value) == len(kinds), f"{where} must have {len(kinds)} numbers")
    return tuple(_converted(v, kind, where) for v, kind in zip(value, kinds, strict=True))
