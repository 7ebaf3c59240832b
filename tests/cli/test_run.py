"""How a run goes: exit codes, failures, logs, modes."""

import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest

from bids_stroke.cli import participants
from bids_stroke.cli import run as module
from bids_stroke.cli.engine import PatientMultiProcPlugin
from bids_stroke.cli.run import main
from bids_stroke.errors import UsageError
from bids_stroke.reports import pages
from tests.bids.skeleton import dataset, describe
from tests.cli import graph


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a small graph in place of the real one."""
    graph.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(place: Path, *flags: str, files: tuple[str, ...] = ("01/T1w",)) -> int:
    if not (place / "raw").exists():
        dataset(place / "raw", *files)
    return main(["raw", "out", "participant", "--nprocs", "2", "--device", "cpu", *flags])


def only_log(place: Path) -> Path:
    (log,) = (p for p in (place / "out" / "logs").iterdir() if p.is_dir())
    return log


def calls(place: Path) -> list[str]:
    return sorted((place / "out" / "calls").read_text().split("\n")[:-1])


def test_a_good_run(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    assert call(place, files=("01/a/T1w", "01/a/FLAIR", "02/FLAIR")) == 0
    shown = capfd.readouterr().out
    assert "2 of 2 participants are complete." in shown
    assert "a tool that talks" not in shown
    assert re.search(r"sub-01_ses-a: [\d.]+ s \(conform [\d.]+, segmentation [\d.]+\)", shown)
    assert {p.name for p in (place / "out").glob("*.done")} == {
        "sub-01_ses-a_T1w.nii.gz.done",
        "sub-02_FLAIR.nii.gz.done",
    }
    log = only_log(place)
    assert tomllib.loads((log / "bids_stroke.toml").read_text())["execution"]["nprocs"] == 2
    header, *rows = (log / "timing.tsv").read_text().splitlines()
    assert header.split("\t") == ["participant", "label", "step", "node", "start", "seconds"]
    assert len(rows) == 4
    assert "a tool that talks" in (log / "workers.log").read_text()
    assert "sub_01" in (log / "nipype.log").read_text()
    assert (place / "out" / "sub-01.html").read_text() == str(log)
    assert (place / "out" / "logs" / "CITATION.md").read_text() == "What was done."
    assert (place / "out" / "dataset_description.json").is_file()
    assert dict(os.environ) == before
    assert not any(isinstance(h, logging.FileHandler) for h in logging.getLogger("nipype").handlers)


def test_input_is_not_touched(place: Path) -> None:
    raw = dataset(place / "raw", "01/T1w")
    before = {p: p.stat().st_mtime_ns for p in raw.rglob("*")}
    assert call(place) == 0
    assert {p: p.stat().st_mtime_ns for p in raw.rglob("*")} == before


def test_finished_steps_are_not_run_again(place: Path) -> None:
    assert call(place) == 0
    assert call(place) == 0
    assert len(calls(place)) == 2
    assert call(place, "--clean-workdir") == 0
    assert len(calls(place)) == 4


def test_clean_workdir_leaves_what_is_not_ours(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis").touch()
    assert call(place, "-w", "mine", "--clean-workdir") == 0
    assert (place / "mine" / "thesis").exists()


def test_one_failure_does_not_stop_the_others(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(place, files=("bad/T1w", "bug/T1w", "good/T1w")) == 1
    captured = capfd.readouterr()
    image = place / "raw" / "sub-bad" / "anat" / "sub-bad_T1w.nii.gz"
    assert "1 of 3 participants are complete." in captured.out
    assert f"sub-bad: FAILED: {image} is empty: remove it." in captured.out
    assert re.search(
        r"sub-bug: FAILED: Unexpected error in the step segmentation: KeyError: 'surprise' "
        r"\(see .*crash.*\.txt\)",
        captured.out,
    )
    assert "sub-good: complete" in captured.out
    assert "Traceback" not in captured.out + captured.err
    assert [p.name for p in (place / "out").glob("*.done")] == ["sub-good_T1w.nii.gz.done"]
    assert len(list(only_log(place).glob("sub-bad/crash-*.txt"))) == 1


def test_a_full_disk_means_try_again(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(place, files=("full/T1w", "good/T1w")) == 75
    assert "sub-full: FAILED: The disk is full" in capfd.readouterr().out


def test_a_killed_worker_is_no_endless_wait(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(place, files=("killed/T1w", "one/T1w", "two/T1w", "three/T1w")) == 75
    shown = capfd.readouterr().out
    assert "sub-killed: FAILED: A worker process was killed" in shown
    assert "3 of 4 participants are complete." in shown


def test_stop_on_first_crash(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = ("bad/T1w", *(f"later{n}/T1w" for n in range(6)))
    assert call(place, "--stop-on-first-crash", "--nprocs", "1", files=files) == 1
    shown = capfd.readouterr().out
    assert "sub-bad: FAILED" in shown
    assert "stopped before it was complete" in shown


def test_a_page_that_fails_is_a_failure_of_its_participant(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(place, files=("01/T1w", "nopage/T1w")) == 1
    shown = capfd.readouterr().out
    assert "sub-nopage: FAILED: The report page can't be written: no page" in shown
    assert "sub-01: complete" in shown


def test_workers_write_pages_while_others_are_computed(place: Path) -> None:
    """All but the last, which has nothing to wait for and is written here."""
    assert call(place, "--nprocs", "1", files=("01/a/T1w", "01/b/T1w", "02/T1w", "03/T1w")) == 0
    writers = [line.split() for line in (place / "out" / "writers").read_text().splitlines()]
    assert [subject for subject, _ in writers] == ["01", "02", "03"]
    here = str(os.getpid())
    assert [process == here for _, process in writers] == [False, False, True]
    rows = (only_log(place) / "timing.tsv").read_text().splitlines()[1:]
    assert len(rows) == len(set(rows)) == 8


def test_a_page_whose_worker_was_killed_is_written_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Future:
        future: Future = Future()
        future.set_exception(BrokenProcessPool("killed"))
        return future

    monkeypatch.setattr(PatientMultiProcPlugin, "spare", killed)
    assert call(place, files=("01/T1w", "02/T1w")) == 0
    assert {path.name for path in (place / "out").glob("*.html")} == {"sub-01.html", "sub-02.html"}


def test_a_model_that_does_not_fit_refuses_the_session_only(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(place, "--model", "needs-t1w", files=("01/T1w", "02/FLAIR")) == 1
    shown = capfd.readouterr().out
    assert "sub-02: FAILED: Model 'needs-t1w' needs T1w" in shown
    assert "sub-01: complete" in shown


def test_a_model_that_fits_nothing_ends_the_run(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(place, "--model", "needs-t1w", files=("02/FLAIR",)) == 65
    assert "needs T1w" in capfd.readouterr().err
    assert not (place / "out").exists()


def test_dry_run_writes_nothing(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = ("01/T1w", "01/run-1_FLAIR", "01/run-2_FLAIR", "02/FLAIR")
    assert call(place, "--dry-run", "--model", "needs-t1w", files=files) == 0
    shown = capfd.readouterr().out
    for text in (
        "sub-01_T1w.nii.gz with sub-01_run-2_FLAIR.nii.gz: the FLAIR is the last of the session.",
        "sub-01_run-1_FLAIR.nii.gz: no T1w goes with it best",
        "model: tiny 1 (the only one)",
        "can't be processed: Model 'needs-t1w'",
        "Each T1w gives one result",
    ):
        assert text in shown
    assert {p.name for p in place.iterdir()} == {"raw"}


def test_boilerplate_only(place: Path) -> None:
    assert call(place, "--boilerplate-only") == 0
    assert (place / "out" / "logs" / "CITATION.md").exists()
    assert not (place / "out" / "calls").exists()


def test_reports_only(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(place, "--reports-only") == 66
    for subject in ("01", "02"):
        (place / "out" / f"sub-{subject}" / "figures").mkdir(parents=True)
    assert call(place, "--reports-only", "--participant-label", "02") == 0
    assert [p.name for p in (place / "out").glob("*.html")] == ["sub-02.html"]
    assert call(place, "--reports-only") == 0
    assert "reported anew, see" in capfd.readouterr().out
    assert len(list((place / "out").glob("*.html"))) == 2
    assert call(place, "--reports-only", "--participant-label", "09") == 18
    assert not (place / "work").exists()


def test_write_graph(place: Path) -> None:
    assert call(place, "--write-graph") == 0
    assert list(only_log(place).glob("graph*.dot"))


def test_resource_monitor(place: Path) -> None:
    assert call(place, "--resource-monitor") == 0
    record = json.loads((only_log(place) / "resource_monitor.json").read_text())
    assert {"bids_stroke_wf.sub_01_wf.conform", "bids_stroke_wf.sub_01_wf.predict"} >= set(
        record["name"]
    )
    assert max(record["rss_GiB"]) > 0


@pytest.mark.parametrize("name", ["plugin.yml", "plugin.json"])
def test_plugin_file(place: Path, name: str) -> None:
    (place / name).write_text('{"plugin": "Linear", "plugin_args": {}}')
    assert call(place, "--nipype-plugin-file", name, files=("01/T1w", "02/T1w")) == 0
    assert len(calls(place)) == 4
    assert not (only_log(place) / "workers.log").exists()


def test_linear_failures(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "plugin.yml").write_text("plugin: Linear\n")
    assert call(place, "--nipype-plugin-file", "plugin.yml", files=("bad/T1w", "good/T1w")) == 1
    assert "1 of 2 participants are complete" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("plugin: Nonsense", 2, "no plugin 'Nonsense'"),
        ("- a", 2, "key 'plugin'"),
        ("a: [", 2, "neither YAML nor JSON"),
        (None, 66, "can't be read"),
    ],
)
def test_bad_plugin_file(
    place: Path,
    capfd: pytest.CaptureFixture[str],
    content: str | None,
    code: int,
    message: str,
) -> None:
    if content is not None:
        (place / "plugin.yml").write_text(content)
    assert call(place, "--nipype-plugin-file", "plugin.yml") == code
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ("raw out all", 17, "'all'"),
        ("raw out", 2, "usage"),
        ("absent out participant", 66, "no folder"),
        ("empty out participant", 16, "dataset_description.json is missing"),
        ("raw raw participant", 2, "can't be BIDS_DIR"),
        ("raw raw/sub-01/out participant", 2, "participant's folder"),
        ("raw out participant -w raw/work", 2, "can't be inside BIDS_DIR"),
        ("raw out participant --participant-label 09", 18, "no sub-09"),
        ("raw out participant --session-label 09", 18, "No T1w or FLAIR"),
        ("raw out participant -d a=absent", 66, "check -d a="),
        ("raw file/out participant", 73, "can't be written"),
        ("raw out participant -w file/work", 73, "another by -w"),
        ("raw out group", 66, "participant level first"),
        ("raw out participant --device cuda:99", 2, "no device 'cuda:99'"),
    ],
)
def test_exit_codes(
    place: Path, capfd: pytest.CaptureFixture[str], argv: str, code: int, message: str
) -> None:
    dataset(place / "raw", "01/T1w")
    (place / "empty").mkdir()
    (place / "file").touch()
    assert main(argv.split()) == code
    captured = capfd.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_skip_bids_validation(place: Path) -> None:
    dataset(place / "raw", "01/T1w")
    (place / "raw" / "dataset_description.json").unlink()
    assert main(["raw", "out", "participant", "--dry-run"]) == 16
    assert main(["raw", "out", "participant", "--dry-run", "--skip-bids-validation"]) == 0


def test_output_inside_derivatives_of_the_input(place: Path) -> None:
    dataset(place / "raw", "01/T1w")
    assert main(["raw", "raw/derivatives/x", "participant", "--device", "cpu"]) == 0
    assert main(["raw", "raw/derivatives/x", "participant", "--device", "cpu"]) == 0


def test_group(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bids_stroke.reports import group

    seen = []

    def write_group(
        bids_dir: Path, output_dir: Path, reference_roots: list[Path], **_: object
    ) -> Path:
        seen.append(reference_roots)
        return output_dir / "group.html"

    monkeypatch.setattr(group, "write_group", write_group)
    raw = dataset(place / "raw", "01/T1w", "02/T1w")
    dataset(raw / "derivatives" / "manual", "01/space-T1w_label-L_desc-truth_mask")
    describe(place / "out")
    (place / "out" / "sub-01").mkdir()
    assert main(["raw", "out", "group"]) == 0
    assert main(["raw", "out", "group", "--reference", "manual"]) == 0
    assert raw / "derivatives" / "manual" in seen[0]
    assert seen[1] == [raw / "derivatives" / "manual"]
    assert main(["raw", "out", "group", "--reference", "other"]) == 66
    assert main(["raw", "out", "participant", "--reports-only"]) == 0
    assert seen[2] == [raw / "derivatives" / "manual"], "as the last run of the group level"
    assert main(["raw", "out", "participant", "--reports-only", "--participant-label", "01"]) == 0
    assert len(seen) == 3


def test_interruption(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(participants, "_run_parts", interrupt)
    assert call(place) == 130


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(28, "full"), 75), (OSError(5, "broken"), 74), (MemoryError(), 75)]
)
def test_errors_of_the_machine(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(participants, "_run_parts", fail)
    assert call(place) == code


@pytest.mark.parametrize(
    ("device", "devices", "gpus", "expected"),
    [
        ("cpu", ("/",), 1, "cpu"),
        ("auto", ("/absent",), 1, "cpu"),
        ("auto", ("/",), 0, "cpu"),
        ("auto", ("/",), 2, "cuda"),
        ("cuda", (), 1, "cuda"),
        ("cuda:1", (), 2, "cuda:1"),
        ("cuda:1", (), 1, None),
        ("mps", (), 1, None),
    ],
)
def test_device(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    devices: tuple[str, ...],
    gpus: int,
    expected: str | None,
) -> None:
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(module, "GPU_DEVICES", devices)
    monkeypatch.setattr(sys, "platform", "linux")
    if expected is None:
        with pytest.raises(UsageError, match=device):
            module.resolve_device(device)
    else:
        assert module.resolve_device(device) == expected


def test_program_is_installed() -> None:
    program = Path(sys.executable).parent / "bids_stroke"
    out = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("bids_stroke ")


def test_what_writes_the_pages_is_loaded_beside_the_run(monkeypatch):
    pages._environment.cache_clear()
    with participants._pages_ahead():
        pass
    loaded = {name for _, name in pages._environment().cache.keys()}  # noqa: SIM118 - it is no dict
    assert {"participant.html.j2", "viewer.html.j2", "model.html.j2"} <= loaded

    def broken() -> None:
        raise ImportError

    monkeypatch.setattr(participants, "_load_pages", broken)
    with participants._pages_ahead():
        pass
