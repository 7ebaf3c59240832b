"""The Config goes to TOML and back unchanged, and refuses what it does not know."""

import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke import config as cfg
from bids_stroke.errors import InputMissing, UsageError

LABELS = st.text(st.characters(categories=("Lu", "Ll", "Nd")), min_size=1, max_size=5)
PATHS = st.text("abc/ .-_é\"'\\", min_size=1, max_size=12).map(Path)
FILTERS = st.dictionaries(
    st.sampled_from(["t1w", "flair", "mask"]),
    st.dictionaries(LABELS, st.one_of(LABELS, st.lists(LABELS, max_size=3)), max_size=3),
)

DATASETS = st.builds(
    cfg.Dataset,
    bids_dir=PATHS,
    output_dir=PATHS,
    level=st.sampled_from(cfg.LEVELS),
    participants=st.lists(LABELS, max_size=3).map(tuple),
    filters=FILTERS,
    derivatives=st.dictionaries(LABELS, PATHS, max_size=3),
    database_dir=st.none() | PATHS,
    reference=st.none() | LABELS,
)
MODELS = st.builds(
    cfg.Model,
    folds=st.lists(st.integers(0, 9) | st.just("all"), max_size=3).map(tuple),
    tta=st.none() | st.booleans(),
    threshold=st.none() | st.floats(0.01, 0.99),
)
EXECUTIONS = st.builds(
    cfg.Execution,
    nprocs=st.integers(1, 64),
    memory_gb=st.none() | st.floats(0.5, 512),
    work_dir=PATHS,
    dry_run=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.builds(cfg.Config, dataset=DATASETS, model=MODELS, execution=EXECUTIONS))
def test_round_trip(config: cfg.Config) -> None:
    assert cfg.from_table(tomllib.loads(cfg.dumps(config))) == config


def table(**sections: dict) -> dict:
    return {"dataset": {"bids_dir": "in", "output_dir": "out"}, **sections}


def test_defaults_are_among_their_choices() -> None:
    config = cfg.from_table(table())
    assert cfg.from_table(cfg.to_table(config)) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(nonsense={}), "no section 'nonsense'"),
        (table(model={"nam": "x"}), "no key 'nam' in section 'model'"),
        (table(model={"tta": 1}), "model.tta"),
        (table(model={"name": 3}), "model.name"),
        (table(model="x"), "must be a section"),
        (table(model={"folds": "all"}), "an array"),
        (table(execution={"nprocs": True}), "execution.nprocs"),
        (table(execution={"memory_gb": "8"}), "a number"),
        (table(processing={"brain_extraction": "magic"}), "choose from auto"),
        (table(processing={"output_spaces": ["T1w", "T2w"]}), "'T2w'"),
        (table(dataset={"bids_dir": "in"}), "output_dir"),
        (table(dataset={"bids_dir": "in", "output_dir": "o", "filters": {"t2": {}}}), "'t2'"),
        (table(dataset={"bids_dir": "in", "output_dir": "o", "derivatives": ["a"]}), "a table"),
        (table(dataset={"bids_dir": 1, "output_dir": "o"}), "a path"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused(content: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cfg.from_table(content)


@pytest.mark.parametrize(
    ("execution", "pairs", "at_once", "expected"),
    [
        (cfg.Execution(nprocs=2), 1, 1, 2),
        (cfg.Execution(nprocs=2), 1, 2, 1),
        (cfg.Execution(nprocs=2), 5, 1, 1),
        (cfg.Execution(nprocs=16), 1, 1, 8),
        (cfg.Execution(nprocs=6), 1, 2, 3),
        (cfg.Execution(nprocs=6), 2, 2, 5),
        (cfg.Execution(nprocs=1), 1, 2, 1),
        (cfg.Execution(nprocs=8, omp_nthreads=3), 1, 1, 3),
        (cfg.Execution(nprocs=4, plugin_file=Path("slurm.yml")), 1, 1, 3),
    ],
)
def test_networks_of_one_pair_alone_share_all_cores(
    execution: cfg.Execution, pairs: int, at_once: int, expected: int
) -> None:
    assert execution.threads_of(pairs, at_once) == expected


def test_sections_are_frozen_and_keyword_only() -> None:
    config = cfg.from_table(table())
    with pytest.raises(FrozenInstanceError):
        config.model.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        cfg.Model("auto")  # type: ignore[misc]


def test_read_table_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"absent\.toml"):
        cfg.read_table(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(UsageError, match=r"bad\.toml is not valid TOML"):
        cfg.read_table(tmp_path / "bad.toml")


def test_import_is_light() -> None:
    heavy = "{'nipype', 'torch', 'nnunetv2', 'ants', 'numpy', 'bids'}"
    code = f"import sys, bids_stroke.cli.run; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
