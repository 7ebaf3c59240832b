"""Names of outputs, checked against the specification's own validator."""

import json
from pathlib import Path

import numpy as np
import pytest

from bids_stroke import data
from bids_stroke.bids import names
from bids_stroke.bids.description import describe_dataset
from bids_stroke.core.files import save_image, write_json, write_text
from tests.bids.skeleton import dataset
from tests.validator import issues

FULL = {
    "subject": "01",
    "session": "a",
    "acquisition": "x",
    "ceagent": "gad",
    "reconstruction": "norm",
    "run": "02",
    "echo": "1",
}
PLAIN = {"subject": "01"}

URI = "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
LESION = {"Sources": [URI], "SpatialReference": URI, "Manual": False}
OUTPUTS = [
    ("preproc", {"suffix": "T1w"}, {"SkullStripped": True, "SpatialReference": URI}),
    ("preproc", {"suffix": "T1w", "space": "FLAIR"}, {"SkullStripped": True, **LESION}),
    ("preproc", {"suffix": "FLAIR"}, {"SkullStripped": True, "SpatialReference": URI}),
    ("brain_mask", {}, {"Type": "Brain", "Sources": [URI], "SpatialReference": URI}),
    (
        "brain_mask",
        {"space": "FLAIR"},
        {"Type": "Brain", "Sources": [URI], "SpatialReference": URI},
    ),
    *[
        (kind, {"space": space}, {**LESION, **more})
        for space in ("T1w", "FLAIR")
        for kind, more in (
            ("lesion_probseg", {}),
            ("lesion_mask", {"Type": "Lesion", "Threshold": 0.5}),
            (
                "lesion_dseg",
                {
                    "index": {"Description": "Number.", "Format": "integer"},
                    "mapping": {"Description": "Number.", "Format": "integer"},
                    "name": {"Description": "N.", "Format": "string"},
                    "volume_mm3": {"Description": "N."},
                },
            ),
            ("lesion_table", {}),
        )
    ],
    ("xfm", {"from_": "T1w", "to": "FLAIR", "extension": ".txt"}, {"Sources": [URI]}),
    ("xfm", {"from_": "T1w", "to": "MNI152NLin2009cAsym", "extension": ".h5"}, {}),
    ("figure", {"desc": "brain", "suffix": "T1w", "extension": ".svg"}, {}),
    ("qc", {}, {}),
]


@pytest.mark.parametrize(
    ("entities", "kind", "extra", "expected"),
    [
        (
            PLAIN,
            "preproc",
            {"suffix": "T1w"},
            "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        ),
        (
            {"subject": "01", "session": "01", "suffix": "T1w", "datatype": "anat"},
            "lesion_mask",
            {"space": "FLAIR"},
            "sub-01/ses-01/anat/sub-01_ses-01_space-FLAIR_label-L_desc-stroke_mask.nii.gz",
        ),
        (
            FULL,
            "lesion_dseg",
            {"space": "T1w"},
            "sub-01/ses-a/anat/sub-01_ses-a_acq-x_ce-gad_rec-norm_run-02_echo-1"
            "_space-T1w_seg-lesions_dseg.nii.gz",
        ),
        (
            FULL,
            "xfm",
            {"from_": "T1w", "to": "FLAIR", "extension": ".txt"},
            "sub-01/ses-a/anat/sub-01_ses-a_acq-x_ce-gad_rec-norm_run-02_echo-1"
            "_from-T1w_to-FLAIR_mode-image_xfm.txt",
        ),
        ({"subject": "01", "session": "a"}, "qc", {}, "sub-01/figures/sub-01_ses-a_desc-qc.json"),
    ],
)
def test_output_path(entities: dict, kind: str, extra: dict, expected: str) -> None:
    assert str(names.output_path(entities, kind, **extra)) == expected


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        ("nonsense", {}, "no kind"),
        ("lesion_mask", {}, "needs the entity 'space'"),
        ("lesion_mask", {"space": "T1w", "label": "x"}, "no entity 'label'"),
        ("preproc", {"suffix": "T2w"}, "suffix"),
        ("preproc", {}, "suffix"),
        ("xfm", {"from_": "T1w", "to": "FLAIR", "extension": ".mat"}, "extension"),
        ("brain_mask", {"space": "T1w/x"}, "can't be the value"),
    ],
)
def test_nothing_is_dropped_without_a_word(kind: str, extra: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names.output_path(PLAIN, kind, **extra)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "sub-01_run-01_T1w.nii.gz",
            {"subject": "01", "run": "01", "suffix": "T1w", "extension": ".nii.gz"},
        ),
        (
            "a/b/sub-x_acq-y_space-FLAIR_label-L_desc-z_mask.nii",
            {
                "subject": "x",
                "acquisition": "y",
                "space": "FLAIR",
                "label": "L",
                "desc": "z",
                "suffix": "mask",
                "extension": ".nii",
            },
        ),
        ("sub-1_task-rest.json", {"subject": "1", "task": "rest", "extension": ".json"}),
    ],
)
def test_parse(name: str, expected: dict) -> None:
    assert names.parse(name) == expected


