"""Templates of the MNI152 family: from nilearn's wheel, or from TemplateFlow's folder on disk.

nilearn's files are the ICBM 2009a *symmetric* average (exactly its own mirror image, whatever
nilearn's description says), which BIDS and TemplateFlow call MNI152NLin2009aSym.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from platformdirs import user_cache_dir

from bids_stroke.core.geometry import Grid, grid_of
from bids_stroke.errors import InputMissing

SHIPPED = "MNI152NLin2009aSym"
STRIDE = 2
_NILEARN = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True, eq=False)
class Template:
    """A brain-only T1w average and its brain mask, [x, y, z] on one grid."""

    name: str
    t1w: np.ndarray
    brain: np.ndarray
    grid: Grid


@dataclass(frozen=True, eq=False)
class Tissues:
    """Probabilities of grey and white matter in [0, 1], ICBM 2009a symmetric, at 2 mm."""

    grey: np.ndarray
    white: np.ndarray
    brain: np.ndarray
    affine: np.ndarray


def find_template(name: str) -> Template:
    """The template of a name, without any network.

    Raises InputMissing where TemplateFlow's folder does not hold it.
    """
    if name == SHIPPED:
        image = _nilearn("t1")
        t1w = image.get_fdata(dtype=np.float32)
        return Template(name, t1w, t1w > 0, grid_of(image))
    head, mask = (cast(nib.Nifti1Image, nib.load(path)) for path in templateflow_files(name))
    brain = np.asanyarray(mask.dataobj) > 0
    return Template(name, head.get_fdata(dtype=np.float32) * brain, brain, grid_of(head))


def tissues() -> Tissues:
    """Tissue probabilities of nilearn's wheel at 2 mm: every second voxel, from the first on."""
    affine = np.asarray(_nilearn("gm").affine, dtype=float).copy()
    affine[:3, :3] *= STRIDE
    grey, white, t1w = (
        np.asarray(_nilearn(name).dataobj, dtype=np.float32)[::STRIDE, ::STRIDE, ::STRIDE]
        for name in ("gm", "wm", "t1")
    )
    return Tissues(grey / 255, white / 255, t1w > 0, affine)


def _nilearn(name: str) -> Any:
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputMissing("The package nilearn, which holds the template, is not installed.")
    return nib.load(Path(spec.origin).parent / "datasets" / "data" / _NILEARN.format(name))


def require_template(name: str) -> None:
    """Raise InputMissing where ``find_template`` would."""
    if name != SHIPPED:
        templateflow_files(name)


def templateflow_home() -> Path:
    """TemplateFlow's folder, where its own client looks for it."""
    return Path(os.environ.get("TEMPLATEFLOW_HOME") or user_cache_dir("templateflow"))


def templateflow_files(name: str) -> tuple[Path, Path]:
    """T1w with its skull, and brain mask, of a template at 1 mm in TemplateFlow's folder.

    Raises InputMissing where one of them is not there, or empty as TemplateFlow leaves what was
    never downloaded.
    """
    folder = templateflow_home() / f"tpl-{name}"
    head, mask = (_at_1_mm(folder, f"{what}.nii.gz") for what in ("T1w", "desc-brain_mask"))
    if head is None or mask is None:
        raise InputMissing(
            f"The template {name} is not on this machine (at 1 mm in {folder}): fetch it once by "
            f"'templateflow get {name} --res 1', or use {SHIPPED}, which is always there."
        )
    return head, mask


def _at_1_mm(folder: Path, ending: str) -> Path | None:
    """TemplateFlow writes the index of a resolution with one digit or two."""
    paths = (folder / f"{folder.name}_res-{index}_{ending}" for index in ("1", "01"))
    return next((path for path in paths if path.is_file() and path.stat().st_size), None)
