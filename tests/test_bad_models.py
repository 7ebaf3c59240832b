"""Whatever is wrong with a model: one sentence that names it, nothing called, no result."""

import shutil
from pathlib import Path

import pytest

from bids_stroke.cli.run import main
from tests.bad_models import CHANGED, UNPINNED, WEIGHTS, unpin
from tests.small import FLAGS, write_dataset, write_small_model

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a good model, and the steps before the network, which are computed once."""
    root = tmp_path_factory.mktemp("models")
    write_dataset(root / "bids", ["01"], ("T1w", "FLAIR"))
    write_small_model(root / "good")
    (root / "linear.yml").write_text("plugin: Linear\n")
    return root


def run(shared: Path, model: Path, out: Path, *more: str) -> int:
    places = [str(shared / "bids"), str(out), "participant", "-w", str(shared / "work")]
    flags = [*FLAGS, "--nipype-plugin-file", str(shared / "linear.yml")]
    return main([*places, *flags, "--model", str(model / "tiny.toml"), *more])


def copied(shared: Path, to: Path) -> Path:
    return Path(shutil.copytree(shared / "good", to))


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_model_is_refused_before_anything_is_computed(
    shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    change, code, words = CHANGED[case]
    change(copied(shared, tmp_path / "model"))
    assert run(shared, tmp_path / "model", tmp_path / "out") == code
    (sentence,) = capfd.readouterr().err.splitlines()
    assert words in sentence
    assert str(tmp_path / "model") in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", UNPINNED)
def test_a_model_that_can_not_be_run_is_named(
    shared: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    change, words = UNPINNED[case]
    model = copied(shared, tmp_path / "model")
    unpin(model / "tiny.toml")
    change(model)
    monkeypatch.chdir(tmp_path)
    assert run(shared, model, tmp_path / "out") == 1
    said = capfd.readouterr()
    (line,) = [one for one in said.out.splitlines() if "FAILED" in one]
    assert words in line
    assert str(model) in line
    assert "Unexpected" not in line
    assert "Traceback" not in said.out + said.err
    assert not [p for p in Path(tmp_path / "out").glob("sub-01/anat/*") if "stroke" in p.name]
    assert not list(tmp_path.rglob("hostile-was-here"))
    assert not list(Path(shared / "work").rglob("hostile-was-here"))


@pytest.mark.parametrize(
    ("weights", "flags", "words"),
    [(True, ["--folds", "7"], "has no fold 7"), (False, [], "has no weights fold_*/checkpoint")],
)
def test_folds_that_are_not_there_end_the_run(
    shared: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    weights: bool,
    flags: list[str],
    words: str,
) -> None:
    model = copied(shared, tmp_path / "model")
    unpin(model / "tiny.toml")
    if not weights:
        (model / WEIGHTS).unlink()
    assert run(shared, model, tmp_path / "out", *flags) == 65
    (sentence,) = capfd.readouterr().err.splitlines()
    assert words in sentence
    assert not list((tmp_path / "out").glob("sub-*"))
