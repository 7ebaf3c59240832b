"""Whatever is wrong: one sentence that names it, the right exit code, nothing half-written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_stroke.cli.run import main
from tests import bad_inputs
from tests.bad_inputs import CALLS, IMAGES, NAMES, REPAIRED
from tests.small import FLAGS, write_small_model


def test_the_table_is_long() -> None:
    assert len(IMAGES) + len(REPAIRED) + len(NAMES) + len(CALLS) >= 120


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = CALLS[case]
    call.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    flags = call.flags.format(root=tmp_path).split()
    places = [str(tmp_path / call.bids), str(tmp_path / call.out), call.level]
    work = [] if "-w" in flags else ["-w", str(tmp_path / "work")]
    model = [] if "--model" in flags else ["--model", "embedded"]
    code = main([*places, *work, *model, *flags])
    said = capfd.readouterr()
    (sentence,) = [line for line in said.err.splitlines() if line.startswith("bids_stroke: ")]
    assert call.words in sentence
    assert "Traceback" not in said.err + said.out
    assert code == call.code
    left = set(tmp_path.rglob("*")) - set(before)
    assert not [path for path in left if "tmp" in path.name or "sub-" in path.name]


@dataclass(frozen=True)
class Run:
    bids: Path
    out: Path
    code: int
    said: dict[str, list[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("bad")
    bids = bad_inputs.write_images(root / "bids")
    model = write_small_model(root / "model")
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        places = [str(bids), str(root / "out"), "participant", "-w", str(root / "work")]
        code = main([*places, *FLAGS, "--model", str(model)])
    said: dict[str, list[str]] = {}
    for line in lines:
        participant, colon, what = line.strip().partition(": ")
        if colon and participant.startswith("sub-"):
            said.setdefault(participant.removeprefix("sub-"), []).append(what)
    return Run(bids, root / "out", code, said)


pytestmark = pytest.mark.filterwarnings("ignore")


def failures(run: Run, label: str) -> list[str]:
    return [line for line in run.said[label] if line.startswith("FAILED")]


@pytest.mark.slow
@pytest.mark.parametrize("label", IMAGES)
def test_a_bad_image_is_named_and_leaves_nothing(run: Run, label: str) -> None:
    (sentence,) = failures(run, label)
    assert IMAGES[label][1] in sentence
    assert f"sub-{label}_T1w.nii.gz" in sentence
    assert sentence.endswith(".")
    assert "Unexpected" not in sentence
    assert not list(run.out.glob(f"sub-{label}/**/*"))
    assert f"sub-{label}_T1w.nii.gz" in (run.out / f"sub-{label}.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NAMES)
def test_a_name_that_can_not_be_used(run: Run, path: str) -> None:
    label = path.partition("/")[0].removeprefix("sub-")
    (sentence,) = failures(run, label)
    assert NAMES[path] in sentence
    assert Path(path).name in sentence


@pytest.mark.slow
@pytest.mark.parametrize("label", REPAIRED)
def test_an_odd_image_is_used_and_noted(run: Run, label: str) -> None:
    assert not failures(run, label)
    assert REPAIRED[label][1] in (run.out / f"sub-{label}.html").read_text()
    assert list(run.out.glob(f"sub-{label}/anat/*desc-stroke_mask.nii.gz"))


@pytest.mark.slow
def test_the_others_are_complete(run: Run) -> None:
    assert run.code == 1
    files = []
    for label in ("good", "zlast"):
        assert any(line.startswith("complete") for line in run.said[label])
        found = run.out.glob(f"sub-{label}/anat/*")
        files.append({path.name.replace(label, "LABEL") for path in found})
    assert files[0] == files[1]
    assert {
        f"sub-LABEL_space-T1w_{end}"
        for end in ("label-L_desc-stroke_mask.nii.gz", "seg-lesions_dseg.tsv")
    } <= files[0]
    assert not [p for p in run.out.rglob("*") if ".tmp-" in p.name]
