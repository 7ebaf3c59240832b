"""Put real lesion shapes into real scans: the cases on which evaluate.py scores the model.

``tune`` takes scans that were also trained on (patient26, sub-04) with shapes of the tune split,
``report`` both sessions of sub-01 with shapes of the report split: no training saw either. Healthy
heads with a T1w alone (viewers.py) do the same in ``tune-t1w`` and ``report-t1w``. Each split holds
one lesion at a time (at its own place, by volume, with more of the largest), and twelve small ones
at a time (30 to 1,500 mm3, anywhere), 36 a scan; those of the reports twice, by the painter of the
training (``m``) and by a plain one that no training used (``p``). Lesions are painted into scans
without their bias field, which is laid over them afterwards: N4 has to find it with the lesion in
the way.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
import viewers
from numpy.typing import NDArray
from prepare import brain_of, load_grid, template_maps, tissues_of
from scipy import ndimage

from bids_stroke.core import synthesis
from bids_stroke.core.atlases import Atlas
from bids_stroke.core.geometry import Grid
from bids_stroke.interfaces.ants import to_ants
from bids_stroke.models.atlases import gather
from bids_stroke.models.channels import MODALITIES
from bids_stroke.models.sampling import Shape, load_shapes, open_fluid

BINS_ML = ((0.05, 1.0), (1.0, 10.0), (10.0, 200.0), (50.0, 200.0))
SMALL_ML = (0.03, 1.5)
MANY, EACH, APART_VOXELS = 3, 12, 4.0
PLACES = ("cortex", "white matter", "deep grey matter", "cerebellum and brainstem")
PARTS = (("cerebral cortex",), ("white matter",), ("deep grey",), ("cerebellum", "brainstem"))
Volume = NDArray[np.float32]
Images = dict[str, ants.ANTsImage]


@dataclass(frozen=True)
class Split:
    """Its scans, the lesion shapes that are put into them, their looks (PAINTERS), a seed."""

    scans: tuple[str, ...]
    shapes: str
    looks: str
    seed: int


SPLITS = {
    "tune": Split(("patient26", "sub-04_ses-01"), "tune", "m", 0),
    "report": Split(("sub-01_ses-01", "sub-01_ses-02"), "report", "mp", 0),
    "tune-t1w": Split(viewers.TRAINING, "tune", "m", 10),
    "report-t1w": Split(viewers.REPORT, "report", "mp", 10),
}


@dataclass(frozen=True)
class Lesion:
    """A soft mask on a scan's grid, how it looks and where it lies."""

    soft: Volume
    stage: synthesis.Stage
    place: str


@dataclass(frozen=True)
class Scan:
    """T1w and mostly FLAIR, brain only, on the T1w's grid in RAS; the way from the template.

    ``images`` have no bias field; ``bias`` is what the scanner multiplies them by.
    """

    name: str
    images: dict[str, Volume]
    bias: dict[str, Volume]
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]
    file: Path
    grid: ants.ANTsImage
    from_template: list[str]
    tissue: NDArray[np.bool_]  # brain without open fluid

    def ml(self, lesion: Lesion) -> float:
        """Volume of a lesion on the scan's grid."""
        return float((lesion.soft >= 0.5).sum() * abs(np.linalg.det(self.affine))) / 1000


def source(name: str, shared: Path) -> Path:
    """The T1w file of a scan; ``shared`` is the folder of viewers.py for the scans of that."""
    if name in viewers.SOURCES:
        return shared / f"{name}_T1w.nii.gz"
    if name == "patient26":
        return shared / "ms_mni" / "patient26_T1w.nii.gz"
    subject, session = name.split("_")
    return shared / "ms_raw" / subject / session / "anat" / f"{name}_T1w.nii.gz"


def read_scan(name: str, grid: Grid, shared: Path, work: Path) -> Scan:
    """One scan: the publisher's brain masks and transform, deepbet's, or patient26 as it is."""
    file = source(name, shared)
    stem = file.with_name(file.name.removesuffix("_T1w.nii.gz"))
    if name == "patient26":
        images = {m: ants.image_read(f"{stem}_{m}.nii.gz") for m in MODALITIES}
        bias = {m: image.new_image_like(np.ones(image.shape)) for m, image in images.items()}
    elif name in viewers.SOURCES:
        images, bias = read_t1w(file)
    else:
        images, bias = read_raw(stem, shared / "ms_raw_reference" / name, work)
    t1w = images["T1w"]
    template, prefix = to_ants(template_maps(grid)["t1"], grid.affine), str(work / f"{name}_")
    way = ants.registration(t1w, template, "Affine", outprefix=prefix)["fwdtransforms"]
    affine = nib.load(file).affine
    arrays, fields = {}, {}
    for modality, image in images.items():
        arrays[modality], canonical = to_ras(image.numpy(), affine)
        fields[modality], _ = to_ras(bias[modality].numpy(), affine)
    brain = np.logical_and.reduce([np.abs(image) > 1e-3 for image in arrays.values()])
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(brain))
    tissue = brain & ~open_fluid(tissues_of(arrays["T1w"], brain)["csf"])
    return Scan(name, arrays, fields, brain, canonical, file, t1w, way, tissue)


