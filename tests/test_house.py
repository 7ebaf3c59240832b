"""The rules of the house: style, types, layers, and what the package holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tool(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_style() -> None:
    tool("ruff", "check", ".")
    tool("ruff", "format", "--check", ".")


def test_types() -> None:
    tool("mypy", "bids_stroke")


def test_layers() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys; import bids_stroke.cli.parser; "
        "print([m for m in ('nipype', 'torch', 'nnunetv2', 'ants', 'numpy', 'bids') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wheel_holds_the_data(tmp_path: Path) -> None:
    import zipfile

    tool("pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), ".")
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for needed in (
        "bids_stroke/boilerplate/boilerplate.bib",
        "bids_stroke/data/io_spec.json",
        "bids_stroke/data/models/embedded.toml",
        "bids_stroke/data/models/embedded/plans.json",
        "bids_stroke/data/models/embedded/fold_0/checkpoint_final.pth",
        "bids_stroke/data/models/embedded-t1w/fold_0/checkpoint_final.pth",
    ):
        assert needed in names


def test_no_path_of_a_machine_and_no_registry_in_any_file() -> None:
    forbidden = re.compile(r"/work/(main|shared)|/root/|pypi\.org|pythonhosted|registry\.npmjs")
    allowed = {ROOT / "tests" / "test_house.py"}
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path not in allowed and path.is_file() and path.suffix not in {".pth", ".gz"}
        if forbidden.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not found


def test_functions_stay_small() -> None:
    import ast

    lengths = [
        node.end_lineno - node.lineno + 1
        for path in (ROOT / "bids_stroke").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]
    assert max(lengths) <= 120
    assert sorted(lengths)[len(lengths) // 2] <= 15
