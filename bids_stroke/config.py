"""What a run is asked to do: frozen sections that the command line fills and TOML keeps.

Nothing happens at import, and nothing here changes after it is made: functions get a section or
plain values of it as arguments.
"""

import operator
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import tomli_w

from bids_stroke.errors import InputMissing, UsageError

LEVELS = ("participant", "group", "train")
ENSEMBLES = ("mean", "stack", "window")
PRECISIONS = ("auto", "fp32", "bf16")
MOST_THREADS = 8  # of one step: networks gain little from more
SPACES = ("T1w", "FLAIR")
TEMPLATES = (
    "MNI152NLin2009aSym",
    "MNI152NLin2009aAsym",
    "MNI152NLin2009cSym",
    "MNI152NLin2009cAsym",
    "MNI152NLin6Sym",
    "MNI152NLin6Asym",
)
FILTER_KEYS = ("t1w", "flair", "mask")
EXPORTS = ("fmriprep",)
EXCLUDE = ("fail", "doubtful", "none")
THIS_RUN = "this"
REPORT_IMAGES = ("embedded", "linked")
BRAIN_EXTRACTION = ("auto", "hd-bet", "hd-bet-1", "embedded", "skip")

Filters = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where the data are, and which part of them is taken; labels are without ``sub-``, ``ses-``.

    ``filters`` holds, for ``t1w``, ``flair`` and ``mask``, the values of entities that a file must
    have: text, a list of texts, ``""`` for an absent entity, ``"*"`` for any value.
    """

    bids_dir: Path
    output_dir: Path
    level: str = field(default="participant", metadata={"choices": LEVELS})
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: Filters = field(default_factory=dict, metadata={"choices": FILTER_KEYS})
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    database_dir: Path | None = None
    skip_validation: bool = False
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model, and what overrides its descriptor; ``None`` and ``()`` leave it as it is.

    ``precision`` is that of the network's arithmetic; ``auto`` keeps maps as exact as nnU-Net's.
    """

    name: str | tuple[str, ...] = "auto"
    models_dir: Path | None = None
    folds: tuple[int | str, ...] = ()
    tta: bool | None = None
    precision: str = field(default="auto", metadata={"choices": PRECISIONS})
    threshold: float | None = field(default=None, metadata={"above": 0, "below": 1})
    min_lesion_volume: float | None = field(default=None, metadata={"least": 0})
    ensemble: str = field(default="mean", metadata={"choices": ENSEMBLES})
    ensemble_weights: tuple[float, ...] = ()
    agreement_window: int = field(default=2, metadata={"least": 1})
    agreement_share: float = field(default=0.75, metadata={"least": 0, "below": 1})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, of which there are several in an ensemble."""
        return (self.name,) if isinstance(self.name, str) else self.name


@dataclass(frozen=True, kw_only=True)
class Processing:
    """How images are prepared and where results go."""

    brain_extraction: str = field(default="auto", metadata={"choices": BRAIN_EXTRACTION})
    hdbet_weights: Path | None = None
    output_spaces: tuple[str, ...] = field(
        default=SPACES, metadata={"choices": (*SPACES, *TEMPLATES)}
    )
    atlases: Mapping[str, Path] = field(default_factory=dict)
    atlas_threshold: float = 0.25
    tract_cutoffs: tuple[float, ...] = (2.0, 7.0)
    random_seed: int = field(default=1, metadata={"least": 0})
    sloppy: bool = False


@dataclass(frozen=True, kw_only=True)
class Training:
    """The train level: recipe, what it starts from, and what overrides the recipe.

    ``name`` is that of the new model (default: the recipe's). ``split_file`` holds splits of the
    user; ``group_by`` is a column of participants.tsv whose values stay in one fold.
    """

    recipe: str = "default"
    name: str | None = None
    pretrained: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    group_by: str | None = None
    split_file: Path | None = None
    allow_findings: bool = False


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Resources, places and modes of the run; ``memory_gb`` of ``None`` is all there is.

    ``omp_nthreads`` is what the user asked for: what holds are ``threads`` and ``threads_of``.
    ``gpus_per_fold`` divide the batches of a fold in training; without a GPU they are processes.
    """

    nprocs: int = field(default=1, metadata={"least": 1})
    omp_nthreads: int | None = field(default=None, metadata={"least": 1})
    memory_gb: float | None = field(default=None, metadata={"above": 0})
    gpu_slots: int = field(default=1, metadata={"least": 1})
    gpus_per_fold: int = field(default=1, metadata={"least": 1})
    device: str = "auto"
    plugin_file: Path | None = None
    work_dir: Path = Path("work")
    clean_workdir: bool = False
    boilerplate_only: bool = False
    reports_only: bool = False
    dry_run: bool = False
    write_graph: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    report_images: str = field(default="embedded", metadata={"choices": REPORT_IMAGES})
    verbose: int = field(default=0, metadata={"least": 0})

    @property
    def threads(self) -> int:
        """Threads that one step may use: as asked, else all cores but one, at most 8."""
        return self.omp_nthreads or min(max(self.nprocs - 1, 1), MOST_THREADS)

    def threads_of(self, pairs: int, at_once: int) -> int:
        """Threads of a network that ``at_once`` steps of a pair run at the same time.

        Where there is one pair alone, they share all cores, as far as the user leaves it to us.
        """
        if self.omp_nthreads or self.plugin_file or pairs > 1:
            return self.threads
        return min(max(self.nprocs // at_once, 1), MOST_THREADS)


@dataclass(frozen=True, kw_only=True)
class Group:
    """What the group level compares, groups by, takes in and hands on.

    ``compare`` are other output folders of this program by name; ``against`` is the one of them (or
    ``this``) that all others are compared with, ``None`` compares every pair. ``strata`` are
    columns of participants.tsv. ``exclude`` is the rating from which a session is left out.
    """

    compare: Mapping[str, Path] = field(default_factory=dict)
    against: str | None = None
    strata: tuple[str, ...] = ()
    ratings: tuple[Path, ...] = ()
    exclude: str = field(default="fail", metadata={"choices": EXCLUDE})
    export: tuple[str, ...] = field(default=(), metadata={"choices": EXPORTS})
    bootstraps: int = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections of one run."""

    dataset: Dataset
    model: Model = Model()
    processing: Processing = Processing()
    training: Training = Training()
    execution: Execution = Execution()
    group: Group = Group()


def to_table(config: Config) -> dict[str, dict[str, Any]]:
    """Config as a nested dictionary of TOML values; ``None`` is left out, for TOML has no null."""
    return {
        section.name: _plain_section(getattr(config, section.name)) for section in fields(config)
    }


def from_table(table: Mapping[str, Mapping[str, Any]]) -> Config:
    """Config from a nested dictionary.

    Raises UsageError for an unknown section or key, a missing one and a value of the wrong kind.
    """
    check_table(table)
    sections = get_type_hints(Config)
    made = {name: _make_section(kind, name, table.get(name, {})) for name, kind in sections.items()}
    return Config(**made)


def check_table(table: Mapping[str, Any]) -> None:
    """Check what a nested dictionary has, which need not be all; raises UsageError."""
    sections = get_type_hints(Config)
    for name, content in table.items():
        if name not in sections:
            raise UsageError(f"The configuration has no section '{name}': {_known(sections)}.")
        if not isinstance(content, Mapping):
            raise UsageError(f"'{name}' in the configuration must be a section, not a value.")
        _values(sections[name], name, content)


def dumps(config: Config) -> str:
    """Config as TOML text, which ``from_table(tomllib.loads(text))`` reads back unchanged."""
    return tomli_w.dumps(to_table(config))


def read_table(path: Path) -> dict[str, Any]:
    """Content of a TOML file; raises InputMissing or UsageError, naming the file."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissing(f"The configuration file {path} can't be read: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"The configuration file {path} is not valid TOML: {error}.") from error


def _known(names: Mapping[str, Any]) -> str:
    return f"there are {', '.join(names)}"


def _plain_section(section: Any) -> dict[str, Any]:
    values = {item.name: getattr(section, item.name) for item in fields(section)}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _make_section(kind: Any, name: str, table: Mapping[str, Any]) -> Any:
    try:
        return kind(**_values(kind, name, table))
    except TypeError as error:
        raise UsageError(
            f"Section '{name}' of the configuration is incomplete: {error}."
        ) from error


def _values(kind: Any, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Checked values of a section, as the types that it has."""
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for key in table:
        if key not in known:
            raise UsageError(
                f"The configuration has no key '{key}' in section '{name}': {_known(known)}."
            )
    return {
        key: _checked(_converted(value, hints[key], f"{name}.{key}"), known[key], f"{name}.{key}")
        for key, value in table.items()
    }


def _checked(value: Any, item: Field, where: str) -> Any:
    choices = item.metadata.get("choices")
    given = value if isinstance(value, (tuple, Mapping)) else (value,)
    if choices and (wrong := [one for one in given if one not in choices]):
        raise UsageError(f"{where} can't be {wrong[0]!r}: choose from {', '.join(choices)}.")
    for limit, (passes, words) in _LIMITS.items():
        if limit in item.metadata and value is not None:
            bound = item.metadata[limit]
            if not passes(value, bound):
                raise UsageError(f"{where} can't be {value!r}: it must be {words} {bound}.")
    return value


_LIMITS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}


def _converted(value: Any, hint: Any, where: str) -> Any:
    """Value of a TOML kind as the annotated type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _converted_union(value, arguments, where)
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), value, "an array", where)
        return tuple(_converted(item, arguments[0], where) for item in value)
    if origin is not None:
        _require(isinstance(value, Mapping), value, "a table", where)
        return {
            key: _converted(item, arguments[1], f"{where}.{key}") for key, item in value.items()
        }
    return _converted_scalar(value, hint, where)


def _converted_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    exact = [kind for kind in rest if type(value) is kind]
    return _converted(value, exact[0] if exact else rest[-1], where)


def _converted_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is Path:
        _require(isinstance(value, (str, Path)), value, "a path", where)
        return Path(value)
    if hint is float:
        _require(type(value) in (int, float), value, "a number", where)
        return float(value)
    _require(type(value) is hint, value, f"of type {hint.__name__}", where)
    return value


def _require(condition: bool, value: Any, kind: str, where: str) -> None:
    if not condition:
        raise UsageError(f"{where} in the configuration must be {kind}, not {value!r}.")
