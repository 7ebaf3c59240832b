"""Large strokes in whole heads: where they are put, and what is scored."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.io import savemat

from bids_stroke.core import geometry
from bids_stroke.models.sampling import load_shapes
from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "strokes.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")
NAME = "sub-01_ses-01x0"
GRID = geometry.Grid((40, 40, 40), np.diag([2.0, 2, 2, 1]))
CORNER = np.array([8, 20, 12])


@pytest.fixture(scope="module")
def strokes() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Lesion shapes as prepare.py writes them: five cubes of which three are large."""
    sides = [5, 16, 17, 18, 6]
    np.savez(
        tmp_path / "lesions.npz",
        voxels=np.concatenate([np.full(side**3, 255, np.uint8) for side in sides]),
        shapes=[(side,) * 3 for side in sides],
        corners=[CORNER for _ in sides],
        splits=["report"] * 4 + ["tune"],
        names=["x"] * 5,
        ml=[8 * side**3 / 1000 for side in sides],
        grid_shape=GRID.shape,
        grid_affine=GRID.affine,
    )
    return tmp_path


def test_large_shapes_are_dealt_out_to_scans_with_a_skull(strokes: ModuleType, cases: Path) -> None:
    split = strokes.insert.Split(("patient26", "sub-01_ses-01", "sub-01_ses-02"), "report", "m", 0)
    dealt = dict(strokes.chosen(cases, split, 1))
    assert list(dealt) == ["sub-01_ses-01", "sub-01_ses-02"]
    volumes = [shape.ml for shapes in dealt.values() for shape in shapes]
    assert len(set(volumes)) == 2 and min(volumes) >= 20
    with pytest.raises(SystemExit, match="3 large shapes"):
        dict(strokes.chosen(cases, split, 2))


def test_a_stroke_lies_in_both_images_where_it_was_in_the_template(
    strokes: ModuleType, cases: Path, tmp_path: Path
) -> None:
    """The FLAIR has other voxels and lies 6 mm to the left of the T1w."""
    rng = np.random.default_rng(0)
    wide, away = np.diag([4.0, 2, 3, 1]), np.eye(4)
    away[0, 3] = 6.0
    images = {
        "T1w": nib.Nifti1Image(rng.uniform(300, 400, (40, 40, 40)).astype(np.int16), GRID.affine),
        "FLAIR": nib.Nifti1Image(rng.uniform(300, 400, (20, 40, 26)).astype(np.int16), wide),
    }
    ways = {"T1w": np.eye(4), "FLAIR": away}
    seen = {
        suffix: strokes.View(image, np.ones(image.shape, bool), ways[suffix])
        for suffix, image in images.items()
    }
    shape = load_shapes(cases / "lesions.npz", "report")[1]
    strokes.painted.dataset(tmp_path / "bids")
    strokes.write(NAME, seen, shape, strokes.painted.Look("subacute", 0), cases, tmp_path / "bids")
    middle = GRID.affine[:3, :3] @ (CORNER + 7.5)
    for suffix, image in images.items():
        end = f"sub-01/ses-01x0/anat/{NAME}_{{}}.nii.gz"
        new = nib.load(tmp_path / "bids" / end.format(suffix))
        changed = np.asarray(new.dataobj) != np.asarray(image.dataobj)
        truth = nib.load(
            tmp_path / "bids/derivatives/truth" / end.format(strokes.painted.TRUTH.format(suffix))
        )
        inside = np.asarray(truth.dataobj) > 0
        assert new.get_data_dtype() == np.int16
        assert changed[inside].mean() > 0.9
        ml = inside.sum() * geometry.voxel_volume_mm3(new.affine) / 1000
        assert ml == pytest.approx(shape.ml, rel=0.15)
        found = new.affine[:3, :3] @ np.argwhere(inside).mean(axis=0) + ways[suffix][:3, 3]
        assert np.abs(found - middle).max() < 1.5


def test_scores_are_those_of_the_masks_on_each_grid(strokes: ModuleType, tmp_path: Path) -> None:
    bids, results = tmp_path / "bids", tmp_path / "results"
    truth, marked, brain = (np.zeros((10, 10, 10), np.uint8) for _ in range(3))
    truth[2:6], marked[2:5], brain[3:] = 1, 1, 1
    like = nib.Nifti1Image(truth, np.diag([10.0, 10, 10, 1]))
    where = bids / "derivatives" / "truth"
    for root, end, mask in (
        (where, strokes.painted.TRUTH.format("T1w"), truth),
        (results, "space-T1w_label-L_desc-stroke_mask", marked),
        (results, "desc-brain_mask", brain),
    ):
        strokes.painted.save(mask, like, root, NAME, end)
    (row,) = strokes.scores(NAME, bids, results)
    assert (row["grid"], row["mL"], row["marked mL"]) == ("T1w", 400.0, 300.0)
    assert (row["Dice"], row["in the brain mask"]) == (0.857, 0.75)
    whole = strokes.summary([row, {**row, "Dice": 0.5, "marked mL": 500.0}])
    assert (whole["strokes"], whole["lowest Dice"]) == (2, 0.5)
    assert whole["marked of their volume"] == 1.0


@pytest.mark.real
def test_a_scan_is_seen_with_its_own_transform(
    strokes: ModuleType, real_data: Path, tmp_path: Path
) -> None:
    """The middle of the brain is one point of the template by both images."""
    parameters = np.array([1.1, 0, 0, 0, 1.1, 0, 0, 0, 1.1, 5, 6, 7.0])[:, None]
    file = tmp_path / "sub-04_ses-01_0GenericAffine.mat"
    content = {"AffineTransform_double_3_3": parameters, "fixed": np.zeros((3, 1))}
    savemat(file, content, format="4")
    seen = strokes.views("sub-04_ses-01", real_data, tmp_path)
    middles = [
        apply_affine(view.to_template @ view.image.affine, np.argwhere(view.brain).mean(axis=0))
        for view in seen.values()
    ]
    assert list(seen) == ["T1w", "FLAIR"]
    assert np.linalg.norm(middles[0] - middles[1]) < 2
    apart = [apply_affine(v.image.affine, np.argwhere(v.brain).mean(axis=0)) for v in seen.values()]
    assert np.allclose(middles[0], 1.1 * apart[0] + [-5, -6, 7])
