"""Download of one file: resumed, verified, and never half there under its own name."""

import errno
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bids_stroke import __version__
from bids_stroke.core.files import sha256 as digest
from bids_stroke.core.files import write_text
from bids_stroke.errors import (
    BidsStrokeError,
    CannotCreate,
    InputMissing,
    InputOutputError,
    TryAgain,
    UnusableData,
)

Progress = Callable[[int, int], None]  # bytes that are there, bytes in all (0: unknown)

ATTEMPTS = 3
TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_LARGEST = 8 << 30  # bytes of a file whose size nobody states
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file to download; ``sha256`` and ``size`` (bytes) are checked where they are known."""

    url: str
    sha256: str = ""
    size: int = 0


class _Interrupted(Exception):
    """The connection ended before the file did; another attempt goes on from there."""


class _SameOrSafer(urllib.request.HTTPRedirectHandler):
    """Follows a file that moved, to the web only, and never from https to http."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:  # noqa: E501
        _check_address(newurl, secure=req.full_url.startswith("https:"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, *, secure: bool = False) -> None:
    allowed = ("https://",) if secure else ("https://", "http://")
    if not url.lower().startswith(allowed):
        raise UnusableData(f"{url} is no address to download from: only {allowed[0]} is followed.")


def download(
    remote: Remote, target: Path, *, progress: Progress | None = None, attempts: int = ATTEMPTS
) -> Path:
    """Download to ``target`` and return it; a complete, verified ``target`` is left as it is.

    What has come is kept beside it as ``<name>.part``, and a later call goes on from there. Raises
    InputMissing (the address has no such file), UnusableData (other content than stated),
    InputOutputError (no connection, or one that broke off), TryAgain (disk full, server busy) and
    CannotCreate (no right to write).
    """
    _check_address(remote.url)
    if target.is_file() and _is_right(target, remote):
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target.parent, remote.size - (part.stat().st_size if part.exists() else 0))
        _download_part(remote, part, progress or (lambda there, total: None), attempts)
        _check_content(remote, part)
        part.replace(target)
        _tag(part).unlink(missing_ok=True)
    except OSError as error:
        raise _explained(error, target) from error
    return target


def _is_right(path: Path, remote: Remote) -> bool:
    if not remote.sha256:
        return False
    return path.stat().st_size == (remote.size or path.stat().st_size) and (
        digest(path) == remote.sha256
    )


def _explained(error: OSError, target: Path) -> BidsStrokeError:
    if error.errno in _FULL:
        return TryAgain(f"The disk of {target.parent} is full: free some, then fetch again.")
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
        return CannotCreate(f"{target} can't be written: {error.strerror or error}.")
    return InputOutputError(f"{target} could not be downloaded: {error}.")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TryAgain(
            f"{folder} has {free / 1e6:.0f} MB free and needs {needed / 1e6:.0f}: free some disk."
        )


def _download_part(remote: Remote, part: Path, progress: Progress, attempts: int) -> None:
    """Fill the part, in several attempts where the connection breaks off."""
    for attempt in range(1, attempts + 1):
        try:
            _go_on(remote, part, progress)
            return
        except _Interrupted as error:
            if attempt == attempts:
                there = part.stat().st_size if part.exists() else 0
                raise InputOutputError(
                    f"{remote.url} broke off after {there} bytes ({error}): fetch again to go on."
                ) from error


def _tag(part: Path) -> Path:
    """File beside the part with the server's mark of the version that it belongs to."""
    return part.with_name(f"{part.name}.etag")


def _request(remote: Remote, part: Path) -> urllib.request.Request:
    request = urllib.request.Request(remote.url)  # noqa: S310
    request.add_header("User-Agent", f"bids_stroke/{__version__}")
    request.add_header("Accept-Encoding", "identity")
    there = part.stat().st_size if part.exists() else 0
    known = _tag(part).read_text(encoding="utf-8") if _tag(part).exists() else ""
    if there and (known or remote.sha256):
        request.add_header("Range", f"bytes={there}-")
        if known:
            request.add_header("If-Range", known)
    return request


def _go_on(remote: Remote, part: Path, progress: Progress) -> None:
    """One connection: the rest of the file, or all of it where the server wants it so."""
    if remote.size and part.exists() and part.stat().st_size == remote.size:
        return
    opener = urllib.request.build_opener(_SameOrSafer)
    request = _request(remote, part)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            _receive(response, remote, part, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise _Interrupted("the server has less than was there") from error
        raise _refusal(error, remote.url) from error
    except urllib.error.URLError as error:
        raise InputOutputError(
            f"{remote.url} can't be reached ({error.reason}): check the network, or bring the "
            "files by bids_stroke-models import."
        ) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


def _refusal(error: urllib.error.HTTPError, url: str) -> BidsStrokeError:
    if error.code in (404, 410):
        return InputMissing(f"There is no {url} ({error.code}): it was moved or taken down.")
    if error.code >= 500 or error.code == 429:
        return TryAgain(f"The server of {url} is busy or broken ({error.code}): fetch again later.")
    return InputOutputError(f"The server of {url} refuses ({error.code} {error.reason}).")


def _receive(response: Any, remote: Remote, part: Path, progress: Progress) -> None:
    """Append what comes to the part, which starts anew unless the server goes on from there."""
    goes_on = response.status == http.client.PARTIAL_CONTENT
    start = part.stat().st_size if goes_on else 0
    if goes_on and not str(response.headers["Content-Range"]).startswith(f"bytes {start}-"):
        part.unlink()
        raise _Interrupted("the server went on from another place")
    length = response.headers["Content-Length"]
    total = start + int(length) if length else remote.size
    if remote.size and length and total != remote.size:
        part.unlink(missing_ok=True)
        raise UnusableData(f"{remote.url} has {total} bytes, not {remote.size}: it has changed.")
    if length:
        _check_room(part.parent, int(length))
    _remember_version(response, part)
    with part.open("ab" if goes_on else "wb") as stream:
        there = _copy(response, stream, start, total, progress)
    if there < total:
        raise _Interrupted(f"{total} were announced")


def _remember_version(response: Any, part: Path) -> None:
    mark = response.headers["ETag"] or ""
    if mark and not mark.startswith("W/"):
        write_text(_tag(part), mark)
    else:
        _tag(part).unlink(missing_ok=True)


def _copy(source: Any, target: BinaryIO, there: int, total: int, progress: Progress) -> int:
    while block := source.read(_CHUNK):
        target.write(block)
        there += len(block)
        progress(there, total)
        if there > (total or _LARGEST):
            raise UnusableData(f"{source.url} sends more than it announced: the file was refused.")
    target.flush()
    os.fsync(target.fileno())
    return there


def _check_content(remote: Remote, part: Path) -> None:
    """Compare with the stated size and checksum; a wrong part is removed."""
    size = part.stat().st_size
    wrong_size = remote.size and size != remote.size
    if wrong_size or (remote.sha256 and digest(part) != remote.sha256):
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        stated = f"{remote.size} bytes" if wrong_size else "its stated SHA-256"
        raise UnusableData(
            f"{remote.url} does not have {stated}: it was changed or damaged, and was removed."
        )
