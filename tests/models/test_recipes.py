"""The recipes: every one parses, holds the numbers of its paper, and trains for two iterations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bids_stroke.errors import UsageError
from bids_stroke.models import recipe as recipes
from bids_stroke.models.networks.tomita import ResidualUNet3d
from bids_stroke.models.recipe import Recipe, from_table, plain
from bids_stroke.models.trainers import learning_rate
from tests.models.phantom_training import make_trainer, nnunet_folders, phantom
from tests.tiny_model import ARCHITECTURE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAMES = [n for n in recipes.available() if n != "default"]  # its network depends on the data
EVERY = [f"{name}:{v}" if v else name for name in NAMES for v in ["", *recipes.variants(name)]]
NETWORKS = ["unet", "unetpp", "resunet", "resnet", "vggunet", "vnet", "fcdensenet", "attunet"]

MEDDAHI = {
    "optimiser.name": "sgd",
    "optimiser.momentum": 0.99,
    "optimiser.nesterov": True,
    "optimiser.weight_decay": 3e-5,
    "schedule.name": "poly",
    "schedule.power": 0.9,
    "schedule.iterations": 250,
    "loss.name": "dice_ce",
    "loss.dice_weight": 1.0,
    "loss.ce_weight": 1.0,
    "patches.foreground": 0.33,
    "augmentation.mirror_axes": (2,),
    "augmentation.elastic_probability": 0.0,
    "operating_point.threshold": 0.2,
    "inference.mirror_axes": (),
}
PAPER_S0 = {
    **MEDDAHI,
    "augmentation.scale": (0.85, 1.25),
    "augmentation.rotation_deg": 15.0,
    "network.kwargs.dropout_op_kwargs": {"p": 0.2},
    "operating_point.min_volume_mm3": 10.0,
    "schedule.keep": "best_loss",
}
PAPER_S1 = {
    **MEDDAHI,
    "augmentation.scale": (0.7, 1.4),
    "augmentation.scale_probability": 0.2,
    "augmentation.rotation_deg": 30.0,
    "augmentation.rotation_probability": 0.2,
    "augmentation.gamma": (0.7, 1.5),
    "augmentation.gamma_probability": 0.3,
    "network.kwargs.dropout_op_kwargs": {"p": 0.0},
    "operating_point.min_volume_mm3": 4.0,
}
TUNED = {"optimiser.learning_rate": 1e-5, "schedule.epochs": 500}
TOMITA = {
    "optimiser.name": "adam",
    "optimiser.weight_decay": 1e-4,
    "schedule.name": "cosine_restarts",
    "schedule.restart_epochs": 50,
    "plan.batch_size": 1,
    "loss.name": "dice_bce",
    "loss.dice_weight": 0.9,
    "loss.ce_weight": 0.1,
    "inference.snapshots": (50, 100, 150),
    "inference.centre_crop": True,
}
MOHAPATRA = {
    "plan.configuration": "2d",
    "plan.patch": (256, 256),
    "channels": ("T1w",),
    "network.deep_supervision": False,
}
LHERMITTE = {
    "optimiser.name": "adam",
    "optimiser.learning_rate": 0.01,
    "optimiser.weight_decay": 0.0,
    "schedule.name": "constant",
    "loss.name": "dice_ce",
}

# recipe (and variant), stage -> values that the papers, or their published code, state
PAPERS: dict[tuple[str, str], dict[str, Any]] = {
    ("meddahi2024-t1w", "train"): {
        **PAPER_S0,
        "optimiser.learning_rate": 0.01,
        "plan.patch": (128, 128, 128),
        "plan.spacing": (1.0, 1.0, 1.0),
        "plan.batch_size": 2,
        "network.kwargs.features_per_stage": [32, 64, 128, 256, 320, 320],
        "network.kwargs.n_stages": 6,
        "folds.train": (0,),
        "folds.count": 5,
    },
    ("meddahi2024-t1w-finetune", "finetune"): {**PAPER_S0, **TUNED, "folds.train": ()},
    ("meddahi2024-dual", "dual"): {
        **PAPER_S0,
        **TUNED,
        "folds.count": 5,
        "channels": ("FLAIR", "T1w"),
        "preprocessing.reference": "FLAIR",
    },
    ("meddahi2023-dual", "skeleton"): {**PAPER_S1, "schedule.epochs": 1},
    ("meddahi2023-dual", "dual"): {**PAPER_S1, **TUNED},
    ("meddahi2023-three-stage", "atlas"): {
        **PAPER_S1,
        "optimiser.learning_rate": 0.01,
        "schedule.epochs": 3000,
        "schedule.stop_after": 2500,
        "channels": ("T1w",),
    },
    ("meddahi2023-three-stage", "t1w"): {
        **PAPER_S1, "optimiser.learning_rate": 1e-5, "channels": ("T1w",)
    },
    ("meddahi2023-three-stage", "dual"): {**PAPER_S1, **TUNED, "channels": ("FLAIR", "T1w")},
    ("tomita2020", "zoom-in"): {
        **TOMITA,
        "plan.patch": (128, 128, 128),
        "schedule.epochs": 1200,
        "optimiser.learning_rate": 1e-3,
    },
    ("tomita2020", "zoom-out"): {
        **TOMITA,
        "plan.patch": (168, 172, 144),
        "schedule.epochs": 150,
        "optimiser.learning_rate": 1e-4,
    },
    ("lhermitte2024-unet", "train"): {**LHERMITTE, "schedule.epochs": 200},
    ("lhermitte2024-unet", "transfer"): {**LHERMITTE, "schedule.epochs": 100, "cases.most": 5},
    ("lhermitte2024-unet:subset", "train"): {
        **LHERMITTE,
        "schedule.epochs": 200,
        "cases.min_volume_ml": 2.5,
        "cases.drop_regions": ("cerebellum",),
    },
    ("lhermitte2024-resunet", "train"): {
        **LHERMITTE, "schedule.epochs": 200, "network.kwargs.encoder": "resnet10"
    },
    ("lhermitte2024-nnunet", "train"): {
        "optimiser.learning_rate": 0.01, "schedule.epochs": 1000, "network.class_name": ""
    },
    ("lhermitte2024-nnunet", "transfer"): {"schedule.epochs": 100, "cases.most": 5},
    **{(f"mohapatra2023-{name}", "train"): MOHAPATRA for name in NETWORKS},
    **{
        (f"mohapatra2023-{name}:imtt-r2", "region"): {**MOHAPATRA, "cases.super_regions": ("R2",)}
        for name in NETWORKS
    },
}  # fmt: skip


def value_of(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    return found


@pytest.mark.parametrize(("name", "stage"), PAPERS)
def test_values_are_those_of_the_papers(name: str, stage: str) -> None:
    whole = recipes.find(name)
    own = whole.of_stage(next(s for s in whole.stages if s.name == stage))
    assert {key: value_of(own, key) for key in PAPERS[name, stage]} == PAPERS[name, stage]


@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_survives_the_plans(name: str) -> None:
    recipe = recipes.find(name)
    for stage in recipe.stages:
        own = recipe.of_stage(stage)
        assert from_table(plain(own)) == own
    assert recipe.citation
    assert recipe.name == name.replace(":", "-")


def test_all_recipes_that_were_asked_for_are_there() -> None:
    asked = ["meddahi2024-t1w", "meddahi2024-t1w-finetune", "meddahi2024-dual", "meddahi2023-dual"]
    asked += ["meddahi2023-three-stage", "tomita2020"]
    asked += [f"mohapatra2023-{name}" for name in NETWORKS]
    asked += [f"lhermitte2024-{name}" for name in ("unet", "resunet", "nnunet")]
    assert set(asked) <= set(NAMES)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_2d_network_is_trained_mixed_or_by_intermediate_tasks(network: str) -> None:
    name = f"mohapatra2023-{network}"
    assert recipes.variants(name) == ["imtt", "imtt-r1r4", "imtt-r2", "imtt-r3"]
    assert [s.start for s in recipes.find(f"{name}:imtt-r3").stages] == ["scratch"] + [
        "previous"
    ] * 2
    classes = {recipes.find(f"mohapatra2023-{n}").network.class_name for n in NETWORKS}
    assert len(classes) == 7  # ResNet and VGG U-Net are one class with two encoders


def test_pretrained_models_choose_the_stages() -> None:
    recipe = recipes.find("meddahi2023-three-stage")
    names = {
        given: [s.name for s in recipe.with_pretrained(given).stages] for given in (True, False)
    }
    assert names == {True: ["t1w-given", "dual"], False: ["atlas", "t1w", "dual"]}


def test_a_cut_run_has_its_snapshots_and_restarts_at_the_same_share() -> None:
    short = recipes.find("tomita2020").shortened(epochs=6)
    assert short.inference.snapshots == (2, 4, 6)
    zoom_out = short.of_stage(short.stages[1]).schedule
    assert (zoom_out.epochs, zoom_out.restart_epochs) == (6, 2)
    assert learning_rate(zoom_out, 1.0, 2.0) == 1.0
    assert recipes.find("tomita2020").shortened(epochs=1).inference.snapshots == (1,)


def test_a_run_of_other_iterations_keeps_its_epochs() -> None:
    recipe = recipes.find("tomita2020")
    short = recipe.shortened(iterations=2)
    assert short.inference == recipe.inference
    assert [short.of_stage(s).schedule.epochs for s in short.stages] == [1200, 150]
    assert {short.of_stage(s).schedule.iterations for s in short.stages} == {2}


# Files that build on others

MINIMAL = """title = "a"
description = "b"
channels = ["T1w"]
schedule = { epochs = 7, iterations = 3 }
network = { class_name = "torch.nn.Identity", kwargs = { a = 1, b = 2 } }
[preprocessing]
steps = ["brain_extraction"]
reference = "T1w"
[variants.long]
schedule = { epochs = 70 }
"""


def test_a_recipe_may_build_on_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(MINIMAL)
    child = tmp_path / "child.toml"
    child.write_text('extends = "base.toml"\ntitle = "c"\nnetwork = { kwargs = { b = 3 } }\n')
    recipe = recipes.load(child)
    assert (recipe.name, recipe.title, recipe.description) == ("child", "c", "b")
    assert recipe.network.kwargs == {"a": 1, "b": 3}
    long = recipes.find(f"{child}:long")
    assert (long.name, long.schedule.epochs, long.schedule.iterations) == ("child-long", 70, 3)


def test_a_network_that_names_its_class_takes_nothing_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(MINIMAL)
    child = tmp_path / "child.toml"
    child.write_text('extends = "base.toml"\n[network]\nclass_name = "x.Y"\n[variants]\n')
    recipe = recipes.load(child)
    assert (recipe.network.class_name, recipe.network.kwargs) == ("x.Y", {})
    with pytest.raises(UsageError, match="no variant 'long'"):
        recipes.load(child, "long")


@pytest.mark.parametrize("other", ["child.toml", "../base.toml", "loop.toml"])
def test_a_recipe_that_builds_on_itself_or_elsewhere_is_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / "loop.toml").write_text('extends = "child.toml"\n')
    child = tmp_path / "child.toml"
    child.write_text(f'extends = "{other}"\n')
    with pytest.raises(UsageError, match="can't extend"):
        recipes.load(child)


# Training

TINY = {
    "tomita.ResidualUNet3d": {"features": [8, 8, 16]},
    "volumes.UNet3d": {"features": [4, 8, 8, 8, 8]},
    "slices.UNet2d": {"features": [4, 8, 8, 8, 8]},
    "slices.UNetPlusPlus2d": {"features": [4, 8, 8, 8, 8]},
    "slices.ResidualUNet2d": {"features": [4, 8, 8, 8, 8]},
    "slices.AttentionUNet2d": {"features": [4, 8, 8, 8, 8]},
    "densenet.FCDenseNet2d": {"layers": [2, 2, 2], "growth": 4, "first": 4},
}


def tiny(recipe: Recipe) -> Recipe:
    """The recipe with a small network of the same class, small batches and two iterations."""
    name = recipe.network.class_name
    kwargs = dict(recipe.network.kwargs)
    if name.endswith("PlainConvUNet"):
        kwargs |= {k: ARCHITECTURE["arch_kwargs"][k] for k in TOPOLOGY}
    kwargs |= TINY.get(name.removeprefix("bids_stroke.models.networks."), {})
    small = replace(recipe, network=replace(recipe.network, kwargs=kwargs))
    return replace(
        small, plan=replace(recipe.plan, batch_size=min(recipe.plan.batch_size or 2, 2))
    ).shortened(epochs=1, iterations=2)


TOPOLOGY = (
    "n_stages",
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_conv_per_stage_decoder",
)


def batch_of(trainer: Any, patch: tuple[int, ...], channels: int) -> dict[str, Any]:
    """A batch of phantoms that went through the trainer's own transforms."""
    angles, in_plane, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    transforms = trainer.get_training_transforms(
        patch, angles, trainer._get_deep_supervision_scales(), axes, in_plane, [True] * channels
    )
    samples = []
    for seed in range(trainer.batch_size):
        image, label = (torch.from_numpy(a) for a in phantom(seed, channels, max(patch)))
        if len(patch) == 2:
            z = int(label[0].clamp(min=0).sum((1, 2)).argmax())
            image, label = image[:, z], label[:, z]
        samples.append(transforms(image=image, segmentation=label))
    targets = [s["segmentation"] for s in samples]
    return {
        "data": torch.stack([s["image"] for s in samples]),
        "target": [torch.stack(level) for level in zip(*targets, strict=True)]
        if isinstance(targets[0], list)
        else torch.stack(targets),
    }


