"""N4, and rigid registration by ANTsPy, from arrays in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_stroke.core import geometry, intensity, similarity
from bids_stroke.core.files import save_image, write_json
from bids_stroke.core.geometry import Grid
from bids_stroke.interfaces.images import read

LEVELS_MM = (6.0, 4.0, 2.0)
"""Voxel size at the three levels of a registration, whatever the resolution of the images."""
SMOOTHING_MM = (3.0, 2.0, 0.0)
SAMPLED = 0.1
"""Share of the voxels at which ANTs compares the images: twice as many give no better matrix."""
COMPARED_MM = 2.0
"""Distance of the voxels at which a registration is judged."""
MARGIN_MM = 15.0
"""What is kept around a brain: registration costs by the size of the images."""


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed ANTs and hold ITK to one thread: with more, equal inputs give different bytes.

    ITK reads the number of threads at its first use in a process, so every use is wrapped.
    """
    wanted = {"ANTS_RANDOM_SEED": str(seed), "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def to_ants(data: np.ndarray, affine: np.ndarray) -> Any:
    """ANTsImage of an array [x, y, z] with a RAS+ mm affine (ITK is LPS)."""
    import ants

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sides = voxel_sizes(affine)
    return ants.from_numpy(
        np.asarray(data, dtype=np.float32),
        origin=tuple(lps[:3, 3]),
        spacing=tuple(sides),
        direction=lps[:3, :3] / sides,
    )


class _N4Input(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="brain-only image")
    in_mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    shrink = traits.Range(low=1, mandatory=True, desc="largest shrink factor")
    levels = traits.Int(mandatory=True, desc="of B-splines, each twice as fine as the last")
    iterations = traits.Int(mandatory=True, desc="at most, of each level")


class _N4Output(TraitedSpec):
    out_file = File(desc="image without its bias field, 0 outside the brain")


class N4BiasFieldCorrection(SimpleInterface):
    """Remove the bias field within the brain (Tustison et al. 2010)."""

    input_spec = _N4Input
    output_spec = _N4Output

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.core.bias import n4

        data, grid = read(self.inputs.in_file)
        mask, _ = read(self.inputs.in_mask)
        corrected = n4(
            data,
            mask,
            grid.affine,
            shrink=intensity.shrink_factor(grid.shape, self.inputs.shrink),
            levels=self.inputs.levels,
            iterations=self.inputs.iterations,
        )
        out = Path(runtime.cwd) / "n4.nii"
        save_image(intensity.masked(corrected, mask), grid.affine, out, dtype=np.float32)
        self._results["out_file"] = str(out)
        return runtime


class _RigidInput(BaseInterfaceInputSpec):
    fixed = File(exists=True, mandatory=True, desc="brain-only reference image")
    fixed_mask = File(exists=True, mandatory=True, desc="its brain mask")
    moving = File(exists=True, mandatory=True, desc="brain-only image to bring there")
    moving_mask = File(exists=True, mandatory=True, desc="its brain mask")
    iterations = traits.List(traits.Int, [100, 20, 4], usedefault=True, desc="by level")
    seed = traits.Int(1, usedefault=True, desc="seed of ANTs")


class _RigidOutput(TraitedSpec):
    forward = File(desc="ITK transform that brings the moving image to the fixed one")
    inverse = File(desc="ITK transform that brings the fixed image to the moving one")
    qc = File(desc="JSON: similarity before and after, rotation, translation, overlap, flags")


class RigidRegistration(SimpleInterface):
    """Rigid registration of one person's images (Avants et al. 2011), with numbers to judge it."""

    input_spec = _RigidInput
    output_spec = _RigidOutput

    def _run_interface(self, runtime: Any) -> Any:
        cwd = Path(runtime.cwd)
        images = {
            **around_the_brain("fixed", self.inputs.fixed, self.inputs.fixed_mask),
            **around_the_brain("moving", self.inputs.moving, self.inputs.moving_mask),
        }
        start = starting_point(thinned(images))
        matrix, quality = judged(images, self._register(images, start, cwd))
        forward = geometry.write_itk_affine(matrix, cwd / "forward.txt")
        inverse = geometry.write_itk_affine(np.linalg.inv(matrix), cwd / "inverse.txt")
        self._results["forward"] = str(forward)
        self._results["inverse"] = str(inverse)
        self._results["qc"] = str(write_json(cwd / "registration.json", quality))
        return runtime

    def _register(self, images: "Images", start: np.ndarray, cwd: Path) -> np.ndarray:
        """The rigid matrix that takes points of the fixed image to the moving one, RAS+ mm."""
        initial = geometry.write_itk_affine(start, cwd / "start.txt")
        finest = voxel_sizes(images["fixed"][1].affine).min()
        with reproducible(self.inputs.seed):
            import ants

            result = ants.registration(
                *(to_ants(images[name][0], images[name][1].affine) for name in ("fixed", "moving")),
                "Rigid",
                initial_transform=[str(initial)],
                outprefix=str(cwd / "rigid_"),
                aff_random_sampling_rate=SAMPLED,
                aff_iterations=tuple(self.inputs.iterations),
                aff_shrink_factors=tuple(max(1, round(size / finest)) for size in LEVELS_MM),
                aff_smoothing_sigmas=SMOOTHING_MM,
                smoothing_in_mm=True,
            )
        return geometry.read_itk_affine(Path(result["fwdtransforms"][0]))


Images = dict[str, tuple[np.ndarray, Grid]]


def around_the_brain(name: str, image: str, mask: str) -> Images:
    """A brain-only image and its mask, cut to the brain and a margin."""
    data, grid = read(image)
    inside, _ = read(mask)
    margin = np.ceil(MARGIN_MM / voxel_sizes(grid.affine)).astype(int)
    box = geometry.bounding_box(inside, margin.tolist())
    cut = {}
    for key, values in ((name, data), (f"{name}_mask", inside)):
        part, affine = geometry.crop(values, grid.affine, box)
        cut[key] = (part, Grid(part.shape, affine))
    return cut


def thinned(images: Images) -> Images:
    """The same with every nth voxel of the fixed image, about ``COMPARED_MM`` apart."""
    step = np.maximum(1, np.round(COMPARED_MM / voxel_sizes(images["fixed"][1].affine))).astype(int)
    affine = images["fixed"][1].affine @ np.diag([*step, 1.0])
    i, j, k = step
    fewer = {key: images[key][0][::i, ::j, ::k] for key in ("fixed", "fixed_mask")}
    x, y, z = fewer["fixed"].shape
    return {**images, **{key: (few, Grid((x, y, z), affine)) for key, few in fewer.items()}}


def starting_point(images: Images) -> np.ndarray:
    """Identity, or the shift of brain centres when that makes the brain masks overlap better.

    Scans of one session share the scanner's space, and a slab has another centre than the brain;
    scans of two sessions may lie anywhere.
    """
    shift = np.eye(4)
    centres = [
        similarity.centroid_mm(mask, grid.affine)
        for mask, grid in (images["moving_mask"], images["fixed_mask"])
    ]
    shift[:3, 3] = centres[0] - centres[1]
    return max((np.eye(4), shift), key=lambda matrix: _overlap(images, matrix))


def _overlap(images: Images, matrix: np.ndarray) -> float:
    fixed, grid = images["fixed_mask"]
    moved = geometry.resample(*images["moving_mask"], grid, transform=matrix, order=0)
    return similarity.dice(fixed, moved)


def judged(images: Images, matrix: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The registration with its QC record, or the identity where the registration made it worse.

    Images of one session are mostly aligned by their headers: a registration that lowers the
    similarity has failed, and using it would do harm.
    """
    images = thinned(images)
    quality = measure(images, matrix)
    if quality["similarity_after"] >= quality["similarity_before"]:
        return matrix, quality
    kept = measure(images, np.eye(4))
    said = [*quality["flags"], "It was not used: the alignment by the images' headers was kept."]
    return np.eye(4), {**kept, "flags": [*said, *kept["flags"]]}


def measure(images: Images, matrix: np.ndarray) -> dict[str, Any]:
    """The QC record of a registration: numbers before and after, and flags."""
    before, after = (_nmi(images, world) for world in (np.eye(4), matrix))
    mask, grid = images["fixed_mask"]
    centre = similarity.centroid_mm(mask, grid.affine)
    numbers = {
        "before": before,
        "after": after,
        "rotation": similarity.rotation_deg(matrix),
        "translation": float(similarity.displacement_mm(matrix, centre)),
        "overlap": _overlap(images, matrix),
    }
    return {
        "metric": "normalised mutual information within the reference's brain mask, at voxels "
        f"about {COMPARED_MM:g} mm apart",
        "similarity_before": round(before, 5),
        "similarity_after": round(after, 5),
        "rotation_deg": round(numbers["rotation"], 3),
        "translation_mm": round(numbers["translation"], 3),
        "brain_overlap_dice": round(numbers["overlap"], 4),
        "flags": similarity.registration_flags(**numbers),
    }


def _nmi(images: Images, matrix: np.ndarray) -> float:
    fixed, grid = images["fixed"]
    moved = geometry.resample(*images["moving"], grid, transform=matrix, order=1)
    return similarity.normalised_mutual_information(fixed, moved, images["fixed_mask"][0])
