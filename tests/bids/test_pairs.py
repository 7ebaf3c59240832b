"""The rule of choice, on datasets of empty files."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke.bids import pairs as pairs_module
from bids_stroke.bids.layout import build_layout
from bids_stroke.bids.pairs import Pair, find_pairs, select
from tests.bids.skeleton import dataset, touch


def short(path: Path | None) -> str | None:
    return path and path.name.removesuffix(".nii.gz").partition("_")[2]


def found(root: Path, *files: str, **options: Any) -> list[tuple[str, str | None, str | None]]:
    layout = build_layout(dataset(root, *files))
    return [(p.label, short(p.t1w), short(p.flair)) for p in find_pairs(layout, **options)]


CASES = {
    "one of each": (
        ["01/T1w", "01/FLAIR"],
        [("sub-01", "T1w", "FLAIR")],
    ),
    "T1w alone": (["01/T1w"], [("sub-01", "T1w", None)]),
    "FLAIR alone": (["01/FLAIR"], [("sub-01", None, "FLAIR")]),
    "different acquisitions": (
        ["01/acq-mprage_T1w", "01/acq-space_FLAIR"],
        [("sub-01_acq-mprage", "acq-mprage_T1w", "acq-space_FLAIR")],
    ),
    "sessions keep apart": (
        ["01/a/T1w", "01/a/FLAIR", "01/b/T1w", "01/c/FLAIR"],
        [
            ("sub-01_ses-a", "ses-a_T1w", "ses-a_FLAIR"),
            ("sub-01_ses-b", "ses-b_T1w", None),
            ("sub-01_ses-c", None, "ses-c_FLAIR"),
        ],
    ),
    "participants keep apart": (
        ["01/T1w", "02/FLAIR"],
        [("sub-01", "T1w", None), ("sub-02", None, "FLAIR")],
    ),
    "runs go with runs": (
        ["01/run-1_T1w", "01/run-2_T1w", "01/run-1_FLAIR", "01/run-2_FLAIR"],
        [
            ("sub-01_run-1", "run-1_T1w", "run-1_FLAIR"),
            ("sub-01_run-2", "run-2_T1w", "run-2_FLAIR"),
        ],
    ),
    "padding of runs": (
        ["01/run-01_T1w", "01/run-02_T1w", "01/run-1_FLAIR", "01/run-2_FLAIR"],
        [
            ("sub-01_run-01", "run-01_T1w", "run-1_FLAIR"),
            ("sub-01_run-02", "run-02_T1w", "run-2_FLAIR"),
        ],
    ),
    "ten runs are in order": (
        ["01/T1w", "01/run-2_FLAIR", "01/run-10_FLAIR"],
        [("sub-01", "T1w", "run-10_FLAIR")],
    ),
    "one FLAIR serves two T1w": (
        ["01/run-1_T1w", "01/run-2_T1w", "01/FLAIR"],
        [("sub-01_run-1", "run-1_T1w", "FLAIR"), ("sub-01_run-2", "run-2_T1w", "FLAIR")],
    ),
    "of two FLAIR the last": (
        ["01/T1w", "01/run-1_FLAIR", "01/run-2_FLAIR"],
        [("sub-01", "T1w", "run-2_FLAIR")],
    ),
    "two T1w alone": (
        ["01/run-1_T1w", "01/run-2_T1w"],
        [("sub-01_run-1", "run-1_T1w", None), ("sub-01_run-2", "run-2_T1w", None)],
    ),
    "two FLAIR alone": (
        ["01/run-1_FLAIR", "01/run-2_FLAIR"],
        [("sub-01_run-1", None, "run-1_FLAIR"), ("sub-01_run-2", None, "run-2_FLAIR")],
    ),
    "acquisitions go with acquisitions": (
        ["01/acq-a_T1w", "01/acq-b_T1w", "01/acq-a_FLAIR", "01/acq-b_FLAIR"],
        [
            ("sub-01_acq-a", "acq-a_T1w", "acq-a_FLAIR"),
            ("sub-01_acq-b", "acq-b_T1w", "acq-b_FLAIR"),
        ],
    ),
    "run before acquisition": (
        ["01/acq-a_run-1_T1w", "01/acq-a_run-2_FLAIR", "01/acq-b_run-1_FLAIR"],
        [("sub-01_acq-a_run-1", "acq-a_run-1_T1w", "acq-b_run-1_FLAIR")],
    ),
    "first echo": (
        [f"01/echo-{e}_T1w" for e in (1, 2, 10)],
        [("sub-01_echo-1", "echo-1_T1w", None)],
    ),
    "combined echoes first": (
        ["01/echo-1_T1w", "01/echo-2_T1w", "01/rec-rms_T1w"],
        [("sub-01_rec-rms", "rec-rms_T1w", None)],
    ),
    "without contrast agent": (
        ["01/ce-gad_T1w", "01/T1w", "01/FLAIR"],
        [("sub-01", "T1w", "FLAIR")],
    ),
    "only with contrast agent": (
        ["01/ce-gad_T1w", "01/FLAIR"],
        [("sub-01_ce-gad", "ce-gad_T1w", "FLAIR")],
    ),
    "whole before defaced": (
        ["01/acq-defaced_T1w", "01/T1w", "01/rec-defaced_FLAIR", "01/FLAIR"],
        [("sub-01", "T1w", "FLAIR")],
    ),
    "only defaced": (
        ["01/acq-mpragedefaced_T1w", "01/acq-defaced_FLAIR"],
        [("sub-01_acq-mpragedefaced", "acq-mpragedefaced_T1w", "acq-defaced_FLAIR")],
    ),
    "defaced version of an acquisition": (
        ["01/acq-mprage_T1w", "01/acq-mpragedefaced_T1w"],
        [("sub-01_acq-mprage", "acq-mprage_T1w", None)],
    ),
    "reconstructions": (
        ["01/rec-norm_T1w", "01/T1w"],
        [("sub-01", "T1w", None)],
    ),
    "what is no image of the kind": (
        [
            "01/part-phase_T1w",
            "01/part-mag_T1w",
            "01/inv-1_T1w",
            "01/mt-on_T1w",
            "01/space-MNI_T1w",
            "01/desc-preproc_T1w",
            "01/mod-T1w_defacemask",
            "01/inv-1_MP2RAGE",
            "01/T2w",
        ],
        [("sub-01", "part-mag_T1w", None)],
    ),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES.keys())
def test_rule(tmp_path: Path, files: list[str], expected: list) -> None:
    assert found(tmp_path / "raw", *files) == expected


FOUR = ["01/acq-a_T1w", "01/acq-b_T1w", "01/acq-a_ce-gad_T1w", "01/run-1_FLAIR", "01/run-2_FLAIR"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"t1w": {"acquisition": "b"}}, [("sub-01_acq-b", "acq-b_T1w", "run-2_FLAIR")]),
        (
            {"t1w": {"acquisition": "a", "ceagent": "*"}, "flair": {"run": "01"}},
            [("sub-01_acq-a_ce-gad", "acq-a_ce-gad_T1w", "run-1_FLAIR")],
        ),
        (
            {"t1w": {"acquisition": ["a", "c"], "ceagent": ""}},
            [("sub-01_acq-a", "acq-a_T1w", "run-2_FLAIR")],
        ),
        (
            {"t1w": {"suffix": "none"}, "flair": {"run": "2"}},
            [("sub-01_run-2", None, "run-2_FLAIR")],
        ),
        ({"t1w": {"run": "9"}, "flair": {"run": "9"}}, []),
    ],
)
def test_filters_win(tmp_path: Path, filters: dict, expected: list) -> None:
    assert found(tmp_path / "raw", *FOUR, filters=filters) == expected


def test_a_filter_can_ask_for_what_the_rule_leaves_out(tmp_path: Path) -> None:
    files = ["01/T1w", "01/inv-2_MP2RAGE", "01/UNIT1"]
    unit1 = {"t1w": {"suffix": "UNIT1"}}
    assert found(tmp_path / "a", *files, filters=unit1) == [("sub-01", "UNIT1", None)]
    second = {"t1w": {"suffix": "MP2RAGE", "inv": "2"}}
    assert found(tmp_path / "b", *files, filters=second) == [("sub-01", "inv-2_MP2RAGE", None)]


def test_participants_and_sessions(tmp_path: Path) -> None:
    files = ["01/a/T1w", "01/b/T1w", "02/a/T1w", "010/a/T1w"]
    assert [p[0] for p in found(tmp_path / "a", *files, participants=("01",))] == [
        "sub-01_ses-a",
        "sub-01_ses-b",
    ]
    assert [p[0] for p in found(tmp_path / "b", *files, sessions=("b",))] == ["sub-01_ses-b"]


def test_derivatives_are_never_inputs(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "01/T1w")
    touch(root / "derivatives" / "other", ["01/FLAIR"])
    touch(root / "sourcedata", ["01/FLAIR"])
    (root / "sub-01" / "anat" / "sub-01_FLAIR.json").write_text("{}")
    (only,) = find_pairs(build_layout(root))
    assert only.flair is None


def test_unused_images_have_a_reason(tmp_path: Path) -> None:
    files = ["01/T1w", "01/ce-gad_T1w", "01/run-1_FLAIR", "01/run-2_FLAIR", "01/part-phase_T1w"]
    selection = select(build_layout(dataset(tmp_path / "raw", *files)))
    assert {short(path): reason for path, reason in selection.unused.items()} == {
        "ce-gad_T1w": "is another version of sub-01_T1w.nii.gz",
        "run-1_FLAIR": "no T1w goes with it best",
        "part-phase_T1w": "has part-phase",
    }


def test_two_images_never_share_the_names_of_outputs(tmp_path: Path) -> None:
    files = ["01/dir-AP_T1w", "01/dir-PA_T1w"]
    selection = select(build_layout(dataset(tmp_path / "raw", *files)))
    assert [p.label for p in selection.pairs] == ["sub-01"]
    assert list(selection.unused.values()) == [
        "outputs would have the names of those of sub-01_dir-AP_T1w.nii.gz"
    ]


def test_reasons_are_sentences(tmp_path: Path) -> None:
    files = ["01/T1w", "01/FLAIR", "02/T1w", "03/FLAIR"]
    reasons = [p.reason for p in find_pairs(build_layout(dataset(tmp_path / "raw", *files)))]
    assert reasons == [
        "sub-01_T1w.nii.gz with sub-01_FLAIR.nii.gz: it is the only FLAIR of the session.",
        "sub-02_T1w.nii.gz alone: the session has no FLAIR.",
        "sub-03_FLAIR.nii.gz alone: the session has no T1w.",
    ]


NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "acq-a_", "acq-b_", "acq-defaced_"]),
        st.sampled_from(["", "ce-gad_"]),
        st.sampled_from(["", "rec-norm_"]),
        st.sampled_from(["", "run-1_", "run-2_", "run-10_"]),
        st.sampled_from(["", "echo-1_", "echo-2_"]),
        st.sampled_from(["T1w", "FLAIR"]),
    ),
)


@settings(max_examples=40, deadline=None)
@given(files=st.sets(NAMES, min_size=1, max_size=8))
def test_any_dataset_gives_results_with_names_of_their_own(
    tmp_path_factory: pytest.TempPathFactory, files: set[str]
) -> None:
    root = dataset(tmp_path_factory.mktemp("any") / "raw", *(f"01/{name}" for name in files))
    selection = select(build_layout(root))
    labels = [pair.label for pair in selection.pairs]
    used = {path for pair in selection.pairs for path in pair.images.values()}
    assert labels
    assert len(set(labels)) == len(labels)
    assert used | set(selection.unused) == set(root.rglob("*.nii.gz"))
    assert not used & set(selection.unused)
    if any(name.endswith("FLAIR") for name in files):
        assert all(pair.flair for pair in selection.pairs)


def test_pair_is_a_value_that_tests_make_by_hand() -> None:
    pair = Pair(subject="01", flair=Path("f.nii"), entities={"subject": "01", "run": 2})
    assert (pair.label, pair.modalities, pair.source) == ("sub-01_run-2", ("FLAIR",), Path("f.nii"))
    with pytest.raises(ValueError, match="T1w or a FLAIR"):
        Pair(subject="01", entities={"subject": "01"})


def test_the_rule_is_documented() -> None:
    assert all(f"{number}. " in pairs_module.RULE for number in (1, 2, 3, 4))
