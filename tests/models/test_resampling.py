"""Resampling against nnU-Net's own, over orders, shapes and thick slices."""

from functools import partial

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from bids_stroke.models import resampling

CASES = [
    ((20, 31, 24), (33, 25, 24), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ((31, 17, 24), (12, 40, 23), (1.1, 0.9, 1.6), (2.0, 2.0, 2.0)),
    ((9, 40, 36), (27, 20, 18), (4.0, 0.5, 0.5), (1.0, 1.0, 1.0)),
    ((36, 40, 9), (18, 20, 9), (0.5, 0.5, 4.0), (1.0, 1.0, 4.0)),
    ((36, 9, 30), (9, 27, 15), (0.5, 4.0, 0.5), (1.0, 1.0, 1.0)),
    ((20, 20, 20), (20, 20, 20), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("order_z", [0, 1, 3])
@pytest.mark.parametrize("separate", [None, False])
@pytest.mark.parametrize(("old", "new", "spacing", "new_spacing"), CASES)
def test_equals_nnunet(old, new, spacing, new_spacing, order, order_z, separate) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(order)
    data = rng.normal(size=(2, *old)).astype(np.float32)
    data[:, :4] = 0
    options = {"order": order, "order_z": order_z, "force_separate_z": separate}
    theirs = resample_data_or_seg_to_shape(data, new, spacing, new_spacing, is_seg=False, **options)
    ours = resampling.resample(torch.from_numpy(data), new, spacing, new_spacing, **options)
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - theirs).max() < 1e-5


def test_another_function_of_the_plans_is_called_as_it_is() -> None:
    table = {"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_data_kwargs": {}}
    seen = []

    def stock(*arguments: object) -> np.ndarray:
        seen.append(arguments)
        return np.ones((1, 2, 2, 2))

    result = resampling.resampler(table, "data", stock)(torch.zeros(1), (2, 2, 2), (1,), (1,))
    assert torch.equal(result, torch.ones((1, 2, 2, 2)))
    assert len(seen) == 1


def test_only_linear_functions_merge_classes() -> None:
    table = {"resampling_fn_probabilities": resampling.NNUNET}
    linear = partial(dict, table, resampling_fn_probabilities_kwargs={"order": 1, "order_z": 0})
    assert resampling.is_linear(linear())
    assert not resampling.is_linear({**table, "resampling_fn_probabilities_kwargs": {"order": 3}})
    assert not resampling.is_linear({**linear(), "resampling_fn_probabilities": "other"})
