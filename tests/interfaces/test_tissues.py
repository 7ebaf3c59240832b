"""Tissues of nested balls whose grey levels are known; the priors lie beside them."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from bids_stroke.core.tissue_features import Tissues
from bids_stroke.interfaces.tissues import segment_tissues

LEVELS = (20.0, 60.0, 100.0)
"""CSF, grey and white matter, as on a T1w."""


def nested(shift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of three shells from outside to inside, ``shift`` voxels along x."""
    distance = np.linalg.norm(np.indices((36, 36, 36)).T - (17.5, 17.5, 17.5 + shift), axis=-1).T
    white, grey, all_of_it = (distance < radius for radius in (7, 11, 15))
    return all_of_it & ~grey, grey & ~white, white


def segmented(weight: float) -> tuple[np.ndarray, Tissues, tuple[np.ndarray, ...]]:
    truth = nested(0)
    image = sum(level * mask for level, mask in zip(LEVELS, truth, strict=True))
    brain = sum(truth) > 0
    noise = np.random.default_rng(1).normal(0, 4, brain.shape)
    start = Tissues(*(mask.astype(np.float32) for mask in nested(3)))
    found = segment_tissues(image + noise, brain, np.eye(4), start, prior_weight=weight)
    return brain, found, truth


def test_tissues_are_found_from_dark_to_bright_though_the_priors_lie_elsewhere() -> None:
    brain, found, truth = segmented(0)
    for own, mask in zip((found.csf, found.grey, found.white), truth, strict=True):
        assert own[mask].mean() > 0.95
        assert own[brain & ~mask].mean() < 0.05
        assert not own[~brain].any()
    total = found.csf + found.grey + found.white
    assert total[brain] == pytest.approx(1, abs=1e-3)


def test_priors_with_a_weight_have_a_say() -> None:
    _, free, truth = segmented(0)
    _, led, _ = segmented(0.8)
    assert led.grey[truth[1]].mean() < free.grey[truth[1]].mean() - 0.02


def test_no_temporary_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    segmented(0)
    assert tempfile.gettempdir() == str(tmp_path)
    assert not list(tmp_path.iterdir())
