"""Put anatomies and lesion masks of the shared data on one MNI grid, for the training.

Writes ``anatomy_<name>.npz`` (t1w, flair, csf, gm, wm, brain, ignore, ventricle) and
``lesions.npz``, which holds the grid too; arrays are [x, y, z], RAS+. sub-01 of ``ms_raw`` is
never read here: it is held out for the evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ants
import nibabel as nib
import nilearn.datasets
import numpy as np
import viewers
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit
from skimage.filters import threshold_otsu

from bids_stroke.core.brain import looks_skull_stripped, nonzero_mask
from bids_stroke.core.geometry import Grid, voxel_volume_mm3
from bids_stroke.core.tissue_features import Tissues
from bids_stroke.interfaces.ants import to_ants
from bids_stroke.interfaces.tissues import segment_tissues
from bids_stroke.models.brain import Options, extract

FIRST_MM = (-90.0, -126.0, -72.0)  # centre of the first voxel
EXTENT_MM = (180.0, 217.5, 180.0)  # from there to the centre of the last
LARGEST_ML = 400.0
SPLIT_SEED = 20
Volume = NDArray[np.float32]


def isotropic(spacing: float) -> Grid:
    """The grid over the template with voxels of ``spacing`` mm, RAS+."""
    x, y, z = (int(extent / spacing) + 1 for extent in EXTENT_MM)
    return Grid((x, y, z), nib.affines.from_matvec(np.eye(3) * spacing, FIRST_MM))


def load_grid(run: Path) -> Grid:
    """The grid of a folder that was prepared."""
    with np.load(run / "lesions.npz") as arrays:
        x, y, z = arrays["grid_shape"].tolist()
        return Grid((x, y, z), arrays["grid_affine"])


def spacing_of(grid: Grid) -> float:
    """Side of an isotropic grid's voxels in mm."""
    return float(grid.affine[0, 0])


def to_grid(image: nib.Nifti1Image, grid: Grid) -> Volume:
    """Resample a NIfTI image to a grid, linearly."""
    moved = resample_from_to(image, (grid.shape, grid.affine), order=1)
    return np.asarray(moved.dataobj, dtype=np.float32)


def template_maps(grid: Grid) -> dict[str, Volume]:
    """MNI152 2009a of nilearn's wheel: T1 and tissue partial volumes on a grid."""
    folder = Path(nilearn.datasets.__file__).parent / "data"
    maps = {}
    for name in ("t1", "gm", "wm"):
        image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        data = ndimage.gaussian_filter(np.asarray(image.dataobj, np.float32) / 255, 0.5)
        maps[name] = to_grid(nib.Nifti1Image(data, image.affine), grid)
    return maps


def ventricle_proximity(gm: Volume, wm: Volume, brain: NDArray[np.bool_], grid: Grid) -> Volume:
    """exp(-distance to the lateral ventricles / 6 mm), the ventricles 18 mm within the brain."""
    spacing = spacing_of(grid)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    x, y, z = np.moveaxis(voxels * spacing + grid.affine[:3, 3], -1, 0)
    centre = (np.abs(x) < 38) & (y > -55) & (y < 35) & (z > -12) & (z < 32)
    deep = ndimage.binary_erosion(brain, iterations=round(18 / spacing))
    fluid = brain & (gm + wm < 0.4) & centre & deep
    distance = ndimage.distance_transform_edt(~fluid) * spacing
    return np.exp(-distance / 6.0).astype(np.float32)


def tissues_of(t1w: Volume, brain: NDArray[np.bool_]) -> dict[str, Volume]:
    """Rough CSF, GM and WM shares by T1w intensity: Otsu's cut, then the brighter 48 % is WM.

    Thick-slice scans show no valley between GM and WM, where mixture models lose a class.
    """
    values = t1w[brain]
    dark = threshold_otsu(values)
    middle = np.quantile(values[values > dark], 0.52)
    width = 0.06 * values.std()
    fluid = brain * expit((dark - t1w) / width)
    white = brain * expit((t1w - middle) / width)
    return {"csf": fluid, "gm": brain - fluid - white, "wm": white}


def zscore(image: Volume, brain: NDArray[np.bool_]) -> Volume:
    """Standardise within the brain; exactly 0 outside."""
    values = image[brain]
    return np.where(brain, (image - values.mean()) / values.std(), 0).astype(np.float32)


def bright_outliers(flair: Volume, wm: Volume) -> NDArray[np.bool_]:
    """White matter far too bright on FLAIR: lesions that nobody labelled."""
    values = flair[wm > 0.6]
    spread = 1.4826 * np.median(np.abs(values - np.median(values)))
    hot = (flair > np.median(values) + 3 * spread) & ndimage.binary_dilation(wm > 0.5)
    pieces, count = ndimage.label(hot)
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    return ndimage.binary_dilation((size[pieces] >= 4) & hot)


