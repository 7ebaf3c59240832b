"""Group tables and page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_stroke.core import metrics
from bids_stroke.core.files import save_image
from bids_stroke.errors import NothingSelected
from bids_stroke.reports import collect, evaluation, group
from bids_stroke.reports.plots import dot_plot
from tests.reports import cohorts, fake


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", na_values="n/a")


def test_one_row_a_lesion_and_grid(outputs: Path) -> None:
    table = read(outputs / "group_lesions.tsv")
    counts = table.groupby(["label", "space"]).size().to_dict()
    assert counts == {
        ("sub-01_ses-1", "FLAIR"): 2,
        ("sub-01_ses-1", "T1w"): 2,
        ("sub-01_ses-2", "FLAIR"): 1,
        ("sub-01_ses-2", "T1w"): 1,
    }


def test_one_row_a_session(outputs: Path) -> None:
    table = read(outputs / "group_sessions.tsv").set_index("label")
    assert list(table.index) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]
    assert table.loc["sub-02", "lesion_count"] == 0
    assert table.loc["sub-01_ses-1", "lesion_volume_ml"] == pytest.approx(7.296)


def test_every_column_is_explained(outputs: Path) -> None:
    names = {path.stem for path in outputs.glob("group_*.tsv")}
    assert names == {
        *("group_lesions", "group_sessions", "group_metrics", "group_qc", "group_statistics"),
        *("group_papers", "group_volumes", "group_longitudinal", "group_longitudinal_lesions"),
    }
    for name in names:
        _is_explained(outputs, name)


def _is_explained(outputs: Path, name: str) -> None:
    described = json.loads((outputs / f"{name}.json").read_text())
    assert list(described) == list(read(outputs / f"{name}.tsv").columns)


def test_agreement_with_a_reference(outputs: Path) -> None:
    (row,) = read(outputs / "group_metrics.tsv").to_dict("records")
    truth, found = fake.lesion_probability(1) >= 0.5, fake.lesion_probability(2) >= 0.5
    expected = metrics.agreement(truth, found, fake.AFFINE)
    assert row["label"] == "sub-01_ses-1"
    assert row["dice"] == pytest.approx(expected["dice"], rel=1e-5)
    assert row["lesion_ppv_onevoxel"] == 0.5


def test_a_reference_stored_otherwise_agrees(tmp_path: Path) -> None:
    mask = (fake.lesion_probability(2) >= 0.5).astype(np.uint8)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = mask.shape[0] - 1
    one, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    save_image(mask, fake.AFFINE, one, dtype=np.uint8)
    save_image(mask[::-1], fake.AFFINE @ flip, other, dtype=np.uint8)
    values = evaluation.compare(other, one)
    assert (values["dice"], values["reference_resampled"]) == (1.0, True)


def test_a_map_and_a_brain_mask_are_judged(outputs: Path, tmp_path: Path) -> None:
    entities = {"subject": "01", "session": "1"}
    probability = fake.lesion_probability(2).astype(np.float32)
    brain = np.zeros(probability.shape, dtype=np.uint8)
    brain[5:-5, 5:-5, 5:-5] = 1
    files = {
        "sub-01_ses-1_space-FLAIR_label-L_desc-stroke_probseg.nii.gz": probability,
        "sub-01_ses-1_space-FLAIR_desc-brain_mask.nii.gz": brain,
    }
    anat = tmp_path / "sub-01" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    for name, data in files.items():
        save_image(data, fake.AFFINE, anat / name, dtype=data.dtype)
    found = next(s for s in collect.sessions(outputs) if s.record["entities"] == entities)
    session = collect.Session(found.record, tmp_path)
    maps = evaluation._maps(session, "FLAIR")
    truth = fake.lesion_probability(1) >= 0.5
    mask, reference = tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz"
    save_image(probability >= 0.5, fake.AFFINE, mask, dtype=np.uint8)
    save_image(truth, fake.AFFINE, reference, dtype=np.uint8)
    expected = metrics.agreement(
        truth, probability >= 0.5, fake.AFFINE, probability=probability, brain=brain
    )
    values = evaluation.compare(reference, mask, **maps)
    assert not np.isnan(values["average_precision"])
    assert values.pop("reference_resampled") is False
    assert values == pytest.approx(expected, nan_ok=True)


def test_a_reference_in_another_template_is_named_and_not_compared(tmp_path: Path) -> None:
    out, bids = tmp_path / "out", tmp_path / "bids"
    mask = cohorts.block(5, 4)
    cohorts.write_session(out, {"subject": "01"}, mask, template=True)
    cohorts.write_reference(bids, "01", mask)
    (file,) = bids.rglob("*_mask.nii.gz")
    file.rename(file.with_name(file.name.replace("space-T1w", "space-MNI152NLin6Asym")))
    page = group.write_group(bids, out, [bids / "derivatives" / "manual"])
    assert not (out / "group_metrics.tsv").exists()
    said = page.read_text(encoding="utf-8")
    assert "1 reference mask in space MNI152NLin6Asym" in said
    assert "not compared" in said


def test_unusable_references_are_told_on_the_terminal_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bids = tmp_path / "out", tmp_path / "bids"
    for subject in ("01", "02", "03"):
        cohorts.write_session(out, {"subject": subject}, cohorts.block(5, 4))
        cohorts.write_reference(bids, subject, cohorts.block(5, 4))
    broken = sorted(bids.rglob("*_mask.nii.gz"))[:2]
    for file in broken:
        file.write_bytes(b"no image")
    page = group.write_group(bids, out, [bids / "derivatives" / "manual"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    for line, file in zip(said, broken, strict=True):
        assert str(file) in line and line.endswith(".")
    assert broken[0].name in page.read_text(encoding="utf-8")


def test_page_names_failures_and_links_to_pages(outputs: Path) -> None:
    html = (outputs / "group.html").read_text(encoding="utf-8")
    assert "is cut short" in html
    assert 'href="sub-01.html#sub-01_ses-2"' in html
    assert "--output-spaces T1w FLAIR MNI152" in html  # how to get the map
    assert "trained on synthetic lesions" in html
    assert "at least one voxel" in html


def test_nothing_to_group(tmp_path: Path) -> None:
    with pytest.raises(NothingSelected, match="participant level first"):
        group.write_group(tmp_path, tmp_path)


def test_without_references_old_metrics_go(tmp_path: Path) -> None:
    fake.write_session(tmp_path, {"subject": "01"}, ("T1w",))
    (tmp_path / "group_metrics.tsv").write_text("old\n")
    group.write_group(tmp_path, tmp_path)
    assert not (tmp_path / "group_metrics.tsv").exists()


def test_dots_never_overlap_and_stay_inside() -> None:
    volumes = [(f"s{i}", "#", 0.0 if i % 7 == 0 else 1.5 ** (i % 13)) for i in range(60)]
    plot = dot_plot(volumes)
    assert len(plot.dots) == 60
    places = np.array([(dot.x, dot.y) for dot in plot.dots])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e6 * np.eye(60)
    assert gaps.min() >= 2 * plot.radius - 1e-6
    assert places[:, 0].min() >= plot.radius
    assert places[:, 0].max() <= plot.width - plot.radius
    assert places[:, 1].min() >= plot.radius


def test_plot_of_no_or_no_positive_volume() -> None:
    assert dot_plot([]).dots == ()
    assert len(dot_plot([("a", "#", 0.0)]).dots) == 1


def test_lines_for_the_terminal(outputs: Path, tmp_path: Path) -> None:
    lines = group.agreement_lines(outputs)
    (row,) = read(outputs / "group_metrics.tsv").to_dict("records")
    assert "sub-01_ses-1" in lines[1]
    assert f"Dice {row['dice']:5.3f}" in lines[1]
    assert f"mean Dice {row['dice']:.3f} over 1 masks" in lines[-1]
    assert group.agreement_lines(tmp_path) == []
