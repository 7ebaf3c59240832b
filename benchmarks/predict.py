"""Prediction: ours and stock nnU-Net side by side, on the same weights and the same image.

    python benchmarks/predict.py [--quick] [--only CASE ...] [--threads N] [--repeats N]

Every case is a model and a scan. The runners take turns; times are medians. All results are
compared, inside the brain, with the exact reference: nnU-Net's preprocessing, network and
resampling in fp32, with windows summed in fp32 (stock sums in fp16). The scan is the MNI152
template that nilearn ships, with a painted lesion and noise: synthetic. The floor of a window is
its floating-point operations over the rate of a large matrix product on this machine, measured in
the same run. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from scipy import ndimage
from torch.utils.flop_counter import FlopCounterMode

from bids_stroke import data
from bids_stroke.core.files import write_json, write_text
from bids_stroke.models import descriptor, executors, predictor, windows
from bids_stroke.models.architecture import plain_conv_unet
from bids_stroke.models.predictor import Predictor
from bids_stroke.models.weights import save_checkpoint

LESION = 1
Channels = Mapping[str, np.ndarray]
Result = tuple[float, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model (without features the embedded one) and a scan: voxel sides and box in mm, x, y, z.

    ``windows`` (z, y, x) are taken for those of the embedded model.
    """

    features: tuple[int, ...] | None = None
    patch: int = 128
    windows: tuple[int, int, int] | None = None
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)
    box: tuple[float, float, float] = (150.0, 184.0, 150.0)
    mirror: bool = False


CASES = {
    "embedded": Case(),
    "embedded, large grid": Case(voxel=(0.47, 0.47, 0.9)),
    "full size": Case(features=(32, 64, 128, 256, 320, 320)),
}
QUICK = {
    "embedded": Case(voxel=(1.5, 1.5, 1.5), box=(90.0, 120.0, 60.0), windows=(80, 96, 80)),
    "seeded": Case(features=(8, 16, 32), patch=32, voxel=(1.5, 1.5, 1.5), box=(54.0, 60.0, 48.0)),
}


