"""``bids_stroke-demo``: what it writes, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from bids_stroke.bids import demo as dataset
from bids_stroke.cli.demo import main


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Write only a description, and remember what was asked for."""
    calls: list[dict] = []

    def write(root: Path, **options):
        calls.append(options)
        dataset._describe(root, dataset._raw_description(options["seed"]), "synthetic")
        yield "sub-01: done"

    monkeypatch.setattr(dataset, "write_demo", write)
    return calls


def test_writes_a_tiny_dataset(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "demo"
    assert main([str(root), "--tiny"]) == 0
    assert len(list(root.glob("sub-*"))) == 7
    out = capsys.readouterr().out
    assert "sub-07" in out
    assert str(root / "derivatives" / "truth") in out


def test_options_reach_the_writer(tmp_path: Path, quick: list[dict]) -> None:
    assert main([str(tmp_path / "full")]) == 0
    assert main([str(tmp_path / "tiny"), "--tiny", "--seed", "7"]) == 0
    assert quick == [{"seed": 0, "voxel_mm": 1.0}, {"seed": 7, "voxel_mm": 3.0}]


def test_empty_folder_is_fine(tmp_path: Path, quick: list[dict]) -> None:
    assert main([str(tmp_path)]) == 0


def test_folder_with_something_in_it_is_refused(
    tmp_path: Path, quick: list[dict], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        assert main([str(tmp_path), *extra]) == 73
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert str(tmp_path) in message
    assert quick == []
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_earlier_demo_is_replaced_only_when_asked(tmp_path: Path, quick: list[dict]) -> None:
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path)]) == 73
    assert main([str(tmp_path), "--overwrite"]) == 0
    assert len(quick) == 2


def test_file_is_refused(tmp_path: Path, quick: list[dict]) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 73
    assert main([str(tmp_path / "file" / "below")]) == 73


@pytest.mark.parametrize("argv", [[], ["x", "--seed", "-1"], ["x", "--seed", "one"], ["x", "--no"]])
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, bids_stroke.cli.demo; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
