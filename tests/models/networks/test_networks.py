"""The networks: shapes, sizes as published, gradients, and being built by plans of nnU-Net."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bids_stroke.errors import UnusableData, UsageError
from bids_stroke.models.networks import densenet
from bids_stroke.models.networks.densenet import FCDenseNet2d
from bids_stroke.models.networks.slices import (
    AttentionUNet2d,
    EncoderUNet2d,
    ResidualUNet2d,
    UNet2d,
    UNetPlusPlus2d,
    VNet2d,
)
from bids_stroke.models.networks.tomita import ResidualBlock, ResidualUNet3d
from bids_stroke.models.networks.volumes import ResNetUNet3d, UNet3d, find_encoder
from bids_stroke.models.networks.wrapping import padded

SMALL_2D: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet2d(2, 2, features=(4, 8, 8, 8, 8)),
    "unetpp": lambda: UNetPlusPlus2d(2, 2, features=(4, 8, 8, 8, 8)),
    "resunet": lambda: ResidualUNet2d(2, 2, features=(4, 8, 8)),
    "attunet": lambda: AttentionUNet2d(2, 2, features=(4, 8, 8)),
    "vnet": lambda: VNet2d(2, 2),
    "resnet": lambda: EncoderUNet2d(2, 2),
    "fcdensenet": lambda: FCDenseNet2d(2, 2, layers=(2, 2, 2), growth=4, first=4),
}
SMALL_3D: dict[str, Callable[[], nn.Module]] = {
    "tomita": lambda: ResidualUNet3d(2, 2, features=(8, 8, 16)),
    "unet": lambda: UNet3d(2, 2, features=(4, 8, 8)),
    "resunet": lambda: ResNetUNet3d(2, 2, decoder_features=(16, 8, 8, 4, 4)),
}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", SMALL_2D)
def test_2d_networks_give_logits_at_the_size_of_any_image(name: str) -> None:
    network = SMALL_2D[name]().eval()
    with torch.no_grad():
        assert network(torch.randn(2, 2, 45, 38)).shape == (2, 2, 45, 38)


@pytest.mark.parametrize("name", SMALL_3D)
def test_3d_networks_give_logits_at_the_size_of_any_image(name: str) -> None:
    network = SMALL_3D[name]().eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 21, 19, 22)).shape == (1, 2, 21, 19, 22)


@pytest.mark.parametrize("name", SMALL_2D)
def test_gradients_reach_every_weight_in_2d(name: str) -> None:
    network = SMALL_2D[name]().train()
    network(torch.randn(2, 2, 64, 64)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SMALL_3D)
def test_gradients_reach_every_weight_in_3d(name: str) -> None:
    network = SMALL_3D[name]().train()
    network(torch.randn(2, 2, 32, 32, 32)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", [*SMALL_2D])
def test_one_output_means_no_deep_supervision(name: str) -> None:
    kind = type(SMALL_2D[name]())
    with pytest.raises(UsageError, match="deep_supervision = false"):
        kind(1, 2, deep_supervision=True)


def test_tomita_has_52_layers_as_the_docstring_counts_them() -> None:
    network = ResidualUNet3d(1, 2)
    blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
    convolutions = sum(isinstance(m, nn.Conv3d) for m in network.modules())
    up = sum(isinstance(m, nn.ConvTranspose3d) for m in network.modules())
    poolings = concatenations = len(network.encoder) - 1
    assert (len(blocks), convolutions, up, poolings) == (14, 29, 3, 3)
    assert convolutions + len(blocks) + poolings + up + concatenations == 52


def test_tomita_has_group_norm_of_8_and_widths_of_32_to_256() -> None:
    network = ResidualUNet3d(1, 2)
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert {m.num_groups for m in norms} == {8}
    assert {m.num_channels for m in norms} == {32, 64, 128, 256}


def test_a_residual_block_adds_its_input_after_channels_of_zeros() -> None:
    block = ResidualBlock(2, 8, groups=8)
    nn.init.zeros_(block.norm2.weight)
    image = torch.randn(1, 2, 4, 4, 4)
    output = block(image)
    assert torch.equal(output[:, 6:], image)
    assert not output[:, :6].any()


def test_a_residual_block_with_fewer_outputs_adds_the_last_channels() -> None:
    block = ResidualBlock(8, 2, groups=2)
    nn.init.zeros_(block.norm2.weight)
    image = torch.randn(1, 8, 4, 4, 4)
    assert torch.equal(block(image), image[:, 6:])


@pytest.mark.parametrize(
    ("layers", "growth", "millions"),
    [((4, 5, 7, 10, 12, 15), 16, 9.4), ((5,) * 6, 16, 3.5), ((4,) * 6, 12, 1.5)],
)
def test_fc_densenets_have_the_published_sizes(
    layers: tuple[int, ...], growth: int, millions: float
) -> None:
    """Table 1 of Jegou et al. 2017, for three channels and eleven classes."""
    network = FCDenseNet2d(3, 11, layers=layers, growth=growth)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.13)


def test_a_dense_block_that_keeps_no_joined_maps_learns_the_same() -> None:
    """Output, gradients and running statistics are those of the plain network."""
    torch.manual_seed(3)
    lean = FCDenseNet2d(1, 2, layers=(2, 3), growth=4, first=6).train()
    plain = copy.deepcopy(lean)
    image = torch.randn(2, 1, 32, 32)
    found = []
    for network, joined in ((lean, densenet._lean), (plain, _joined)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(densenet, "_lean", joined)
            torch.manual_seed(4)  # of the dropout
            output = network(image)
            output.square().sum().backward()
        found.append(output.detach())
    torch.testing.assert_close(*found)
    for (name, a), b in zip(lean.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(lean.named_buffers(), plain.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(a, b, msg=name)


def _joined(layer: nn.Module, parts: list[torch.Tensor]) -> torch.Tensor:
    return layer(torch.cat(parts, dim=1))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(UNet2d, 31.0, 31.2), (UNetPlusPlus2d, 9.0, 9.2), (UNet3d, 4.7, 4.9)],
)
def test_networks_of_the_libraries_have_their_known_sizes(
    kind: type[nn.Module], low: float, high: float
) -> None:
    assert low < parameters(kind(1, 2)) / 1e6 < high


def test_vgg_u_net_has_the_thirteen_convolutions_of_vgg16() -> None:
    encoder = EncoderUNet2d(1, 2, encoder="vgg16_bn").net.get_submodule("encoder")
    assert sum(isinstance(m, nn.Conv2d) for m in encoder.modules()) == 13


def test_u_net_of_the_children_has_five_levels() -> None:
    network = UNet3d(1, 2)
    assert network.multiple == 2**4


def test_padding_adds_zeros_at_the_end() -> None:
    image = torch.ones(1, 1, 3, 4)
    whole = padded(image, (3, 4), 4)
    assert whole.shape == (1, 1, 4, 4)
    assert torch.equal(whole[..., :3, :], image)
    assert not whole[..., 3, :].any()
    assert padded(image, (3, 4), 1) is image


# Weights of Med3D


def med3d_file(folder: Path, prefix: str = "module.") -> Path:
    """A file as Med3D publishes it: one channel, DataParallel's prefix, a head of its own."""
    torch.manual_seed(5)
    state = ResNetUNet3d(1, 2).net.get_submodule("encoder").state_dict()
    old = {n: t for n, t in state.items() if prefix or not n.endswith("num_batches_tracked")}
    named = {prefix + name: tensor for name, tensor in old.items()}
    named[prefix + "conv_seg.0.weight"] = torch.zeros(3)
    torch.save({"state_dict": named}, folder / "resnet_10_23dataset.pth")
    return folder / "resnet_10_23dataset.pth"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_med3d_weights_fill_the_encoder(tmp_path: Path, prefix: str) -> None:
    file = med3d_file(tmp_path, prefix)
    network = ResNetUNet3d(1, 2)
    assert network.load_encoder(file) == ("conv_seg.0.weight",)
    published = torch.load(file, weights_only=True)["state_dict"]
    filled = network.net.get_submodule("encoder").state_dict()
    names = [n.removeprefix(prefix) for n in published if "conv_seg" not in n]
    assert len(names) > 50
    assert all(torch.equal(filled[n], published[prefix + n]) for n in names if "tracked" not in n)


