"""Whatever is wrong: one sentence that names it, the right exit code, nothing half-written."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
import tomli_w

from bids_stroke.cli.run import main
from bids_stroke.models.recipe import plain
from tests import bad_inputs
from tests.bad_inputs import CALLS, IMAGES, LESION, MOVED, NAMES, REFERENCES, REPAIRED
from tests.reports import cohorts
from tests.small import AFFINE, FLAGS, write_small_model
from tests.training_data import tiny_recipe


def test_the_table_is_long() -> None:
    assert sum(map(len, (IMAGES, REPAIRED, NAMES, CALLS, REFERENCES, MOVED))) >= 140


@pytest.mark.parametrize("case", CALLS)
def test_calls(
    case: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = CALLS[case]
    call.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    flags = call.flags.format(root=tmp_path).split()
    places = [str(tmp_path / call.bids), str(tmp_path / call.out), call.level]
    work = [] if "-w" in flags else ["-w", str(tmp_path / "work")]
    model = [] if "--model" in flags else ["--model", "embedded"]
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "no templates"))
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


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with good, moved and bad manual masks, and the outputs of its participants."""
    root = tmp_path_factory.mktemp("references")
    bad_inputs.write_references(root / "bids")
    for label in ("good", *MOVED, *REFERENCES):
        cohorts.write_session(root / "out", {"subject": label}, LESION > 0, affine=AFFINE)
    recipe = tomli_w.dumps(plain(tiny_recipe(channels=["T1w"])))
    (root / "recipe.toml").write_text(recipe)
    return root


def train_flags(root: Path) -> list[str]:
    return ["--dry-run", "-w", str(root / "work"), "--recipe", str(root / "recipe.toml")]


def test_references_at_the_group_level(references: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = references / "out"
    assert main([str(references / "bids"), str(out), "group", "--nprocs", "1"]) == 0
    assert "Traceback" not in capfd.readouterr().err
    page = unescape((out / "group.html").read_text())
    for label, (_, words, _) in REFERENCES.items():
        (sentence,) = [one for one in page.splitlines() if f">sub-{label}: " in one]
        assert words in sentence
        assert f"sub-{label}_label-L_mask.nii.gz" in sentence
    rows = cohorts.read(out / "group_metrics.tsv").set_index("label")
    assert set(rows.index) == {f"sub-{label}" for label in ("good", *MOVED)}
    assert (rows["dice"] == 1).all()
    assert rows["reference_resampled"].astype(str).to_dict() == {
        "sub-good": "False",
        **{f"sub-{label}": "True" for label in MOVED},
    }


def test_references_at_the_train_level(references: Path, capfd: pytest.CaptureFixture[str]) -> None:
    places = [str(references / "bids"), str(references / "trained"), "train"]
    assert main([*places, *train_flags(references)]) == 65
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
    lines = [line.strip() for line in said.out.splitlines() if "equal_mask" not in line]
    errors = {one.partition(":")[0]: one for one in lines if ": ERROR " in one}
    assert set(errors) == {f"sub-{label}" for label in REFERENCES}
    for label, (_, _, words) in REFERENCES.items():
        assert words in errors[f"sub-{label}"]
        assert f"sub-{label}_label-L_mask.nii.gz" in errors[f"sub-{label}"]
    warned = {one.partition(":")[0] for one in lines if "it will be resampled" in one}
    assert warned == {f"sub-{label}" for label in MOVED}
    assert not (references / "trained").exists()


@pytest.mark.parametrize("content", [b"", b"[1", b"[]", b"{}", b"\xff", b'{"label": 1}'])
def test_a_record_of_a_session_that_is_none(
    references: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    (record,) = (references / "out" / "sub-good").rglob("*_desc-qc.json")
    whole = record.read_bytes()
    record.write_bytes(content)
    try:
        code = main([str(references / "bids"), str(references / "out"), "group", "--nprocs", "1"])
    finally:
        record.write_bytes(whole)
    assert code == 65
    (sentence,) = capfd.readouterr().err.splitlines()
    assert str(record) in sentence
    assert "run this participant again" in sentence


@pytest.mark.parametrize("name", ["mask.nii.gz", "dseg.tsv"])
def test_an_output_that_was_torn(
    references: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (output,) = (references / "out" / "sub-good").rglob(f"*_{name}")
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    try:
        code = main([str(references / "bids"), str(references / "out"), "group", "--nprocs", "1"])
    finally:
        output.write_bytes(whole)
    said = capfd.readouterr()
    assert code == 0
    assert "Traceback" not in said.err + said.out
    page = unescape((references / "out" / "group.html").read_text())
    assert name.endswith("tsv") or "sub-good_space-T1w_label-L_desc-stroke_mask.nii.gz" in page


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"age\n61\n", b"participant_id\tage\n1\t2\n1\t2\t3\n"]
)
@pytest.mark.parametrize("level", ["group", "train"])
def test_a_table_of_participants_that_is_none(
    references: Path, capfd: pytest.CaptureFixture[str], level: str, content: bytes
) -> None:
    table = references / "bids" / "participants.tsv"
    table.write_bytes(content)
    flags = ["--nprocs", "1"] if level == "group" else train_flags(references)
    try:
        code = main([str(references / "bids"), str(references / "out"), level, *flags])
    finally:
        table.unlink()
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
    if level == "group" or content[:1] == b"\xff":
        assert code == 65
        assert "participants.tsv" in said.err
