"""The command line, as tables of flags and what they become."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bids_stroke import __version__, config
from bids_stroke.cli import parser
from bids_stroke.errors import InputMissing, UnknownLevel, UsageError

HERE = ["in", "out", "participant"]


def parsed(*flags: str) -> config.Config:
    return parser.parse([*HERE, *flags])


@pytest.mark.parametrize(
    ("flags", "section", "key", "value"),
    [
        ("", "dataset", "participants", ()),
        ("--participant-label 01 sub-02", "dataset", "participants", ("01", "02")),
        ("--participant_label sub-P01", "dataset", "participants", ("P01",)),
        ("--session-label ses-a b", "dataset", "sessions", ("a", "b")),
        ("--session_label 1", "dataset", "sessions", ("1",)),
        ("--skip-bids-validation", "dataset", "skip_validation", True),
        ("--skip_bids_validation", "dataset", "skip_validation", True),
        ("--reference manual", "dataset", "reference", "manual"),
        ("", "training", "recipe", "default"),
        ("--recipe mine.toml", "training", "recipe", "mine.toml"),
        ("--name my-model.2", "training", "name", "my-model.2"),
        ("--pretrained t1w", "training", "pretrained", "t1w"),
        ("--epochs 3 --iterations 10", "training", "iterations", 10),
        ("--group-by centre", "training", "group_by", "centre"),
        ("--splits /s.json", "training", "split_file", Path("/s.json")),
        ("--allow-findings", "training", "allow_findings", True),
        ("", "group", "compare", {}),
        ("--compare a=/x b=/y", "group", "compare", {"a": Path("/x"), "b": Path("/y")}),
        ("--against this", "group", "against", "this"),
        ("--strata stage centre", "group", "strata", ("stage", "centre")),
        ("--bootstraps 200", "group", "bootstraps", 200),
        ("", "group", "bootstraps", 1000),
        ("--ratings /r/a.tsv /r/b.tsv", "group", "ratings", (Path("/r/a.tsv"), Path("/r/b.tsv"))),
        ("", "group", "exclude", "fail"),
        ("--exclude-rated none", "group", "exclude", "none"),
        ("--export fmriprep", "group", "export", ("fmriprep",)),
        ("", "model", "name", "auto"),
        ("--model other", "model", "name", "other"),
        ("--folds 0 2", "model", "folds", (0, 2)),
        ("--folds all", "model", "folds", ("all",)),
        ("", "model", "tta", None),
        ("--tta", "model", "tta", True),
        ("--no-tta", "model", "tta", False),
        ("", "model", "precision", "auto"),
        ("--precision bf16", "model", "precision", "bf16"),
        ("--threshold .2", "model", "threshold", 0.2),
        ("--min-lesion-volume 0", "model", "min_lesion_volume", 0.0),
        ("", "processing", "brain_extraction", "auto"),
        ("--brain-extraction hd-bet", "processing", "brain_extraction", "hd-bet"),
        ("--brain-extraction hd-bet-1", "processing", "brain_extraction", "hd-bet-1"),
        ("", "processing", "output_spaces", ("T1w", "FLAIR")),
        ("--output-spaces FLAIR", "processing", "output_spaces", ("FLAIR",)),
        (
            "--output-spaces T1w MNI152NLin2009aSym",
            "processing",
            "output_spaces",
            ("T1w", "MNI152NLin2009aSym"),
        ),
        ("--atlas territory=/a.nii", "processing", "atlases", {"territory": Path("/a.nii")}),
        ("", "processing", "atlas_threshold", 0.25),
        ("--atlas-threshold .4", "processing", "atlas_threshold", 0.4),
        ("", "processing", "tract_cutoffs", (2.0, 7.0)),
        ("--tract-cutoffs 1 5", "processing", "tract_cutoffs", (1.0, 5.0)),
        ("--random-seed 7", "processing", "random_seed", 7),
        ("--sloppy", "processing", "sloppy", True),
        ("--nprocs 4", "execution", "omp_nthreads", None),
        ("--nprocs 4", "execution", "threads", 3),
        ("--nprocs 1", "execution", "threads", 1),
        ("--nprocs 32", "execution", "threads", 8),
        ("--nprocs 4 --omp-nthreads 2", "execution", "threads", 2),
        ("--nprocs 4 --omp-nthreads 2", "execution", "omp_nthreads", 2),
        ("--mem 7.5", "execution", "memory_gb", 7.5),
        ("", "execution", "memory_gb", None),
        ("--gpu-slots 2", "execution", "gpu_slots", 2),
        ("--gpus-per-fold 2", "execution", "gpus_per_fold", 2),
        ("--device cuda:1", "execution", "device", "cuda:1"),
        ("--clean-workdir", "execution", "clean_workdir", True),
        ("--boilerplate-only", "execution", "boilerplate_only", True),
        ("--reports-only", "execution", "reports_only", True),
        ("--report-images linked", "execution", "report_images", "linked"),
        ("--dry-run", "execution", "dry_run", True),
        ("--write-graph", "execution", "write_graph", True),
        ("--stop-on-first-crash", "execution", "stop_on_first_crash", True),
        ("--resource-monitor", "execution", "resource_monitor", True),
        ("-vv", "execution", "verbose", 2),
    ],
)
def test_flags(flags: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(parsed(*flags.split()), section), key) == value


@pytest.mark.parametrize(
    ("flags", "section", "key", "value"),
    [
        ("", "dataset", "bids_dir", "in"),
        ("", "dataset", "output_dir", "out"),
        ("", "execution", "work_dir", "work"),
        ("-w w", "execution", "work_dir", "w"),
        ("--work-dir ../w", "execution", "work_dir", "../w"),
        ("--bids-database-dir db", "dataset", "database_dir", "db"),
        ("--models-dir m", "model", "models_dir", "m"),
        ("--model m/x.toml", "model", "name", "m/x.toml"),
        ("--hd-bet-weights h", "processing", "hdbet_weights", "h"),
        ("--nipype-plugin-file p.yml", "execution", "plugin_file", "p.yml"),
    ],
)
def test_paths_become_absolute(flags: str, section: str, key: str, value: str) -> None:
    path = getattr(getattr(parsed(*flags.split()), section), key)
    assert str(path) == str((Path.cwd() / value).resolve())


def test_derivatives_repeat_and_gather() -> None:
    found = parsed("-d", "a=x", "b=/y=z", "--derivatives", "c=w").dataset.derivatives
    assert found == {"a": Path("x").absolute(), "b": Path("/y=z"), "c": Path("w").absolute()}


@pytest.mark.parametrize(
    "flags",
    [
        "--threshold 1.5",
        "--threshold 0",
        "--threshold x",
        "--min-lesion-volume -1",
        "--nprocs 0",
        "--mem 0",
        "--mem nan",
        "--device gpu",
        "--folds x",
        "--epochs 0",
        "--name a/b",
        "--name a.toml",
        "--brain-extraction magic",
        "--output-spaces T2w",
        "--participant-label sub_01",
        "--random-seed -1",
        "-d nopath",
        "-d a=",
        "-d a=x a=y",
        "-d raw=x",
        "--unknown",
        "--participant 01",
    ],
)
def test_wrong_usage_leaves_with_2(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parsed(*flags.split())
    assert leaving.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_unknown_level_has_its_own_code() -> None:
    with pytest.raises(UnknownLevel, match="'trian'"):
        parser.parse(["in", "out", "trian"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parser.parse(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.strip() == f"bids_stroke {__version__}"


def filter_file(tmp_path: Path, content: object) -> str:
    path = tmp_path / "filters.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_filter_file_gets_long_names_and_no_null(tmp_path: Path) -> None:
    content = {
        "t1w": {"acq": "mprage", "ce": None, "run": [1, "02"]},
        "flair": {"reconstruction": "Query.NONE", "session": "Query.ANY"},
        "mask": {},
    }
    assert parsed("--bids-filter-file", filter_file(tmp_path, content)).dataset.filters == {
        "t1w": {"acquisition": "mprage", "ceagent": "", "run": ["1", "02"]},
        "flair": {"reconstruction": "", "session": "*"},
        "mask": {},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"t2w": {}}, "Key 't2w'"),
        ({"t1w": "mprage"}, "'t1w' in"),
        ({"t1w": {"colour": "blue"}}, "Entity 'colour'"),
        ({"t1w": {"run": {}}}, "must be text"),
        ({"t1w": {"run": True}}, "must be text"),
        (["t1w"], "object"),
        ("{", "not valid JSON"),
    ],
)
def test_filter_file_is_checked(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed("--bids-filter-file", filter_file(tmp_path, content))


def test_filter_file_must_exist() -> None:
    with pytest.raises(InputMissing, match="absent"):
        parsed("--bids-filter-file", "absent.json")


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    earlier = parsed("--nprocs", "3", "--model", "x", "--no-tta", "-d", "a=/a")
    (tmp_path / "run.toml").write_text(config.dumps(earlier))
    now = parsed("--config-file", str(tmp_path / "run.toml"), "--nprocs", "5", "--tta")
    assert (now.execution.nprocs, now.model.name, now.model.tta) == (5, "x", True)
    assert now.dataset.derivatives == {"a": Path("/a")}
    assert now.execution.threads == 4


def test_config_file_with_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[model]\nnam = 'x'\n")
    with pytest.raises(UsageError, match="'nam'"):
        parsed("--config-file", str(tmp_path / "run.toml"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1), ("", None)],
)
def test_container_limit(tmp_path: Path, content: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert parser._cgroup_limit(tmp_path / "cpu.max") == expected


def test_help_names_every_default_place() -> None:
    command = [sys.executable, "-m", "bids_stroke", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--bids-filter-file" in out.stdout
    assert "research use only" in out.stdout
    assert "validation keeps its share" in " ".join(out.stdout.split())


def test_several_models_make_an_ensemble() -> None:
    one, given = (
        parsed("--model", "embedded"),
        parsed(
            "--model",
            "embedded",
            "models/b.toml",
            "--ensemble",
            "window",
            "--agreement-window",
            "3",
        ),
    )
    assert one.model.names == ("embedded",)
    assert given.model.names == ("embedded", str(Path("models/b.toml").absolute()))
    assert (given.model.ensemble, given.model.agreement_window) == ("window", 3)
    assert config.from_table(config.to_table(given)) == given
    weighted = parsed("--model", "a", "b", "--ensemble-weights", "1", "2.5")
    assert weighted.model.ensemble_weights == (1.0, 2.5)


@pytest.mark.parametrize(
    "flags", [["--ensemble", "sum"], ["--agreement-share", "1"], ["--ensemble-weights", "-1"]]
)
def test_impossible_ensembles_are_usage_errors(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parsed("--model", "a", "b", *flags)
    assert leaving.value.code == 2


def test_one_template_a_run() -> None:
    with pytest.raises(UsageError, match="one template"):
        parsed("--output-spaces", "MNI152NLin2009aSym", "MNI152NLin6Asym")