def test_med3d_weights_see_equal_channels_as_one(tmp_path: Path) -> None:
    file = med3d_file(tmp_path)
    one, two = ResNetUNet3d(1, 2).eval(), ResNetUNet3d(2, 2).eval()
    one.load_encoder(file)
    two.load_encoder(file)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = one.net.get_submodule("encoder")(image)
        found = two.net.get_submodule("encoder")(image.repeat(1, 2, 1, 1, 1))
    for have, want in zip(found, expected, strict=True):
        assert torch.allclose(have, want, atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3, 3)}}, file)
    with pytest.raises(UnusableData, match="does not hold this ResNet"):
        ResNetUNet3d(1, 2).load_encoder(file)


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable, tuple[str]]:
            return print, ("run",)

    file = tmp_path / "hostile.pth"
    torch.save({"state_dict": Hostile()}, file)
    with pytest.raises(UnusableData, match="more than tensors"):
        ResNetUNet3d(1, 2).load_encoder(file)


def test_an_encoder_is_found_inside_what_wraps_it() -> None:
    network = ResNetUNet3d(1, 2)
    assert find_encoder(nn.Sequential(network)) is network
    with pytest.raises(UnusableData, match="ResNetUNet3d"):
        find_encoder(nn.Conv3d(1, 1, 1))
