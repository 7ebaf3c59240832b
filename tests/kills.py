"""Kills at chosen moments of a run: each run of a chain dies where none before it died.

``arrange`` is called in a run that was forked for it (``tests.forks``). It adds a line to a record
for each moment, and kills the run at the first moment that the record does not have yet.
"""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

BEGINS, FIRST, HALF, NAMED = "begins", "first", "half", "named"
COMPUTED, SAVED, DONE = "computed", "saved", "done"
MOMENTS = {
    BEGINS: "the step is about to compute",
    FIRST: "half of its first file is written, under a temporary name",
    HALF: "half of any of its files is written",
    NAMED: "any of its files has just got its name",
    COMPUTED: "all is computed, and nipype's result is not saved",
    SAVED: "nipype's result is saved, and the step counts as unfinished",
    DONE: "the step counts as done, and nothing after it began",
}
"""Moments of a step; those of a file come between steps as well, for each file."""
OF_FILES = (FIRST, HALF, NAMED)
"""Moments that steps without files of their own do not have."""

Function = Callable[..., Any]


class Kills:
    """Where this run is, and where runs before it were killed."""

    def __init__(self, record: Path, moments: tuple[str, ...]) -> None:
        self.record, self.moments = record, moments
        self.known = set(record.read_text().splitlines()) if record.exists() else set()
        self.step = ""
        self.computing = False

    def is_due(self, moment: str, file: str = "") -> bool:
        """Was no run killed at this moment before?"""
        return moment in self.moments and line(self.step, moment, file) not in self.known

    def meet(self, moment: str, file: str = "") -> None:
        """Kill this run if it is due."""
        if self.is_due(moment, file):
            with self.record.open("a") as stream:
                stream.write(line(self.step, moment, file) + "\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def in_steps(self, run: Function) -> Function:
        """Around the run of a node, which may find that it is done already."""

        @wraps(run)
        def around(node: Any, *arguments: Any, **named: Any) -> Any:
            self.step = node.fullname
            result = run(node, *arguments, **named)
            self.meet(DONE)
            self.step = ""
            return result

        return around

    def in_interfaces(self, run: Function) -> Function:
        """Around what computes; the outermost of interfaces that call each other counts."""

        @wraps(run)
        def around(*arguments: Any, **named: Any) -> Any:
            if self.computing:
                return run(*arguments, **named)
            self.meet(BEGINS)
            self.computing = True
            result = run(*arguments, **named)
            self.computing = False
            self.meet(COMPUTED)
            return result

        return around

    def after(self, function: Function, moment: str) -> Function:
        """A function, and then a moment."""

        @wraps(function)
        def around(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.meet(moment)
            return result

        return around

    def in_renames(self, rename: Function) -> Function:
        """Around the last act of writing a file whole or not at all."""

        @wraps(rename)
        def around(source: Any, target: Any, **named: Any) -> Any:
            if self.computing != bool(self.step):  # nipype's own file
                return rename(source, target, **named)
            name = Path(target).name
            self.meet_half(FIRST, source, "" if self.step else name)
            self.meet_half(HALF, source, name)
            result = rename(source, target, **named)
            self.meet(NAMED, name)
            return result

        return around

    def meet_half(self, moment: str, file: Any, name: str) -> None:
        """Kill this run with a file half written, if that is due."""
        if self.is_due(moment, name):
            os.truncate(file, Path(file).stat().st_size // 2)
            self.meet(moment, name)


def line(step: str, moment: str, file: str = "") -> str:
    """A moment as the record has it."""
    return "\t".join((step or "between steps", moment, file))


def arrange(record: str, *moments: str) -> None:
    """Have this run killed at the first of the moments that the record does not have."""
    from nipype.interfaces.base import BaseInterface
    from nipype.pipeline.engine import nodes

    kills = Kills(Path(record), moments)
    nodes.Node.run = kills.in_steps(nodes.Node.run)
    nodes._save_resultfile = kills.after(nodes._save_resultfile, SAVED)
    BaseInterface.run = kills.in_interfaces(BaseInterface.run)
    os.replace = kills.in_renames(os.replace)
