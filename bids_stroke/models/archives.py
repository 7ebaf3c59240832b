"""Zip files of models: untrusted input, from which only plain files inside a folder are taken."""

import errno
import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bids_stroke.errors import InputMissing, InputOutputError, TryAgain, UnusableData

_MOST_FILES = 10_000
_MOST_BYTES = 16 << 30
_SMALL = 50 << 20  # bytes in all below which no ratio is looked at: JSON packs well
_HIGHEST_RATIO = 50  # weights hardly pack at all
_WANTED = (".json", ".pth", ".pkl", ".model", ".toml")
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, IndexError, NotImplementedError, ValueError),
)


def extract(archive: Path, folder: Path) -> list[Path]:
    """Unpack the files of models from a zip into ``folder`` and return their paths.

    The whole archive is looked at first. Raises InputMissing where there is no such file, and
    UnusableData for one that is damaged or encrypted, or holds a path that leaves the folder, a
    link, a path twice, or far more than it pretends to.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [e for e in opened.infolist() if not e.is_dir()]
            _check_entries(entries, archive)
            wanted = [e for e in entries if e.filename.lower().endswith(_WANTED)]
            return [_take(opened, entry, folder) for entry in wanted]
    except FileNotFoundError as error:
        raise InputMissing(f"There is no file {archive}: check the path.") from error
    except _DAMAGE as error:
        raise UnusableData(f"{archive} is no whole zip file ({error}): get it again.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(f"The disk of {folder} is full: free some, then try again.") from error
        raise InputOutputError(f"{archive} could not be unpacked: {error}.") from error


def _check_entries(entries: Iterable[zipfile.ZipInfo], archive: Path) -> None:
    seen: set[str] = set()
    total = packed = 0
    for entry in entries:
        if problem := _problem(entry):
            raise UnusableData(f"{archive} holds {entry.filename!r}, {problem}: it was refused.")
        if entry.filename.casefold() in seen:
            raise UnusableData(f"{archive} holds {entry.filename!r} twice: it was refused.")
        seen.add(entry.filename.casefold())
        total, packed = total + entry.file_size, packed + entry.compress_size
    bomb = total > _SMALL and total > _HIGHEST_RATIO * max(packed, 1)
    if bomb or total > _MOST_BYTES or len(seen) > _MOST_FILES:
        raise UnusableData(
            f"{archive} would unpack to {total / 1e6:.0f} MB in {len(seen)} files, which is no "
            "model: it was refused."
        )


def _problem(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry, or nothing."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    path = PurePosixPath(entry.filename)
    if kind == stat.S_IFLNK:
        return "a link"
    if kind not in (0, stat.S_IFREG):
        return "no plain file"
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        return "a path that leaves the folder"
    return "which is encrypted" if entry.flag_bits & 1 else ""


def _take(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> Path:
    target = folder / PurePosixPath(entry.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, target.open("xb") as sink:
        shutil.copyfileobj(
            source, sink, 1 << 20
        )  # reads no more than file_size, and checks the CRC
    return target
