"""The schema of recipes: what is read back, what a stage replaces, what is refused."""

from pathlib import Path

import pytest

from bids_stroke.errors import InputMissing, UsageError
from bids_stroke.models.recipe import find, from_table, plain
from tests.training_data import RECIPE, tiny_recipe


def test_a_recipe_survives_being_written():
    recipe = tiny_recipe(stages=[{"name": "a", "optimiser": {"learning_rate": 1}}])
    assert from_table(plain(recipe)) == recipe


def test_a_stage_replaces_single_keys_and_keeps_the_others():
    recipe = tiny_recipe(
        stages=[
            {"name": "a"},
            {"name": "b", "start": "previous", "channels": ["T1w"], "schedule": {"epochs": 9}},
        ]
    )
    first, second = (recipe.of_stage(stage) for stage in recipe.stages)
    assert (first.schedule.epochs, first.channels) == (4, ("T1w", "FLAIR"))
    assert (second.schedule.epochs, second.schedule.iterations) == (9, 12)
    assert second.channels == ("T1w",)
    assert [stage.name for stage in second.stages] == ["b"]


def test_the_default_finetunes_where_a_model_is_given():
    recipe = find("default")
    assert [s.name for s in recipe.with_pretrained(True).stages] == ["finetune"]
    assert [s.name for s in recipe.with_pretrained(False).stages] == ["train"]


def test_other_numbers_reach_every_stage():
    recipe = tiny_recipe(stages=[{"name": "a", "schedule": {"epochs": 50}}])
    short = recipe.shortened(epochs=2, iterations=3)
    schedule = short.of_stage(short.stages[0]).schedule
    assert (schedule.epochs, schedule.iterations) == (2, 3)


@pytest.mark.parametrize(("iterations", "validation"), [(250, 50), (25, 5), (2, 1), (500, 100)])
def test_validation_keeps_its_share_of_an_epoch(iterations: int, validation: int) -> None:
    recipe = tiny_recipe(schedule={"iterations": 250, "validation_iterations": 50})
    short = recipe.shortened(iterations=iterations)
    assert short.of_stage(short.stages[0]).schedule.validation_iterations == validation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {}}, "unknown key 'optimizer'"),
        ({"optimiser": {"rate": 1}}, "unknown key 'rate'"),
        ({"optimiser": {"name": "lion"}}, "optimiser.name is one of"),
        ({"optimiser": {"learning_rate": "fast"}}, "must be of type float"),
        ({"channels": ["T2w"]}, "channels must be different ones of T1w"),
        ({"stages": []}, "has no stage"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "two stages have one name"),
        ({"stages": [{"schedule": {"epoch": 1}}]}, "unknown key 'epoch'"),
        ({"stages": [{"when": "never"}]}, "when is one of"),
        ({"schedule": {"epochs": 0}}, "start at 1"),
        ({"folds": {"count": 1}}, "folds.count must be 2"),
        ({"preprocessing": {**RECIPE["preprocessing"], "n4_levels": 0}}, "n4_levels is 1 to 6"),
        ({"preprocessing": {**RECIPE["preprocessing"], "n4_levels": 7}}, "n4_levels is 1 to 6"),
        ({"augmentation": {"scale": [1.0]}}, "must have 2 numbers"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(UsageError, match=message):
        from_table({**RECIPE, **change})


def test_files_that_are_no_recipes(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("channels = [")
    with pytest.raises(UsageError, match="not valid TOML"):
        find(str(tmp_path / "bad.toml"))
    with pytest.raises(InputMissing, match="can't be read"):
        find(str(tmp_path / "none.toml"))
    with pytest.raises(InputMissing, match="no recipe 'best'.*default"):
        find("best")
