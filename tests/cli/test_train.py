"""The train level: plans, groups, folds and settings; whole runs are marked slow."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_stroke import config as cfg
from bids_stroke.cli import run, train, train_plan
from bids_stroke.core.files import load_image
from bids_stroke.errors import InputMissing, NothingSelected, UsageError
from bids_stroke.models import descriptor
from bids_stroke.models.dataset import Case, Places, write_splits
from bids_stroke.models.recipe import Recipe, Stage, plain
from tests.tiny_model import write_model
from tests.training_data import ball, tiny_recipe, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("balls"), participants=4)


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    """The tiny recipe as a user's file."""
    return _written(tiny_recipe(), tmp_path)


def _written(recipe: Recipe, folder: Path) -> Path:
    import tomli_w

    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(plain(recipe)), encoding="utf-8")
    return path


def _config(dataset: Path, tmp_path: Path, recipe: str, **training: object) -> cfg.Config:
    return cfg.Config(
        dataset=cfg.Dataset(bids_dir=dataset, output_dir=tmp_path / "out", level="train"),
        training=cfg.Training(recipe=recipe, **training),  # type: ignore[arg-type]
        execution=cfg.Execution(work_dir=tmp_path / "work"),
    )


def _case(number: int, group: str = "") -> Case:
    label = f"sub-{number:02d}"
    names = ("brain", "label", "native", "native_brain", "truth")
    return Case(
        case=label,
        participant=label,
        session="",
        group=group or label,
        images={},
        space="T1w",
        volume_ml=float(number),
        **dict.fromkeys(names, ""),
    )


def test_the_plan_takes_what_has_all_channels_and_a_mask(dataset, tmp_path, recipe_file):
    for left_out, file in (
        ("no FLAIR", dataset / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz"),
        ("no reference", dataset / "derivatives/manual/sub-02/anat/sub-02_label-L_mask.nii.gz"),
    ):
        hidden = file.rename(file.with_suffix(".hidden"))
        plan = train_plan.make_plan(_config(dataset, tmp_path, str(recipe_file)))
        hidden.rename(file)
        assert len(plan.references) == 3
        assert left_out in next(iter(plan.left_out.values()))
    assert plan.columns["sub-03"]["centre"] == "B"


def test_nothing_to_train_on(tmp_path, recipe_file):
    root = write_dataset(tmp_path / "bids", participants=1)
    next(root.glob("derivatives/manual/sub-01/anat/*")).unlink()
    with pytest.raises(NothingSelected, match="it has no reference mask"):
        train_plan.make_plan(_config(root, tmp_path, str(recipe_file)))


def test_dry_run_tells_what_is_wrong_and_writes_nothing(tmp_path, recipe_file, capsys):
    root = write_dataset(
        tmp_path / "bids", participants=3, sub_02=0.5 * ball((12, 12, 12), 3) + 0.2
    )
    arguments = [str(root), str(tmp_path / "out"), "train", "--recipe", str(recipe_file)]
    assert run.main([*arguments, "--dry-run", "-w", str(tmp_path / "work")]) == 65
    said = capsys.readouterr().out
    assert "sub-02: ERROR (not_binary)" in said
    assert "Of 3 participants, 3 sessions can be trained on" in said
    assert not (tmp_path / "out").exists()
    assert run.main([*arguments, "-w", str(tmp_path / "work")]) == 65


def test_recipes_and_models_must_go_together(dataset, tmp_path, recipe_file):
    with pytest.raises(UsageError, match="starts from no model"):
        train_plan.choose_recipe(
            _config(dataset, tmp_path, str(recipe_file), pretrained="embedded")
        )
    recipe, model = train_plan.choose_recipe(
        _config(dataset, tmp_path, "default", pretrained="embedded", epochs=2)
    )
    assert model is not None and recipe.preprocessing.steps == model.preprocessing.steps
    assert recipe.of_stage(recipe.stages[0]).schedule.epochs == 2


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        ("meddahi2024-dual", ("reorient", "brain_extraction", "register", "n4", "zscore")),
        ("meddahi2024-t1w-finetune", ("reorient", "brain_extraction", "n4", "zscore")),
    ],
)
def test_two_images_are_registered_after_a_model_of_one(dataset, tmp_path, recipe, steps):
    of_one = 'steps = ["reorient", "brain_extraction", "n4", "zscore"]\nreference = "T1w"'
    one = {"channels": ("T1w",), "inputs": (("T1w",),)}
    model = write_model(tmp_path, **one, preprocessing=of_one)
    chosen, _ = train_plan.choose_recipe(_config(dataset, tmp_path, recipe, pretrained=str(model)))
    assert chosen.preprocessing.steps == steps
    assert chosen.preprocessing.reference == ("FLAIR" if "dual" in recipe else "T1w")


