"""What is peculiar to the way back from a network: it does not depend on the number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import special

from bids_stroke.models import preparation


@pytest.fixture(autouse=True)
def _threads_of_the_process() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_probabilities_are_the_same_bytes_with_any_number_of_threads() -> None:
    """torch shares out voxels in blocks, and rounds otherwise at their ends: not so here."""
    logits = 6 * torch.randn((1, 101, 103, 107), generator=torch.Generator().manual_seed(3))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(preparation._probability(logits, 1, are_logits=True).numpy())
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    np.testing.assert_allclose(found[0], special.expit(logits[0].double().numpy()), atol=1e-7)
    assert found[0].dtype == np.float32
