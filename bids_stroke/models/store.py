"""The store of models: one folder with a descriptor and a folder of files for each model.

A model is put together in a hidden folder beside, loaded once to see that it runs, and then moved
to its place; its descriptor comes last, so that a model is there whole or not at all.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from urllib.parse import urlsplit

from bids_stroke.core.files import read_json, sha256, write_text
from bids_stroke.errors import (
    BidsStrokeError,
    CannotCreate,
    InputMissing,
    InputOutputError,
    TryAgain,
    UnusableData,
    UsageError,
)
from bids_stroke.models import archives, descriptor
from bids_stroke.models.descriptor import Descriptor, ModelFile
from bids_stroke.models.downloads import Remote, download

PARTS = ".parts"  # folder of the store with downloads that are under way
Progress = Callable[[str, int, int], None]  # file, bytes that are there, bytes in all


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the list of models: ``state`` is ``with the program``, ``installed``,
    ``not installed`` or ``incomplete``."""

    model: Descriptor
    state: str


def entries(store: Path) -> list[Entry]:
    """All models that can be had: of the package, of the store, and known ones that are absent."""
    here = descriptor.installed(store)
    absent = [m for m in descriptor.known() if m.name not in {model.name for model in here}]
    return [
        *(Entry(model=m, state=_state(m, store)) for m in here),
        *(Entry(model=m, state="not installed") for m in absent),
    ]


def _state(model: Descriptor, store: Path) -> str:
    if not descriptor.is_whole(model):
        return "incomplete"
    inside = model.file.is_relative_to(store.resolve())
    return "installed" if inside else "with the program"


def find(name: str, store: Path) -> Descriptor:
    """A model by name, installed or known, or by path; raises InputMissing where there is none."""
    absent = {e.model.name: e.model for e in entries(store) if e.state == "not installed"}
    return absent.get(name) or descriptor.find(name, store)


