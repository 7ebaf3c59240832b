"""Kill runs, let them go on, and compare with a run that nobody disturbed.

``python -m tests.faults FOLDER --count 50`` kills at random moments, ``--every-step`` at each
moment of each step (``tests.kills``), with ``--flags`` those of a larger graph; both print one line
a kill and a summary. Runs are forked from a process that has imported everything, so that a kill
hits a step and not an import.
"""

import argparse
import random
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bids_stroke.core.files import sha256
from tests import forks, kills
from tests.forks import KILLED, wait
from tests.small import FLAGS, write_dataset, write_small_model

DONE = 0
Attempt = Callable[[], int]


@dataclass
class Tally:
    """What came of the kills: the steps that they hit, and what was wrong afterwards."""

    kills: int = 0
    resumed: int = 0
    hit: Counter[str] = field(default_factory=Counter)
    recomputed: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def start(
    root: Path,
    name: str,
    *flags: str,
    before: Callable[..., object] | None = None,
    arguments: Sequence[str] = (),
) -> int:
    """Start a run with the output and work folder ``name``; returns its process id.

    ``before`` is called in the new process with ``arguments``.
    """
    places = [str(root / "bids"), str(root / name / "out"), "participant"]
    work = ["-w", str(root / name / "work"), "--nipype-plugin-file", str(root / "linear.yml")]
    model = ["--model", str(root / "model" / "tiny.toml")]
    words = [*places, *work, *FLAGS, *model, *flags]
    return forks.start(words, root / f"{name}.log", before, arguments)


def prepare(
    root: Path,
    subjects: tuple[str, ...] = ("01",),
    modalities: tuple[str, ...] = ("T1w", "FLAIR"),
) -> Path:
    """Dataset, model and plugin file of the runs."""
    write_dataset(root / "bids", subjects, modalities)
    write_small_model(root / "model")
    (root / "linear.yml").write_text("plugin: Linear\n")
    return root


def outputs(root: Path, name: str) -> dict[str, str]:
    """Checksum of each file in the participants' folders of a run."""
    out = root / name / "out"
    files = (p for p in out.glob("sub-*/**/*") if p.is_file())
    return {str(p.relative_to(out)): sha256(p) for p in files}


def finished(root: Path, name: str) -> dict[Path, int]:
    """Results of steps that are done, with the times at which they were written."""
    results = (root / name / "work").rglob("result_*.pklz")
    return {
        path: path.stat().st_mtime_ns
        for path in results
        if any(path.parent.glob("_0x*.json")) and not any(path.parent.glob("_0x*_unfinished.json"))
    }


