"""Model descriptors: what a model is, what it wants as input and how it is meant to be used.

A descriptor is a TOML file beside a model folder. Everything that differs between published models
(order of channels, order of preprocessing steps, reference grid, folds, mirroring, operating point)
is data in it, so that no code knows a model by its name.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from bids_stroke import data
from bids_stroke.core.files import sha256
from bids_stroke.errors import InputMissing, UnusableData

MODALITIES = ("T1w", "FLAIR")
STEPS = ("reorient", "brain_extraction", "register", "n4", "zscore", "crop")
RESAMPLE = ("logits", "probabilities")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Order of the preprocessing steps, and the modality whose grid the network sees."""

    steps: tuple[str, ...]
    reference: str
    n4_shrink: int = 4


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How the network is run: folds to average, axes to mirror, overlap of the windows.

    ``mirror_axes`` count in the network's own axis order (0 is the first spatial axis).
    ``step_size`` is a share of the patch. ``resample`` says what is brought back to the grid of the
    input: nnU-Net v2 interpolates logits, nnU-Net v1 probabilities.
    """

    folds: tuple[int | str, ...] = ()
    mirror_axes: tuple[int, ...] = ()
    step_size: float = 0.5
    resample: str = "logits"
    checkpoint: str = "checkpoint_final.pth"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """From probability to mask; ``inclusive`` says whether equality passes both limits."""

    threshold: float
    min_volume_mm3: float
    connectivity: int = 26
    inclusive: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a model: path beside the descriptor, with what is known of its content."""

    path: str
    sha256: str = ""
    size: int = 0
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One model. ``channels`` are modalities in the network's order; ``inputs`` the accepted sets.

    A channel whose modality is missing in an accepted set is filled with zeros. ``file`` is the
    descriptor file itself, ``folder`` the model folder beside it.
    """

    name: str
    version: str
    title: str
    description: str
    intended_use: str
    training_data: str
    licence: str
    citation: str
    format: str
    folder: str
    channels: tuple[str, ...]
    inputs: tuple[tuple[str, ...], ...]
    preprocessing: Preprocessing
    operating_point: OperatingPoint
    inference: Inference = Inference()
    files: tuple[ModelFile, ...] = ()
    synthetic: bool = False
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    file: Path = Path()

    @property
    def root(self) -> Path:
        """Folder of the descriptor file, to which its paths are relative."""
        return self.file.parent

    @property
    def model_folder(self) -> Path:
        """Folder that holds ``dataset.json``, ``plans.json`` and the folds."""
        return self.root / self.folder

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file of the model as the descriptor states it, or as it is on disk."""
        return {f.path: f.sha256 or sha256(self.root / f.path) for f in self.files}


Section = TypeVar("Section")


def _section(kind: type[Section], table: Mapping[str, Any], where: str) -> Section:
    """Make a dataclass of a TOML table; arrays become tuples, a wrong key is an error."""
    if not isinstance(table, Mapping):
        raise UnusableData(f"{where} must be a table: correct the descriptor.")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - known):
        raise UnusableData(f"{where} has an unknown key '{unknown[0]}': remove or correct it.")
    try:
        return kind(**{key: _frozen(value) for key, value in table.items()})
    except TypeError as error:
        raise UnusableData(f"{where} is incomplete: {error}.") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _require(condition: bool, path: Path, message: str) -> None:
    if not condition:
        raise UnusableData(f"Model descriptor {path}: {message}.")


