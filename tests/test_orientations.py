"""Left stays left: one asymmetric phantom, stored in every way, through the whole graph."""

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from bids_stroke.bids.pairs import Pair
from bids_stroke.config import Config, Dataset, Execution, Processing
from bids_stroke.models import descriptor
from bids_stroke.workflows.base import init_bids_stroke_wf
from tests.tiny_model import write_model

STEPS = 'steps = ["reorient", "brain_extraction", "register", "crop", "zscore"]\nreference = "T1w"'
CODES = ["".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)]


def phantom() -> nib.Nifti1Image:
    """A skull-stripped ball of noise with one bright blob: right, anterior, superior, in RAS."""
    rng = np.random.default_rng(3)
    shape = (44, 52, 40)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    data = np.where(x**2 + y**2 + z**2 < 0.8, rng.normal(100, 5, shape), 0)
    data[(x - 0.4) ** 2 + (y - 0.3) ** 2 + (z - 0.25) ** 2 < 0.03] = 200
    affine = np.diag([2.0, 2.5, 3.0, 1])
    affine[:3, 3] = [-44, -65, -60]
    return nib.Nifti1Image(data.astype(np.float32), affine)


def stored_as(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """The same image in the world, with its voxels stored along other axes."""
    change = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    return image.as_reoriented(change)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run the whole participant graph on images of one session; gives the folder of outputs."""
    root = tmp_path_factory.mktemp("orientations")
    model = descriptor.load(write_model(root / "model", preprocessing=STEPS))

    def run(name: str, images: dict[str, nib.Nifti1Image]) -> Path:
        bids = root / name / "bids" / "sub-01" / "anat"
        bids.mkdir(parents=True)
        paths = {m: bids / f"sub-01_{m}.nii.gz" for m in images}
        for modality, image in images.items():
            nib.save(image, paths[modality])
        config = Config(
            dataset=Dataset(bids_dir=root / name / "bids", output_dir=root / name / "out"),
            processing=Processing(brain_extraction="skip"),
            execution=Execution(work_dir=root / name / "work", device="cpu"),
        )
        pair = Pair(
            subject="01",
            t1w=paths.get("T1w"),
            flair=paths.get("FLAIR"),
            entities={"subject": "01"},
        )
        workflow = init_bids_stroke_wf(
            config=config,
            pairs=[pair],
            descriptors={pair.label: (model, "test")},
            device="cpu",
            log_dir=root / name / "logs",
        )
        workflow.run()
        return root / name / "out" / "sub-01" / "anat"

    return run


def result(folder: Path, space: str, kind: str) -> nib.Nifti1Image:
    return nib.load(folder / f"sub-01_space-{space}_label-L_desc-stroke_{kind}.nii.gz")


@pytest.fixture(scope="module")
def in_ras(segment: Callable[..., Path]) -> nib.Nifti1Image:
    return result(segment("reference", {"T1w": phantom()}), "T1w", "probseg")


def test_phantom_gives_a_map_worth_comparing(in_ras: nib.Nifti1Image) -> None:
    data = in_ras.get_fdata()
    assert data.std() > 0.01
    assert not np.allclose(data, data[::-1], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("codes", CODES)
def test_every_orientation(
    segment: Callable[..., Path], in_ras: nib.Nifti1Image, codes: str
) -> None:
    image = stored_as(phantom(), codes)
    folder = segment(codes, {"T1w": image})
    probability = result(folder, "T1w", "probseg")
    mask = result(folder, "T1w", "mask")
    for made in (probability, mask, nib.load(folder / "sub-01_desc-preproc_T1w.nii.gz")):
        assert made.shape == image.shape
        assert np.array_equal(made.affine, image.affine)
    assert np.array_equal(stored_as(probability, "RAS").get_fdata(), in_ras.get_fdata()), (
        "the map moved, or was mirrored"
    )
    back = nib.load(folder / "sub-01_desc-preproc_T1w.nii.gz").get_fdata()
    assert np.array_equal(back, image.get_fdata())


@pytest.mark.parametrize("codes", ["LPS", "PSR"])
def test_oblique(segment: Callable[..., Path], codes: str) -> None:
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    straight = stored_as(phantom(), codes)
    oblique = nib.Nifti1Image(straight.dataobj, turn @ straight.affine)
    folder = segment(f"oblique-{codes}", {"T1w": oblique})
    there = result(folder, "T1w", "probseg")
    straight_folder = segment(f"straight-{codes}", {"T1w": straight})
    here = result(straight_folder, "T1w", "probseg")
    assert np.allclose(there.affine, oblique.affine, atol=1e-5)
    assert np.allclose(there.get_fdata(), here.get_fdata(), atol=1e-4)


def test_two_images_stored_differently(segment: Callable[..., Path]) -> None:
    """The FLAIR is the T1w itself, stored otherwise: both maps must lie at one place."""
    images = {"T1w": stored_as(phantom(), "PIR"), "FLAIR": stored_as(phantom(), "LAS")}
    folder = segment("two", images)
    on_t1w, on_flair = (result(folder, space, "probseg") for space in images)
    assert on_flair.shape == images["FLAIR"].shape
    one, other = (stored_as(i, "RAS").get_fdata() for i in (on_t1w, on_flair))
    inside = phantom().get_fdata() > 0
    assert np.corrcoef(one[inside], other[inside])[0, 1] > 0.9
    assert np.corrcoef(one[inside], other[::-1][inside])[0, 1] < 0.9
