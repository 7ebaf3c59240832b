"""Environment variables of a run, set before the heavy parts are imported, and where they point."""

import getpass
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from multiprocessing import forkserver
from pathlib import Path

from bids_stroke import __version__
from bids_stroke.config import Execution
from bids_stroke.core.files import write_text
from bids_stroke.errors import BidsStrokeError, CannotCreate, TryAgain, is_full
from bids_stroke.models.templates import templateflow_home

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
STEPS_FOLDER = "bids_stroke_steps"
ENVIRONMENT_FOLDER = "bids_stroke_environment"
OWN_FOLDERS = (f"{STEPS_FOLDER}-*", ENVIRONMENT_FOLDER)
"""Folders of ours in the work folder: only they are removed by ``--clean-workdir``."""
NUMERICS = (
    "torch",
    "openvino",
    "nnunetv2",
    "antspyx",
    "SimpleITK",
    "numpy",
    "scipy",
    "nibabel",
    "deepbet",
    "HD_BET",
)
"""Packages whose version changes results."""


def steps_folder(work_dir: Path, dataset: Path) -> Path:
    """Folder of intermediate results of a dataset, in the state of the program that made them.

    nipype looks at a step's inputs only: with another version of the program or of the packages
    that compute, or another dataset, results of earlier runs must not be found.
    """
    state = hashlib.sha256(str(dataset).encode())
    for name in NUMERICS:
        state.update(f"{name} {_version(name)}".encode())
    for path in sorted(_package().rglob("*.py")):
        state.update(path.read_bytes())
    return work_dir / f"{STEPS_FOLDER}-{__version__}-{state.hexdigest()[:12]}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _package() -> Path:
    return Path(__file__).parents[1]


def remove_own_folders(work_dir: Path) -> None:
    """Remove intermediate results of all versions; what is not ours stays."""
    for pattern in OWN_FOLDERS:
        for folder in work_dir.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def prepare(execution: Execution, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Make the folders that tools want, and return the variables to set.

    No tool looks up a host (``NO_ET``); TemplateFlow gets an empty home unless the user has one,
    because it would unpack its archive in every process; a home folder that can't be written
    is replaced by one in the work folder; nipype names the jobs of a scheduler after ``LOGNAME``.
    Raises CannotCreate when the work folder can't be written.
    """
    folder = execution.work_dir / ENVIRONMENT_FOLDER
    threads = str(execution.threads)
    variables = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "MPLBACKEND": "Agg"}
    variables |= dict.fromkeys(THREADS, threads)
    variables["LOGNAME"] = environ.get("LOGNAME") or _user_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if "TEMPLATEFLOW_HOME" not in environ:
            home = templateflow_home()
            known = home if _is_filled(home) else _empty_templateflow(folder / "templateflow")
            variables["TEMPLATEFLOW_HOME"] = str(known)
        variables["NIPYPE_CONFIG_DIR"] = str(folder / "nipype")
        if not _is_writable(Path(environ.get("HOME", "/"))):
            (folder / "home").mkdir(exist_ok=True)
            variables["HOME"] = str(folder / "home")
    except OSError as error:
        raise cannot_write(execution.work_dir, error) from error
    return variables


def cannot_write(work_dir: Path, error: OSError) -> BidsStrokeError:
    """The error for a work folder that can't be written; a full disk may have room later."""
    if is_full(error):
        return TryAgain(f"The disk of the work folder {work_dir} is full: free some space.")
    return CannotCreate(
        f"The work folder {work_dir} can't be written: {error}; choose another by -w."
    )


def start_fork_server() -> None:
    """Have the process that workers are forked from begin with its imports.

    It goes on with them beside whatever this process does; called again it does nothing.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["bids_stroke.cli.preloaded"])
    forkserver.ensure_running()


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user has a number only, as in containers
        return "bids_stroke"


def _is_writable(home: Path) -> bool:
    return home.is_dir() and os.access(home, os.W_OK | os.X_OK)


def _is_filled(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _empty_templateflow(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    marker = folder / "template_description.json"
    if not marker.exists():
        write_text(marker, "{}\n")
    return folder
