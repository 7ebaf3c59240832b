"""The segmentation graph, from network images to results on native grids."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core.files import save_image
from bids_stroke.core.geometry import write_itk_affine
from bids_stroke.models import descriptor, predictor
from bids_stroke.workflows.segment import describe_segmentation, init_segment_wf
from tests.tiny_model import write_model

MODALITIES = [("T1w", "FLAIR"), ("T1w",), ("FLAIR",)]


def make(tmp_path: Path, modalities: tuple[str, ...], **changes: object):
    model = descriptor.load(write_model(tmp_path / "model"))
    options = {
        "descriptor": model,
        "modalities": modalities,
        "reference": modalities[0],
        "operating_point": model.operating_point,
        "folds": (),
        "tta": None,
        "precision": "auto",
        "device": "cpu",
        "use_gpu": False,
        "omp_nthreads": 1,
        **changes,
    }
    return model, init_segment_wf(**options)


@pytest.mark.parametrize("modalities", MODALITIES)
def test_every_native_grid_has_its_nodes(tmp_path: Path, modalities: tuple[str, ...]) -> None:
    _, workflow = make(tmp_path, modalities)
    names = set(workflow.list_node_names())
    for modality in ("T1w", "FLAIR"):
        there = f"{modality.lower()}_segment" in names
        assert there == (modality in modalities)


def test_prediction_takes_a_slot_of_the_gpu_queue(tmp_path: Path) -> None:
    _, workflow = make(tmp_path, ("T1w",), use_gpu=True, device="cuda", omp_nthreads=4)
    predict = workflow.get_node("predict")
    assert predict.is_gpu_node()
    assert predict.n_procs == 1
    _, workflow = make(tmp_path / "cpu", ("T1w",), omp_nthreads=4)
    assert not workflow.get_node("predict").is_gpu_node()
    assert workflow.get_node("predict").n_procs == 4


def test_device_does_not_recompute(tmp_path: Path) -> None:
    _, one = make(tmp_path, ("T1w",))
    _, other = make(tmp_path / "b", ("T1w",), use_gpu=True, device="cuda", omp_nthreads=4)
    other.get_node("predict").inputs.descriptor = one.get_node("predict").inputs.descriptor
    hashes = [w.get_node("predict").inputs.get_hashval()[1] for w in (one, other)]
    assert hashes[0] == hashes[1]


def test_whole_path_on_two_grids(tmp_path: Path) -> None:
    model, workflow = make(tmp_path, ("T1w", "FLAIR"))
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2, 2, 1])
    files = {}
    for name in ("network_t1w", "network_flair"):
        data = np.zeros((24, 26, 22))
        data[4:20, 4:22, 4:18] = rng.normal(size=(16, 18, 14))
        files[name] = save_image(data, affine, tmp_path / f"{name}.nii.gz", dtype=np.float32)
    brain = np.zeros((24, 26, 22))
    brain[4:20, 4:22, 4:18] = 1
    files["network_mask"] = save_image(brain, affine, tmp_path / "m.nii.gz", dtype=np.uint8)
    flair = np.diag([-1.0, 1, 3, 1])
    flair[:3, 3] = [50, 0, 0]
    for name, grid, shape in (("t1w", affine, (24, 26, 22)), ("flair", flair, (52, 52, 15))):
        for field in ("conformed", "mask"):
            files[f"{name}_{field}"] = save_image(
                np.ones(shape), grid, tmp_path / f"{name}_{field}.nii.gz", dtype=np.float32
            )
    write_itk_affine(np.eye(4), tmp_path / "xfm.txt")
    files["t1w_to_flair_xfm"] = tmp_path / "xfm.txt"
    for field, path in files.items():
        setattr(workflow.inputs.inputnode, field, str(path))
    workflow.base_dir = str(tmp_path / "work")
    graph = workflow.run()
    nodes = {node.name: node for node in graph.nodes()}
    result = nib.load(nodes["t1w_to_native"].result.outputs.probability)
    expected = predictor.predict(
        predictor.load(model),
        {m: nib.load(files[f"network_{m.lower()}"]).get_fdata() for m in ("T1w", "FLAIR")},
        (2, 2, 2),
    )
    assert np.array_equal(result.get_fdata(dtype=np.float32), np.where(brain > 0, expected, 0))
    on_flair = nib.load(nodes["flair_to_native"].result.outputs.probability)
    assert on_flair.shape == (52, 52, 15)
    assert np.array_equal(on_flair.affine, flair)
    # FLAIR voxel (x, y, z) lies at world (50 - x, y, 3 z): T1w voxel (25 - x / 2, y / 2, 1.5 z).
    assert on_flair.dataobj[26, 20, 8] == result.dataobj[12, 10, 12]


def test_methods_text_tells_what_is_run(tmp_path: Path) -> None:
    model, _ = make(tmp_path, ("T1w",))
    text = describe_segmentation(model, ("FLAIR",), model.operating_point, tta=True)
    assert "on FLAIR by" in text
    assert "with test-time mirroring" in text
    assert "under 10 mm³" in text
    assert "random weights" in text
    assert "mirror image" not in text
    seeing = replace(model, channels=("T1w", "FLAIR", "T1w-mirrored"))
    assert "Beside the T1w it saw its mirror image" in describe_segmentation(
        seeing, ("T1w", "FLAIR"), model.operating_point, tta=None
    )
    assert "mirror image" not in describe_segmentation(
        seeing, ("FLAIR",), model.operating_point, tta=None
    )