def step_hit(root: Path, name: str) -> str:
    """Name of the step that a killed run was in."""
    marks = list((root / name / "work").rglob("_0x*_unfinished.json"))
    newest = max(marks, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest.parent.name if newest else "between steps"


def is_sink(result: Path) -> bool:
    """Sinks run in every run, because the output folder may have changed."""
    return "outputs_wf" in result.parts


def cycle(root: Path, name: str, attempt: Attempt, tally: Tally) -> None:
    """Attempt a run again and again until it gets through, and look at what each kill left."""
    while True:
        before = finished(root, name)
        code = attempt()
        after = finished(root, name)
        again = [p for p, when in before.items() if after.get(p) != when and not is_sink(p)]
        tally.recomputed += [path.parent.name for path in again]
        if code == DONE:
            tally.resumed += 1
            return
        if code != KILLED:
            raise RuntimeError(f"A run ended with {code}: see {root / name}.log.")
        tally.kills += 1
        step = step_hit(root, name)
        tally.hit[step] += 1
        print(f"{name}: kill {tally.kills} in {step}", flush=True)


def at_random(root: Path, name: str, rng: random.Random, length: float) -> Attempt:
    """Attempts that are killed at a random moment, each as a rule later than the one before."""
    budget = rng.uniform(0.1, 0.9) * length

    def attempt() -> int:
        nonlocal budget
        budget *= 1.15  # so that the runs come to their end
        return wait(start(root, name), rng.uniform(0.05, 1.0) * budget)

    return attempt


def at_moments(root: Path, name: str, *moments: str, flags: Sequence[str] = ()) -> Attempt:
    """Attempts of which each is killed at the next of the moments, in one step after another."""
    record = str(root / f"{name}.tsv")
    arguments = [record, *moments]
    return lambda: wait(start(root, name, *flags, before=kills.arrange, arguments=arguments))


def steps(root: Path, name: str) -> set[str]:
    """Full names of the steps that a run went through."""
    work = root / name / "work"
    return {".".join(path.parent.relative_to(work).parts[1:]) for path in finished(root, name)}


def killed_in(root: Path, name: str) -> set[str]:
    """Full names of the steps in which the runs of a cycle were killed."""
    lines = (root / f"{name}.tsv").read_text().splitlines()
    return {line.partition("\t")[0] for line in lines}


def compare(root: Path, name: str, expected: Mapping[str, str], tally: Tally) -> None:
    """Note what differs from an undisturbed run, and what is half-written."""
    made = outputs(root, name)
    tally.different += [
        f"{name}/{path}" for path in {*made, *expected} if made.get(path) != expected.get(path)
    ]
    out = root / name / "out"
    left = [p.relative_to(out) for p in out.rglob("*") if ".tmp-" in p.name]
    tally.left += [str(p) for p in left if not is_log(p)]
    pages = [p for p in out.glob("*.html") if not re.search(r"</html>\s*$", p.read_text())]
    tally.left += [str(p) for p in pages]


def is_log(path: Path) -> bool:
    """Each run has its folder of logs, and that of a killed run is left as it was."""
    return path.parts[0] == "logs" and len(path.parts) > 2


def calm_run(root: Path, flags: Sequence[str] = ()) -> dict[str, str]:
    """Outputs of a run that nobody disturbs."""
    if wait(start(prepare(root), "calm", *flags)) != DONE:
        raise RuntimeError(f"The undisturbed run failed: see {root / 'calm.log'}.")
    return outputs(root, "calm")


def run(root: Path, count: int, seed: int = 1) -> Tally:
    """At least ``count`` kills at random moments, over as many cycles as that takes."""
    rng, tally = random.Random(seed), Tally()  # noqa: S311 - moments, not secrets
    began = time.monotonic()
    expected = calm_run(root)
    length = time.monotonic() - began
    while tally.kills < count:
        name = f"cycle{tally.resumed:02d}"
        cycle(root, name, at_random(root, name, rng, length), tally)
        compare(root, name, expected, tally)
        wrong = [*tally.different, *tally.left, *tally.recomputed]
        print(f"{name}: got through after {tally.kills} kills in all, {wrong=}", flush=True)
    return tally


def run_every_step(root: Path, moments: Sequence[str], flags: Sequence[str] = ()) -> Tally:
    """One cycle for each moment, with a kill in each step; raises where a step was not hit."""
    tally = Tally()
    expected = calm_run(root, flags)
    for moment in moments:
        cycle(root, moment, at_moments(root, moment, moment, flags=flags), tally)
        compare(root, moment, expected, tally)
        missed = steps(root, "calm") - killed_in(root, moment)
        if missed and moment not in kills.OF_FILES:
            raise RuntimeError(f"No kill hit {', '.join(sorted(missed))} when it {moment}.")
    return tally


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every-step", action="store_true")
    parser.add_argument("--moments", nargs="+", choices=kills.MOMENTS, default=list(kills.MOMENTS))
    parser.add_argument("--flags", default="", help="more of the runs' flags, in one word")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    if options.every_step:
        tally = run_every_step(options.folder, options.moments, shlex.split(options.flags))
    else:
        tally = run(options.folder, options.count, options.seed)
    print(f"{tally.kills} kills in {len(tally.hit)} steps, {tally.resumed} cycles got through")
    for step, times in tally.hit.most_common():
        print(f"{times:4d} {step}")
    print(f"{tally.different=} {tally.left=} {tally.recomputed=}")
    return int(bool(tally.different or tally.left or tally.recomputed))


if __name__ == "__main__":
    sys.exit(main())