@contextmanager
def staging(store: Path) -> Iterator[Path]:
    """A hidden folder in the store to put a model together in; removed at the end."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=".staging-", dir=store))
    except OSError as error:
        raise CannotCreate(
            f"The store {store} can't be written ({error.strerror}): choose one by --models-dir."
        ) from error
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(f"The disk of {store} is full: free some, then try again.") from error
        raise InputOutputError(f"The model could not be put into {store}: {error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def named_as(staged: Path, origin: Path) -> Iterator[None]:
    """Have errors name the files below a staged folder by where they came from."""
    try:
        yield
    except (InputMissing, UnusableData) as error:
        raise type(error)(str(error).replace(str(staged), str(origin))) from error


def check_free(name: str, store: Path, *, overwrite: bool = False) -> None:
    """Raise UsageError if a name is none, or is taken: by the program, or (unless ``overwrite``)
    by the store."""
    if not descriptor.is_plain(name) or name.endswith(".toml"):
        raise UsageError(f"'{name}' can't name a model: use letters, digits, dots, - and _.")
    taken = next((m for m in descriptor.installed(store) if m.name == name), None)
    if taken and _state(taken, store) == "with the program":
        raise UsageError(f"'{name}' comes with the program: choose another --name.")
    if not overwrite and (taken or (store / name).exists()):
        raise UsageError(f"'{name}' is in {store} already: choose another --name or --overwrite.")


def install(draft: Descriptor, staged: Path, store: Path, *, overwrite: bool = False) -> Descriptor:
    """Move the model folder ``staged/<name>`` and its descriptor into the store.

    Every file gets its size and SHA-256 into the descriptor, and all folds are loaded once. Raises
    UsageError when the name is taken, UnusableData when the model can't be loaded.
    """
    check_free(draft.name, store, overwrite=overwrite)
    model = replace(draft, folder=draft.name, files=_listed(staged / draft.name, draft))
    text = write_text(staged / f"{model.name}.toml", descriptor.dumps(model))
    _try_to_load(descriptor.load(text))
    final = store / model.name
    if final.exists():
        final.rename(staged / "replaced")
    (staged / model.name).rename(final)
    text.replace(store / text.name)
    return descriptor.load(store / text.name)


def _listed(folder: Path, draft: Descriptor) -> tuple[ModelFile, ...]:
    """All files of a model folder, with the address where the draft knows it."""
    urls = {file.path: file.url for file in draft.files}
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    named = [(p, p.relative_to(folder.parent).as_posix()) for p in paths]
    return tuple(
        ModelFile(path=name, sha256=sha256(p), size=p.stat().st_size, url=urls.get(name, ""))
        for p, name in named
    )


def _try_to_load(model: Descriptor) -> None:
    """Load every fold, as a run would; what is odd in the files becomes one clear error."""
    from bids_stroke.models import predictor

    try:
        loaded = predictor.load(model)
        channels = next(iter(loaded.folds.values()))[_first(loaded)].shape[1]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, StopIteration) as error:
        raise UnusableData(
            f"The files of '{model.name}' are no model of nnU-Net v2 that can be run ({error!r})."
        ) from error
    for fold, state in loaded.folds.items():
        if not all(bool(weight.isfinite().all()) for weight in state.values()):
            raise UnusableData(
                f"The weights in {model.model_folder / f'fold_{fold}'} hold NaN or infinite "
                "numbers: copy the model again."
            )
    if channels != len(model.channels):
        raise UnusableData(
            f"The network of '{model.name}' takes {channels} channels, but {len(model.channels)} "
            "are named: correct --channels."
        )


def _first(loaded: object) -> str:
    """Name of the first layer of a loaded model, which is its first convolution."""
    return next(iter(loaded.network.state_dict()))  # type: ignore[attr-defined]


def remove(name: str, store: Path) -> Descriptor:
    """Remove a model from the store: its descriptor, then the files that it lists.

    Raises UsageError for a model that is not in the store, InputMissing for an unknown one.
    """
    model = find(name, store)
    if not model.file.is_relative_to(store.resolve()):
        raise UsageError(f"'{name}' is not in {store}: there is nothing to remove.")
    model.file.unlink()
    for file in model.files:
        path = model.root / file.path
        path.unlink(missing_ok=True)
        _remove_empty(path.parent, model.root)
    return model


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


# Fetching


def fetch(name: str, store: Path, *, overwrite: bool = False, progress: Progress) -> Descriptor:
    """Download a known model, or that of a descriptor's file, into the store and verify it.

    A download that broke off goes on at the next call. Raises InputMissing for a model whose
    address nobody published, and the errors of ``download`` and ``install``.
    """
    model = descriptor.load(Path(name)) if name.endswith(".toml") else _known(name)
    check_free(model.name, store, overwrite=overwrite)
    return fetch_described(model, store, overwrite=overwrite, progress=progress)


def _known(name: str) -> Descriptor:
    for model in descriptor.known():
        if model.name == name:
            return model
    raise InputMissing(f"There is no model '{name}' to fetch: see bids_stroke-models list.")


def fetch_described(
    model: Descriptor, store: Path, *, overwrite: bool = False, progress: Progress
) -> Descriptor:
    """``fetch`` for any descriptor that has addresses."""
    if not model.source.archive and not any(file.url for file in model.files):
        raise InputMissing(f"'{model.name}' can't be fetched. {model.source.note}")
    parts = store / PARTS / model.name
    with staging(store) as staged:
        if model.source.archive:
            _fetch_archive(model, parts, staged, progress)
        else:
            _fetch_files(model, parts, staged, progress)
        done = install(model, staged, store, overwrite=overwrite)
    shutil.rmtree(parts, ignore_errors=True)
    _remove_empty(parts.parent, store)
    return done


def _fetch_archive(model: Descriptor, parts: Path, staged: Path, progress: Progress) -> None:
    url = model.source.archive
    packed = parts / (PurePosixPath(urlsplit(url).path).name or "model.zip")
    download(
        Remote(url=url), packed, progress=lambda there, total: progress(packed.name, there, total)
    )
    unpacked = staged / "unpacked"
    try:
        archives.extract(packed, unpacked)
        place = find_v2(unpacked)
    except BidsStrokeError:
        packed.unlink()  # it is whole, and of no use
        raise
    copy_v2(place, staged / model.name)


def _fetch_files(model: Descriptor, parts: Path, staged: Path, progress: Progress) -> None:
    for file in _pinned(model, parts):
        target = parts / file.path

        def tell(there: int, total: int, name: str = file.path) -> None:
            progress(name, there, total)

        download(Remote(url=file.url, sha256=file.sha256, size=file.size), target, progress=tell)
    (parts / model.folder).rename(staged / model.name)


def _pinned(model: Descriptor, parts: Path) -> list[ModelFile]:
    """Files of a model; what the descriptor does not pin is pinned by the publisher's manifest."""
    if not model.source.manifest:
        return list(model.files)
    place = parts / "manifest.json"
    place.unlink(missing_ok=True)
    download(Remote(url=model.source.manifest), place)
    try:
        table = read_json(place)["files"]
        stated = {f"{model.folder}/{p}": (v["sha256"], int(v["bytes"])) for p, v in table.items()}
        return [_agreed(file, *stated[file.path]) for file in model.files]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableData(
            f"The manifest {model.source.manifest} does not list the files of '{model.name}' "
            f"({error!r}): the model was changed."
        ) from error


def _agreed(file: ModelFile, digest: str, size: int) -> ModelFile:
    if (file.sha256 and file.sha256 != digest) or (file.size and file.size != size):
        raise UnusableData(f"{file.url} is not the file that the descriptor knows: it has changed.")
    return replace(file, sha256=digest, size=size)


# Folders of nnU-Net v2


def is_v2(folder: Path) -> bool:
    """Whether a folder is a model folder of nnU-Net v2."""
    named = all((folder / name).is_file() for name in ("plans.json", "dataset.json"))
    return named and any(folder.glob("fold_*/*.pth"))


def find_v2(folder: Path) -> Path:
    """The one model folder of nnU-Net v2 in a folder; raises UnusableData where it is not one."""
    found = [p.parent for p in sorted(folder.rglob("plans.json")) if is_v2(p.parent)]
    if len(found) != 1:
        names = ", ".join(p.relative_to(folder).as_posix() for p in found)
        raise UnusableData(
            f"{folder} holds {len(found)} models of nnU-Net v2{f' ({names})' if names else ''}: "
            "name one of them."
        )
    return found[0]


def copy_v2(source: Path, target: Path, checkpoint: str = "checkpoint_final.pth") -> None:
    """Copy what prediction needs of a v2 model folder: plans, dataset and one checkpoint a fold."""
    weights = sorted(source.glob(f"fold_*/{checkpoint}"))
    if not weights:
        there = ", ".join(sorted({p.name for p in source.glob("fold_*/*.pth")}))
        raise InputMissing(f"{source} has no {checkpoint}: name one by --checkpoint ({there}).")
    for path in (source / "plans.json", source / "dataset.json", *weights):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
