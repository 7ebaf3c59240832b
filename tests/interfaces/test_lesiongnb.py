"""LesionGnb on a phantom: the template itself, moved, with a ball of fluid in its white matter."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from bids_stroke.core.files import load_image, save_image
from bids_stroke.interfaces.lesiongnb import PredictLesionGnb
from bids_stroke.models import descriptor
from tests.interfaces.test_normalize import moved_template

CENTRE_MM = (-30.0, -12.0, 30.0)  # left centrum semiovale
RADIUS_MM = 14.0


@pytest.mark.slow
def test_a_ball_of_fluid_is_found_on_its_side_and_nothing_like_it_elsewhere(
    tmp_path: Path,
) -> None:
    image, brain, affine = moved_template()
    places = apply_affine(affine, np.moveaxis(np.indices(image.shape), 0, -1))
    left, right = (
        np.linalg.norm(places - (side * CENTRE_MM[0], *CENTRE_MM[1:]), axis=-1) < RADIUS_MM
        for side in (1, -1)
    )
    fluid = np.percentile(image[brain > 0], 2)
    paths = {
        name: str(save_image(data, affine, tmp_path / f"{name}.nii.gz", dtype=np.float32))
        for name, data in (("t1w", np.where(left, fluid, image)), ("brain_mask", brain))
    }
    model = descriptor.find("lesiongnb")
    node = PredictLesionGnb(**paths, folder=str(model.model_folder), checksums=model.checksums())
    done = node.run(cwd=str(tmp_path)).outputs
    made = load_image(done.probability)
    probability = made.get_fdata(dtype=np.float32)
    found = probability >= model.operating_point.threshold
    near = ndimage.distance_transform_edt(~left, sampling=3.0) <= 12
    assert done.members == []
    assert made.shape == image.shape
    assert np.allclose(made.affine, affine)
    assert not probability[brain == 0].any()
    assert found[left].mean() > 0.8
    assert found[right].mean() < 0.1
    assert (found & ~near).sum() < 0.5 * left.sum()