@pytest.mark.parametrize("name", [n for n in NAMES if recipes.find(n).method == "nnunet"])
def test_every_recipe_takes_two_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnunet_folders(tmp_path, monkeypatch)
    whole = tiny(recipes.find(name))
    recipe = whole.of_stage(whole.stages[-1])
    patch = (64, 64) if recipe.plan.configuration == "2d" else (32, 32, 32)
    trainer = make_trainer(tmp_path, recipe, patch)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    batch = batch_of(trainer, patch, len(recipe.channels))
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(2)]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    changed = [
        not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True)
    ]
    assert sum(changed) > 0.9 * len(changed)
    trainer.validation_step(batch)


def test_a_t1w_network_without_dropout_begins_one_with_dropout() -> None:
    """The dropout stands between convolution and norm, which changes the names of the layers."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from bids_stroke.models.adaptation import adapt

    extra = dict(recipes.find("meddahi2024-dual").network.kwargs)
    kwargs, imports = ARCHITECTURE["arch_kwargs"], ARCHITECTURE["_kw_requires_import"]
    name = ARCHITECTURE["network_class_name"]
    plain_net, dropped = (
        get_network_from_plans(name, k, imports, channels, 2, deep_supervision=False).eval()
        for k, channels in ((kwargs, 1), ({**kwargs, **extra}, 2))
    )
    weights, _ = adapt(
        plain_net.state_dict(), ("T1w",), ("FLAIR", "T1w"), "mean", dropped.state_dict()
    )
    dropped.load_state_dict(weights)
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(plain_net(image), dropped(image.repeat(1, 2, 1, 1, 1)), atol=1e-6)
    assert sum(type(m).__name__ == "Dropout3d" for m in dropped.modules()) > 0


@pytest.mark.parametrize("name", ["meddahi2024-dual", "meddahi2023-dual", "default"])
def test_a_recipe_builds_on_a_model_that_was_made_without_dropout(
    name: str, tmp_path: Path
) -> None:
    """Plans of the embedded model do not say that the dropout of the recipe is a class."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from bids_stroke.models import descriptor, planning
    from bids_stroke.models.dataset import Places

    recipe = recipes.find(name).with_pretrained(True)
    base = planning.base_plans(recipe, Places(tmp_path, "x"), descriptor.find("embedded"))
    plans = planning.stage_plans(base, recipe, recipe.stages[-1])
    network = plans["configurations"]["3d_fullres"]["architecture"]
    imports = network["_kw_requires_import"]
    assert len(set(imports)) == len(imports)
    with torch.device("meta"):
        built = get_network_from_plans(
            network["network_class_name"], network["arch_kwargs"], imports, 2, 2
        )
    drops = [m.p for m in built.modules() if isinstance(m, torch.nn.Dropout3d)]
    wanted = recipe.network.kwargs.get("dropout_op_kwargs", {}).get("p")
    assert set(drops) == ({wanted} if wanted is not None else set())


def test_tomita_fits_both_of_its_patches() -> None:
    """43 voxels are pooled to 21, and brought back: no patch of the recipe is refused."""
    network = ResidualUNet3d(1, 2, features=(8, 8, 8, 8))
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 42, 43, 36)).shape[2:] == (42, 43, 36)
