"""Registration to a template around the lesion, and what it carries there and back."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_stroke.core import geometry, lesions, normalization, similarity
from bids_stroke.core.files import save_image, write_json
from bids_stroke.core.probability import by_log_odds
from bids_stroke.interfaces.ants import reproducible, to_ants
from bids_stroke.interfaces.images import read
from bids_stroke.models.templates import Template, find_template

Image = normalization.Image
AFFINE_LEVELS = ((4, 2, 1), (2, 1, 0))
"""Shrink factors on the grid of 2 mm, and smoothing in its voxels."""


def register_to_template(
    template: Template,
    brain: Image,
    usable: np.ndarray,
    *,
    prefix: Path,
    affine_iterations: tuple[int, ...] = (500, 250, 100),
    syn_iterations: tuple[int, ...] = (40, 20, 10),
    seed: int = 1,
) -> tuple[Path, Path]:
    """ITK composites (``.h5``) of affine and SyN that bring a brain to a template, and back.

    ``usable`` is the mask, on the brain's grid, of what the cost function may see. Both images are
    brought to 2 mm; the metric is Mattes mutual information, so that a FLAIR will do as well.
    Sources: Avants et al. 2008 (SyN), Brett et al. 2001 (masking).
    """
    fixed = normalization.coarse(template.t1w, template.grid.affine)
    moving = normalization.coarse(*brain)
    allowed = normalization.coarse(usable.astype(np.float32), brain[1])[0] > 0.99
    mask = to_ants(allowed, moving[1])
    with reproducible(seed):
        import ants

        from bids_stroke.core import warps

        result = ants.registration(
            to_ants(*fixed),
            to_ants(*moving),
            "SyN",
            outprefix=str(prefix),
            moving_mask=mask if not allowed.all() else None,
            mask_all_stages=True,
            aff_iterations=affine_iterations,
            aff_shrink_factors=AFFINE_LEVELS[0],
            aff_smoothing_sigmas=AFFINE_LEVELS[1],
            reg_iterations=syn_iterations,
            write_composite_transform=True,
        )
    forward, inverse = Path(result["fwdtransforms"]), Path(result["invtransforms"])
    return warps.drop_times(forward), warps.drop_times(inverse)


class _NormalizeInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="brain-only image")
    in_mask = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    lesion = File(exists=True, desc="lesion mask on the same grid: left out of the metric")
    template = traits.Str(mandatory=True, desc="name of the template")
    margin_mm = traits.Float(normalization.MARGIN_MM, usedefault=True, desc="growth of the lesion")
    affine_iterations = traits.List(traits.Int, [500, 250, 100], usedefault=True)
    syn_iterations = traits.List(traits.Int, [40, 20, 10], usedefault=True)
    seed = traits.Int(1, usedefault=True, desc="seed of ANTs")


class _NormalizeOutput(TraitedSpec):
    forward = File(desc="ITK composite that brings the image to the template")
    inverse = File(desc="ITK composite that brings the template to the image")
    template_image = File(desc="T1w of the template, brain only")
    before = File(desc="image on the template's grid, with brain centres aligned only")
    after = File(desc="image on the template's grid")
    qc = File(desc="JSON: similarity before and after, overlap, Jacobian, flags")


class NormalizeToTemplate(SimpleInterface):
    """Affine and SyN registration to a template that does not see the lesion."""

    input_spec = _NormalizeInput
    output_spec = _NormalizeOutput

    def _run_interface(self, runtime: Any) -> Any:
        cwd = Path(runtime.cwd)
        template = find_template(self.inputs.template)
        data, grid = read(self.inputs.in_file)
        brain, _ = read(self.inputs.in_mask)
        lesion = read(self.inputs.lesion)[0] if isdefined(self.inputs.lesion) else None
        usable = normalization.usable(brain, lesion, grid.affine, self.inputs.margin_mm)
        forward, inverse = register_to_template(
            template,
            (data, grid.affine),
            usable,
            prefix=cwd / "template_",
            affine_iterations=tuple(self.inputs.affine_iterations),
            syn_iterations=tuple(self.inputs.syn_iterations),
            seed=self.inputs.seed,
        )
        images, quality = judge(template, (data, grid.affine), brain, forward)
        quality["lesion_margin_mm"] = self.inputs.margin_mm if lesion is not None else None
        quality["left_out_ml"] = _millilitres(~usable & (brain > 0), grid.affine)
        images["template_image"] = template.t1w
        for name, image in images.items():
            path = save_image(image, template.grid.affine, cwd / f"{name}.nii.gz", dtype=np.float32)
            self._results[name] = str(path)
        self._results["forward"], self._results["inverse"] = str(forward), str(inverse)
        self._results["qc"] = str(write_json(cwd / "normalization.json", quality))
        return runtime


def _millilitres(mask: np.ndarray, affine: np.ndarray) -> float:
    volume = np.count_nonzero(mask) * geometry.voxel_volume_mm3(affine) / 1000
    return round(float(volume), 3)


def judge(
    template: Template, image: Image, brain: np.ndarray, forward: Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The image in template space before and after a registration, and the record of quality."""
    from bids_stroke.core import warps

    data, affine = image
    grid, transform = template.grid, warps.read_transform(forward)
    shift = np.eye(4)
    centres = [similarity.centroid_mm(m, a) for m, a in _masks(brain, affine, template)]
    shift[:3, 3] = centres[0] - centres[1]
    source = geometry.Grid((data.shape[0], data.shape[1], data.shape[2]), affine)
    before = geometry.resample(data, source, grid, transform=shift)
    after = warps.warp(data, affine, grid, transform)
    covered = warps.warp(brain, affine, grid, transform, order=0)
    field = warps.displacement(grid, transform)
    numbers = {
        "before": _similarity(before, template),
        "after": _similarity(after, template),
        "overlap": similarity.dice(covered, template.brain),
    }
    determinant = warps.jacobian_determinant(field, grid.affine)
    jacobian = normalization.jacobian_summary(determinant, template.brain)
    quality = {
        "template": template.name,
        "metric": "normalised mutual information within the template's brain",
        "similarity_before": round(numbers["before"], 5),
        "similarity_after": round(numbers["after"], 5),
        "brain_overlap_dice": round(numbers["overlap"], 4),
        "jacobian": jacobian,
        "flags": normalization.normalization_flags(**numbers, jacobian=jacobian),
    }
    return {"before": before, "after": after}, quality