@pytest.mark.parametrize("entities", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize(("kind", "extra", "metadata"), OUTPUTS)
def test_parse_reads_our_names_back(entities: dict, kind: str, extra: dict, metadata: dict) -> None:
    if kind in ("qc", "figure"):
        return
    parsed = names.parse(names.output_path(entities, kind, **extra))
    assert entities.items() <= parsed.items()


def write_output(root: Path, entities: dict, kind: str, extra: dict, metadata: dict) -> None:
    path = root / names.output_path(entities, kind, **extra)
    path.parent.mkdir(parents=True, exist_ok=True)
    rules = names.kind_spec(kind)
    if path.name.endswith(".nii.gz"):
        save_image(np.ones((4, 4, 4)), np.eye(4), path, dtype=rules["dtype"])
    else:
        write_text(
            path,
            "index\tname\tmapping\tvolume_mm3\n1\tlesion\t7\t2.5\n"
            if path.suffix == ".tsv"
            else "{}\n",
        )
    if rules.get("sidecar", True) and kind != "lesion_table":
        write_json(names.sidecar_path(path), {"Description": rules["description"], **metadata})


@pytest.mark.parametrize("entities", [PLAIN, FULL], ids=["plain", "full"])
def test_the_validator_is_silent(tmp_path: Path, entities: dict) -> None:
    raw, out = dataset(tmp_path / "raw", "01/T1w"), tmp_path / "out"
    describe_dataset(out, raw, environ={"BIDS_STROKE_CONTAINER": "docker:some/image:1.0"})
    for kind, extra, metadata in OUTPUTS:
        write_output(out, entities, kind, extra, metadata)
    for other in ("logs/x/bids_stroke.toml", "sub-01.html", "group.html", "group_lesions.tsv"):
        (out / other).parent.mkdir(parents=True, exist_ok=True)
        write_text(out / other, "x\n")
    assert issues(out) == []


def test_the_validator_sees_a_wrong_name(tmp_path: Path) -> None:
    raw, out = dataset(tmp_path / "raw", "01/T1w"), tmp_path / "out"
    describe_dataset(out, raw)
    (out / "sub-01" / "anat").mkdir(parents=True)
    save_image(np.ones((4, 4, 4)), np.eye(4), out / "sub-01/anat/sub-01_what.nii.gz", dtype="u1")
    assert issues(out)


def test_spec_is_coherent() -> None:
    spec = json.loads(data.path("io_spec.json").read_text())
    for kind, rules in spec["kinds"].items():
        used = {*rules["entities"], *rules.get("required", []), *rules.get("optional", [])}
        assert used <= set(spec["entities"]), kind
        desc = rules["entities"].get("desc")
        assert desc is None or f"desc-{desc}" in spec["descs"], kind
    assert set(spec["source_entities"]) <= set(spec["entities"])