def split_bias(image: ants.ANTsImage, mask: ants.ANTsImage) -> tuple[ants.ANTsImage, ...]:
    """A brain without its bias field, and the field."""
    field = ants.n4_bias_field_correction(image, mask=mask, shrink_factor=4, return_bias_field=True)
    return image / field * mask, field


def read_t1w(file: Path) -> tuple[Images, Images]:
    """The brain of a T1w without its bias field, and the field."""
    canonical = nib.as_closest_canonical(nib.load(file))
    inside = brain_of(np.asarray(canonical.dataobj, np.float32), canonical.affine)
    mask = to_ants(inside, canonical.affine)
    image = ants.image_read(str(file))
    mask = ants.resample_image_to_target(mask, image, interp_type="nearestNeighbor")
    brain, field = split_bias(image, mask)
    return {"T1w": brain}, {"T1w": field}


def read_raw(stem: Path, reference: Path, work: Path) -> tuple[Images, Images]:
    """Brains without their bias fields, and the fields; FLAIR's brought to the T1w's grid."""
    images, bias = {}, {}
    for modality in MODALITIES:
        image = ants.image_read(f"{stem}_{modality}.nii.gz")
        mask = ants.image_read(f"{reference}_space-{modality}_desc-brain_mask.nii.gz")
        images[modality], bias[modality] = split_bias(image, ants.copy_image_info(image, mask))
    to_t1w = str(work / f"{stem.name}_flair_to_t1w.mat")
    rigid = ants.read_transform(f"{reference}_from-T1w_to-FLAIR_mode-image_xfm.txt")
    ants.write_transform(rigid.invert(), to_t1w)
    for found in (images, bias):
        found["FLAIR"] = ants.apply_transforms(images["T1w"], found["FLAIR"], [to_t1w])
    return images, bias


def to_ras(volume: Volume, affine: NDArray[np.float64]) -> tuple[Volume, NDArray[np.float64]]:
    """Nearest RAS orientation."""
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.astype(np.float32), affine))
    return np.asarray(image.dataobj, dtype=np.float32), image.affine


def placed(shape: Shape, grid: Grid) -> Volume:
    """A lesion shape where it was found, on the template's grid."""
    soft, nothing = shape.mask / np.float32(255), np.zeros(grid.shape)
    return synthesis.place(soft, nothing, np.random.default_rng(), centre=shape.centre)


def small(shapes: list[Shape], brain: NDArray[np.bool_], rng: np.random.Generator) -> Volume:
    """A shape scaled to a volume even in log between 30 and 1,500 mm3, anywhere in the brain."""
    ml = float(np.exp(rng.uniform(*np.log(SMALL_ML))))
    near = [shape for shape in shapes if ml / 4 < shape.ml < ml * 4]
    shape = near[rng.integers(len(near))]
    scale = (ml / shape.ml) ** (1 / 3)
    mask = synthesis.transform_mask(
        shape.mask / np.float32(255), rng, scale=scale, flip=bool(rng.random() < 0.5)
    )
    return synthesis.place(mask, brain, rng)


def place_of(lesion: Volume, grid: Grid, tissue: Atlas) -> str:
    """Where most of a lesion on the template's grid lies: one of PLACES."""
    points = nib.affines.apply_affine(grid.affine, np.argwhere(lesion >= 0.5))
    names = [tissue.names.get(int(label), "") for label in tissue.at(points)]
    shares = [sum(any(part in name for part in parts) for name in names) for parts in PARTS]
    return PLACES[int(np.argmax(shares))]


def carried(whole: Volume, grid: Grid, scan: Scan) -> Volume:
    """A lesion of the template in the scan: soft mask within the brain, not in open fluid."""
    moved = ants.apply_transforms(scan.grid, to_ants(whole, grid.affine), scan.from_template)
    soft, _ = to_ras(moved.numpy(), nib.load(scan.file).affine)
    return np.clip(soft, 0, 1) * scan.tissue


def chosen(shapes: list[Shape], count: int, rng: np.random.Generator) -> list[Shape]:
    """``count`` random shapes of each bin of volume, none twice."""
    picked: list[int] = []
    for low, high in BINS_ML:
        left = [i for i, s in enumerate(shapes) if low <= s.ml < high and i not in picked]
        picked += [left[i] for i in rng.permutation(len(left))[:count]]
    return [shapes[i] for i in picked]