def _masks(brain: np.ndarray, affine: np.ndarray, template: Template) -> list[Image]:
    return [(brain, affine), (template.brain, template.grid.affine)]


def _similarity(image: np.ndarray, template: Template) -> float:
    return similarity.normalised_mutual_information(image, template.t1w, template.brain)


class _ToTemplateInput(BaseInterfaceInputSpec):
    probability = File(exists=True, mandatory=True, desc="probability on a native grid")
    transform = File(exists=True, mandatory=True, desc="ITK composite to the template")
    native_mask = File(exists=True, desc="mask to carry instead of cutting the probability")
    template = traits.Str(mandatory=True, desc="name of the template")
    threshold = traits.Float(mandatory=True)
    min_volume_mm3 = traits.Float(mandatory=True)
    connectivity = traits.Enum(26, 18, 6, usedefault=True)
    inclusive = traits.Bool(True, usedefault=True)


class _ToTemplateOutput(TraitedSpec):
    probability = File(desc="probability on the template's grid")
    mask = File(desc="lesion mask on the template's grid")


class LesionsToTemplate(SimpleInterface):
    """The probability in template space, and the mask by the rule of the native grids.

    The map is brought there as to a native grid (``core.probability``). A mask that is no cut of
    it (an ensemble's, by stacking or window) is carried.
    """

    input_spec = _ToTemplateInput
    output_spec = _ToTemplateOutput

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.core import warps

        template, cwd = find_template(self.inputs.template), Path(runtime.cwd)
        data, source = read(self.inputs.probability)
        transform = warps.read_transform(self.inputs.transform)
        moved = by_log_odds(
            data, lambda odds: warps.warp(odds, source.affine, template.grid, transform)
        )
        cut, threshold = moved, self.inputs.threshold
        if isdefined(self.inputs.native_mask):
            mask, source = read(self.inputs.native_mask)
            cut, threshold = warps.warp(mask, source.affine, template.grid, transform), 0.5
        labels = lesions.segment(
            cut,
            template.grid.affine,
            threshold=threshold,
            min_volume_mm3=self.inputs.min_volume_mm3,
            connectivity=self.inputs.connectivity,
            inclusive=self.inputs.inclusive,
        )
        for name, image, dtype in (
            ("probability", moved, np.float32),
            ("mask", labels > 0, np.uint8),
        ):
            path = save_image(image, template.grid.affine, cwd / f"{name}.nii.gz", dtype=dtype)
            self._results[name] = str(path)
        return runtime
