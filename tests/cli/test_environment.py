"""What tools find in their environment."""

from pathlib import Path

import pytest

from bids_stroke.cli.engine import pool_arguments
from bids_stroke.cli.environment import prepare
from bids_stroke.config import Execution
from bids_stroke.errors import CannotCreate


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has fetched no template yet."""
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "templateflow"


def test_variables(tmp_path: Path) -> None:
    execution = Execution(work_dir=tmp_path / "work", omp_nthreads=3)
    variables = prepare(execution, {"HOME": str(tmp_path)})
    assert variables["NO_ET"] == "1"
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "3"
    home = Path(variables["TEMPLATEFLOW_HOME"])
    assert [p.name for p in home.iterdir()] == ["template_description.json"]
    assert "HOME" not in variables
    assert prepare(execution, {"HOME": str(tmp_path)}) == variables


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "TEMPLATEFLOW_HOME": "/mine"}
    assert "TEMPLATEFLOW_HOME" not in prepare(Execution(work_dir=tmp_path), environ)


def test_templates_that_the_user_has_fetched_are_found(tmp_path: Path, no_cache: Path) -> None:
    (no_cache / "tpl-MNI152NLin6Asym").mkdir(parents=True)
    variables = prepare(Execution(work_dir=tmp_path / "work"), {"HOME": str(tmp_path)})
    assert variables["TEMPLATEFLOW_HOME"] == str(no_cache)


@pytest.mark.parametrize("environ", [{"HOME": "/absent/home"}, {}])
def test_home_that_can_not_be_written(
    tmp_path: Path, environ: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    variables = prepare(Execution(work_dir=tmp_path), environ)
    assert Path(variables["HOME"]).is_dir()
    assert Path(variables["HOME"]).is_relative_to(tmp_path)


def test_work_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="another by -w"):
        prepare(Execution(work_dir=tmp_path / "file" / "work"), {})


def test_memory_that_the_user_gives() -> None:
    assert pool_arguments(Execution(memory_gb=5.0, nprocs=3))["memory_gb"] == 5.0