def load(path: Path) -> Descriptor:
    """Read and check a descriptor.

    Raises InputMissing when there is no such file and UnusableData when it is not a valid
    descriptor, with the key that is wrong.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputMissing(f"There is no model descriptor at {path}: check --model.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnusableData(f"Model descriptor {path} is not valid TOML: {error}.") from error
    nested = {
        "preprocessing": Preprocessing,
        "inference": Inference,
        "operating_point": OperatingPoint,
    }
    for key, kind in nested.items():
        if key in table:
            table[key] = _section(kind, table[key], f"Table [{key}] of {path}")
    table["files"] = [
        _section(ModelFile, f, f"[[files]] of {path}") for f in table.get("files", [])
    ]
    table["file"] = path.resolve()
    descriptor = _section(Descriptor, table, f"Model descriptor {path}")
    _check(descriptor, path)
    return descriptor


def _check(model: Descriptor, path: Path) -> None:
    """Refuse what can't be run, and what points outside the descriptor's folder."""
    steps, reference = model.preprocessing.steps, model.preprocessing.reference
    _require(model.format == "nnunetv2", path, f"format '{model.format}' is not nnunetv2")
    _require(
        bool(model.channels) and set(model.channels) <= set(MODALITIES),
        path,
        f"channels must be among {MODALITIES}",
    )
    _require(
        bool(model.inputs) and all(set(i) <= set(model.channels) and i for i in model.inputs),
        path,
        "inputs must be non-empty sets of its channels",
    )
    _require(reference in MODALITIES, path, f"reference '{reference}' is not among {MODALITIES}")
    _require(
        len(set(steps)) == len(steps) and set(steps) <= set(STEPS),
        path,
        f"steps must be different ones among {STEPS}",
    )
    _require("brain_extraction" in steps, path, "steps must hold brain_extraction")
    _require(model.inference.resample in RESAMPLE, path, f"resample must be one of {RESAMPLE}")
    _require(0 < model.inference.step_size <= 1, path, "step_size must be in (0, 1]")
    _require(0 < model.operating_point.threshold < 1, path, "threshold must be in (0, 1)")
    _require(model.operating_point.connectivity in (6, 18, 26), path, "connectivity is 6, 18 or 26")
    for inside in (model.folder, *(f.path for f in model.files)):
        target = (path.parent / inside).resolve()
        _require(
            target.is_relative_to(path.parent.resolve()),
            path,
            f"'{inside}' points outside the descriptor's folder",
        )


def verify(model: Descriptor) -> None:
    """Compare every file of a model with its stated size and SHA-256.

    Raises InputMissing for a file that is not there and UnusableData for one that differs.
    """
    for file in model.files:
        path = model.root / file.path
        if not path.is_file():
            raise InputMissing(f"Model '{model.name}' lacks its file {path}: install it again.")
        if file.size and path.stat().st_size != file.size:
            raise UnusableData(f"{path} is not {file.size} bytes long: install the model again.")
        if file.sha256 and sha256(path) != file.sha256:
            raise UnusableData(f"{path} differs from its SHA-256: install the model again.")


def accepted(model: Descriptor, modalities: Iterable[str]) -> tuple[str, ...]:
    """Largest accepted set of the model that the modalities of a session can fill, or ``()``."""
    have = set(modalities)
    fitting = [i for i in model.inputs if set(i) <= have]
    return max(fitting, key=len, default=())


def installed(models_dir: Path | None = None) -> list[Descriptor]:
    """Descriptors of the package and of ``models_dir``, in the order of their paths."""
    folders = [data.path("models"), *([Path(models_dir)] if models_dir else [])]
    return [load(p) for folder in folders for p in sorted(folder.glob("*.toml"))]


def find(model: str, models_dir: Path | None = None) -> Descriptor:
    """Descriptor by name, by path of its TOML file or by a folder that holds just one."""
    path = Path(model)
    if path.suffix == ".toml":
        return load(path)
    if path.is_dir():
        found = sorted(path.glob("*.toml"))
        if len(found) != 1:
            raise InputMissing(f"{path} must hold one model descriptor (*.toml), not {len(found)}.")
        return load(found[0])
    models = {m.name: m for m in installed(models_dir)}
    if model not in models:
        known = ", ".join(sorted(models)) or "none"
        raise InputMissing(f"There is no model '{model}': installed are {known}.")
    return models[model]


def _rank(model: Descriptor, modalities: tuple[str, ...]) -> tuple[int, bool, str]:
    """Order of preference: uses more of the session, trained on real lesions, newer version."""
    return len(accepted(model, modalities)), not model.synthetic, model.version


def choose(
    model: str, modalities: tuple[str, ...], models_dir: Path | None = None
) -> tuple[Descriptor, str]:
    """Model for a session that has ``modalities``, and a sentence that says why.

    ``model`` is ``auto``, a name or a path. Raises UnusableData when the model can't be run on
    these modalities, InputMissing when there is no such model.
    """
    have = " + ".join(modalities)
    if model != "auto":
        chosen = find(model, models_dir)
        if not accepted(chosen, modalities):
            needs = " or ".join(" + ".join(i) for i in chosen.inputs)
            raise UnusableData(f"Model '{chosen.name}' needs {needs}, but there is only {have}.")
        return chosen, f"asked for by name; it runs on {' + '.join(accepted(chosen, modalities))}"
    fitting = [m for m in installed(models_dir) if accepted(m, modalities)]
    if not fitting:
        raise UnusableData(
            f"No installed model runs on {have}: install one, or name one by --model."
        )
    best = max(fitting, key=lambda m: _rank(m, modalities))
    used = " + ".join(accepted(best, modalities))
    return best, f"the best of {len(fitting)} installed model(s) for {have}: it runs on {used}"
