"""What a crash file of nipype says: which node, which error, and whether the machine was to blame.

One reader serves the terminal, the exit code and the report pages.
"""

import re
from dataclasses import dataclass

from bids_stroke import errors
from bids_stroke.errors import BidsStrokeError, TryAgain

_OURS: dict[str, type[BidsStrokeError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, BidsStrokeError)
}
_NAMES = "|".join([*_OURS, r"[A-Za-z_]\w*(?:Error|Exception)"])
_ERROR = re.compile(rf"^\s*(?:[A-Za-z_]\w*\.)*({_NAMES}): (.+)$", re.MULTILINE)
_NODE = re.compile(r"^Node: (\S+)", re.MULTILINE)
_WRAPPER = "NodeExecutionError"
_FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_NO_MEMORY = re.compile(
    r"MemoryError|DefaultCPUAllocator|CUDA out of memory|OutOfMemoryError|bad_alloc"
    r"|Cannot allocate memory|Failed to allocate memory"
)


@dataclass(frozen=True)
class Crash:
    """One crash: full name of the node, class and text of its last error.

    ``expected`` tells that the text is one of our own sentences, which says what to do; ``again``
    that more memory or disk may help.
    """

    node: str
    kind: str
    message: str
    expected: bool
    again: bool


def read_crash(text: str) -> Crash:
    """The last error of a crash file; one of ours wins over what it was made of.

    nipype writes the inputs of the node before the traceback, and they are not looked at.
    """
    found = _NODE.search(text)
    node = found[1] if found else ""
    trace = text.rpartition("Traceback (most recent call last)")[2]
    errors_named = [one for one in _ERROR.findall(trace) if one[0] != _WRAPPER]
    ours = [(_OURS[name], message) for name, message in errors_named if name in _OURS]
    if ours:
        kind, message = ours[-1]
        return Crash(node, kind.__name__, message.strip(), True, issubclass(kind, TryAgain))
    if _FULL_DISK.search(trace):
        return Crash(node, "", "The disk is full: free some space and run again.", True, True)
    if _NO_MEMORY.search(trace):
        return Crash(node, "", "Memory ran out: give more, or lower --nprocs.", True, True)
    name, message = errors_named[-1] if errors_named else ("", _last_line(trace))
    return Crash(node, name, message.strip(), False, False)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "The step failed without a message."
