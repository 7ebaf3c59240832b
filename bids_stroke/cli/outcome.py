"""What became of each participant, with the reason of a failure in one sentence."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_stroke.bids.pairs import Pair
from bids_stroke.cli.progress import step_of
from bids_stroke.core.crashes import Crash, read_crash
from bids_stroke.core.files import write_text
from bids_stroke.errors import BidsStrokeError, TryAgain


@dataclass(frozen=True)
class Failure:
    """Why a participant is not complete; ``again`` tells that more memory or disk may help."""

    participant: str
    label: str
    message: str
    again: bool = False


def write_refusal(log_dir: Path, pair: Pair, error: BidsStrokeError) -> Path:
    """Crash file for a pair that is refused before the run, for the participant's report."""
    path = log_dir / f"sub-{pair.subject}" / f"crash-refused-{pair.label}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    node = f"bids_stroke_wf.{pair.workflow_name}.model"
    kind = f"{type(error).__module__}.{type(error).__name__}"
    return write_text(path, f"Node: {node}\n\n{kind}: {error}\n")


def failures(
    log_dir: Path, participants: Iterable[str], labels: Mapping[str, str]
) -> list[Failure]:
    """Failures of participants that crash files tell of, one for each different sentence.

    ``labels`` maps the names of the pairs' sub-workflows to their labels.
    """
    folders = (log_dir / participant for participant in participants)
    paths = (path for folder in folders for path in sorted(folder.glob("crash-*.txt")))
    return list(dict.fromkeys(_failure(path, labels) for path in paths))


def _failure(path: Path, labels: Mapping[str, str]) -> Failure:
    crash = read_crash(path.read_text(encoding="utf-8", errors="replace"))
    workflow = next((part for part in crash.node.split(".") if part in labels), "")
    participant = path.parent.name
    return Failure(
        participant, labels.get(workflow, participant), sentence(crash, path), crash.again
    )


def sentence(crash: Crash, path: Path) -> str:
    """One sentence for the terminal; where the error is none of ours it names the crash file."""
    if crash.expected and crash.kind:
        return crash.message
    step = step_of(crash.node)
    if crash.expected:
        return f"{crash.message.rstrip('.')} (step {step}, see {path})."
    what = f"{crash.kind}: {crash.message}" if crash.kind else crash.message
    return f"Unexpected error in the step {step}: {what} (see {path})."


def exit_code(failed: Sequence[Failure]) -> int:
    """0 when all are done, 75 when every failure is one of memory or disk, else 1."""
    if not failed:
        return 0
    return TryAgain.exit_code if all(one.again for one in failed) else BidsStrokeError.exit_code


def summary_lines(
    participants: Sequence[str],
    failed: Sequence[Failure],
    output_dir: Path,
    done_is: str = "complete",
) -> Iterator[str]:
    """What is said at the end of a run: counts, then each participant.

    ``done_is`` is what can be said of a participant without a failure in this run.
    """
    bad = {one.participant for one in failed}
    done = [one for one in participants if one not in bad]
    yield f"{len(done)} of {len(participants)} participants are {done_is}."
    for participant in participants:
        page = output_dir / f"{participant}.html"
        if participant not in bad:
            yield f"  {participant}: {done_is}, see {page}"
        for one in failed:
            if one.participant == participant:
                where = "" if one.label == participant else f" ({one.label})"
                yield f"  {participant}: FAILED{where}: {one.message}"
