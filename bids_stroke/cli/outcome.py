"""What became of each participant, with the reason of a failure in one sentence."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_stroke import errors
from bids_stroke.bids.pairs import Pair
from bids_stroke.cli.progress import step_of
from bids_stroke.core.files import write_text
from bids_stroke.errors import BidsStrokeError, TryAgain

_OURS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, BidsStrokeError)
}
_NAMES = "|".join([*_OURS, r"[A-Za-z_]\w*(?:Error|Exception)"])
_ERROR = re.compile(rf"^\s*(?:[A-Za-z_]\w*\.)*({_NAMES}): (.+)$", re.MULTILINE)
_WRAPPER = "NodeExecutionError"
_FULL_DISK = "No space left on device"
_NO_MEMORY = re.compile(r"MemoryError|DefaultCPUAllocator|CUDA out of memory|OutOfMemoryError")


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


def failures(log_dir: Path, labels: Mapping[str, str]) -> list[Failure]:
    """Failures that the crash files of a run tell of, one for each different sentence.

    ``labels`` maps the names of the pairs' sub-workflows to their labels.
    """
    found = (_failure(path, labels) for path in sorted(log_dir.glob("sub-*/crash-*.txt")))
    return list(dict.fromkeys(found))


def _failure(path: Path, labels: Mapping[str, str]) -> Failure:
    text = path.read_text(encoding="utf-8", errors="replace")
    node = re.search(r"^Node: (\S+)", text)
    name = node[1] if node else ""
    workflow = next((part for part in name.split(".") if part in labels), "")
    participant = path.parent.name
    message, again = reason(text, name, path)
    return Failure(participant, labels.get(workflow, participant), message, again)


def reason(text: str, node: str, path: Path) -> tuple[str, bool]:
    """One sentence for a crash file, and whether to try again with more memory or disk."""
    text = text.rpartition("Traceback (most recent call last)")[2]
    found = [one for one in _ERROR.findall(text) if one[0] != _WRAPPER]
    known = [(_OURS[name], message) for name, message in found if name in _OURS]
    if known:
        kind, message = known[-1]
        return message.strip(), issubclass(kind, TryAgain)
    if _FULL_DISK in text:
        return f"The disk is full: free some space and run again (see {path}).", True
    if _NO_MEMORY.search(text):
        return f"Memory ran out in the step {step_of(node)}: give more (see {path}).", True
    last = ": ".join(found[-1]) if found else _last_line(text)
    return f"Unexpected error in the step {step_of(node)}: {last.strip()} (see {path}).", False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def exit_code(failed: Sequence[Failure]) -> int:
    """0 when all are done, 75 when every failure is one of memory or disk, else 1."""
    if not failed:
        return 0
    return TryAgain.exit_code if all(one.again for one in failed) else BidsStrokeError.exit_code


def summary_lines(
    participants: Sequence[str], failed: Sequence[Failure], output_dir: Path
) -> Iterator[str]:
    """What is said at the end of a run: counts, then each participant."""
    bad = {one.participant for one in failed}
    done = [one for one in participants if one not in bad]
    yield f"{len(done)} of {len(participants)} participants are complete."
    for participant in participants:
        page = output_dir / f"{participant}.html"
        if participant not in bad:
            yield f"  {participant}: complete, see {page}"
        for one in failed:
            if one.participant == participant:
                where = "" if one.label == participant else f" ({one.label})"
                yield f"  {participant}: FAILED{where}: {one.message}"