@pytest.mark.parametrize(
    ("recipe", "network", "said"),
    [
        (
            "meddahi2024-dual",
            "bids_stroke.models.networks.volumes.UNet3d",
            "of nnU-Net, but .* a UNet3d",
        ),
        ("lhermitte2024-unet", "a.b.PlainConvUNet", "from a UNet3d, but .* is a PlainConvUNet"),
        ("meddahi2024-dual", "", "no configuration '3d_fullres', but 2d"),
    ],
)
def test_a_network_that_a_recipe_can_not_go_on_from(dataset, tmp_path, recipe, network, said):
    model = write_model(tmp_path)
    plans = model.parent / "tiny" / "plans.json"
    table = json.loads(plans.read_text())
    table["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = network
    if not network:
        table["configurations"]["2d"] = table["configurations"].pop("3d_fullres")
    plans.write_text(json.dumps(table))
    with pytest.raises(UsageError, match=said):
        train_plan.choose_recipe(_config(dataset, tmp_path, recipe, pretrained=str(model)))


def test_a_model_without_network_is_no_start(dataset, tmp_path):
    with pytest.raises(UsageError, match="'lesiongnb' is none"):
        train_plan.choose_recipe(_config(dataset, tmp_path, "default", pretrained="lesiongnb"))


def test_only_what_most_raters_passed_is_trained_on(dataset, tmp_path, recipe_file):
    rows = ["participant_id\tsession_id\trun_id\trater\trating"]
    given = {"01": "pass pass fail", "02": "pass fail", "03": "pass"}
    for subject, levels in given.items():
        rows += [f"sub-{subject}\tn/a\tn/a\tr{i}\t{r}" for i, r in enumerate(levels.split())]
    file = tmp_path / "ratings.tsv"
    file.write_text("\n".join(rows) + "\n")
    config = replace(_config(dataset, tmp_path, str(recipe_file)), group=cfg.Group(ratings=(file,)))
    plan = train_plan.make_plan(config)
    assert plan.participants == ["sub-01", "sub-03"]
    assert plan.left_out == {"sub-02": "its rating is fail", "sub-04": "nobody rated it"}
    file.write_text("\n".join(rows[:1] + [rows[3], rows[5]]) + "\n")
    with pytest.raises(NothingSelected, match="nobody rated it"):
        train_plan.make_plan(config)


@pytest.mark.parametrize(
    ("cases", "columns", "locate"),
    [
        ({}, {}, False),
        ({"drop_regions": ["cerebellum"]}, {}, True),
        ({"drop_regions": ["cerebellum"]}, {"region": "frontal"}, False),
        ({"super_regions": ["R2"]}, {"region": "frontal"}, True),
        ({"super_regions": ["R2"]}, {"super_region": "R2"}, False),
    ],
)
def test_lesions_are_located_where_a_rule_asks_and_no_column_says_it(
    dataset, tmp_path, monkeypatch, cases, columns, locate
):
    monkeypatch.setattr("bids_stroke.models.atlases.find_spec", lambda name: name)
    config = _config(dataset, tmp_path, "default")
    recipe = tiny_recipe(stages=[{"name": "first"}, {"start": "previous", "cases": cases}])
    found = train_plan.make_plan(_config(dataset, tmp_path, str(_written(recipe, tmp_path))))
    known = dict.fromkeys(found.participants, columns)
    plan = replace(found, recipe=recipe, columns=known)
    assert found.locate is bool(cases)
    assert train_plan._must_locate(config, plan) is locate
    monkeypatch.setattr("bids_stroke.models.atlases.find_spec", lambda name: None)
    if locate and "super_regions" in cases:
        with pytest.raises(UsageError, match="--atlas super_region=FILE"):
            train_plan._must_locate(config, plan)
    asks_more = replace(plan, recipe=tiny_recipe(cases={"where": {"training_set": "large"}}))
    with pytest.raises(UsageError, match="by 'training_set', but participants.tsv has no"):
        train_plan._must_locate(config, asks_more)


def test_groups(dataset):
    from bids_stroke.bids.pairs import Pair

    pairs = [Pair(subject=s, t1w=Path("x"), entities={"subject": s}) for s in ("01", "02")]
    columns = train_plan.read_columns(dataset)
    assert train_plan.groups_of(pairs, columns, None) == {"sub-01": "sub-01", "sub-02": "sub-02"}
    assert train_plan.groups_of(pairs, columns, "centre") == {"sub-01": "B", "sub-02": "A"}
    with pytest.raises(UsageError, match="no 'scanner' for sub-01"):
        train_plan.groups_of(pairs, columns, "scanner")


def test_splits_are_balanced_reused_and_those_of_a_file(dataset, tmp_path, recipe_file, capsys):
    config = _config(dataset, tmp_path, str(recipe_file))
    plan = train_plan.Plan(tiny_recipe(), None, [], {}, {})
    places = Places(tmp_path / "tiny", "tiny")
    cases = [_case(number) for number in range(1, 7)]
    splits = train.make_splits(config, plan, cases, places)
    assert sorted(len(split.val) for split in splits) == [3, 3]
    places.preprocessed.mkdir(parents=True)
    write_splits(places, splits, cases)
    assert train.make_splits(config, plan, cases, places) == splits
    with pytest.raises(UsageError, match="made of other sessions"):
        train.make_splits(config, plan, cases[:-1], places)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps([{"train": ["sub-01"], "val": ["sub-02"]}]))
    own = replace(config, training=replace(config.training, split_file=file))
    assert train.make_splits(own, plan, cases, places)[0].val == ("sub-02",)
    file.write_text("{}")
    with pytest.raises(UsageError, match="must be a list"):
        train.make_splits(own, plan, cases, places)
    file.unlink()
    with pytest.raises(InputMissing):
        train.make_splits(own, plan, cases, places)


