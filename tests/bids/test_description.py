"""The files that describe the output dataset."""

import json
import multiprocessing
from pathlib import Path

import pytest

from bids_stroke import __version__
from bids_stroke.bids.description import describe_dataset
from bids_stroke.errors import CannotCreate
from tests.bids.skeleton import dataset, describe


def described(out: Path, raw: Path, **options: object) -> dict:
    describe_dataset(out, raw, **options)  # type: ignore[arg-type]
    return json.loads((out / "dataset_description.json").read_text())


def test_provenance(tmp_path: Path) -> None:
    raw = describe(tmp_path / "raw", DatasetDOI="doi:10.1/x", License="CC0", Name="Ours")
    content = described(
        tmp_path / "out",
        raw,
        derivatives={"masks": tmp_path / "masks"},
        environ={"BIDS_STROKE_CONTAINER": "docker:a/b:1.0"},
    )
    assert content["Name"] == "Stroke lesions of Ours"
    assert content["DatasetType"] == "derivative"
    assert content["Authors"] == ["A. One", "B. Two"]
    assert content["License"] == "CC0"
    assert content["GeneratedBy"] == [
        {
            "Name": "bids_stroke",
            "Version": __version__,
            "Container": {"Type": "docker", "Tag": "a/b:1.0"},
        }
    ]
    assert content["SourceDatasets"] == [{"URL": raw.as_uri(), "DOI": "doi:10.1/x"}]
    assert content["DatasetLinks"] == {
        "raw": raw.as_uri(),
        "masks": (tmp_path / "masks").as_uri(),
    }


def test_link_within_the_dataset_is_relative(tmp_path: Path) -> None:
    raw = describe(tmp_path / "raw")
    content = described(raw / "derivatives" / "out", raw, environ={})
    assert content["DatasetLinks"] == {"raw": "../.."}
    assert "Container" not in content["GeneratedBy"][0]


def test_input_without_description(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    assert described(tmp_path / "out", tmp_path / "raw")["Name"] == "Stroke lesions of raw"


def test_equal_files_are_not_written_again(tmp_path: Path) -> None:
    raw, out = dataset(tmp_path / "raw", "01/T1w"), tmp_path / "out"
    describe_dataset(out, raw)
    before = {p: p.stat().st_ino for p in out.iterdir()}
    describe_dataset(out, raw)
    assert {p: p.stat().st_ino for p in out.iterdir()} == before
    assert {p.name for p in before} == {
        "dataset_description.json",
        "descriptions.tsv",
        "descriptions.json",
        "README.md",
        ".bidsignore",
    }


def test_what_users_wrote_stays(tmp_path: Path) -> None:
    raw, out = describe(tmp_path / "raw"), tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    (out / "descriptions.tsv").write_text("out of date")
    (out / "descriptions.json").write_text("{")
    describe_dataset(out, raw)
    assert (out / "README.md").read_text() == "mine"
    assert (out / "descriptions.tsv").read_text().startswith("desc_id\tdescription\ndesc-preproc")
    assert json.loads((out / "descriptions.json").read_text())


def test_outputs_of_another_program_are_not_touched(tmp_path: Path) -> None:
    raw = describe(tmp_path / "raw")
    out = describe(tmp_path / "out", GeneratedBy=[{"Name": "fMRIPrep"}])
    with pytest.raises(CannotCreate, match="outputs of fMRIPrep"):
        describe_dataset(out, raw)
    assert [p.name for p in out.iterdir()] == ["dataset_description.json"]


def test_output_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="can't be written"):
        describe_dataset(tmp_path / "file" / "out", describe(tmp_path / "raw"))


def test_many_processes_at_once(tmp_path: Path) -> None:
    raw, out = describe(tmp_path / "raw"), tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=describe_dataset, args=(out, raw)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(list(out.iterdir())) == 5
