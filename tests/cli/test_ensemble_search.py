"""``bids_stroke-models ensemble-search`` on files: matching, choice, report, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK

from bids_stroke.cli.ensemble_search import region_names
from bids_stroke.cli.models import main
from bids_stroke.core.atlases import Atlas
from bids_stroke.core.files import save_image
from bids_stroke.core.geometry import write_itk_affine

SHAPE = (14, 12, 10)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(mask: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(mask, AFFINE, path, dtype=np.uint8)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Four participants; run ``a`` and ``b`` have noise of their own, ``c`` finds nothing."""
    for number in range(4):
        rng = np.random.default_rng(number)
        truth = np.zeros(SHAPE, bool)
        truth[2:6, 3:8, 3:7] = True
        sub = f"sub-{number:02d}"
        save(truth, tmp_path / "manual" / sub / "anat" / f"{sub}_label-L_mask.nii.gz")
        for run, share in (("a", 0.02), ("b", 0.03), ("c", 0.0)):
            found = (truth if share else np.zeros(SHAPE, bool)) | (rng.random(SHAPE) < share)
            name = f"{sub}_space-T1w_label-L_desc-stroke_mask.nii.gz"
            save(found, tmp_path / run / sub / "anat" / name)
            save(found, tmp_path / run / sub / "anat" / name.replace("space-T1w", "space-FLAIR"))
    return tmp_path


