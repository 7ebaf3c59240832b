"""Index of the input dataset: only images in ``anat`` folders, without metadata.

With a database folder the index is kept under a name that tells the state of the tree, so that an
index which is out of date is never used, and processes that start together don't disturb another.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bids_stroke.errors import CannotCreate

if TYPE_CHECKING:
    from bids import BIDSLayout

_IMAGE = r"(/anat(/[^/]+\.nii(\.gz)?)?)?"


def build_layout(
    bids_dir: Path, *, participants: Sequence[str] = (), database_dir: Path | None = None
) -> "BIDSLayout":
    """Layout of a dataset, for all or for some participants (labels without ``sub-``).

    A kept index always covers all participants. Raises CannotCreate when it can't be written.
    """
    if database_dir is None:
        return _index(bids_dir, None, participants)
    folder = database_dir / _state(bids_dir)
    try:
        if not folder.is_dir():
            _keep_index(bids_dir, folder)
        return _index(bids_dir, folder, ())
    except OSError as error:
        raise CannotCreate(
            f"The index can't be kept in {database_dir}: {error}; choose another folder."
        ) from error


def _index(bids_dir: Path, database: Path | None, participants: Sequence[str]) -> "BIDSLayout":
    from bids import BIDSLayout, BIDSLayoutIndexer

    indexer = BIDSLayoutIndexer(
        validate=False, index_metadata=False, ignore=[_everything_but(participants)]
    )
    return BIDSLayout(
        str(bids_dir), validate=False, indexer=indexer, database_path=database and str(database)
    )


def _everything_but(participants: Sequence[str]) -> re.Pattern[str]:
    """Pattern of all paths that need no look; paths begin with a slash at the dataset's root."""
    labels = "|".join(map(re.escape, participants)) or "[^/]+"
    return re.compile(rf"^(?!/sub-({labels})(/ses-[^/]+)?{_IMAGE}$)")


def _keep_index(bids_dir: Path, folder: Path) -> None:
    """Build an index beside ``folder``, rename it, and remove those of earlier states."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        layout = _index(bids_dir, temporary, ())
        layout.connection_manager.engine.dispose()
        if not folder.is_dir():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    dataset = folder.name.partition("-")[0]
    for earlier in folder.parent.glob(f"{dataset}-*"):
        if earlier != folder:
            shutil.rmtree(earlier, ignore_errors=True)


def _state(bids_dir: Path) -> str:
    """Digest of the dataset's place and one of its file names, joined by a hyphen."""
    place = hashlib.sha256(str(bids_dir).encode()).hexdigest()[:8]
    names = hashlib.sha256("\n".join(sorted(_images(bids_dir))).encode()).hexdigest()[:16]
    return f"{place}-{names}"


def _images(bids_dir: Path) -> Iterator[str]:
    for subject in _folders(bids_dir, "sub-"):
        for place in (subject, *_folders(subject, "ses-")):
            anat = Path(place) / "anat"
            if anat.is_dir():
                yield from (f"{anat}/{name}" for name in os.listdir(anat))  # noqa: PTH208 - fast


def _folders(parent: str | Path, prefix: str) -> list[str]:
    with os.scandir(parent) as entries:
        return [e.path for e in entries if e.name.startswith(prefix) and e.is_dir()]
