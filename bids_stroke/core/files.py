"""Files written whole or not at all, and their checksums."""

import gzip
import hashlib
import json
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

_GZIP_LEVEL = 4  # on scans 3 % more bytes than level 5, in two thirds of its time
UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
)
"""What nibabel raises, at opening or when voxels are read, where a file is no whole image."""


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Give a temporary path beside ``final`` with the same suffix; rename it on success.

    The suffix is kept whole (``.nii.gz``), because nibabel picks its format by it. On an error the
    temporary file is removed and ``final`` is left as it was. What a killed process left under a
    temporary name of ``final`` is removed as well.
    """
    final = Path(final)
    stem, dot, suffix = final.name.partition(".")
    _remove_orphans(final)
    owner = f"{_host()}-{os.getpid()}-{uuid4().hex[:4]}"
    temporary = final.with_name(f"{stem}.tmp-{owner}{dot}{suffix}")
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _remove_orphans(final: Path) -> None:
    """Remove temporary files of ``final`` whose process ran on this machine and is no more."""
    stem, dot, suffix = final.name.partition(".")
    for path in final.parent.glob(f"{escape(stem)}.tmp-{_host()}-*{escape(dot + suffix)}"):
        process = path.name[len(stem) :].split("-")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, read once in a process as long as its size and time stay the same."""
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically and return the path."""
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: Path, data: Any) -> Path:
    """Write indented JSON atomically and return the path."""
    return write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a UTF-8 JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def load_image(path: Path | str) -> nib.Nifti1Image:
    """Open a NIfTI image that this program wrote; its voxels are read when asked for."""
    return cast(nib.Nifti1Image, nib.load(path))


def save_image(data: np.ndarray, affine: np.ndarray, path: Path, *, dtype: Any) -> Path:
    """Write a 3-D NIfTI image atomically and return the path.

    ``data`` is [x, y, z], ``affine`` RAS+ in mm. The file gets mm and s as units, sform and qform
    of the affine with the code for scanner space, no scaling, and a gzip header without a time
    stamp, so that equal arrays give equal bytes.
    """
    image = nib.Nifti1Image(np.ascontiguousarray(data, dtype=dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    content = image.to_bytes()
    with atomic_path(Path(path)) as temporary:
        if temporary.suffix == ".gz":
            content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
        temporary.write_bytes(content)
    return Path(path)
