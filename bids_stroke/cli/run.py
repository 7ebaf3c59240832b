"""The BIDS App: ``main(argv)`` checks, plans, runs, reports, and returns the exit code."""

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bids_stroke.cli.parser import parse
from bids_stroke.config import Config, dumps
from bids_stroke.errors import (
    BidsStrokeError,
    CannotCreate,
    InputMissing,
    InputOutputError,
    TryAgain,
    UsageError,
    is_full,
)

if TYPE_CHECKING:
    from bids_stroke.bids.pairs import Pair, Selection

INTERRUPTED = 130
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
GROUP_SETTINGS = Path("logs", "group.toml")
"""In the output folder: by it ``--reports-only`` writes the cohort's page anew."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; an expected error becomes one line on stderr and its exit code."""
    atexit.register(gc.freeze)  # else Python looks through all that is loaded before it ends
    try:
        return run(parse(argv))
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except BidsStrokeError as error:
        return _say_error(error)
    except KeyboardInterrupt:
        print("bids_stroke: interrupted; a run with the same -w goes on.", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        return _say_error(TryAgain("Memory ran out: give more, or lower --nprocs."))
    except OSError as error:
        return _say_error(
            TryAgain(f"{error}: free some disk.") if is_full(error) else InputOutputError(error)
        )


def _say_error(error: BidsStrokeError) -> int:
    print(f"bids_stroke: {error}", file=sys.stderr)
    return error.exit_code


def run(config: Config) -> int:
    """Run an analysis level and return the exit code; raises the errors that end a run."""
    from bids_stroke.bids import checks

    dataset = config.dataset
    check_places(config)
    if dataset.skip_validation:
        checks.check_folder(dataset.bids_dir)
    else:
        checks.check_dataset(dataset.bids_dir)
    for name, path in dataset.derivatives.items():
        if not path.is_dir():
            raise InputMissing(f"There is no folder {path}: check -d {name}=.")
    weights = config.processing.hdbet_weights
    if weights is not None and not weights.is_dir():
        raise InputMissing(f"There is no folder {weights}: check --hd-bet-weights.")
    if dataset.level == "group":
        return run_group(config)
    if dataset.level == "train":
        from bids_stroke.cli.train import run_train

        return run_train(config)
    from bids_stroke.cli.participants import run_participants

    return run_participants(config)


def check_places(config: Config) -> None:
    """Refuse folders that would change the input dataset; raises UsageError."""
    bids_dir = config.dataset.bids_dir.resolve()
    output_dir = config.dataset.output_dir.resolve()
    if output_dir == bids_dir:
        raise UsageError("OUTPUT_DIR can't be BIDS_DIR: use BIDS_DIR/derivatives/bids_stroke.")
    if _is_in_subject(output_dir, bids_dir):
        raise UsageError("OUTPUT_DIR can't be in a participant's folder of BIDS_DIR.")
    work_dir = config.execution.work_dir.resolve()
    if work_dir.is_relative_to(bids_dir):
        raise UsageError(f"The work folder {work_dir} can't be inside BIDS_DIR: choose one by -w.")


def _is_in_subject(path: Path, bids_dir: Path) -> bool:
    return path.is_relative_to(bids_dir) and path.relative_to(bids_dir).parts[0].startswith("sub-")


def run_group(config: Config) -> int:
    """Tables and page of the whole cohort, from the files in the output folder."""
    from bids_stroke.reports.group import agreement_lines, write_group

    dataset = config.dataset
    require_output(dataset.output_dir)
    page = write_group(
        dataset.bids_dir,
        dataset.output_dir,
        find_reference_roots(config),
        options=config.group,
        nprocs=config.execution.nprocs,
        seed=config.processing.random_seed,
    )
    for line in agreement_lines(dataset.output_dir):
        print(line)
    _remember(config)
    print(f"The cohort's page is {page}")
    return 0


def _remember(config: Config) -> None:
    """Keep the settings of the group level for ``--reports-only``."""
    from bids_stroke.core.files import write_text

    path = config.dataset.output_dir / GROUP_SETTINGS
    path.parent.mkdir(exist_ok=True)
    write_text(path, dumps(config))


def find_reference_roots(config: Config) -> list[Path]:
    """Folders to look in for reference masks; raises InputMissing for an unknown --reference."""
    from bids_stroke.bids.masks import reference_roots

    dataset = config.dataset
    roots = reference_roots(
        dataset.bids_dir,
        derivatives=dataset.derivatives,
        output_dir=dataset.output_dir,
        reference=dataset.reference,
    )
    if dataset.reference and not roots:
        raise InputMissing(
            f"There is no '{dataset.reference}' among -d or in {dataset.bids_dir / 'derivatives'}: "
            "check --reference."
        )
    return roots


def require_output(output_dir: Path) -> None:
    """Raise InputMissing where the participant level has left nothing."""
    if not any(output_dir.glob("sub-*")):
        raise InputMissing(
            f"{output_dir} holds no results: run the participant level first, with this OUTPUT_DIR."
        )


def select_pairs(config: Config) -> "Selection":
    """Pairs of the input dataset that the labels and filters of a run let through."""
    from bids_stroke.bids.checks import check_participants
    from bids_stroke.bids.layout import build_layout
    from bids_stroke.bids.pairs import select

    dataset = config.dataset
    check_participants(dataset.bids_dir, dataset.participants)
    layout = build_layout(
        dataset.bids_dir, participants=dataset.participants, database_dir=dataset.database_dir
    )
    return select(
        layout,
        participants=dataset.participants,
        sessions=dataset.sessions,
        filters=dataset.filters,
        derivatives=dataset.derivatives,
    )


def start_logs(config: Config) -> Path:
    """Describe the output dataset and make the folder of this run's logs with its settings."""
    from bids_stroke.bids.description import describe_dataset
    from bids_stroke.core.files import write_text

    dataset = config.dataset
    describe_dataset(dataset.output_dir, dataset.bids_dir, derivatives=dataset.derivatives)
    name = f"{datetime.now():%Y%m%d-%H%M%S}_{uuid4()}"
    log_dir = dataset.output_dir / "logs" / name
    try:
        log_dir.mkdir(parents=True)
        write_text(log_dir / "bids_stroke.toml", dumps(config))
    except OSError as error:
        if is_full(error):
            raise
        raise CannotCreate(f"The logs can't be written to {log_dir}: {error}.") from error
    return log_dir


@contextmanager
def used_environment(config: Config) -> Iterator[None]:
    """The environment of a run, and as it was afterwards."""
    from bids_stroke.cli.claims import use_work_folder
    from bids_stroke.cli.environment import prepare, remove_own_folders

    work_dir, clean = config.execution.work_dir, config.execution.clean_workdir
    before = dict(os.environ)
    with use_work_folder(work_dir, alone=clean):
        if clean:
            remove_own_folders(work_dir)
        os.environ.update(prepare(config.execution))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def quiet(config: Config) -> Iterator[None]:
    """Keep warnings of libraries off the terminal, unless asked to say more."""
    with warnings.catch_warnings():
        if not config.execution.verbose:
            warnings.simplefilter("ignore")
        yield


@contextmanager
def logged_engine(config: Config, log_dir: Path) -> Iterator[None]:
    """nipype with the settings of the run; a workflow takes them over when it is made."""
    from bids_stroke.cli import engine

    engine.configure(config.execution, log_dir)
    try:
        yield
    finally:
        engine.stop_logging()


def resolve_device(device: str) -> str:
    """Device to run on; ``auto`` is a CUDA GPU where there is one, else the processor.

    Raises UsageError when a GPU is asked for that is not there.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    number = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(index or 0) >= number:
        raise UsageError(f"There is no device '{device}' here: use --device auto or cpu.")
    return device


def _may_have_gpu() -> bool:
    """Is a driver's device there? On Linux without one, torch need not be imported to know."""
    return sys.platform != "linux" or any(map(os.path.exists, GPU_DEVICES))  # noqa: PTH110


def workflow_labels(pairs: "Iterable[Pair]") -> dict[str, str]:
    """Labels of pairs by the names of their sub-workflows."""
    return {pair.workflow_name: pair.label for pair in pairs}


def node_names(workflow: Any) -> list[str]:
    """Full names of the nodes that run; nipype takes identity nodes out of the graph."""
    from nipype.interfaces.utility import IdentityInterface

    return [
        f"{workflow.name}.{name}"
        for name in workflow.list_node_names()
        if not isinstance(workflow.get_node(name).interface, IdentityInterface)
    ]


if __name__ == "__main__":
    sys.exit(main())