def scan(case: Case) -> Channels:
    """T1w and FLAIR [x, y, z] of a brain with a lesion, 0 outside; made from the template."""
    from nilearn.datasets import load_mni152_template

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        template = load_mni152_template(resolution=2)
    brain = np.asarray(template.get_fdata(), dtype=np.float32)
    brain = ndimage.zoom(brain / brain.max(), 2 / np.array(case.voxel), order=1)
    sides = [round(mm / v) for mm, v in zip(case.box, case.voxel, strict=True)]
    starts = [max(0, (n - s) // 2) for n, s in zip(brain.shape, sides, strict=True)]
    brain = brain[tuple(slice(a, a + s) for a, s in zip(starts, sides, strict=True))]
    rng = np.random.default_rng(0)
    inside = brain > 0.2
    grid = np.meshgrid(*map(np.arange, brain.shape), indexing="ij")
    away = sum(
        ((g - n * place) * v) ** 2
        for g, n, v, place in zip(grid, brain.shape, case.voxel, (0.3, 0.4, 0.6), strict=True)
    )
    lesion = np.exp(-away / (2 * 9.0**2))
    images = {"T1w": brain * (1 - 0.6 * lesion), "FLAIR": 1.1 - 0.7 * brain + 0.8 * lesion}
    noisy = {m: i + rng.normal(scale=0.03, size=i.shape) for m, i in images.items()}
    return {m: _zscored(i, inside) for m, i in noisy.items()}


def _zscored(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    values = image[inside]
    return np.where(inside, (image - values.mean()) / values.std(), 0).astype(np.float32)


def seeded_model(case: Case, folder: Path, marked: float | None = None) -> Path:
    """An nnU-Net folder with a network of random weights, seeded; the path of its descriptor.

    As it comes it calls half the brain lesion; ``marked`` is the share that it is to call so.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    assert case.features is not None
    stages = len(case.features)
    architecture = plain_conv_unet(
        features=case.features,
        kernels=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        encoder_convs=[2] * stages,
        decoder_convs=[2] * (stages - 1),
    )
    torch.manual_seed(0)
    parts = [architecture[k] for k in ("network_class_name", "arch_kwargs", "_kw_requires_import")]
    network = get_network_from_plans(*parts, 2, 2, allow_init=True, deep_supervision=False)
    for layer in network.decoder.seg_layers:  # else all probabilities are near one half
        torch.nn.init.normal_(layer.weight, std=0.5)
    if marked is not None:
        mark(network, case, marked)
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    save_checkpoint(folder / "embedded" / "fold_0" / "checkpoint_final.pth", checkpoint)
    patch = [case.patch] * 3
    changes = {"patch_size": patch, "spacing": [1.0] * 3, "architecture": architecture}
    return write_model(folder, changes)


def model_of(case: Case, folder: Path) -> Path:
    """Path of the descriptor of a case's model, written to ``folder`` if the package lacks it."""
    if case.features:
        return seeded_model(case, folder)
    if case.windows:
        return with_windows(case.windows, folder)
    return data.path("models", "embedded.toml")


def with_windows(patch: tuple[int, int, int], folder: Path) -> Path:
    """The embedded model with other windows; the path of its descriptor."""
    weights = data.path("models", "embedded", "fold_0")
    shutil.copytree(weights, folder / "embedded" / "fold_0")
    return write_model(folder, {"patch_size": list(patch)})


def write_model(folder: Path, changes: Mapping[str, Any]) -> Path:
    """All of the embedded model but its weights, with ``changes`` to its plans; its descriptor."""
    plans = json.loads(data.path("models", "embedded", "plans.json").read_text())
    plans["configurations"]["3d_fullres"].update(changes)
    write_json(folder / "embedded" / "plans.json", plans)
    dataset = data.path("models", "embedded", "dataset.json").read_text()
    write_text(folder / "embedded" / "dataset.json", dataset)
    text = data.path("models", "embedded.toml").read_text().partition("[[files]]")[0]
    return write_text(folder / "embedded.toml", text)


@torch.no_grad()
def mark(network: torch.nn.Module, case: Case, share: float) -> None:
    """Shift the head of a network so that it calls a share of the middle of the scan lesion."""
    channels, side = scan(case), min(case.patch, 64)
    starts = [(n - side) // 2 for n in channels["T1w"].shape]
    middle = tuple(slice(start, start + side) for start in starts)
    seen = np.stack([image[middle] for image in channels.values()])
    background, lesion = network.eval()(torch.from_numpy(seen)[None])[0]
    margin = np.quantile((lesion - background).numpy(), 1 - share)
    network.decoder.seg_layers[-1].bias[LESION] -= float(margin)


def reference(model: Predictor, channels: Channels, case: Case) -> np.ndarray:
    """Exact probability [x, y, z]: all by nnU-Net but the sum, a plain loop in fp32."""
    manager = model.configuration
    image, _, properties = manager.preprocessor_class(verbose=False).run_case_npy(
        _stack(channels), None, {"spacing": case.voxel[::-1]}, model.plans, manager, model.dataset
    )
    patch = tuple(manager.patch_size)
    padded, unpad = pad_nd_image(torch.from_numpy(image), patch, "constant", {"value": 0}, True)
    weight = compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device="cpu"
    )
    total, weights = torch.zeros(2, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    cover = windows.Cover(patch=patch, step=model.descriptor.inference.step_size)
    mirrors = windows.mirrored((0, 1, 2) if case.mirror else ())
    with torch.inference_mode():
        for at in windows.windows(padded.shape[1:], cover):
            window = padded[:, *at][None]
            outputs = [
                torch.flip(model.network(torch.flip(window, d)), d)
                for d in ([a + 2 for a in axes] for axes in mirrors)
            ]
            total[:, *at] += torch.stack(outputs).mean(0)[0] * weight
            weights[at] += weight
    values = (total / weights)[:, *unpad[1:]]
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = manager.spacing
    on_grid = manager.resampling_fn_probabilities(values, shape, spacing, case.voxel[::-1])
    whole = np.zeros(properties["shape_before_cropping"], dtype=np.float32)
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    whole[box] = torch.softmax(torch.as_tensor(np.asarray(on_grid)), 0)[LESION]
    return whole.T


def _stack(channels: Channels) -> np.ndarray:
    return np.stack(list(channels.values())).transpose(0, 3, 2, 1)


def stock(model: Predictor, case: Case) -> Callable[[Channels], np.ndarray]:
    """nnU-Net's own predictor, loaded, as a function of images."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    peer = nnUNetPredictor(
        tile_step_size=model.descriptor.inference.step_size,
        use_mirroring=case.mirror,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    peer.manual_initialization(
        model.network,
        model.plans,
        model.configuration,
        [dict(state) for state in model.folds.values()],
        dict(model.dataset),
        "nnUNetTrainer",
        (0, 1, 2),
    )

    def run(channels: Channels) -> np.ndarray:
        properties = {"spacing": list(case.voxel[::-1])}
        found = peer.predict_single_npy_array(_stack(channels), properties, None, None, True)
        return np.asarray(found[1][LESION]).T

    return run


def ours(model: Predictor, case: Case) -> Callable[[Channels], np.ndarray]:
    """Our predictor, loaded, as a function of images."""
    predictor.fold_executor(model, next(iter(model.folds)))
    return lambda channels: predictor.predict(model, channels, case.voxel, tta=case.mirror)


def compare(case: Case, path: Path, repeats: int) -> list[dict[str, Any]]:
    """Rows of the runners of a case: seconds, ratio to stock, distance from the reference."""
    model, channels = descriptor.load(path), scan(case)
    loaded = {
        f"ours {precision}": predictor.load(model, precision=precision)
        for precision in ("fp32", "bf16")
    }
    plain = predictor.load(model, exact=True)
    runners = {"stock nnU-Net": stock(plain, case)}
    runners |= {name: ours(one, case) for name, one in loaded.items()}
    inside = channels["T1w"] != 0
    exact = reference(plain, channels, case)[inside]
    times: dict[str, list[float]] = {name: [] for name in runners}
    found: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, run in runners.items():
            start = time.perf_counter()
            found[name] = run(channels)
            times[name].append(time.perf_counter() - start)
    first = statistics.median(times["stock nnU-Net"])
    used = {name: predictor.execution(one)["Executor"] for name, one in loaded.items()}
    return [
        {
            "runner": name,
            "executor": used.get(name, f"torch {torch.__version__}"),
            "seconds": statistics.median(times[name]),
            "ratio": first / statistics.median(times[name]),
            "max_abs_difference": float(np.abs(found[name][inside] - exact).max()),
            "dice": _dice(found[name][inside] > 0.5, exact > 0.5),
        }
        for name in runners
    ]


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)) if (a | b).any() else 1.0


def floors(path: Path, repeats: int, size: int) -> list[dict[str, Any]]:
    """One window by each executor: best seconds, operations a second, and their share of the peak.

    The peak is the best rate of a product of matrices of ``size`` in the same rounds.
    """
    model = predictor.load(descriptor.load(path), exact=True)
    shape = (1, len(model.descriptor.channels), *model.configuration.patch_size)
    flop = operations(model.network, shape)
    runs = {
        f"{name} {precision}": (
            executors.executor(
                model.network, shape[1:], precision=precision, exact=name == "torch",
                threads=torch.get_num_threads(),
            ),
            precision,
        )
        for name in ("torch", "OpenVINO")
        for precision in ("fp32", "bf16")
    }  # fmt: skip
    window = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in runs}
    rates: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(repeats):
        for precision, found in rates.items():
            found.append(matrix_rate(precision, size))
        for name, (run, _precision) in runs.items():
            start = time.perf_counter()
            run.run(window)
            times[name].append(time.perf_counter() - start)
    rows = []
    for name, (run, precision) in runs.items():
        best, peak = min(times[name]), max(rates[precision])
        rows.append(
            {
                "executor": f"{run.name} {precision}",
                "best_seconds": best,
                "floor": flop / peak,
                "gflops": flop / best / 1e9,
                "peak_gflops": peak / 1e9,
                "share": flop / best / peak,
            }
        )
    return rows


def operations(network: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of one window, counted on the shapes alone."""
    from copy import deepcopy

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        deepcopy(network).to("meta")(torch.empty(shape, device="meta"))
    return float(counter.get_total_flops())


def matrix_rate(precision: str, size: int) -> float:
    """Operations a second of one product of square matrices."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a = torch.ones((size, size), dtype=kind)
    start = time.perf_counter()
    a @ a
    return 2 * size**3 / (time.perf_counter() - start)


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = list(rows[0])
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in cells:
        print("| " + " | ".join(row) + " |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 when ours is within .001 of the exact reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks and scans")
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--repeats", type=int, help="default: 5, quick: 2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    repeats = options.repeats or (2 if options.quick else 5)
    cases = QUICK if options.quick else CASES
    cases = {k: v for k, v in cases.items() if not options.only or k in options.only}
    size = 1024 if options.quick else 3072
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads")
    summary: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, case in cases.items():
            path = model_of(case, Path(folder) / name)
            rows = compare(case, path, repeats)
            print(f"\n## {name}\n")
            _print_table(rows)
            print()
            one_window = floors(path, repeats, size)
            _print_table(one_window)
            summary[name] = {"runners": rows, "window": one_window}
    fp32 = [case["runners"][1] for case in summary.values()]
    result = {
        "speedup": statistics.median(row["ratio"] for row in fp32),
        "speedup_bf16": statistics.median(c["runners"][2]["ratio"] for c in summary.values()),
        "max_abs_difference": max(row["max_abs_difference"] for row in fp32),
        "max_abs_difference_stock": max(
            c["runners"][0]["max_abs_difference"] for c in summary.values()
        ),
        "dice": min(row["dice"] for row in fp32),
        "dice_bf16": min(c["runners"][2]["dice"] for c in summary.values()),
        "cases": summary,
    }
    print(json.dumps(result))
    return 0 if result["max_abs_difference"] < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
