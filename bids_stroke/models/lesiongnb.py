"""Model folders of LesionGnb: its fitted parameters, and the template that it compares with."""

import tomllib
from functools import lru_cache
from pathlib import Path

import numpy as np
import tomli_w

from bids_stroke.core import gnb
from bids_stroke.core.files import write_text
from bids_stroke.core.geometry import Grid, resample
from bids_stroke.core.tissue_features import Tissues, smooth
from bids_stroke.errors import UnusableData
from bids_stroke.models.templates import SHIPPED, find_template, tissues

FORMAT = "lesiongnb"
PARAMETERS = "parameters.toml"
VOXEL_MM = 2.0
_HALF_MM = (92.0, 112.0, 92.0)
"""Half of the field of view; the grid is symmetric about x = 0, so reversing it mirrors."""
_CENTRE_MM = (0.0, -18.0, 6.0)


def grid() -> Grid:
    """The template's space at 2 mm; an even number of voxels lies on each side of x = 0."""
    x, y, z = (round(2 * half / VOXEL_MM) for half in _HALF_MM)
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = np.subtract(_CENTRE_MM, _HALF_MM) + VOXEL_MM / 2
    return Grid((x, y, z), affine)


@lru_cache(maxsize=1)
def template() -> tuple[np.ndarray, Tissues, np.ndarray]:
    """T1w, tissues and brain mask of the symmetric MNI152 2009a of nilearn, on ``grid``."""
    t1w, maps = find_template(SHIPPED), tissues()
    own = Grid((maps.grey.shape[0], maps.grey.shape[1], maps.grey.shape[2]), maps.affine)
    head = resample(_antialiased(t1w.t1w), t1w.grid, grid())
    grey, white = (resample(_antialiased(m), own, grid()) for m in (maps.grey, maps.white))
    brain = resample(_antialiased(maps.brain), own, grid()) >= 0.5
    fluid = np.clip(1 - grey - white, 0, 1)
    return head * brain, Tissues(*(m * brain for m in (fluid, grey, white))), brain


def _antialiased(data: np.ndarray) -> np.ndarray:
    """From 1 mm, smoothed for sampling at 2 mm."""
    return smooth(data, 1.0, VOXEL_MM)


def read_parameters(folder: Path) -> gnb.Parameters:
    """Parameters of a model folder; raises UnusableData, naming the file, where there are none."""
    path = folder / PARAMETERS
    try:
        return gnb.from_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UnusableData(f"{path} holds no parameters of LesionGnb: {error}.") from error


def write_parameters(parameters: gnb.Parameters, folder: Path, provenance: str) -> Path:
    """Write ``parameters.toml`` into a model folder, with a sentence on where they come from."""
    text = tomli_w.dumps({"provenance": provenance, **gnb.to_table(parameters)})
    return write_text(folder / PARAMETERS, text)
