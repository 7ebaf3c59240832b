"""Model descriptors: what a model is, what it wants as input and how it is meant to be used.

A descriptor is a TOML file beside a model folder. Everything that differs between published models
(order of channels, order of preprocessing steps, reference grid, folds, mirroring, operating point)
is data in it, so that no code knows a model by its name.

Models live in two places: the package, and one store that the user fills (``models_folder``). The
package also describes published models that it may not ship (``data/models/known``): those are
known, and become installed when their files are in the store with a descriptor of their own.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from bids_stroke import data
from bids_stroke.core.files import remembered_sha256, sha256
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models.channels import CHANNELS, MODALITIES, modalities_of

N4_LEVELS = range(1, 7)  # finer splines than 5 mm would follow the anatomy
N4_LEVELS_TEXT = f"n4_levels is {N4_LEVELS[0]} to {N4_LEVELS[-1]}"
STEPS = ("reorient", "brain_extraction", "register", "n4", "zscore", "crop")
WHOLE_HEAD_STEPS = ("reorient", "brain_extraction", "register")
RESAMPLE = ("logits", "probabilities")
FORMATS = ("nnunetv2", "lesiongnb")
PURPOSES = ("lesions", "brain")
STORE_VARIABLE = "BIDS_STROKE_MODELS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Order of the preprocessing steps, and the modality whose grid the network sees.

    With ``whole_head`` the network sees the images with their skull, put into RAS order and
    registered at most; the brain is found all the same, and the result is kept inside it.

    ``n4_levels`` are those of N4's B-splines, each twice as fine as the one before. The four of
    ANTs take much of the contrast of a large lesion for bias (``benchmarks/embedded/n4.py``).
    """

    steps: tuple[str, ...]
    reference: str
    n4_shrink: int = 4
    n4_levels: int = 4
    whole_head: bool = False


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How the network is run: folds to average, axes to mirror, overlap of the windows.

    ``mirror_axes`` count in the network's own axis order (0 is the first spatial axis).
    ``step_size`` is a share of the patch. ``resample`` says what is brought back to the grid of the
    input: nnU-Net v2 interpolates logits, nnU-Net v1 probabilities. With ``centre_crop`` the
    network looks at one patch in the centre of the brain's box, and the rest is background.
    """

    folds: tuple[int | str, ...] = ()
    mirror_axes: tuple[int, ...] = ()
    step_size: float = 0.5
    resample: str = "logits"
    checkpoint: str = "checkpoint_final.pth"
    centre_crop: bool = False


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
class Source:
    """Where a published model comes from.

    ``page`` is for people. ``manifest`` is the address of a JSON file ``{"files": {path: {"sha256":
    ..., "bytes": ...}}}`` that pins the files which the descriptor does not pin; ``archive`` that
    of a zip that holds them all. ``note`` says how to get the model and what is not pinned.
    """

    page: str = ""
    manifest: str = ""
    archive: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One model. ``channels`` (``models.channels``) are in the network's order; ``inputs`` are the
    accepted sets of modalities.

    A channel whose modality is missing in an accepted set is filled with zeros. ``file`` is the
    descriptor file itself, ``folder`` the model folder beside it. ``purpose`` is what the model
    finds: lesions, or the brain (those are never chosen for lesions). A model that is not
    ``automatic`` runs only when it is named.
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
    automatic: bool = True
    purpose: str = "lesions"
    source: Source = Source()
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
        return {f.path: f.sha256 or remembered_sha256(self.root / f.path) for f in self.files}


Section = TypeVar("Section")


def _section(kind: type[Section], table: Mapping[str, Any], where: str) -> Section:
    """Make a dataclass of a TOML table; arrays become tuples, a wrong key is an error."""
    if not isinstance(table, Mapping):
        raise UnusableData(f"{where} must be a table: correct the descriptor.")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - known):
        raise UnusableData(f"{where} has an unknown key '{unknown[0]}': remove or correct it.")
    values = {key: _frozen(value) for key, value in table.items()}
    hints = get_type_hints(kind)
    if wrong := [key for key, value in values.items() if not _fits(value, hints[key])]:
        raise UnusableData(f"{where} has a value of the wrong kind for '{wrong[0]}': correct it.")
    try:
        return kind(**values)
    except TypeError as error:
        raise UnusableData(f"{where} is incomplete: {error}.") from error


def _fits(value: Any, hint: Any) -> bool:
    """Is a value of the annotated type? A whole number passes for a float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, arguments[0]) for one in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else origin or hint)


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
    except OSError as error:
        raise InputMissing(f"The model descriptor {path} can't be read: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableData(f"Model descriptor {path} is not valid TOML: {error}.") from error
    nested = {
        "preprocessing": Preprocessing,
        "inference": Inference,
        "operating_point": OperatingPoint,
        "source": Source,
    }
    for key, kind in nested.items():
        if key in table:
            table[key] = _section(kind, table[key], f"Table [{key}] of {path}")
    listed = table.get("files", [])
    _require(isinstance(listed, list), path, "files must be an array of tables, [[files]]")
    table["files"] = [_section(ModelFile, f, f"[[files]] of {path}") for f in listed]
    table["file"] = path.resolve()
    descriptor = _section(Descriptor, table, f"Model descriptor {path}")
    _check(descriptor, path)
    return descriptor


def dumps(model: Descriptor) -> str:
    """Text of a descriptor, which ``load`` reads back as an equal one."""
    table = asdict(model)
    del table["file"]
    table["files"] = [{k: v for k, v in file.items() if v} for file in table["files"]]
    return tomli_w.dumps({key: value for key, value in table.items() if value not in ({}, [])})


def is_plain(name: str) -> bool:
    """Whether a name is a plain word, that can name a file in a folder and no other place."""
    return bool(_NAME.fullmatch(name))


def _check(model: Descriptor, path: Path) -> None:
    """Refuse what can't be run, and what points outside the descriptor's folder."""
    _require(is_plain(model.name), path, f"name '{model.name}' is no plain word")
    _require(model.format in FORMATS, path, f"format '{model.format}' is none of {FORMATS}")
    _require(model.purpose in PURPOSES, path, f"purpose must be one of {PURPOSES}")
    _check_channels(model, path)
    _check_preprocessing(model, path)
    _check_inference(model, path)
    _require(0 < model.operating_point.threshold < 1, path, "threshold must be in (0, 1)")
    _require(model.operating_point.connectivity in (6, 18, 26), path, "connectivity is 6, 18 or 26")
    for inside in (model.folder, *(f.path for f in model.files)):
        target = (path.parent / inside).resolve()
        _require(
            target.is_relative_to(path.parent.resolve()),
            path,
            f"'{inside}' points outside the descriptor's folder",
        )


def _check_channels(model: Descriptor, path: Path) -> None:
    known = model.purpose == "brain" or set(model.channels) <= set(CHANNELS)
    different = len(set(model.channels)) == len(model.channels)
    images = set(modalities_of(model.channels))
    _require(
        bool(model.channels) and known and different,
        path,
        f"channels must be different ones of {', '.join(CHANNELS)}",
    )
    _require(
        bool(model.inputs) and all(i and set(i) <= images for i in model.inputs),
        path,
        "inputs must be non-empty sets of the modalities of its channels",
    )


def _check_preprocessing(model: Descriptor, path: Path) -> None:
    steps, reference = model.preprocessing.steps, model.preprocessing.reference
    _require(
        len(set(steps)) == len(steps) and set(steps) <= set(STEPS),
        path,
        f"steps must be different ones among {STEPS}",
    )
    _require(model.preprocessing.n4_levels in N4_LEVELS, path, N4_LEVELS_TEXT)
    if model.purpose == "lesions":
        _require(
            reference in MODALITIES, path, f"reference '{reference}' is not among {MODALITIES}"
        )
        _require("brain_extraction" in steps, path, "steps must hold brain_extraction")
    if model.preprocessing.whole_head:
        allowed = tuple(step for step in WHOLE_HEAD_STEPS if step in steps)
        _require(
            steps == allowed, path, f"whole_head allows only {WHOLE_HEAD_STEPS}, in this order"
        )


def _check_inference(model: Descriptor, path: Path) -> None:
    inference = model.inference
    _require(inference.resample in RESAMPLE, path, f"resample must be one of {RESAMPLE}")
    _require(0 < inference.step_size <= 1, path, "step_size must be in (0, 1]")
    for word in (inference.checkpoint, *map(str, inference.folds)):
        _require(is_plain(word), path, f"'{word}' is no plain name of a file or fold")


def verify(model: Descriptor) -> None:
    """Compare every file of a model with its stated size and SHA-256.

    Raises InputMissing for a file or folder that is not there and UnusableData for a file that
    differs.
    """
    if not model.model_folder.is_dir():
        raise InputMissing(f"Model '{model.name}' lacks its folder {model.model_folder}.")
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


def models_folder(given: Path | None = None) -> Path:
    """The store: ``given``, else ``BIDS_STROKE_MODELS``, else a folder of the user's data."""
    if given:
        return Path(given)
    if named := os.environ.get(STORE_VARIABLE):
        return Path(named)
    data_home = os.environ.get("XDG_DATA_HOME") or _home() / ".local" / "share"
    return Path(data_home) / "bids_stroke" / "models"


def _home() -> Path:
    """The user's home; the root folder for a user that has a number only, as in containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def known() -> list[Descriptor]:
    """Published models that the package describes and does not ship."""
    return [load(p) for p in sorted(data.path("models", "known").glob("*.toml"))]


def installed(models_dir: Path | None = None) -> list[Descriptor]:
    """Descriptors of the package and of the store, in the order of their paths."""
    folders = [data.path("models"), models_folder(models_dir)]
    return [load(p) for folder in folders for p in sorted(folder.glob("*.toml"))]


def is_whole(model: Descriptor) -> bool:
    """Whether the files of a model are there; their content is for ``verify``."""
    return model.model_folder.is_dir() and all((model.root / f.path).is_file() for f in model.files)


def brain_weights(models_dir: Path | None = None) -> Path | None:
    """Folder of HD-BET's weights in the store, or None where they are not installed."""
    models = [m for m in installed(models_dir) if m.purpose == "brain" and is_whole(m)]
    return models[0].model_folder if models else None


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
    if model in models:
        return models[model]
    if model in {m.name for m in known()}:
        raise InputMissing(
            f"Model '{model}' is not installed in {models_folder(models_dir)}: see "
            f"bids_stroke-models show {model}."
        )
    names = ", ".join(sorted(models)) or "none"
    raise InputMissing(f"There is no model '{model}': installed are {names}.")


def _rank(model: Descriptor, modalities: tuple[str, ...]) -> tuple[int, bool, bool, str]:
    """Order of preference: uses more of the session, real lesions, no channel empty, newer."""
    used = len(accepted(model, modalities))
    return used, not model.synthetic, used == len(modalities_of(model.channels)), model.version


def _is_candidate(model: Descriptor, modalities: tuple[str, ...]) -> bool:
    fits = model.automatic and model.purpose == "lesions" and bool(accepted(model, modalities))
    return fits and is_whole(model)


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
        if chosen.purpose != "lesions":
            raise UnusableData(f"Model '{chosen.name}' finds the {chosen.purpose}, not lesions.")
        if not accepted(chosen, modalities):
            needs = " or ".join(" + ".join(i) for i in chosen.inputs)
            raise UnusableData(f"Model '{chosen.name}' needs {needs}, but there is only {have}.")
        return chosen, f"asked for by name; it runs on {' + '.join(accepted(chosen, modalities))}"
    fitting = [m for m in installed(models_dir) if _is_candidate(m, modalities)]
    if not fitting:
        raise UnusableData(
            f"No installed model runs on {have}: install one, or name one by --model."
        )
    best = max(fitting, key=lambda m: _rank(m, modalities))
    used = " + ".join(accepted(best, modalities))
    first = "the default" if len(fitting) == 1 else f"the best of {len(fitting)} installed models"
    return best, f"{first} for {have}: it runs on {used}"
