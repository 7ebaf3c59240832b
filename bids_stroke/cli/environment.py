"""Environment variables of a run, set before the heavy parts are imported, and where they point."""

import os
from collections.abc import Mapping
from pathlib import Path

from bids_stroke.config import Execution
from bids_stroke.core.files import write_text
from bids_stroke.errors import CannotCreate

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
OWN_FOLDERS = ("bids_stroke_wf", "environment")
"""Folders of ours in the work folder: only they are removed by ``--clean-workdir``."""


def prepare(execution: Execution, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Make the folders that tools want, and return the variables to set.

    No tool looks up a host (``NO_ET``); TemplateFlow gets an empty home unless the user has set
    one, because it would unpack its archive in every process; a home folder that can't be written
    is replaced by one in the work folder. Raises CannotCreate when that can't be written either.
    """
    folder = execution.work_dir / "environment"
    threads = str(execution.omp_nthreads)
    variables = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "MPLBACKEND": "Agg"}
    variables |= dict.fromkeys(THREADS, threads)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if "TEMPLATEFLOW_HOME" not in environ:
            variables["TEMPLATEFLOW_HOME"] = str(_empty_templateflow(folder / "templateflow"))
        variables["NIPYPE_CONFIG_DIR"] = str(folder / "nipype")
        if not _is_writable(Path(environ.get("HOME", "/"))):
            (folder / "home").mkdir(exist_ok=True)
            variables["HOME"] = str(folder / "home")
    except OSError as error:
        raise CannotCreate(
            f"The work folder {execution.work_dir} can't be written: {error}; choose another by -w."
        ) from error
    return variables


def _is_writable(home: Path) -> bool:
    return home.is_dir() and os.access(home, os.W_OK | os.X_OK)


def _empty_templateflow(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    marker = folder / "template_description.json"
    if not marker.exists():
        write_text(marker, "{}\n")
    return folder
