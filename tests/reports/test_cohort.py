"""The group level on small cohorts: runs compared, strata, ratings, the map, what can't be used."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bids_stroke.bids import ratings as ratings_module
from bids_stroke.bids.masks import reference_roots
from bids_stroke.config import Group
from bids_stroke.core.files import load_image, read_json, save_image
from bids_stroke.errors import InputMissing, UsageError
from bids_stroke.reports import collect, group, tables
from tests.reports import cohorts
from tests.reports.cohorts import block, read

PEOPLE = [f"{i:02}" for i in range(1, 11)]


def run(root: Path, out: Path, **options: object) -> str:
    roots = reference_roots(root, derivatives={}, output_dir=out)
    page = group.write_group(root, out, roots, options=Group(bootstraps=200, **options))
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ten people with references; ``out`` finds the half of each lesion that ``better`` finds."""
    root = tmp_path_factory.mktemp("cohort")
    lines = ["participant_id\tcentre\tage"]
    for i, subject in enumerate(PEOPLE):
        truth = block(4, 4)
        cohorts.write_reference(root, subject, truth)
        far = 60.0 if subject == "07" else 1.0 + 0.1 * i
        entities = {"subject": subject}
        half = truth & (np.arange(20) < 6 - i % 2)[:, None, None]
        cohorts.write_session(root / "out", entities, half, template=True, rotation=far)
        cohorts.write_session(root / "better", entities, truth)
        lines.append(f"sub-{subject}\t{'a' if i < 4 else 'b'}\t{40 + i}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    yield root


@pytest.fixture(scope="module")
def page(dataset: Path) -> str:
    compared = {"better": dataset / "better"}
    return run(dataset, dataset / "out", compare=compared, strata=("centre", "age"))


def test_both_runs_are_judged(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_metrics.tsv")
    means = table.groupby("run")["dice"].mean().to_dict()
    # 2 or 1 of 4 planes of a cube of 4: Dice 2/3 or 2/5
    assert means == pytest.approx({"better": 1.0, "this": (2 / 3 + 2 / 5) / 2}, rel=1e-5)
    assert "Comparison of runs" in page


def test_the_better_run_is_better(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_comparisons.tsv").set_index("metric")
    row = table.loc["dice"]
    assert (row["first"], row["second"], row["n"]) == ("this", "better", 10)
    assert row["p"] == pytest.approx(2 / 2**10, rel=1e-5)
    assert row["rank_biserial"] == 1
    assert row["mean_difference"] == pytest.approx(1 - (2 / 3 + 2 / 5) / 2, rel=1e-5)
    assert row["p_holm"] >= row["p"]


def test_strata_of_participants(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_statistics.tsv")
    dice = table[(table["metric"] == "dice") & (table["run"] == "this")]
    centres = dice[dice["grouping"] == "centre"].set_index("stratum")["n"].to_dict()
    ages = dice[dice["grouping"] == "age"]
    assert centres == {"a": 4, "b": 6}
    assert len(ages) == 4  # many numbers are given by their quartiles
    assert ages["n"].sum() == 10


def test_micro_dice_of_a_run(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_statistics.tsv")
    rows = table[(table["metric"] == "dice_micro") & (table["run"] == "this")]
    row = rows[rows["grouping"] == "all"].iloc[0]
    tp = 5 * 32 + 5 * 16
    assert row["mean"] == pytest.approx(2 * tp / (tp + 10 * 64), rel=1e-5)
    assert row["mean_low"] < row["mean"] < row["mean_high"]


def test_tables_of_the_papers(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_papers.tsv")
    first = table[(table["paper"] == "Meddahi et al. 2024") & (table["run"] == "this")]
    assert first["measure"].tolist() == [
        *("Precision", "Sensitivity", "Dice", "Jaccard", "ASD (mm)", "F1")
    ]
    second = table[(table["paper"] == "Tomita et al. 2020") & (table["run"] == "this")]
    quartiles = second[(second["measure"] == "Dice") & (second["grouping"] == "volume_quartile")]
    assert quartiles["n"].sum() == 10
    assert {"Micro Dice", "HD (mm)", "ASSD (mm)"} <= set(second["measure"])


def test_volumes_against_references_and_between_runs(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_volumes.tsv")
    pairs = list(zip(table["reference"], table["run"], strict=True))
    assert pairs == [("reference masks", "this"), ("reference masks", "better"), ("this", "better")]
    bias = table.set_index(["reference", "run"])["bias_ml"]
    missed = (5 * 32 + 5 * 48) * 0.064 / 10
    assert bias["reference masks", "this"] == pytest.approx(-missed, rel=1e-5)
    assert bias["this", "better"] == pytest.approx(missed, rel=1e-5)


def test_an_outlier_is_told_and_linked(dataset: Path, page: str) -> None:
    table = read(dataset / "out" / "group_qc.tsv").set_index("label")
    assert table["outliers"].dropna().to_dict() == {"sub-07": "registration_rotation_deg"}
    assert '<a class="chip warning" href="sub-07.html#sub-07">' in page


def test_map_of_the_cohort(dataset: Path, page: str) -> None:
    image = load_image(dataset / "out" / "group_overlap.nii.gz")
    counts = np.asarray(image.dataobj)
    assert np.allclose(image.affine, cohorts.TEMPLATE)
    assert (counts[4, 4, 5], counts[5, 4, 5], counts[6, 4, 5], counts.sum()) == (10, 5, 0, 240)
    assert read_json(dataset / "out" / "group_overlap.json")["Participants"] == 10
    assert "of 10 in MNI152NLin2009aSym" in page


def test_every_table_is_explained(dataset: Path, page: str) -> None:
    for path in (dataset / "out").glob("group_*.tsv"):
        assert list(read_json(path.with_suffix(".json"))) == list(read(path).columns), path.name


def test_the_same_seed_gives_the_same_tables(dataset: Path, page: str) -> None:
    before = (dataset / "out" / "group_statistics.tsv").read_bytes()
    compared = {"better": dataset / "better"}
    run(dataset, dataset / "out", compare=compared, strata=("centre", "age"))
    assert (dataset / "out" / "group_statistics.tsv").read_bytes() == before


def test_only_one_run_against_the_others(dataset: Path, tmp_path: Path) -> None:
    compared = {"better": dataset / "better", "again": dataset / "better"}
    run(dataset, dataset / "out", compare=compared, against="better")
    table = read(dataset / "out" / "group_comparisons.tsv")
    assert set(zip(table["first"], table["second"], strict=True)) == {
        ("better", "this"),
        ("better", "again"),
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strata": ("site",)}, UsageError, "no column 'site': it has centre, age"),
        ({"against": "other"}, UsageError, "--against other is none of this"),
        ({"compare": {"x": Path("/nowhere")}}, InputMissing, "check --compare x="),
    ],
)
def test_what_is_asked_for_and_not_there(
    dataset: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(dataset, dataset / "out", **options)


def test_runs_without_references_are_compared_by_volume(tmp_path: Path) -> None:
    for i, subject in enumerate(PEOPLE[:6]):
        cohorts.write_session(tmp_path / "out", {"subject": subject}, block(2, 2 + i % 2))
        cohorts.write_session(tmp_path / "other", {"subject": subject}, block(2, 3))
    html = run(tmp_path, tmp_path / "out", compare={"other": tmp_path / "other"})
    table = read(tmp_path / "out" / "group_comparisons.tsv")
    assert table["metric"].tolist() == ["lesion_volume_ml", "lesion_count"]
    assert table["n_zero"].tolist() == [3, 6]
    assert "Agreement of lesion volumes between runs" in html
    assert not (tmp_path / "out" / "group_metrics.tsv").exists()


def test_a_broken_reference_is_said_and_the_others_count(dataset: Path, tmp_path: Path) -> None:
    for subject in PEOPLE[:3]:
        cohorts.write_session(tmp_path / "out", {"subject": subject}, block(4, 4))
        cohorts.write_reference(tmp_path, subject, block(4, 4))
    anat = tmp_path / "derivatives" / "manual" / "sub-01" / "anat"
    broken = anat / "sub-01_space-T1w_label-lesion_mask.nii.gz"
    broken.write_bytes(broken.read_bytes()[:60])
    astray = tmp_path / "derivatives" / "manual" / "sub-02" / "anat"
    far = cohorts.NATIVE.copy()
    far[0, 3] = 500
    save_image(
        block(4, 4), far, astray / "sub-02_space-T1w_label-lesion_mask.nii.gz", dtype=np.uint8
    )
    html = run(tmp_path, tmp_path / "out")
    assert read(tmp_path / "out" / "group_metrics.tsv")["label"].tolist() == ["sub-03"]
    assert "can&#39;t be read as an image" in html
    assert "lies largely off the image" in html


def test_many_masks_are_judged_by_several_processes(dataset: Path) -> None:
    roots = reference_roots(dataset, derivatives={}, output_dir=dataset / "out")
    page = group.write_group(
        dataset, dataset / "out", roots, options=Group(bootstraps=100), nprocs=2
    )
    assert len(read(page.with_name("group_metrics.tsv"))) == 10


def rating_file(folder: Path, rater: str, given: dict[str, str]) -> Path:
    rows = [
        {"participant_id": f"sub-{s}", "rater": rater, "rating": level}
        for s, level in given.items()
    ]
    head = "\t".join(ratings_module.COLUMNS)
    lines = ["\t".join(row.get(c, "n/a") for c in ratings_module.COLUMNS) for row in rows]
    path = folder / f"{rater}.tsv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_rated_sessions_are_excluded_and_raters_compared(dataset: Path, tmp_path: Path) -> None:
    out = dataset / "out"
    files = (
        rating_file(tmp_path, "AB", {"01": "fail", "02": "pass", "03": "doubtful", "77": "pass"}),
        rating_file(tmp_path, "CD", {"01": "fail", "02": "pass", "03": "pass"}),
        rating_file(tmp_path, "EF", {"01": "doubtful", "02": "pass", "03": "pass"}),
    )
    html = run(dataset, out, ratings=files)
    assert "sub-01" not in set(read(out / "group_metrics.tsv")["label"])
    assert len(read(out / "group_metrics.tsv")) == 9
    assert len(read(out / "group_sessions.tsv")) == 10
    assert read_json(out / "group_overlap.json")["Participants"] == 9
    agreed = read(out / "group_raters.tsv").set_index("raters")
    assert agreed.loc["AB, CD, EF", "n"] == 3
    assert agreed.loc["AB, CD", "agreement"] == pytest.approx(2 / 3, rel=1e-5)
    assert "The ratings name sub-77, of which there is no result." in html
    run(dataset, out, ratings=files, exclude="none")
    assert len(read(out / "group_metrics.tsv")) == 10


def test_tables_of_an_earlier_run_go(dataset: Path, tmp_path: Path) -> None:
    out = dataset / "out"
    run(dataset, out, ratings=(rating_file(tmp_path, "AB", {"01": "fail"}),))
    assert (out / "group_ratings.tsv").exists()
    run(dataset, out)
    assert not (out / "group_ratings.tsv").exists()
    assert not (out / "group_comparisons.json").exists()


def test_lesion_tables_keep_columns_that_others_add(tmp_path: Path) -> None:
    cohorts.write_session(tmp_path, {"subject": "01"}, block(4, 4))
    cohorts.write_session(tmp_path, {"subject": "02"}, block(4, 4))
    path = tmp_path / "sub-02" / "anat" / "sub-02_space-T1w_seg-lesions_dseg.tsv"
    table = read(path).assign(territory="MCA")
    table.to_csv(path, sep="\t", index=False)
    path.with_suffix(".json").write_text('{"territory": {"Description": "Arterial territory."}}')
    tables.write_lesions(collect.sessions(tmp_path), tmp_path / "group_lesions.tsv")
    written = read(tmp_path / "group_lesions.tsv").set_index("label")["territory"]
    assert written.fillna("n/a").to_dict() == {"sub-01": "n/a", "sub-02": "MCA"}
    assert read_json(tmp_path / "group_lesions.json")["territory"] == {
        "Description": "Arterial territory."
    }
