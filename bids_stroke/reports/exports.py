"""Results in the form that other programs take as input, in folders of their own."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bids_stroke.bids.names import label, source_entities
from bids_stroke.core.files import load_image, save_image, write_text
from bids_stroke.reports.collect import Session

FMRIPREP = "fmriprep_input"
IGNORE = "*lesion_roi.nii.gz"
"""The line that fMRIPrep's manual asks for in ``.bidsignore``."""


def export_fmriprep(
    bids_dir: Path, output_dir: Path, sessions: Iterable[Session]
) -> tuple[Path, int]:
    """Write ``OUT/fmriprep_input``: the input dataset as links, with lesion masks in ``anat``.

    fMRIPrep looks for ``sub-*/[ses-*/]anat/*_roi.nii.gz`` in the dataset that it is given, and
    leaves these voxels out of the registration to the template. The masks are named
    ``<src>_T1w_label-lesion_roi.nii.gz`` and lie on the T1w's grid. Every other file is a relative
    link into ``bids_dir``, of which nothing is changed; where a mask of ours is, masks that the
    dataset has itself are left out. The folder is made anew. Returns it and the number of masks.
    """
    folder = output_dir / FMRIPREP
    shutil.rmtree(folder, ignore_errors=True)  # an old link to a folder would lead into BIDS_DIR
    done = [path for session in sessions if (path := _write_mask(session, folder))]
    _link_tree(Path(bids_dir), folder, keep={path.parent for path in done}, output_dir=output_dir)
    own = Path(bids_dir) / ".bidsignore"
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    write_text(folder / ".bidsignore", "\n".join([*lines, IGNORE]) + "\n")
    _ignore(output_dir, FMRIPREP)
    return folder, len(done)


def _write_mask(session: Session, folder: Path) -> Path | None:
    """Mask of a session on its T1w's grid; None where there is no T1w, or no lesion in it."""
    mask = session.output("lesion_mask", space="T1w")
    if "T1w" not in session.record["inputs"] or not mask.is_file():
        return None
    image = load_image(mask)
    lesion = np.asarray(image.dataobj) > 0
    own = source_entities(session.record["entities"])
    parts = [f"sub-{session.subject}", *([f"ses-{session.session}"] if session.session else [])]
    target = folder.joinpath(*parts, "anat", f"{label(own)}_T1w_label-lesion_roi.nii.gz")
    if not lesion.any():
        target.unlink(missing_ok=True)
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    return save_image(lesion, image.affine, target, dtype=np.uint8)


def _link_tree(source: Path, target: Path, *, keep: set[Path], output_dir: Path) -> None:
    """Mirror a folder by links: folders on the way to ``keep`` are real, all else is linked."""
    on_the_way = {target, *keep, *(parent for path in keep for parent in path.parents)}
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if _skipped(entry, output_dir) or (target in keep and entry.name.endswith("_roi.nii.gz")):
            continue
        place = target / entry.name
        if entry.is_dir() and place in on_the_way:
            _link_tree(entry, place, keep=keep, output_dir=output_dir)
        else:
            place.symlink_to(os.path.relpath(entry, target))


def _skipped(entry: Path, output_dir: Path) -> bool:
    """Derivatives, which may hold this very output, and hidden files."""
    hidden = entry.name.startswith(".") or entry.name in ("derivatives", "sourcedata")
    ours = (
        output_dir.resolve() == entry.resolve() or entry.resolve() in output_dir.resolve().parents
    )
    return hidden or ours


def _ignore(output_dir: Path, line: str) -> None:
    """Add a line to the output's ``.bidsignore``, once."""
    path = output_dir / ".bidsignore"
    lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if line not in lines:
        write_text(path, "\n".join([*lines, line]) + "\n")
