"""Steps of the train level: a case from a mask on any grid, errors of processes, a free GPU."""

from pathlib import Path

import numpy as np
import pytest

from bids_stroke import errors
from bids_stroke.core import geometry
from bids_stroke.core.files import load_image, read_json, save_image
from bids_stroke.interfaces import training
from bids_stroke.interfaces.training import PrepareCase
from bids_stroke.models.channels import with_mirrored
from bids_stroke.models.dataset import Case
from tests.training_data import AFFINE, ball, session


def _prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: object) -> Case:
    """Run the step on a session whose T1w is the network's image."""
    images, brain, lesion = session(1)
    files = {
        name: str(save_image(data, AFFINE, folder / f"{name}.nii.gz", dtype=np.float32))
        for name, data in {**images, "brain": brain, "truth": lesion}.items()
    }
    given = {
        "network_t1w": files["T1w"],
        "network_flair": files["FLAIR"],
        "network_mask": files["brain"],
        "native": files["T1w"],
        "native_mask": files["brain"],
        "truth": files["truth"],
        "space": "T1w",
        "case": "sub-01",
        "participant": "sub-01",
        "group": "A",
    }
    (folder / "run").mkdir()
    monkeypatch.chdir(folder / "run")
    done = PrepareCase(**{**given, **changed}).run()
    return Case(**read_json(Path(done.outputs.case)))


def _voxels(path: str) -> np.ndarray:
    return np.asarray(load_image(path).dataobj)


def test_a_mask_on_the_networks_grid_is_kept_as_it_is(tmp_path, monkeypatch):
    case = _prepare(tmp_path, monkeypatch)
    _, brain, lesion = session(1)
    assert np.array_equal(_voxels(case.label), lesion)
    assert case.volume_ml == pytest.approx(lesion.sum() * 0.027)
    assert case.group == "A" and set(case.images) == {"T1w", "FLAIR"}
    assert tuple(case.cropped_shape) == tuple(np.ptp(np.argwhere(brain), axis=0) + 1)
    assert case.outside == 0
    assert case.contrast is not None and case.contrast > 1


def test_a_case_brings_the_mirrored_channels_of_its_network(tmp_path, monkeypatch):
    names = ["T1w", "T1w-mirrored"]
    case = _prepare(tmp_path, monkeypatch, channels=names)
    assert set(case.images) == {"T1w", "FLAIR", "T1w-mirrored"}
    stack, spacing = case.stack(names)
    expected = with_mirrored({"T1w": stack[0]}, names, session(1)[1], spacing)
    assert np.array_equal(stack[1], expected["T1w-mirrored"]) and stack[1].any()


def test_a_flipped_mask_is_noticed(tmp_path, monkeypatch):
    flipped = session(1)[2][::-1]
    path = save_image(flipped, AFFINE, tmp_path / "flipped.nii.gz", dtype=np.uint8)
    case = _prepare(tmp_path, monkeypatch, truth=str(path))
    assert case.contrast is not None and case.contrast < -1


def test_a_mask_on_the_other_image_comes_through_its_transform(tmp_path, monkeypatch):
    """The FLAIR is the T1w, moved by two voxels along y."""
    moved = AFFINE.copy()
    moved[1, 3] = 6.0
    lesion = session(1)[2]
    world = np.eye(4)
    world[1, 3] = 6.0
    truth = save_image(lesion, moved, tmp_path / "flair_truth.nii.gz", dtype=np.uint8)
    native = save_image(session(1)[0]["FLAIR"], moved, tmp_path / "f.nii.gz", dtype=np.float32)
    forward = geometry.write_itk_affine(world, tmp_path / "flair_to_t1w.txt")
    back = geometry.write_itk_affine(np.linalg.inv(world), tmp_path / "t1w_to_flair.txt")
    case = _prepare(
        tmp_path,
        monkeypatch,
        truth=str(truth),
        native=str(native),
        space="FLAIR",
        to_network=str(forward),
        to_native=str(back),
    )
    assert np.array_equal(_voxels(case.label), lesion)
    assert case.transform == str(back)
    assert np.array_equal(_voxels(case.truth), lesion)


def test_a_finer_mask_is_brought_to_its_images_grid(tmp_path, monkeypatch):
    fine = np.diag([1.5, 1.5, 1.5, 1.0])
    doubled = np.kron(session(1)[2], np.ones((2, 2, 2)))
    fine[:3, 3] = -0.75
    path = save_image(doubled, fine, tmp_path / "fine.nii.gz", dtype=np.uint8)
    case = _prepare(tmp_path, monkeypatch, truth=str(path))
    difference = np.count_nonzero(_voxels(case.truth) != session(1)[2])
    assert difference <= 0.1 * session(1)[2].sum()


def test_a_mask_outside_the_brain_is_noticed(tmp_path, monkeypatch):
    path = save_image(ball((2, 2, 2), 2), AFFINE, tmp_path / "out.nii.gz", dtype=np.uint8)
    assert _prepare(tmp_path, monkeypatch, truth=str(path)).outside == 1


@pytest.mark.parametrize(
    ("code", "text", "kind", "message"),
    [
        (-9, "", errors.TryAgain, "memory ran out"),
        (2, "x\nbids_stroke.errors.UsageError: The patch is odd.", errors.UsageError, "is odd"),
        (75, "bids_stroke.errors.TryAgain: Memory.", errors.TryAgain, "Memory"),
        (1, "Traceback\nKeyError: 'a'", RuntimeError, "code 1: KeyError"),
        (1, "", RuntimeError, "no message"),
    ],
)
def test_what_a_process_says_becomes_an_error(code, text, kind, message):
    error = training._error(code, text, 0)
    assert type(error) is kind
    assert message in str(error)


def test_each_process_gets_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with (
        training._gpus(tmp_path, "cuda", 0, 1) as first,
        training._gpus(tmp_path, "cuda", 2, 1) as second,
    ):
        assert [one["CUDA_VISIBLE_DEVICES"] for one in (first, second)] == ["4", "7"]
        with training._gpus(tmp_path, "cuda", 1, 1) as third:  # more folds than GPUs share one
            assert third["CUDA_VISIBLE_DEVICES"] == "7"
    with training._gpus(tmp_path, "cuda:3", 0, 1) as named:
        assert named == {"CUDA_VISIBLE_DEVICES": "3"}
    with training._gpus(tmp_path, "cpu", 0, 1) as nothing:
        assert nothing == {}


def test_ranks_get_gpus_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,4,5")
    with (
        training._gpus(tmp_path, "cuda", 0, 2) as first,
        training._gpus(tmp_path, "cuda", 1, 2) as second,
        training._gpus(tmp_path, "cuda", 2, 3) as third,  # none is free
    ):
        assert first == {"CUDA_VISIBLE_DEVICES": "2,3"}
        assert second == {"CUDA_VISIBLE_DEVICES": "4,5"}
        assert len(set(third["CUDA_VISIBLE_DEVICES"].split(","))) == 3
    with training._gpus(tmp_path, "cuda", 2, 1) as again:
        assert again == {"CUDA_VISIBLE_DEVICES": "4"}