def prepare_template(out: Path, grid: Grid, maps: dict[str, Volume]) -> None:
    """The template: its own T1, and tissues for random contrasts; it has no FLAIR."""
    brain = maps["t1"] > 0.1
    gm, wm = maps["gm"] * brain, maps["wm"] * brain
    csf = np.clip(1 - gm - wm, 0, 1) * brain
    save(
        out,
        grid,
        "template",
        zscore(maps["t1"], brain),
        None,
        {"csf": csf, "gm": gm, "wm": wm},
        brain,
        np.zeros(grid.shape, bool),
        ventricle_proximity(gm, wm, brain, grid),
    )


def prepare_ms_mni(out: Path, grid: Grid, shared: Path, near: Volume) -> None:
    """patient26: skull-stripped T1w and FLAIR on the MNI grid; MS lesions are to be ignored."""
    stem = shared / "ms_mni" / "patient26"
    t1w, flair, mask = (
        to_grid(nib.load(f"{stem}_{name}.nii.gz"), grid)
        for name in ("T1w", "FLAIR", "label-lesion_mask")
    )
    brain = ndimage.binary_fill_holes((t1w > 1) & (flair > 0.1))
    tissues = tissues_of(t1w, brain)
    ignore = ndimage.binary_dilation(mask > 0.1)
    t1w, flair = zscore(t1w, brain), zscore(flair, brain)
    save(out, grid, "patient26", t1w, flair, tissues, brain, ignore, near)


def prepare_ms_raw(out: Path, grid: Grid, shared: Path, near: Volume, template: Volume) -> None:
    """sub-04: the publisher's brain masks and rigid transform, N4, an affine to the template."""
    anat = shared / "ms_raw" / "sub-04" / "ses-01" / "anat" / "sub-04_ses-01"
    reference = shared / "ms_raw_reference" / "sub-04_ses-01"
    images = {}
    for name in ("T1w", "FLAIR"):
        image = ants.image_read(f"{anat}_{name}.nii.gz")
        mask = ants.image_read(f"{reference}_space-{name}_desc-brain_mask.nii.gz")
        mask = ants.copy_image_info(image, mask)
        images[name] = ants.n4_bias_field_correction(image, mask=mask, shrink_factor=4) * mask
    fixed = to_ants(template, grid.affine)
    to_template = ants.registration(
        fixed, images["T1w"], "Affine", outprefix=str(out / "sub-04_"), random_seed=1
    )["fwdtransforms"]
    to_flair = str(out / "sub-04_flair_to_t1w.mat")
    rigid = ants.read_transform(f"{reference}_from-T1w_to-FLAIR_mode-image_xfm.txt")
    ants.write_transform(rigid.invert(), to_flair)
    t1w = ants.apply_transforms(fixed, images["T1w"], to_template).numpy()
    flair = ants.apply_transforms(fixed, images["FLAIR"], [*to_template, to_flair]).numpy()
    brain = ndimage.binary_opening((t1w > 1) & (flair > 1), iterations=1)
    tissues = tissues_of(t1w, brain)
    t1w, flair = zscore(t1w, brain), zscore(flair, brain)
    print("T1w-FLAIR correlation in the brain", np.corrcoef(t1w[brain], flair[brain])[0, 1])
    ignore = bright_outliers(flair, tissues["wm"])
    save(out, grid, "sub-04", t1w, flair, tissues, brain, ignore, near)


def tissues_by_priors(
    t1w: Volume, brain: NDArray[np.bool_], maps: dict[str, Volume], grid: Grid
) -> dict[str, Volume]:
    """CSF, GM and WM shares by Atropos, led by the template's; for scans of some 1 mm."""
    fluid = np.clip(1 - maps["gm"] - maps["wm"], 0, 1)
    start = Tissues(fluid, maps["gm"], maps["wm"])
    found = segment_tissues(t1w, brain, grid.affine, start, prior_weight=0.1)
    return {"csf": found.csf, "gm": found.grey, "wm": found.white}