def save(path: Path, scan: Scan, images: dict[str, Volume], lesions: list[Lesion]) -> None:
    """One case, cut to the brain: images with their bias, numbered truth, affine, the lesions."""
    box = ndimage.find_objects(scan.brain.astype(np.uint8))[0]
    affine = scan.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, [part.start for part in box])
    truth = np.zeros(scan.brain.shape, np.uint8)
    for number, lesion in enumerate(lesions, start=1):
        truth[lesion.soft >= 0.5] = number
    np.savez(
        path,
        **{name: (image * scan.bias[name])[box] for name, image in images.items()},
        truth=truth[box],
        brain=scan.brain[box],
        affine=affine,
        stages=[lesion.stage for lesion in lesions],
        places=[lesion.place for lesion in lesions],
    )


def as_trained(
    images: dict[str, Volume], lesion: Lesion, brain: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, Volume]:
    """The images with a lesion as the training paints it, never faint."""
    strength = rng.uniform(0.5, 1.0)
    return synthesis.paint(
        images, lesion.soft, rng, stage=lesion.stage, brain=brain, strength=strength
    )


def plain(
    images: dict[str, Volume], lesion: Lesion, brain: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, Volume]:
    """The images with a lesion of one even level: FLAIR bright; T1w between dark and ordinary."""
    low, middle = np.percentile(images["T1w"][brain], [5, 50])
    levels = {"T1w": rng.uniform(low, (low + middle) / 2)}
    if "FLAIR" in images:
        levels["FLAIR"] = np.percentile(images["FLAIR"][brain], 98) * rng.uniform(1.1, 1.5)
    soft = lesion.soft
    return {name: image + soft * (levels[name] - image) for name, image in images.items()}


PAINTERS = {"m": as_trained, "p": plain}


def painted(
    scan: Scan, lesions: list[Lesion], rng: np.random.Generator, look: str = "m"
) -> tuple[dict[str, Volume], list[Lesion]]:
    """The scan with each lesion in it."""
    images = scan.images
    for lesion in lesions:
        images = PAINTERS[look](images, lesion, scan.brain, rng)
    return images, lesions


def insert_one(
    scan: Scan, shapes: list[Shape], grid: Grid, tissue: Atlas, out: Path, seed: int
) -> None:
    """Write the scan as it is and with each shape in it, stages alternating."""
    save(out / f"{scan.name}_000.npz", scan, scan.images, [])
    for number, shape in enumerate(shapes, start=1):
        rng = np.random.default_rng([seed, number])
        whole, stage = placed(shape, grid), synthesis.STAGES[number % 2]
        lesion = Lesion(carried(whole, grid, scan), stage, place_of(whole, grid, tissue))
        if scan.ml(lesion) >= BINS_ML[0][0]:
            save(out / f"{scan.name}_{number:03d}.npz", scan, *painted(scan, [lesion], rng))


def insert_many(
    scan: Scan,
    shapes: list[Shape],
    grid: Grid,
    tissue: Atlas,
    out: Path,
    seed: int,
    looks: str,
) -> None:
    """Write the scan with twelve small lesions apart from each other, three times in each look."""
    brain = template_maps(grid)["t1"] > 0.1
    for number in range(MANY):
        rng = np.random.default_rng([seed, 1000 + number])
        free, lesions = scan.tissue.copy(), []
        while len(lesions) < EACH:
            whole = small(shapes, brain, rng)
            stage = synthesis.STAGES[int(rng.integers(2))]
            lesion = Lesion(carried(whole, grid, scan), stage, place_of(whole, grid, tissue))
            if scan.ml(lesion) >= SMALL_ML[0] and free[lesion.soft > 0.01].all():
                lesions.append(lesion)
                free &= ndimage.distance_transform_edt(lesion.soft <= 0.01) > APART_VOXELS
        for look in looks:
            file = out / f"{scan.name}_{look}{number}.npz"
            save(file, scan, *painted(scan, lesions, rng, look))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=tuple(SPLITS))
    parser.add_argument(
        "shared", type=Path, help="folder of the shared data, or that of viewers.py"
    )
    parser.add_argument("run", type=Path, help="folder with lesions.npz; cases go to run/<split>")
    parser.add_argument("--count", type=int, default=4, help="shapes of each bin and scan")
    args = parser.parse_args()
    out = args.run / args.split
    out.mkdir(parents=True, exist_ok=True)
    ants.config.set_ants_deterministic(on=True, seed_value=1)
    split, tissue, grid = SPLITS[args.split], gather({}).tissue, load_grid(args.run)
    shapes = load_shapes(args.run / "lesions.npz", split.shapes)
    for number, name in enumerate(split.scans, start=split.seed):
        picked = chosen(shapes, args.count, np.random.default_rng([3, number]))
        scan = read_scan(name, grid, args.shared, args.run)
        insert_one(scan, picked, grid, tissue, out, seed=4 + number)
        insert_many(scan, shapes, grid, tissue, out, seed=4 + number, looks=split.looks)
        print(name, len(list(out.glob(f"{name}_*.npz"))), "cases", flush=True)


if __name__ == "__main__":
    main()