def test_few_groups_make_few_folds(dataset, tmp_path, recipe_file, capsys):
    config = _config(dataset, tmp_path, str(recipe_file))
    plan = train_plan.Plan(tiny_recipe(folds={"count": 5}), None, [], {}, {})
    places = Places(tmp_path / "tiny", "tiny")
    centres = [_case(1, "A"), _case(2, "A"), _case(3, "B")]
    assert len(train.make_splits(config, plan, centres, places)) == 2
    assert "2 groups can make 2 folds, not 5" in capsys.readouterr().out
    with pytest.raises(UsageError, match="two participants at least"):
        train.make_splits(config, plan, centres[:2], places)


def test_folds_that_are_asked_for(dataset, tmp_path, recipe_file):
    config = _config(dataset, tmp_path, str(recipe_file))
    assert train.chosen_folds(config, tiny_recipe(), 2) == [0, 1]
    assert train.chosen_folds(config, tiny_recipe(folds={"train": [1]}), 2) == [1]
    one = replace(config, model=cfg.Model(folds=(0,)))
    assert train.chosen_folds(one, tiny_recipe(), 2) == [0]
    with pytest.raises(UsageError, match="no fold 0"):
        train.chosen_folds(one, tiny_recipe(), 0)


def test_a_model_that_was_begun_otherwise_is_not_gone_on_with(tmp_path):
    places = Places(tmp_path / "tiny", "tiny")
    plan = train_plan.Plan(tiny_recipe(), None, [], {}, {})
    train._check_settings(places, plan, [], [])
    more_folds = replace(plan, recipe=tiny_recipe(folds={"count": 2, "train": [1]}))
    train._check_settings(places, more_folds, [], [])
    other = replace(plan, recipe=tiny_recipe(schedule={"epochs": 5}))
    with pytest.raises(UsageError, match="recipe: schedule"):
        train._check_settings(places, other, [], [])


def _with_ranks(config: cfg.Config, ranks: int, device: str = "cpu") -> cfg.Config:
    return replace(config, execution=replace(config.execution, gpus_per_fold=ranks, device=device))


def test_ranks_that_can_not_divide_the_batch_are_refused_at_once(dataset, tmp_path, recipe_file):
    folder = str(tmp_path / "out")
    flags = ["--recipe", str(recipe_file), "--device", "cpu", "-w", str(tmp_path / "work")]
    given = [str(dataset), folder, "train", *flags, "--gpus-per-fold", "3"]
    assert run.main(given) == UsageError.exit_code
    assert not (tmp_path / "work").exists()
    config = _config(dataset, tmp_path, str(recipe_file))
    plan = train_plan.make_plan(config)
    train.check_ranks(_with_ranks(config, 2), plan)
    with pytest.raises(UsageError, match="batch of 2 of the stage 'train'.* can be 1, 2"):
        train.check_ranks(_with_ranks(config, 3), plan)
    unplanned = replace(plan, recipe=tiny_recipe(plan={"spacing": [3, 3, 3]}))
    train.check_ranks(_with_ranks(config, 3), unplanned)  # nnU-Net says later


def test_ranks_need_as_many_gpus_and_a_network(dataset, tmp_path, recipe_file, monkeypatch):
    config = _config(dataset, tmp_path, str(recipe_file))
    plan = train_plan.make_plan(config)
    monkeypatch.setattr(run, "resolve_device", lambda device: device)
    monkeypatch.setattr(train, "_gpu_count", lambda: 1)
    with pytest.raises(UsageError, match="There is one GPU, not 2|There is 1 GPU, not 2"):
        train.check_ranks(_with_ranks(config, 2, "cuda"), plan)
    with pytest.raises(UsageError, match="'cuda:1' is one device"):
        train.check_ranks(_with_ranks(config, 2, "cuda:1"), plan)
    no_network = replace(plan, recipe=replace(plan.recipe, method="lesiongnb"))
    with pytest.raises(UsageError, match="trains no network"):
        train.check_ranks(_with_ranks(config, 2), no_network)


