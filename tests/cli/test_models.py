"""``bids_stroke-models``: every subcommand, its words and its exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_stroke.cli.models import main
from bids_stroke.models import descriptor, store
from tests import v1_model
from tests.tiny_model import write_model
from tests.web import serve


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the program on a store of this test; gives exit code, stdout and stderr."""

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        code = main([command, "--models-dir", str(tmp_path / "store"), *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def test_list_shows_states(run: Callable, tmp_path: Path) -> None:
    write_model(tmp_path / "store")
    code, out, _ = run("list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "with the program" in lines["embedded"]
    assert " installed " in lines["tiny"]
    assert "not installed" in lines["mmstrokenet-dual"] and "FLAIR+T1w" in lines["mmstrokenet-dual"]
    assert "(brain)" in lines["hd-bet"]
    assert str(tmp_path / "store") in out


def test_list_looks_into_the_store_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "other")
    monkeypatch.setenv("BIDS_STROKE_MODELS", str(tmp_path / "other"))
    assert main(["list"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_show_says_all_that_the_descriptor_says(run: Callable) -> None:
    code, out, _ = run("show", "isles26-d507-topk10")
    assert code == 0
    for word in ("0.35", "20.0 mm3", "not pinned", "manifest", "Apache-2.0", "1,452", "mirrors no"):
        assert word in out
    code, _, err = run("show", "unheard-of")
    assert code == 66 and "unheard-of" in err


def test_verify_reports_every_model(run: Callable, tmp_path: Path) -> None:
    write_model(tmp_path / "store")
    code, out, err = run("verify")
    assert code == 0 and not err
    assert "tiny: 3 files are right" in out and "embedded: 3 files are right" in out
    weights = tmp_path / "store" / "tiny" / "fold_0" / "checkpoint_final.pth"
    content = bytearray(weights.read_bytes())
    content[50] ^= 1
    weights.write_bytes(content)
    code, out, err = run("verify")
    assert code == 65 and "SHA-256" in err and "embedded" in out
    weights.unlink()
    assert run("verify", "tiny")[0] == 66
    assert run("verify", "embedded")[0] == 0


def test_import_of_v1_then_show_and_remove(run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "Task777"
    v1_model.write(folder, v1_model.weights(2), v1_model.plans(["flair", "t1"]))
    code, out, _ = run("import", folder, "--as", "mmstrokenet-dual")
    assert code == 0
    assert "each used once" in out and "outputs differ by" in out
    assert "channels: FLAIR, T1w" in out
    assert run("verify", "mmstrokenet-dual")[0] == 0
    code, _, err = run("import", folder, "--as", "mmstrokenet-dual")
    assert code == 2 and "already" in err
    assert run("remove", "mmstrokenet-dual")[0] == 0
    assert list((tmp_path / "store").iterdir()) == []
    code, _, err = run("remove", "mmstrokenet-dual")
    assert code == 2 and "nothing to remove" in err


def test_import_takes_what_the_user_says(run: Callable, tmp_path: Path) -> None:
    write_model(tmp_path / "here")
    code, out, _ = run(
        *("import", tmp_path / "here" / "tiny", "--name", "mine", "--channels", "FLAIR,T1w"),
        *("--reference", "FLAIR", "--threshold", 0.3, "--min-lesion-volume", 5),
        *("--inputs", "FLAIR+T1w,FLAIR", "--mirror-axes", "0,2", "--licence", "CC0-1.0"),
        *("--steps", "brain_extraction,n4,zscore", "--training-data", "random numbers"),
        *("--n4-levels", 2),
    )
    assert code == 0
    model = descriptor.find("mine", tmp_path / "store")
    assert model.channels == ("FLAIR", "T1w")
    assert model.inputs == (("FLAIR", "T1w"), ("FLAIR",))
    assert (model.operating_point.threshold, model.operating_point.min_volume_mm3) == (0.3, 5)
    assert model.inference.mirror_axes == (0, 2)
    assert model.preprocessing.steps == ("brain_extraction", "n4", "zscore")
    assert model.preprocessing.n4_levels == 2
    assert (model.licence, model.training_data) == ("CC0-1.0", "random numbers")
    assert "Assumed" not in model.description
    assert "Licence: CC0-1.0" in out


def test_import_refuses_levels_that_n4_has_not(
    run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        run("import", tmp_path, "--n4-levels", 7)
    assert leaving.value.code == 2
    assert "--n4-levels: it is 1 to 6" in capsys.readouterr().err


def test_import_asks_for_what_is_unknown(run: Callable, tmp_path: Path) -> None:
    write_model(tmp_path / "here")
    code, _, err = run("import", tmp_path / "here" / "tiny")
    assert code == 2 and "--reference" in err
    code, _, err = run("import", tmp_path / "nothing.zip")
    assert code == 66 and "nothing.zip" in err


def test_adapt_reports_what_it_did(run: Callable, tmp_path: Path) -> None:
    write_model(tmp_path / "store", channels=("T1w",), inputs=(("T1w",),))
    code, out, _ = run("adapt", "tiny", "--channels", "FLAIR,T1w")
    assert code == 0
    assert "repeated: encoder.stages.0.0.convs.0.conv.weight" in out
    assert "segmentation heads included" in out and "not trained further" in out
    model = descriptor.find("tiny-flair-t1w", tmp_path / "store")
    assert model.channels == ("FLAIR", "T1w")
    code, _, err = run("adapt", "tiny", "--channels", "DWI,T1w")
    assert code == 2 and "DWI" in err
    code, _, err = run("adapt", "mmstrokenet-t1w", "--channels", "FLAIR,T1w")
    assert code == 66 and "not installed" in err


def test_fetch_of_a_model_that_has_no_address(run: Callable) -> None:
    code, _, err = run("fetch", "mmstrokenet-atlas")
    assert code == 66 and "import Task111 --as mmstrokenet-atlas" in err


def test_fetch_says_how_far_it_is(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from bids_stroke.models.descriptor import ModelFile

    model = descriptor.load(write_model(tmp_path / "here"))
    with serve() as site:
        files = []
        for file in model.files:
            site.files[f"/{file.path}"] = (model.root / file.path).read_bytes()
            files.append(ModelFile(path=file.path, url=site.url(f"/{file.path}")))
        known = replace(model, files=tuple(files))
        monkeypatch.setattr(store.descriptor, "known", lambda: [known])
        code, out, err = run("fetch", "tiny")
        assert code == 0 and "Fetched tiny" in out
        assert "tiny/plans.json: 100 %" in err
        site.error = 404
        code, _, err = run("fetch", "tiny", "--overwrite")
        assert code == 66 and "404" in err
    assert run("verify", "tiny")[0] == 0  # a failed fetch leaves the one that was there


@pytest.mark.parametrize(
    "arguments",
    [[], ["unknown"], ["show"], ["adapt", "x"], ["import", "x", "--mirror-axes", "3"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_an_interruption_is_told(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "fetch", interrupted)
    code, _, err = run("fetch", "hd-bet")
    assert code == 130 and "goes on" in err


def test_nothing_heavy_is_imported_for_help_and_list() -> None:
    code = (
        "import sys; from bids_stroke.cli.models import main; main(['list']); "
        "sys.exit(bool({'torch', 'nnunetv2', 'nipype'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
