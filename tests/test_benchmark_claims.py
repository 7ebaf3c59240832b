"""The benchmark of the papers' claims: equal steps, sessions that are apart, and its quick form."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bids_stroke.core.files import load_image
from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "claims.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def claims() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


@pytest.fixture(scope="module")
def cohort(claims: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    groups = [replace(g, train=2, held_out=2) for g in claims.GROUPS]
    return claims.write_cohort(tmp_path_factory.mktemp("cohort"), 1, groups)


def test_every_run_makes_its_steps_whatever_its_stages(claims: ModuleType) -> None:
    for run in claims.RUNS:
        recipe = claims.small(run)
        schedules = [recipe.of_stage(stage).schedule for stage in recipe.stages]
        assert sum(s.epochs * s.iterations for s in schedules) == run.steps, run.name
        rates = {recipe.of_stage(stage).optimiser.learning_rate for stage in recipe.stages}
        assert rates == {run.rate}


def test_runs_that_are_compared_share_their_sessions_and_steps(claims: ModuleType) -> None:
    for target in ("flair", "target"):
        runs = [r for r in claims.RUNS if r.target == target and r.name != claims.BASE]
        assert len({(r.groups, r.steps, r.look) for r in runs}) == 1


def test_held_out_sessions_are_in_no_training(cohort: Any) -> None:
    trained = {case.case for cases in cohort.train.values() for case in cases}
    assert len(trained) == 8
    for group, cases in cohort.held_out.items():
        assert len(cases) == 2 and not trained & {case.case for case in cases}
        used, split = cohort.split(("large", group), group)
        assert not set(split.train) & set(split.val)
        assert {case.case for case in used} == {*split.train, *split.val}


def test_a_hidden_lesion_is_on_the_flair_alone(claims: ModuleType, cohort: Any) -> None:
    """Its mean differs from that of the brain by far more on the FLAIR than on the T1w."""
    by_kind = {}
    for case in cohort.train["flair"]:
        lesion, brain = (np.asarray(load_image(f).dataobj) > 0 for f in (case.label, case.brain))
        by_kind[case.where["seen_on"]] = {
            name: _contrast(load_image(file).get_fdata(), lesion, brain)
            for name, file in case.images.items()
        }
    hidden = by_kind[claims.FLAIR_ONLY]
    assert hidden["FLAIR"] > 0.8 > 0.5 > abs(hidden["T1w"])
    assert by_kind[claims.BOTH]["T1w"] < -0.5


def _contrast(image: np.ndarray, lesion: np.ndarray, brain: np.ndarray) -> float:
    """Distance of the lesion's mean from the brain's, in standard deviations of the brain."""
    return float((image[lesion].mean() - image[brain].mean()) / image[brain].std())


def test_lesions_of_an_upper_group_lie_above_the_others(claims: ModuleType, cohort: Any) -> None:
    def height(case: Any) -> float:
        lesion, brain = (np.asarray(load_image(f).dataobj) > 0 for f in (case.label, case.brain))
        low, high = np.argwhere(brain)[:, 2].min(), np.argwhere(brain)[:, 2].max()
        return float((np.argwhere(lesion)[:, 2].mean() - low) / (high - low))

    assert min(map(height, cohort.train["target"] + cohort.train["intermediate"])) > 0.5


@pytest.fixture(scope="module")
def real(claims: ModuleType, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("real")
    return claims.draw(folder, 1, True, real_data)


def test_real_heads_that_are_held_out_are_of_another_person(real: Any) -> None:
    trained = {case.where["scan"].split("_")[0] for cases in real.train.values() for case in cases}
    held_out = {c.where["scan"].split("_")[0] for cases in real.held_out.values() for c in cases}
    assert trained == {"patient26", "sub-04"} and held_out == {"sub-01"}
    assert {name: len(cases) for name, cases in real.train.items()} == {
        "large": 3,
        "target": 0,
        "flair": 3,
    }


def test_lesions_lie_in_the_brain_of_the_real_head_and_show_on_its_flair(real: Any) -> None:
    cases = [case for cases in [*real.train.values(), *real.held_out.values()] for case in cases]
    for case in cases:
        lesion, brain = (np.asarray(load_image(f).dataobj) > 0 for f in (case.label, case.brain))
        assert not (lesion & ~brain).any()
        assert 1000 < brain.sum() * 0.027 < 2000
        assert 1.5 <= case.volume_ml <= 30
    for case in real.train["flair"]:
        lesion, brain = (np.asarray(load_image(f).dataobj) > 0 for f in (case.label, case.brain))
        contrast = {
            name: _contrast(load_image(file).get_fdata(), lesion, brain)
            for name, file in case.images.items()
        }
        assert contrast["FLAIR"] > 0.5, case.case


def test_tables_tell_each_seed_and_each_kind_of_lesion(claims: ModuleType) -> None:
    seen = {"a": claims.BOTH, "b": claims.FLAIR_ONLY}
    first = {"curve": {"0": {"a": 0.0, "b": 0.0}, "200": {"a": 0.8, "b": 0.2}}, "seen_on": seen}
    second = {"curve": {"0": {"a": 0.2, "b": 0.0}, "200": {"a": 0.6, "b": 0.0}}, "seen_on": seen}
    rows = claims.curves([{"x": first}, {"x": second}], ["x", "y"])
    assert len(rows) == 1
    assert rows[0]["step 0"] == "0.050 (0.00, 0.10)"
    assert rows[0]["step 25"] == "n/a"
    assert rows[0]["last"] == "200: 0.400 (0.50, 0.30)"
    assert rows[0][claims.BOTH] == "0.700 (0.80, 0.60)"
    assert rows[0][claims.FLAIR_ONLY] == "0.100 (0.20, 0.00)"


def test_ensembles_are_chosen_on_one_half_and_told_on_the_other(
    claims: ModuleType, cohort: Any, tmp_path: Path
) -> None:
    """Two networks that find the lesion, each with an error of its own: the stack has neither."""
    cases = cohort.held_out["target"]
    for number, name in enumerate(claims.MEMBERS[:2]):
        masks = {}
        for case in cases:
            masks[case.case] = np.asarray(load_image(case.label).dataobj) > 0
            masks[case.case][number, :4, :4] = True
        (tmp_path / claims.slug(name)).mkdir()
        np.savez_compressed(tmp_path / claims.slug(name) / "masks.npz", **masks)
    found = claims.ensembles(tmp_path, cohort)
    assert found["stack, told"] == found["stack, tuned"] == 1
    assert found["single, told"] < 1
    assert set(found) == {f"{m}, {k}" for m in ("single", "stack", "window") for k in KINDS}


KINDS = ("tuned", "told")


@pytest.mark.slow
def test_the_quick_form_trains_and_tells(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--quick", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])["results"][0]
    assert set(result["dual, zero"]["curve"]) == {"0", "4", "8", "12"}
    assert set(result["unet, ImTT"]["curve"]) == {"8", "12"}
    assert len(result["unet, mixed"]["curve"]["12"]) == 4
    assert result["ensembles"].keys() == {f"{m}, {k}" for m in RULES for k in KINDS}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


RULES = ("single", "stack", "window")
