"""The benchmark of the recipes: its order, its split, its table; and its quick form, whole."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "recipes.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


def test_the_model_to_start_from_is_trained_before_those_that_want_it(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    asked = ["a", "meddahi2024-dual", "meddahi2024-t1w", "b"]
    wanted = ["a", "meddahi2024-t1w", "meddahi2024-dual", "b"]
    assert benchmark.ordered(asked, tmp_path) == wanted
    assert benchmark.ordered(["a", "meddahi2023-dual"], tmp_path)[1] == "meddahi2024-t1w"
    assert benchmark.ordered(["a", "b"], tmp_path) == ["a", "b"]
    benchmark.model_of(tmp_path, "meddahi2024-t1w").mkdir(parents=True)
    assert benchmark.ordered(asked, tmp_path) == asked


def test_who_has_the_channels_trains_but_for_the_one_held_out(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    for sub, channels in (("01", "T1w FLAIR"), ("03", "T1w"), ("07", "T1w FLAIR")):
        for channel in channels.split():
            path = tmp_path / f"sub-{sub}" / "anat" / f"sub-{sub}_{channel}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    path = benchmark.write_split(tmp_path, ("T1w", "FLAIR"), "sub-07", tmp_path / "split.json")
    assert json.loads(path.read_text()) == [{"train": ["sub-01"], "val": ["sub-07"]}]
    path = benchmark.write_split(tmp_path, ("T1w",), "sub-07", tmp_path / "split.json")
    assert json.loads(path.read_text())[0]["train"] == ["sub-01", "sub-03"]


def test_a_second_run_leaves_out_what_is_done_and_repeats_what_failed(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(name: str, bids: Path, asked: Namespace) -> dict[str, Any]:
        measured.append(name)
        code = 1 if name == "lesiongnb" and measured.count(name) == 1 else 0
        return dict.fromkeys(benchmark.HEADS, "n/a") | {"recipe": name, "participant exit": code}

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "cohort", lambda out, tiny, shared: out)
    arguments = ["--out", str(tmp_path), "--recipes", "embedded", "lesiongnb"]
    assert benchmark.main(arguments) == 1
    assert benchmark.main(arguments) == 0
    assert measured == ["embedded", "lesiongnb", "lesiongnb"]
    assert len((tmp_path / "recipes.tsv").read_text().splitlines()) == 4


def test_a_run_above_the_limit_is_stopped(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "sizes_mb", lambda run: [4000.0, 3000.0])
    found = benchmark.watched(["--help"], tmp_path / "log", most_gb=5)
    assert found["code"] == 75
    assert found["gb"] == pytest.approx(6.8, abs=0.1)


@pytest.mark.slow
def test_the_quick_form_goes_from_images_to_a_prediction() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])["recipes"][0]
    assert (row["train exit"], row["participant exit"]) == ("0", "0")
    assert row["patch"] == "128 x 128 x 128"
