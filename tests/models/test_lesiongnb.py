"""The model folder of LesionGnb: parameters, template, and that it is only run by name."""

from pathlib import Path

import numpy as np
import pytest

from bids_stroke.core import gnb
from bids_stroke.errors import UnusableData
from bids_stroke.models import descriptor, lesiongnb


def test_parameters_of_a_folder(tmp_path: Path) -> None:
    found = gnb.Parameters(((0.1, 0.2), (0.3, 0.4)), ((0.1, 0.1), (0.2, 0.2)))
    path = lesiongnb.write_parameters(found, tmp_path, "made by hand")
    assert lesiongnb.read_parameters(tmp_path) == found
    path.write_text("healthy = 3")
    with pytest.raises(UnusableData, match="parameters.toml"):
        lesiongnb.read_parameters(tmp_path)


def test_the_model_comes_with_the_program_and_is_run_by_name_only() -> None:
    model = descriptor.find("lesiongnb")
    descriptor.verify(model)
    assert "synthetic" in model.training_data
    parameters = lesiongnb.read_parameters(model.model_folder)
    assert parameters.means[1][0] > parameters.means[0][0]
    assert descriptor.choose("auto", ("T1w",))[0].name == "embedded-t1w"
    assert descriptor.choose("lesiongnb", ("T1w", "FLAIR"))[0].name == "lesiongnb"
    with pytest.raises(UnusableData, match="needs T1w"):
        descriptor.choose("lesiongnb", ("FLAIR",))


def test_the_grid_mirrors_about_the_midline_and_the_template_is_symmetric() -> None:
    grid = lesiongnb.grid()
    x = grid.affine[0, 0] * np.arange(grid.shape[0]) + grid.affine[0, 3]
    np.testing.assert_allclose(x, -x[::-1])
    t1w, tissues, brain = lesiongnb.template()
    assert t1w.shape == grid.shape
    total = tissues.csf + tissues.grey + tissues.white
    np.testing.assert_allclose(total[brain], 1, atol=0.02)
    assert np.abs(tissues.white - tissues.mirrored().white).mean() < 0.01