def test_a_pretrained_models_batch_is_known_before(tmp_path):
    from bids_stroke.models import descriptor
    from bids_stroke.models.planning import known_batch

    model = descriptor.load(write_model(tmp_path, channels=("T1w",), inputs=(("T1w",),)))
    recipe = tiny_recipe(channels=["T1w"], plan={})
    assert known_batch(recipe, recipe.stages[0], model) == 2
    assert known_batch(recipe, recipe.stages[0], None) is None


@pytest.mark.parametrize(
    ("device", "folds", "slots", "ranks", "workers"),
    [
        ("cpu", 5, 1, 1, 0),
        ("cuda", 5, 1, 1, 12),
        ("cuda", 5, 4, 1, 3),
        ("cuda", 1, 4, 2, 7),
        ("cuda", 5, 8, 4, 1),
    ],
)
def test_the_cores_of_a_gpu_machine_load(device, folds, slots, ranks, workers):
    execution = cfg.Execution(nprocs=16, gpu_slots=slots, gpus_per_fold=ranks)
    assert train.loading_workers(execution, device, folds) == workers


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        (["UsageError: a"], 2),
        (["UsageError: a", "UsageError: b"], 2),
        (["UsageError: a", "TryAgain: b"], 1),
        (["TryAgain: b"], 75),
        (["KeyError: b"], 1),
    ],
)
def test_a_failed_training_ends_with_the_code_of_its_error(tmp_path, errors, code):
    (tmp_path / "train").mkdir()
    for number, error in enumerate(errors):
        text = f"Node: train_wf.plan\n\nTraceback (most recent call last):\n  bids.{error}\n"
        (tmp_path / "train" / f"crash-{number}.txt").write_text(text)
    failed = train._training_failures(tmp_path)
    assert failed is not None and failed.exit_code == code


@pytest.mark.slow
def test_a_whole_training_leaves_a_model_that_participant_runs(dataset, tmp_path, recipe_file):
    arguments = [str(dataset), str(tmp_path / "out")]
    places = ["-w", str(tmp_path / "work"), "--brain-extraction", "skip", "--nprocs", "2"]
    places += ["--omp-nthreads", "1", "--device", "cpu"]
    given = [*arguments, "train", "--recipe", str(recipe_file), "--epochs", "8", *places]
    assert run.main(given) == 0
    out = tmp_path / "out"
    header, *rows = (out / "group_metrics.tsv").read_text().splitlines()
    column = header.split("\t").index("dice")
    dice = [float(row.split("\t")[column]) for row in rows]
    assert len(dice) == 4 and np.mean(dice) > 0.4
    page = (out / "train-tiny.html").read_text()
    assert "Worst sessions" in page and "polyline" in page
    model = out / "sourcedata" / "nnunet" / "tiny" / "model"
    predict = [str(dataset), str(tmp_path / "pred"), "participant", "--model", str(model), *places]
    assert run.main([*predict, "--participant-label", "01"]) == 0
    found = load_image(
        tmp_path / "pred/sub-01/anat/sub-01_space-T1w_label-L_desc-stroke_mask.nii.gz"
    )
    truth = load_image(dataset / "derivatives/manual/sub-01/anat/sub-01_label-L_mask.nii.gz")
    both = np.asarray(found.dataobj) * np.asarray(truth.dataobj)
    assert 2 * both.sum() / (found.get_fdata().sum() + truth.get_fdata().sum()) > 0.4
    assert run.main(given) == 0  # nothing is left to do, and nothing is done twice


@pytest.mark.slow
def test_a_network_is_trained_on_a_t1w_and_its_mirror_image(dataset, tmp_path):
    recipe = replace(tiny_recipe(), channels=("T1w", "T1w-mirrored"), inputs=(), stages=(Stage(),))
    path = _written(recipe, tmp_path)
    places = ["-w", str(tmp_path / "work"), "--brain-extraction", "skip", "--device", "cpu"]
    places += ["--omp-nthreads", "1", "--nprocs", "2"]
    out, arguments = tmp_path / "out", [str(dataset)]
    given = [*arguments, str(out), "train", "--recipe", str(path), "--epochs", "2", *places]
    assert run.main(given) == 0
    model = descriptor.find(str(out / "sourcedata" / "nnunet" / "tiny" / "model"))
    assert model.channels == recipe.channels and model.inputs == (("T1w",),)
    predict = [*arguments, str(tmp_path / "pred"), "participant", "--model", str(model.file)]
    assert run.main([*predict, *places, "--participant-label", "01"]) == 0
    assert list((tmp_path / "pred").rglob("*_space-T1w_label-L_desc-stroke_probseg.nii.gz"))
