"""LesionGnb is fitted to features that are known, and its maps come back to the scan's own grid."""

from pathlib import Path

import numpy as np
import pytest

from bids_stroke.core import gnb
from bids_stroke.core.files import load_image, save_image
from bids_stroke.core.geometry import Grid, resample
from bids_stroke.core.splits import Split
from bids_stroke.errors import UnusableData
from bids_stroke.interfaces import lesiongnb_training
from bids_stroke.interfaces.lesiongnb_training import (
    Described,
    FitLesionGnb,
    describe_case,
    fit_cases,
    map_on_native,
)
from bids_stroke.models import lesiongnb
from bids_stroke.models.dataset import Case, Places, read_splits, write_cases, write_splits
from bids_stroke.models.fit import Job, write_job

GRID = lesiongnb.grid()
MOVED = np.eye(4)
MOVED[:3, 3] = (3.0, -2.0, 5.0)


def described(seed: int) -> Described:
    """A ball of lesion with strong features in a ball of brain."""
    rng = np.random.default_rng(seed)
    place = np.indices(GRID.shape) - np.array(GRID.shape).reshape(3, 1, 1, 1) / 2
    brain = (place**2).sum(0) < 24**2
    lesion = ((place - 6) ** 2).sum(0) < 9**2
    noise = rng.uniform(0, 0.05, (2, *GRID.shape))
    features = np.where(brain, np.where(lesion, 0.4, 0.0) + noise, 0).round(2).astype(np.float32)
    return Described(features, brain, lesion, MOVED)


def a_case(folder: Path, number: int) -> Case:
    """A scan on 4 mm, moved against the template; its reference is the ball."""
    given = described(number)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = GRID.affine[:3, 3]
    shape = tuple(n // 2 for n in GRID.shape)
    own = Grid((shape[0], shape[1], shape[2]), affine)
    name = f"sub-{number:02d}"
    files = {}
    for kind, mask in (("brain", given.brain), ("label", given.truth)):
        data = resample(mask.astype(np.float32), GRID, own, transform=np.linalg.inv(MOVED)) >= 0.5
        path = folder / f"{name}_{kind}.nii.gz"
        files[kind] = str(save_image(data, affine, path, dtype=np.uint8))
    t1w = str(save_image(np.ones(shape), affine, folder / f"{name}_T1w.nii.gz", dtype=np.float32))
    return Case(
        case=name,
        participant=name,
        session="",
        group=name,
        images={"T1w": t1w},
        brain=files["brain"],
        label=files["label"],
        space="T1w",
        native=t1w,
        native_brain=files["brain"],
        truth=files["label"],
    )


def test_two_gaussians_are_fitted_to_the_voxels_of_the_brain() -> None:
    cases = [described(1), described(2)]
    found = fit_cases(cases)
    inside = np.concatenate([c.features[:, c.brain & c.truth].T for c in cases])
    outside = np.concatenate([c.features[:, c.brain & ~c.truth].T for c in cases])
    assert found.means[1] == pytest.approx(tuple(inside.mean(0, dtype=float)), rel=1e-4)
    assert found.means[0] == pytest.approx(tuple(outside.mean(0, dtype=float)), rel=1e-4)
    assert found.priors == gnb.PRIORS == (0.8936, 0.1064)


def test_cases_without_lesions_are_refused() -> None:
    healthy = described(1)
    healthy.truth[:] = False
    with pytest.raises(UnusableData, match="No training case has a lesion"):
        fit_cases([healthy])


def test_a_map_lies_on_its_reference(tmp_path: Path) -> None:
    case, parameters = a_case(tmp_path, 1), fit_cases([described(2)])
    found = map_on_native(parameters, case, described(1))
    truth = np.asanyarray(load_image(case.truth).dataobj) > 0
    brain = np.asanyarray(load_image(case.native_brain).dataobj) > 0
    mask = found > 0.5
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    assert not found[~brain].any()
    assert 0 <= found.min() <= found.max() <= 1


def test_a_case_is_described_in_template_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registration and tissues are those of prediction, which have their own tests."""
    given = described(1)
    subject = type("Subject", (), vars(given))()
    monkeypatch.setattr(lesiongnb_training, "describe", lambda *a, seed: subject)
    case = a_case(tmp_path, 1)
    found = describe_case(case, 1)
    both = (found.truth & given.truth).sum()
    assert 2 * both / (found.truth.sum() + given.truth.sum()) > 0.85
    again = Described.load(found.save(tmp_path / "sub-01.npz"))
    assert all(np.array_equal(vars(again)[key], value) for key, value in vars(found).items())


def test_folds_are_fitted_validated_and_the_fit_of_all_is_kept(tmp_path: Path) -> None:
    places = Places(tmp_path / "out", "gnb")
    places.results.mkdir(parents=True)
    places.preprocessed.mkdir(parents=True)
    cases = [a_case(tmp_path, number) for number in (1, 2)]
    write_cases(cases, places.root / "cases.json")
    splits = [Split(train=("sub-02",), val=("sub-01",)), Split(train=("sub-01",), val=("sub-02",))]
    write_splits(places, splits, cases)
    assert read_splits(places.root / "splits.json") == splits
    jobs = [
        Job(root=str(places.root), name="gnb", recipe={}, fold=fold, train_on={"t": split.train})
        for fold, split in enumerate(splits)
    ]
    files = [str(described(n).save(tmp_path / f"sub-{n:02d}.npz")) for n in (1, 2)]
    node = FitLesionGnb(
        described=files,
        jobs=[str(write_job(job, tmp_path / f"fold_{job.fold}.json")) for job in jobs],
    )
    assert node.run(cwd=str(tmp_path)).outputs.done == [0, 1]
    maps = sorted(p.relative_to(places.validation) for p in places.validation.rglob("*.nii.gz"))
    assert list(map(str, maps)) == ["fold_0/sub-01.nii.gz", "fold_1/sub-02.nii.gz"]
    kept = lesiongnb.read_parameters(places.results)
    assert kept.means[1][0] == pytest.approx(fit_cases([described(1), described(2)]).means[1][0])