def brain_of(head: Volume, affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The brain of a T1w in RAS order by deepbet; what is not 0 where the skull is gone already."""
    if looks_skull_stripped(head, affine):
        return nonzero_mask(head)
    spacing = tuple(float(side) for side in nib.affines.voxel_sizes(affine))
    return extract("deepbet", head, spacing, Options()) > 0


def prepare_t1w(
    name: str, path: Path, out: Path, grid: Grid, near: Volume, maps: dict[str, Volume]
) -> None:
    """A T1w without a FLAIR: its brain, N4, an affine to the template, its tissues."""
    canonical = nib.as_closest_canonical(nib.load(path))
    head = np.asarray(canonical.dataobj, np.float32)
    inside = brain_of(head, canonical.affine)
    image, mask = (to_ants(volume, canonical.affine) for volume in (head, inside))
    flat = ants.n4_bias_field_correction(image, mask=mask, shrink_factor=4) * mask
    fixed, prefix = to_ants(maps["t1"], grid.affine), str(out / f"{name}_")
    way = ants.registration(fixed, flat, "Affine", outprefix=prefix, random_seed=1)
    moved, within = (
        ants.apply_transforms(fixed, volume, way["fwdtransforms"]).numpy()
        for volume in (flat, mask)
    )
    brain = within > 0.5
    tissues = tissues_by_priors(moved, brain, maps, grid)
    nothing = np.zeros(grid.shape, bool)
    save(out, grid, name, zscore(moved, brain), None, tissues, brain, nothing, near)


def save(
    out: Path,
    grid: Grid,
    name: str,
    t1w: Volume,
    flair: Volume | None,
    tissues: dict[str, Volume],
    brain: NDArray[np.bool_],
    ignore: NDArray[np.bool_],
    ventricle: Volume,
) -> None:
    """One anatomy as float16 arrays."""
    flair = np.zeros(grid.shape, np.float32) if flair is None else flair
    arrays = {
        "t1w": t1w,
        "flair": flair,
        **tissues,
        "brain": brain,
        "ignore": ignore & brain,
        "ventricle": ventricle,
    }
    np.savez(out / f"anatomy_{name}.npz", **{k: v.astype(np.float16) for k, v in arrays.items()})
    brain_ml, ignored_ml = (
        part.sum() * voxel_volume_mm3(grid.affine) / 1000 for part in (brain, ignore & brain)
    )
    print(name, "brain mL", brain_ml, "ignored mL", ignored_ml, flush=True)


def lesion_on_grid(path: Path, grid: Grid) -> tuple[Volume, NDArray[np.int64]] | None:
    """A lesion mask on a grid, cut to its bounding box, with the box's corner there."""
    image = nib.load(path)
    data = np.asarray(image.dataobj) > 0.5
    if not 0 < data.sum() <= LARGEST_ML * 1000:
        return None
    soft = ndimage.gaussian_filter(data.astype(np.float32), 0.6)
    inside = np.argwhere(data)
    corners = nib.affines.apply_affine(
        np.linalg.inv(grid.affine) @ image.affine, np.stack([inside.min(0) - 2, inside.max(0) + 2])
    )
    low = np.floor(corners.min(0)).astype(int)
    high = np.ceil(corners.max(0)).astype(int) + 1
    affine = grid.affine.copy()
    affine[:3, 3] += spacing_of(grid) * low
    pull = np.linalg.inv(image.affine) @ affine
    out = ndimage.affine_transform(soft, pull, output_shape=tuple(high - low), order=1)
    return out, low


def prepare_lesions(out: Path, grid: Grid, shared: Path) -> None:
    """All lesion masks, split by file: 80 % train, 10 % tune, 10 % report."""
    files = sorted((shared / "stroke_masks").glob("*/*.nii.gz"))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(files))
    share = np.empty(len(files))
    share[order] = np.arange(len(files)) / len(files)
    voxels, shapes, corners, splits, names = [], [], [], [], []
    for path, part in zip(files, share, strict=True):
        found = lesion_on_grid(path, grid)
        if found is None or found[0].max() < 0.3:
            continue
        voxels.append((found[0] * 255).astype(np.uint8).ravel())
        shapes.append(found[0].shape)
        corners.append(found[1])
        splits.append("train" if part < 0.8 else "tune" if part < 0.9 else "report")
        names.append(f"{path.parent.name}/{path.name}")
    unit = voxel_volume_mm3(grid.affine) / 1000
    sizes = np.array([v.sum() / 255 * unit for v in voxels])
    np.savez(
        out / "lesions.npz",
        voxels=np.concatenate(voxels),
        shapes=shapes,
        corners=corners,
        splits=splits,
        names=names,
        ml=sizes,
        grid_shape=grid.shape,
        grid_affine=grid.affine,
    )
    print(len(names), "lesions; mL quartiles", np.percentile(sizes, [0, 25, 50, 75, 100]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder of the shared data")
    parser.add_argument("out", type=Path, help="folder for the prepared arrays")
    parser.add_argument("--colin", type=Path, help="Debian's mricron-data: folder of ch2.nii.gz")
    parser.add_argument("--viewers", type=Path, help="folder of viewers.py: more real T1w scans")
    parser.add_argument("--spacing", type=float, default=1.0, help="side of a voxel in mm")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    grid = isotropic(args.spacing)
    maps = template_maps(grid)
    prepare_template(args.out, grid, maps)
    near = np.load(args.out / "anatomy_template.npz")["ventricle"].astype(np.float32)
    prepare_ms_mni(args.out, grid, args.shared, near)
    prepare_ms_raw(args.out, grid, args.shared, near, maps["t1"])
    scans = {"colin": args.colin / "ch2.nii.gz"} if args.colin else {}
    if args.viewers:
        names = (*viewers.TRAINING, *viewers.TEMPLATES)
        scans |= {name: args.viewers / f"{name}_T1w.nii.gz" for name in names}
    for name, path in scans.items():
        prepare_t1w(name, path, args.out, grid, near, maps)
    prepare_lesions(args.out, grid, args.shared)


if __name__ == "__main__":
    main()
