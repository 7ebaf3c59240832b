"""Kills, company, full disks, little memory and jumping clocks: in forked runs of a warm process.

``python -m tests.faults`` does the same with as many kills as one wants.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_stroke.core.files import sha256
from tests import faults, forks, kills, small
from tests.forks import wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc"),
    pytest.mark.filterwarnings("ignore"),
]


def test_killed_runs_go_on_and_give_the_same_bytes(tmp_path: Path) -> None:
    tally = faults.run(tmp_path / "kills", 5)
    assert tally.kills >= 5
    assert tally.different == []
    assert tally.recomputed == []
    assert tally.left == []


@pytest.mark.parametrize("moment", [kills.BEGINS, kills.FIRST, kills.COMPUTED])
def test_each_step_is_killed_and_gone_on_with(tmp_path: Path, moment: str) -> None:
    """All seven moments, and each file of a step: ``python -m tests.faults F --every-step``."""
    tally = faults.run_every_step(tmp_path / "kills", [moment])
    assert tally.kills >= 50
    assert tally.different == []
    assert tally.recomputed == []
    assert tally.left == []


SUBJECTS = tuple(f"{n:02d}" for n in range(1, 9))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Eight participants, and the outputs of a run that had them all alone."""
    root = faults.prepare(tmp_path_factory.mktemp("together"), SUBJECTS, ("T1w",))
    assert wait(faults.start(root, "alone")) == 0
    yield root


def dataset_files(root: Path, name: str) -> dict[str, str]:
    names = ("README.md", ".bidsignore", "descriptions.tsv", "descriptions.json")
    return {one: sha256(root / name / "out" / one) for one in names}


@pytest.mark.parametrize("count", [2, 8])
def test_runs_side_by_side_lose_nothing(place: Path, count: int) -> None:
    name = f"side{count}"
    processes = [
        faults.start(place, name, "--participant-label", subject) for subject in SUBJECTS[:count]
    ]
    groups = [group(place, name) for _ in range(3)]
    assert [wait(process) for process in processes] == [0] * count
    assert set(groups) <= {0, 66}
    alone = faults.outputs(place, "alone")
    wanted = {path for path in alone if path[4:6] in SUBJECTS[:count]}
    assert faults.outputs(place, name) == {path: alone[path] for path in wanted}
    out = place / name / "out"
    assert dataset_files(place, name) == dataset_files(place, "alone")
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["GeneratedBy"][0]["Name"] == "bids_stroke"
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name]
    assert group(place, name) == 0
    rows = pd.read_csv(out / "group_sessions.tsv", sep="\t")
    assert sorted(rows["participant_id"]) == [f"sub-{s}" for s in SUBJECTS[:count]]


def group(root: Path, name: str) -> int:
    """Exit code of the group level on what is there now."""
    words = [str(root / "bids"), str(root / name / "out"), "group"]
    return wait(forks.start(words, root / f"{name}-group.log"))


def test_the_same_participant_twice_at_once(place: Path) -> None:
    first = faults.start(place, "twice", "--participant-label", "01")
    locks = place / "twice" / "work" / "bids_stroke_locks" / "sub_01_wf.lock"
    while not locks.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    second = faults.start(place, "twice", "--participant-label", "01")
    assert wait(second) == 75
    assert "Another run computes sub-01" in (place / "twice.log").read_text()
    assert wait(first) == 0


def a_year_back() -> None:
    """Put the clock of this process back."""
    real = time.time
    time.time = lambda: real() - 3e7


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    """Inputs from the future and a clock that was put back: nothing is computed again."""
    root = faults.prepare(tmp_path, ("01",), ("T1w",))
    later = time.time() + 3e7
    for path in (root / "bids").rglob("*"):
        os.utime(path, (later, later))
    assert wait(faults.start(root, "clock")) == 0
    before = faults.finished(root, "clock")
    assert wait(faults.start(root, "clock", before=a_year_back)) == 0
    after = faults.finished(root, "clock")
    assert len(before) > 20
    assert [p for p in before if before[p] != after[p] and not faults.is_sink(p)] == []