@pytest.fixture
def search(cohort: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*more: object) -> tuple[int, str, str]:
        runs = [f"{run}={cohort / run}" for run in "abc"]
        given = ["--reference", str(cohort / "manual"), "--output", str(cohort / "found")]
        code = main(["ensemble-search", *given, "--predictions", *runs, *map(str, more)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def test_it_finds_that_noise_is_stacked_away(search: Callable, cohort: Path) -> None:
    code, out, _ = search()
    assert code == 0
    assert "a+b by stack" in out
    found = json.loads((cohort / "found" / "ensemble.json").read_text())
    assert found["chosen"]["whole brain"]["models"] == ["a", "b"]
    assert len(found["tuned_on"]) == len(found["reported_on"]) == 2
    assert not set(found["tuned_on"]) & set(found["reported_on"])
    report = pd.read_csv(cohort / "found" / "report.tsv", sep="\t")
    assert set(report["case"]) == set(found["reported_on"])
    means = report.groupby("run")["dice"].mean()
    assert means["whole brain"] > means[["a", "b", "c"]].max()
    described = json.loads((cohort / "found" / "ensembles.json").read_text())
    table = pd.read_csv(cohort / "found" / "ensembles.tsv", sep="\t")
    assert list(described) == list(table.columns)
    assert table["chosen"].sum() == 1


def test_regions_come_from_one_image_on_another_grid(search: Callable, cohort: Path) -> None:
    labels = np.ones((7, 6, 5), np.uint8)
    labels[2:] = 2
    twice = np.diag([2.0, 3.0, 4.0, 1.0])
    twice[:3, 3] = (0.5, 0.75, 1.0)
    nib.save(nib.Nifti1Image(labels, twice), cohort / "areas.nii.gz")
    code, out, _ = search(
        "--regions", cohort / "areas.nii.gz", "--region", "low=1", "high=2", "--windows", "2"
    )
    assert code == 0
    found = json.loads((cohort / "found" / "ensemble.json").read_text())
    assert set(found["chosen"]) == {"whole brain", "low", "high"}
    assert "by region:" in out


# Atlases in template space

TO_TEMPLATE, FLAIR_SHIFT = (-57.0, 20.0, 5.0), (40.0, -30.0, 20.0)
HALVES_AT = -50.5  # x of the template where its halves meet: 6.5 mm in the native images


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """An atlas of two halves in template space, and four participants, each somewhere else.

    Run ``low`` finds the lesion of the first half, ``high`` that of the second; where the other
    lesion is they have noise. The transforms to the template are those of ``high`` alone.
    """
    low, high = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    low[2:5, 3:8, 3:7], high[9:12, 3:8, 3:7] = True, True
    first_half = np.arange(SHAPE[0])[:, None, None] < 7
    for number in range(4):
        sub, moved = f"sub-{number:02d}", np.array([50.0 * number, 7.0, -3.0])
        noise = np.random.default_rng(number).random(SHAPE) < 0.2
        masks = {"manual": low | high, "low": low | (noise & ~first_half)}
        masks["high"] = high | (noise & first_half)
        for space, shift in (("T1w", np.zeros(3)), ("FLAIR", np.array(FLAIR_SHIFT))):
            affine = AFFINE.copy()
            affine[:3, 3] = moved + shift
            for run, mask in masks.items():
                end = "label-lesion_mask" if run == "manual" else "label-L_desc-stroke_mask"
                path = tmp_path / run / sub / "anat" / f"{sub}_space-{space}_{end}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(mask, affine, path, dtype=np.uint8)
        write_ways(tmp_path / "high" / sub / "anat" / sub, np.array(TO_TEMPLATE) - moved)
    labels = np.ones((30, 40, 40), np.uint8)
    labels[15:] = 2
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = (HALVES_AT - 29, -20, -30)
    nib.save(nib.Nifti1Image(labels, grid), tmp_path / "halves.nii.gz")
    (tmp_path / "halves.tsv").write_text("index\tname\n1\tfirst\n2\tsecond\n")
    return tmp_path


def write_ways(stem: Path, shift: np.ndarray) -> None:
    """What the participant level writes: the T1w to a template and back, and the T1w to the FLAIR.

    As ITK has it, a transform takes points of its target to its source, in LPS.
    """
    for ends, sign in (
        ("from-MNI152NLin2009aSym_to-T1w", 1),
        ("from-T1w_to-MNI152NLin2009aSym", -1),
    ):
        lps = sign * shift * (-1, -1, 1)
        composite = SimpleITK.CompositeTransform([SimpleITK.TranslationTransform(3, lps.tolist())])
        SimpleITK.WriteTransform(composite, f"{stem}_{ends}_mode-image_xfm.h5")
    for ends, sign in (("from-T1w_to-FLAIR", -1), ("from-FLAIR_to-T1w", 1)):
        matrix = np.eye(4)
        matrix[:3, 3] = sign * np.array(FLAIR_SHIFT)
        write_itk_affine(matrix, Path(f"{stem}_{ends}_mode-image_xfm.txt"))


def by_atlas(root: Path, *more: object) -> int:
    runs = [f"{run}={root / run}" for run in ("low", "high")]
    given = ["--reference", str(root / "manual"), "--output", str(root / "found")]
    atlas = ["--atlas", f"halves={root / 'halves.nii.gz'}"]
    return main(["ensemble-search", *given, "--predictions", *runs, *atlas, *map(str, more)])


@pytest.mark.parametrize("space", ["T1w", "FLAIR"])
def test_native_masks_are_searched_by_the_regions_of_an_atlas(halves: Path, space: str) -> None:
    assert by_atlas(halves, "--space", space) == 0
    chosen = json.loads((halves / "found" / "ensemble.json").read_text())["chosen"]
    assert chosen["first"]["models"] == ["low"]
    assert chosen["second"]["models"] == ["high"]
    table = pd.read_csv(halves / "found" / "ensembles.tsv", sep="\t")
    best = table[(table["chosen"] == 1) & (table["region"] != "whole brain")]
    assert (best["dice"] == 1).all()
    report = pd.read_csv(halves / "found" / "report.tsv", sep="\t")
    assert (report[report["run"] == "by region"]["dice"] == 1).all()


def test_a_case_without_a_transform_is_named(
    halves: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (halves / "high" / "sub-02").rglob("*from-MNI*"):
        path.unlink()
    assert by_atlas(halves) == 66
    said = capsys.readouterr().err
    assert "sub-02 (1 of 4 cases)" in said
    assert "--output-spaces T1w FLAIR MNI152NLin2009aSym" in said


def test_a_broken_transform_is_named(halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((halves / "high" / "sub-01").rglob("*from-MNI*"))
    path.write_bytes(b"nothing")
    assert by_atlas(halves) == 65
    assert path.name in capsys.readouterr().err


def test_super_regions_are_named_as_the_paper_merges_them() -> None:
    def atlas(names: dict[int, str]) -> Atlas:
        return Atlas("super_region", np.zeros((1, 1, 1), int), np.eye(4), names)

    four = {1: "R1", 2: "R2", 3: "R3", 4: "R4"}
    assert region_names(atlas(four)) == {"R1+R4": (1, 4), "R2": (2,), "R3": (3,)}
    assert region_names(atlas({3: "a", 5: "b"})) == {"a": (3,), "b": (5,)}
    assert region_names(None) == {}


def test_an_unknown_atlas_is_refused(search: Callable) -> None:
    code, _, err = search("--atlas", "nowhere")
    assert code == 2
    assert "no atlas 'nowhere'" in err and "--atlas nowhere=FILE" in err


def test_a_file_may_say_who_is_tuned_on(search: Callable, cohort: Path) -> None:
    split = cohort / "split.json"
    split.write_text(json.dumps([{"train": ["00", "sub-01", "02"], "val": ["03"]}]))
    assert search("--split", split)[0] == 0
    found = json.loads((cohort / "found" / "ensemble.json").read_text())
    assert found["tuned_on"] == ["sub-00", "sub-01", "sub-02"]
    assert found["reported_on"] == ["sub-03"]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": ["00"], "val": ["00"]}, "cases of their own"),
        ({"train": ["00"], "val": ["99"]}, "cases of their own"),
        ({"train": ["00"]}, "no lists train and val"),
        ("nonsense", "no lists train and val"),
    ],
)
def test_a_wrong_split_is_refused(
    search: Callable, cohort: Path, split: object, words: str
) -> None:
    file = cohort / "split.json"
    file.write_text(json.dumps(split))
    code, _, err = search("--split", file)
    assert code == 2
    assert words in err


def test_equal_seeds_give_equal_halves(search: Callable, cohort: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        assert search("--seed", seed)[0] == 0
        found.append((cohort / "found" / "ensemble.json").read_text())
    assert found[0] == found[1]


def test_other_spaces_are_taken_on_request(search: Callable) -> None:
    assert search("--space", "FLAIR")[0] == 0
    code, _, err = search("--space", "MNI152NLin2009aSym")
    assert code == 66
    assert "4 found" in err and "--space" in err


def test_masks_on_another_grid_are_refused(search: Callable, cohort: Path) -> None:
    wrong = next((cohort / "b").rglob("sub-01*space-T1w*"))
    save_image(np.zeros((3, 3, 3)), AFFINE, wrong, dtype=np.uint8)
    code, _, err = search()
    assert code == 65
    assert "not on the grid" in err


def test_two_references_of_one_session_are_refused(search: Callable, cohort: Path) -> None:
    folder = cohort / "manual" / "sub-00" / "anat"
    save(np.ones(SHAPE), folder / "sub-00_desc-lesion_mask.nii.gz")
    code, _, err = search()
    assert code == 65
    assert "two masks of sub-00" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--region", "x=1"], "give one as well"),
        (["--predictions", "a=/nowhere"], "two runs or more"),
        (["--predictions", "a=/x", "a=/y"], "a name of its own"),
    ],
)
def test_wrong_usage_is_refused(search: Callable, arguments: list[str], words: str) -> None:
    code, _, err = search(*arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--windows", "2,x"],
        ["--windows", "0"],
        ["--shares", "1"],
        ["--shares", "much"],
        ["--region", "R1"],
        ["--atlas", "a="],
        ["--atlas", "a", "--regions", "b"],
        ["--predictions", "a"],
        ["--top", "0"],
    ],
)
def test_the_parser_refuses_nonsense(search: Callable, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        search(*arguments)
    assert stopped.value.code == 2
