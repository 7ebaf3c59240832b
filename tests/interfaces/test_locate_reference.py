"""Where a reference lies: found by a registration that does not see the lesion."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine

from bids_stroke.core import geometry, normalization
from bids_stroke.core.files import read_json, save_image
from bids_stroke.interfaces import locate
from bids_stroke.interfaces.locate import LocateReference
from bids_stroke.models.templates import SHIPPED, find_template

PLACES = {(25, -62, -38): "cerebellum", (3, -28, -35): "brainstem"}


@cache
def coarse_template() -> normalization.Image:
    template = find_template(SHIPPED)
    return normalization.coarse(template.t1w, template.grid.affine)


def head(folder: Path, move: np.ndarray, centre: tuple[int, int, int] | None) -> dict[str, Path]:
    """The template, moved and at 2 mm, with a dark ball of 8 mm at a place of the template."""
    data, affine = coarse_template()
    points = apply_affine(affine, np.indices(data.shape).reshape(3, -1).T)
    far = np.inf if centre is None else np.linalg.norm(points - centre, axis=1)
    lesion = np.broadcast_to(far, data.size).reshape(data.shape) < 8
    data = np.where(lesion, 0.3 * data, data)
    arrays = {"image": data, "brain": data > 0.1 * data.max(), "label": lesion}
    return {
        name: save_image(array, move @ affine, folder / f"{name}.nii.gz", dtype=np.float32)
        for name, array in arrays.items()
    }


def where(files: dict[str, Path], folder: Path, **settings: object) -> dict[str, str]:
    node = LocateReference(**{k: str(v) for k, v in files.items()}, **settings)
    return read_json(Path(node.run(cwd=str(folder)).outputs.where))


@pytest.mark.parametrize(("centre", "lobe"), PLACES.items())
def test_the_transform_is_used_from_the_image_to_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, centre: tuple[int, int, int], lobe: str
) -> None:
    move = np.eye(4)
    move[:3, 3] = (4, 70, 50)  # without the transform, the lesion would lie in the cerebrum
    seen = {}

    def register(template, brain, usable, **settings):
        seen["usable"] = usable
        return Path(), geometry.write_itk_affine(np.linalg.inv(move), tmp_path / "i.txt")

    monkeypatch.setattr(locate, "register_to_template", register)
    files = head(tmp_path, move, centre)
    found = where(files, tmp_path)
    assert found["region"] == lobe
    assert found["super_region"] in ("R2", "n/a")  # n/a without the package of atlases
    assert 0 < np.count_nonzero(~seen["usable"]) < 2000  # the lesion is left out


def test_no_lesion_lies_nowhere(tmp_path: Path) -> None:
    found = where(head(tmp_path, np.eye(4), None), tmp_path)
    assert found == {"region": "n/a", "super_region": "n/a"}


@pytest.mark.slow
def test_a_turned_head_is_found(tmp_path: Path) -> None:
    move, angle = np.eye(4), 0.2
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    move[:2, :2] = 1.05 * np.array(turn)
    move[:3, 3] = (5, 30, 40)
    files = head(tmp_path, move, next(iter(PLACES)))
    assert where(files, tmp_path, affine_iterations=[100, 20, 0])["region"] == "cerebellum"