@pytest.fixture(scope="module")
def needed(place: Path) -> int:
    """Kilobytes in pages of 4 that the output and the work folder of one participant take."""
    assert wait(faults.start(place, "one", "--participant-label", "01")) == 0
    files = (path for path in (place / "one").rglob("*") if path.is_file())
    return sum(-(-path.stat().st_size // 4096) * 4 for path in files)


@pytest.mark.parametrize("share", [0.4, 0.75, 0.92])  # at the end it is the page that has no room
def test_a_full_disk_means_try_again_and_the_next_run_goes_on(
    place: Path, needed: int, share: float
) -> None:
    name, label = f"full{share}", ("--participant-label", "01")
    folder = place / name
    folder.mkdir()
    options = f"size={int(share * needed)}k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        assert wait(faults.start(place, name, *label)) == 75
        said = (place / f"{name}.log").read_text()
        assert "Traceback" not in said
        assert "disk" in said
        assert not [p for p in folder.rglob("sub-01*") if ".tmp-" in p.name]
        subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
        assert wait(faults.start(place, name, *label)) == 0
        alone = {k: v for k, v in faults.outputs(place, "alone").items() if k[:6] == "sub-01"}
        assert faults.outputs(place, name) == alone
    finally:
        subprocess.run(["umount", folder], check=True)


def with_little_memory() -> None:
    """Let this process have 150 MB of address space more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + 150 * 1024**2
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.parametrize("shape", [(320, 320, 320), (1024, 1024, 512)])  # the second is 1 GB
def test_too_little_memory_means_try_again(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    root = faults.prepare(tmp_path)
    large = np.zeros(shape, np.int16)
    large[60:260, 60:260, 60:260] = small.brain(shape=(200, 200, 200))
    nib.Nifti1Image(large, np.diag([0.2, 0.2, 0.2, 1])).to_filename(
        small.place(root / "bids", "large")
    )
    run = faults.start(root, "memory", "--participant-label", "large", before=with_little_memory)
    assert wait(run) == 75
    said = (root / "memory.log").read_text()
    assert "sub-large: FAILED: Memory ran out while" in said
    assert "Traceback" not in said
    assert not list((root / "memory" / "out").glob("sub-large/anat/*"))


def test_a_worker_dies_with_its_run(place: Path) -> None:
    """A killed run of the pool leaves no process that goes on computing."""
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    program = Path(sys.executable).parent / "bids_stroke"
    words = [program, place / "bids", place / "pool" / "out", "participant", "--device", "cpu"]
    words += ["-w", place / "pool" / "work", "--nprocs", "2", "--brain-extraction", "skip"]
    run = subprocess.Popen(
        words,
        env={**os.environ, "FAULT": mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert len(lasting(mark, 5)) >= 5  # run, resource tracker, fork server, two workers
    run.kill()
    run.wait()
    end = time.monotonic() + 30
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes(mark) == []


def lasting(mark: str, count: int) -> list[int]:
    """Processes that lived for a second, as those that imports start for a moment don't.

    Waits up to five minutes until there are ``count``.
    """
    end = time.monotonic() + 300
    before: list[int] = []
    while time.monotonic() < end:
        now = processes(mark)
        last = [p for p in now if p in before]
        if len(last) >= count:
            return last
        before = now
        time.sleep(1)
    return []


def processes(mark: str) -> list[int]:
    """Living processes whose environment has a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                environ = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in environ and state != "Z":
                found.append(int(folder.name))
    return found


def without_rights() -> None:
    """Give up what root may do beyond its files' permissions (capabilities of Linux)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset(header, data)


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("bids/sub-01/anat/sub-01_T1w.nii.gz", 1, "sub-01_T1w.nii.gz may not be read: check"),
        ("bids/dataset_description.json", 16, "dataset_description.json"),
        ("bids", 66, "can't be read"),
        ("rights/out", 73, "can't be written"),
        ("rights/work", 73, "another by -w"),
    ],
)
def test_what_may_not_be_read_or_written(tmp_path: Path, what: str, code: int, words: str) -> None:
    root = faults.prepare(tmp_path)
    locked = root / what
    if not locked.exists():
        locked.mkdir(parents=True)
    locked.chmod(0o000 if what.startswith("bids") else 0o555)
    try:
        assert wait(faults.start(root, "rights", before=without_rights)) == code
    finally:
        locked.chmod(0o755)
    said = (root / "rights.log").read_text()
    assert words in said
    assert "Traceback" not in said
