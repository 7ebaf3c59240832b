"""Channel adaptation: what the new network does with equal, absent and swapped inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke.core.files import read_json, write_json
from bids_stroke.errors import InputMissing, UnusableData, UsageError
from bids_stroke.models import descriptor, predictor
from bids_stroke.models.adaptation import adapt, adapt_model
from bids_stroke.models.weights import canonical
from tests.tiny_model import ARCHITECTURE, plans, write_model

NAMES = ("T1w", "FLAIR", "DWI", "T2w")
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
CHANNELS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)


def network(channels: int, **change: Any) -> torch.nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    return get_network_from_plans(
        ARCHITECTURE["network_class_name"],
        {**ARCHITECTURE["arch_kwargs"], **change},
        ARCHITECTURE["_kw_requires_import"],
        channels,
        2,
        deep_supervision=False,
    ).eval()


def weights(channels: int, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return network(channels).state_dict()


@torch.inference_mode()
def run(state: dict[str, torch.Tensor], images: list[torch.Tensor]) -> torch.Tensor:
    """Logits in double precision, so that only the weights can differ."""
    made = network(len(images))
    made.load_state_dict(state)  # strict: every alias must be there
    return made.double()(torch.stack(images)[None].double())


def image(seed: int = 0) -> torch.Tensor:
    return torch.randn((16, 16, 16), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(source=CHANNELS, target=CHANNELS)
def test_mean_is_the_identical_network_for_equal_inputs(
    source: list[str], target: list[str]
) -> None:
    old = weights(len(source))
    new, _ = adapt(old, source, target, "mean")
    same = image()
    expected = run(old, [same] * len(source))
    assert expected.std() > 1e-3
    assert torch.allclose(run(new, [same] * len(target)), expected, atol=1e-6, rtol=0)
    total = new[FIRST].sum(1)
    assert torch.allclose(total, old[FIRST].sum(1), atol=1e-6)


def test_mean_of_one_channel_is_repeated_and_divided() -> None:
    old = weights(1)
    new, report = adapt(old, ["T1w"], ["FLAIR", "T1w"], "mean")
    assert torch.equal(new[FIRST], old[FIRST].repeat(1, 2, 1, 1, 1) / 2)
    assert report.repeated == (FIRST,)
    assert len(report.copied) == len({canonical(n) for n in old}) - 1
    assert "new FLAIR by mean" in "\n".join(report.lines())
    difference = run(new, [image()] * 2) - run(old, [image()])
    assert difference.abs().max() <= 1e-6


@settings(max_examples=30, deadline=None)
@given(source=CHANNELS, target=CHANNELS)
def test_zero_begins_as_the_old_network(source: list[str], target: list[str]) -> None:
    old = weights(len(source))
    if not set(source) & set(target):
        with pytest.raises(UsageError, match="must be kept"):
            adapt(old, source, target, "zero")
        return
    new, _ = adapt(old, source, target, "zero")
    images = {name: image(i) for i, name in enumerate(NAMES)}
    nothing = torch.zeros((16, 16, 16))
    expected = run(old, [images[n] if n in target else nothing for n in source])
    assert torch.allclose(run(new, [images[n] for n in target]), expected, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    source=CHANNELS,
    order=st.randoms(use_true_random=False),
    rule=st.sampled_from(("mean", "zero", "copy")),
)
def test_another_order_is_the_same_network(source: list[str], order: Any, rule: str) -> None:
    target = list(source)
    order.shuffle(target)
    old = weights(len(source))
    new, report = adapt(old, source, target, rule)
    for i, name in enumerate(target):
        assert torch.equal(new[FIRST][:, i], old[FIRST][:, source.index(name)])
    assert "unchanged" in report.rule


def test_copy_is_undivided() -> None:
    old = weights(1)
    new, _ = adapt(old, ["T1w"], ["T1w", "FLAIR"], "copy")
    assert torch.equal(new[FIRST], old[FIRST].repeat(1, 2, 1, 1, 1))


def test_all_else_is_copied_and_nothing_is_changed() -> None:
    old = weights(1)
    before = {name: tensor.clone() for name, tensor in old.items()}
    new, _ = adapt(old, ["T1w"], ["T1w", "FLAIR"])
    assert list(new) == list(old)
    for name, tensor in old.items():
        assert torch.equal(tensor, before[name])
        if canonical(name) != FIRST:
            assert torch.equal(new[name], tensor)
    aliases = [name for name in new if canonical(name) == FIRST]
    assert len(aliases) == 4
    assert len({new[name].data_ptr() for name in aliases}) == 1


def test_half_precision_stays() -> None:
    old = {name: tensor.half() for name, tensor in weights(1).items()}
    new, _ = adapt(old, ["T1w"], ["T1w", "FLAIR"])
    assert {tensor.dtype for tensor in new.values()} == {torch.float16}


@pytest.mark.parametrize("kernel", ["centre", "sum"])
def test_a_kernel_of_three_becomes_one(kernel: str) -> None:
    flat = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    skeleton = network(2, kernel_sizes=flat).state_dict()
    old = weights(1)
    new, report = adapt(old, ["T1w"], ["T1w", "FLAIR"], "mean", skeleton, kernel)
    assert {n: t.shape for n, t in new.items()} == {n: t.shape for n, t in skeleton.items()}
    whole = old[FIRST].repeat(1, 2, 1, 1, 1) / 2
    expected = whole[:, :, 1:2] if kernel == "centre" else whole.sum(2, keepdim=True)
    assert torch.allclose(new[FIRST], expected)
    assert len(report.cut) == 2  # the first convolution, and the last of the decoder
    assert all(line.endswith(f"from (3, 3, 3) to (1, 3, 3) ({kernel})") for line in report.cut)
    assert "cut: " + report.cut[0] in report.lines()


def test_all_that_does_not_fit_is_listed() -> None:
    skeleton = network(2, features_per_stage=[4, 8, 16]).state_dict()
    with pytest.raises(UnusableData) as error:
        adapt(weights(1), ["T1w"], ["T1w", "FLAIR"], "mean", skeleton)
    message = str(error.value)
    assert (
        "encoder.stages.2.0.convs.0.conv.weight is (8, 8, 3, 3, 3) and should be (16, 8" in message
    )
    assert "decoder.transpconvs.0.weight" in message
    assert "all_modules" not in message
    assert "encoder.stages.1" not in message


def test_missing_and_superfluous_layers_are_listed() -> None:
    deep = network(2, n_conv_per_stage=[2, 1, 1]).state_dict()
    with pytest.raises(UnusableData, match=r"stages\.0\.0\.convs\.1\.conv\.weight is not in the"):
        adapt(weights(1), ["T1w"], ["T1w", "FLAIR"], "mean", deep)
    torch.manual_seed(0)
    source = network(1, n_conv_per_stage=[2, 1, 1]).state_dict()
    with pytest.raises(UnusableData, match=r"convs\.1\.conv\.weight has no place"):
        adapt(source, ["T1w"], ["T1w", "FLAIR"], "mean", weights(2))


def test_a_kernel_of_one_never_grows() -> None:
    torch.manual_seed(0)
    source = network(1, kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]]).state_dict()
    with pytest.raises(UnusableData, match=FIRST.replace(".", r"\.")):
        adapt(source, ["T1w"], ["T1w", "FLAIR"], "mean", weights(2))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"new_channel": "half"}, UsageError),
        ({"kernel": "edge"}, UsageError),
        ({"target_channels": []}, UsageError),
        ({"target_channels": ["T1w", "T1w"]}, UsageError),
        ({"source_channels": ["T1w", "FLAIR"]}, UnusableData),
        ({"state": {"a.weight": torch.zeros(1)}}, UnusableData),
    ],
)
def test_wrong_choices_are_errors(change: dict[str, Any], error: type[Exception]) -> None:
    arguments = {"state": weights(1), "source_channels": ["T1w"], "target_channels": ["FLAIR"]}
    with pytest.raises(error):
        adapt(**{**arguments, **change})


def source_model(folder: Path, **more: Any) -> descriptor.Descriptor:
    folder.mkdir()
    return descriptor.load(write_model(folder, channels=("T1w",), inputs=(("T1w",),), **more))


def test_a_model_folder_is_adapted_and_says_so(tmp_path: Path) -> None:
    source = source_model(tmp_path / "source", folds=2)
    model, report = adapt_model(source, ("FLAIR", "T1w"), tmp_path / "store", name="two")
    assert model == descriptor.find("two", tmp_path / "store")
    descriptor.verify(model)
    assert model.channels == ("FLAIR", "T1w")
    assert model.inputs == (("FLAIR", "T1w"),)
    assert "adapted from tiny 1.0 (T1w)" in model.evaluation["state"]
    assert "not trained further" in model.description
    assert descriptor.choose("auto", ("T1w", "FLAIR"), tmp_path / "store")[0].name == "embedded"
    assert predictor.available_folds(model) == ("0", "1")
    table = read_json(model.model_folder / "plans.json")["configurations"]["3d_fullres"]
    assert table["normalization_schemes"] == ["ZScoreNormalization"] * 2
    names = read_json(model.model_folder / "dataset.json")["channel_names"]
    assert names == {"0": "FLAIR", "1": "T1w"}
    rng = torch.Generator().manual_seed(1)
    brain = torch.rand((20, 20, 20), generator=rng).numpy() + 0.1
    old = predictor.predict(predictor.load(source), {"T1w": brain}, (2, 2, 2))
    new = predictor.predict(predictor.load(model), {"T1w": brain, "FLAIR": brain}, (2, 2, 2))
    assert abs(old - new).max() < 1e-5
    assert report.repeated == (FIRST,)


def test_zero_still_runs_on_the_old_input(tmp_path: Path) -> None:
    source = source_model(tmp_path / "source")
    model, _ = adapt_model(source, ("T1w", "FLAIR"), tmp_path, new_channel="zero")
    assert model.name == "tiny-t1w-flair"
    assert model.inputs == (("T1w", "FLAIR"), ("T1w",))


def test_a_model_learns_to_see_the_other_side_from_where_it_was(tmp_path: Path) -> None:
    source = source_model(tmp_path / "source")
    names = ("T1w", "T1w-mirrored")
    model, report = adapt_model(source, names, tmp_path, new_channel="zero")
    assert model.channels == names and model.inputs == (("T1w",),)
    brain = torch.rand((20, 20, 20), generator=torch.Generator().manual_seed(1)).numpy() + 0.1
    old, new = (
        predictor.predict(predictor.load(m), {"T1w": brain}, (2, 2, 2)) for m in (source, model)
    )
    assert abs(old - new).max() < 1e-5
    assert report.repeated == (FIRST,)


def test_a_skeleton_gives_network_and_plans(tmp_path: Path) -> None:
    source = source_model(tmp_path / "source")
    skeleton = plans(2, 24, 1.5)
    configuration = skeleton["configurations"]["3d_fullres"]
    architecture = configuration["architecture"]
    kwargs = {**architecture["arch_kwargs"], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}
    configuration["architecture"] = {**architecture, "arch_kwargs": kwargs}
    write_json(tmp_path / "plans.json", skeleton)
    model, report = adapt_model(source, ("T1w", "FLAIR"), tmp_path / "store", skeleton=tmp_path)
    assert read_json(model.model_folder / "plans.json") == skeleton
    assert len(report.cut) == 2


def test_a_skeleton_is_untrusted(tmp_path: Path) -> None:
    source = source_model(tmp_path / "source")
    skeleton = plans(2, 24, 1.5)
    architecture = skeleton["configurations"]["3d_fullres"]["architecture"]
    kwargs = {**architecture["arch_kwargs"], "nonlin": "torch.nn.modules.module.torch.os.system"}
    kwargs["nonlin_kwargs"] = {"command": f"touch {tmp_path}/hostile-was-here"}
    hostile = {**architecture, "arch_kwargs": kwargs}
    skeleton["configurations"]["3d_fullres"]["architecture"] = hostile
    write_json(tmp_path / "plans.json", skeleton)
    with pytest.raises(UnusableData, match=r"os\.system"):
        adapt_model(source, ("T1w", "FLAIR"), tmp_path / "store", skeleton=tmp_path / "plans.json")
    assert not (tmp_path / "hostile-was-here").exists()
    write_json(tmp_path / "plans.json", {"configurations": {}})
    with pytest.raises(UnusableData, match="no plans"):
        adapt_model(source, ("T1w", "FLAIR"), tmp_path / "store", skeleton=tmp_path)
    with pytest.raises(InputMissing, match="--plans"):
        adapt_model(source, ("T1w", "FLAIR"), tmp_path / "store", skeleton=tmp_path / "absent.json")
    assert not list((tmp_path / "store").glob("*.toml"))
