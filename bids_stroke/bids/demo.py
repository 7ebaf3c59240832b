"""The demonstration dataset: phantom people with known lesions, written as BIDS.

The plan of the people is data; one function turns a person into files. Everything follows from
the seed, to the byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_stroke import __version__
from bids_stroke.core import phantom
from bids_stroke.core.files import read_json, save_image, write_json, write_text
from bids_stroke.core.geometry import Grid, voxel_volume_mm3, write_itk_affine
from bids_stroke.core.head import Head, Point, average_head
from bids_stroke.errors import CannotCreate

GENERATOR = "bids_stroke-demo"
_TRUTH = Path("derivatives", "truth")
BIDS_VERSION = "1.10.0"
_AUTHORS = ["The bids_stroke developers", "The authors of the MNI152 2009a template"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Grid of a scan: shape and mm of the stored axes, where they point, and their tilt."""

    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    codes: str = "RAS"
    tilt_deg: Point = (0.0, 0.0, 0.0)
    height_mm: float = 0.0

    def coarser(self, voxel_mm: float) -> Protocol:
        """The same field of view, hardly finer than a phantom with voxels of ``voxel_mm``."""
        axes = zip(self.shape, self.zooms, strict=True)
        (x, y, z), zooms = zip(*(_coarser(*axis, 0.9 * voxel_mm) for axis in axes), strict=True)
        return replace(self, shape=(x, y, z), zooms=zooms)


def _coarser(count: int, zoom: float, limit: float) -> tuple[int, float]:
    """Voxels and their size along an axis when none may be smaller than a limit."""
    return int(np.ceil(count * zoom / max(zoom, limit))), max(zoom, limit)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a lesion is (RAS mm of the head), how large and how old."""

    centre_mm: Point
    volume_ml: float
    chronic: bool


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One session: its scans by BIDS suffix, and the lesions of that day."""

    scans: dict[str, Protocol]
    lesions: tuple[Site, ...] = ()
    session: str | None = None


@dataclass(frozen=True, kw_only=True)
class Person:
    """One participant."""

    label: str
    age: int
    sex: str
    about: str
    visits: tuple[Visit, ...]

    @property
    def side(self) -> str:
        """Hemispheres with a lesion at the first visit."""
        sides = {"left" if site.centre_mm[0] < 0 else "right" for site in self.visits[0].lesions}
        return "both" if len(sides) == 2 else "".join(sides) or "n/a"


def _stage(visit: Visit) -> str:
    """Stage of the largest lesion of a visit."""
    if not visit.lesions:
        return "n/a"
    largest = max(visit.lesions, key=lambda site: site.volume_ml)
    return "chronic" if largest.chronic else "subacute"


_MPRAGE = Protocol(shape=(172, 232, 212), zooms=(1.0, 1.0, 1.0), height_mm=-12)
_COARSE = Protocol(shape=(144, 194, 178), zooms=(1.2, 1.2, 1.2), height_mm=-12)
_THICK = Protocol(shape=(210, 250, 42), zooms=(0.9, 0.9, 4.0), codes="LAS", height_mm=8)
_SPACE = Protocol(shape=(150, 200, 144), zooms=(1.2, 1.2, 1.2), height_mm=0)

_LEFT_MCA = (-42.0, -8.0, 16.0)
_PEOPLE = (
    Person(
        label="01",
        age=67,
        sex="F",
        about="two sessions; 20 mL, subacute and then a smaller cavity; thick-slice FLAIR",
        visits=(
            Visit(
                session="01",
                scans={"T1w": _MPRAGE, "FLAIR": _THICK},
                lesions=(Site(centre_mm=_LEFT_MCA, volume_ml=20, chronic=False),),
            ),
            Visit(
                session="02",
                scans={"T1w": _MPRAGE, "FLAIR": _THICK},
                lesions=(Site(centre_mm=_LEFT_MCA, volume_ml=15, chronic=True),),
            ),
        ),
    ),
    Person(
        label="02",
        age=58,
        sex="M",
        about="3 mL, subacute; nearly isotropic FLAIR",
        visits=(
            Visit(
                scans={"T1w": _COARSE, "FLAIR": _SPACE},
                lesions=(Site(centre_mm=(24, -10, 12), volume_ml=3, chronic=False),),
            ),
        ),
    ),
    Person(
        label="03",
        age=74,
        sex="M",
        about="60 mL, chronic; T1w alone",
        visits=(
            Visit(
                scans={"T1w": _COARSE},
                lesions=(Site(centre_mm=(-42, 2, 14), volume_ml=60, chronic=True),),
            ),
        ),
    ),
    Person(
        label="04",
        age=49,
        sex="F",
        about="20 mL, subacute; FLAIR alone",
        visits=(
            Visit(
                scans={"FLAIR": _THICK},
                lesions=(Site(centre_mm=(40, -44, 30), volume_ml=20, chronic=False),),
            ),
        ),
    ),
    Person(
        label="05",
        age=63,
        sex="F",
        about="no lesion",
        visits=(Visit(scans={"T1w": _COARSE, "FLAIR": _THICK}),),
    ),
    Person(
        label="06",
        age=71,
        sex="M",
        about="60 mL, chronic, on the right and 0.5 mL, subacute, on the left; oblique T1w",
        visits=(
            Visit(
                scans={
                    "T1w": replace(_MPRAGE, shape=(184, 240, 216), tilt_deg=(-17.0, 6.0, 9.0)),
                    "FLAIR": replace(
                        _THICK,
                        tilt_deg=(10.0, -3.0, 2.0),
                        zooms=(0.9, 0.9, 3.3),
                        shape=(210, 256, 50),
                    ),
                },
                lesions=(
                    Site(centre_mm=(42, -4, 18), volume_ml=60, chronic=True),
                    Site(centre_mm=(-24, -14, 26), volume_ml=0.5, chronic=False),
                ),
            ),
        ),
    ),
    Person(
        label="07",
        age=55,
        sex="F",
        about="20 mL, left and posterior, and 0.5 mL on the right; T1w stored as PSR, FLAIR as LPI",
        visits=(
            Visit(
                scans={
                    "T1w": replace(_COARSE, shape=(194, 178, 144), codes="PSR"),
                    "FLAIR": replace(_THICK, codes="LPI"),
                },
                lesions=(
                    Site(centre_mm=(-18, -80, 6), volume_ml=20, chronic=False),
                    Site(centre_mm=(25, 4, 20), volume_ml=0.5, chronic=False),
                ),
            ),
        ),
    ),
)

_CONTRASTS = {"T1w": phantom.T1W, "FLAIR": phantom.FLAIR}
_NOISE = {"T1w": 0.015, "FLAIR": 0.019}
_STORED = {"T1w": np.uint8, "FLAIR": np.int16}
_TIMES: dict[tuple[str, bool], dict[str, float]] = {
    ("T1w", True): {
        "RepetitionTime": 2.3,
        "EchoTime": 0.003,
        "InversionTime": 0.9,
        "FlipAngle": 9,
    },
    ("FLAIR", True): {
        "RepetitionTime": 5.0,
        "EchoTime": 0.39,
        "InversionTime": 1.8,
        "FlipAngle": 120,
    },
    ("FLAIR", False): {
        "RepetitionTime": 9.0,
        "EchoTime": 0.12,
        "InversionTime": 2.5,
        "FlipAngle": 150,
    },
}
_HARDWARE: dict[str, Any] = {
    "Modality": "MR",
    "Manufacturer": "synthetic",
    "ManufacturersModelName": "phantom",
    "DeviceSerialNumber": "0",
    "StationName": "synthetic",
    "SoftwareVersions": f"bids_stroke {__version__}",
    "InstitutionName": "none",
    "InstitutionAddress": "none",
    "InstitutionalDepartmentName": "none",
    "MagneticFieldStrength": 3,
    "ReceiveCoilName": "synthetic head coil",
    "ReceiveCoilActiveElements": "all",
    "CoilCombinationMethod": "Sum of Squares",
    "MatrixCoilMode": "none",
    "NonlinearGradientCorrection": True,
    "DwellTime": 7e-06,
}
_STAGES = {
    "subacute": "swollen tissue, dark on T1w and bright on FLAIR",
    "chronic": "a cavity like CSF with a rim of gliosis, bright on FLAIR",
}
_COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "Label of the phantom person."},
    "session_id": {"Description": "Label of the session."},
    "age": {"Description": "Age that the phantom person stands for.", "Units": "year"},
    "sex": {
        "Description": "Sex that the phantom person stands for.",
        "Levels": {"F": "female", "M": "male"},
    },
    "stage": {"Description": "Stage of the largest lesion that day.", "Levels": _STAGES},
    "lesion_side": {
        "Description": "Hemispheres that hold a lesion.",
        "Levels": {"left": "left", "right": "right", "both": "both"},
    },
}
_README = (
    """# A demonstration dataset for bids_stroke

**Everything here is synthetic.** No person was scanned: the heads were grown around the MNI152
2009a template, varied, given lesions of random shape, and sampled as scanners would. Use it to try
programs, not to judge how well they find strokes in people.

"""
    + "".join(f"- sub-{p.label}: {p.about}\n" for p in _PEOPLE)
    + """
The head moves by a few millimetres and degrees between the T1w and the FLAIR of a session. The true
lesions, brains and motions are in `derivatives/truth`.
"""
)
_TRUTH_README = """# What is true about the demonstration dataset

`label-L_desc-truth_mask`: the lesions; `desc-brainTruth_mask`: the brain with its ventricles and
sulci; both on the grid of each scan (`space-T1w`, `space-FLAIR`), from one mask of the phantom.
`mode-image_xfm`: the rigid motion of the head between the scans, as ITK transforms. All synthetic.
"""


def write_demo(root: Path, *, seed: int = 0, voxel_mm: float = 1.0) -> Iterator[str]:
    """Write the demonstration dataset and its truth; yield a line for each participant done.

    Parameters
    ----------
    root : folder of the dataset; made if need be.
    seed : everything random follows from it; equal seeds give equal bytes.
    voxel_mm : voxel of the phantom, which limits the scans as well (1: full; 3: tiny).
    """
    _describe(root, _raw_description(seed), _README)
    _describe_people(root)
    _describe(root / _TRUTH, _truth_description(), _TRUTH_README)
    write_text(root / _TRUTH / ".bidsignore", "*_xfm.*\n")  # transforms are not in BIDS yet
    average = average_head(voxel_mm)
    for number, person in enumerate(_PEOPLE):
        head = phantom.vary(average, np.random.default_rng([seed, number, 0]))
        for order, visit in enumerate(person.visits):
            _write_visit(root, person, visit, head, (seed, number, order))
        yield f"sub-{person.label}: {person.about}"


def remove_demo(root: Path) -> None:
    """Remove an earlier demonstration dataset from a folder, and nothing else in it.

    Raises
    ------
    CannotCreate
        If the folder holds something, but no demonstration dataset.
    """
    if not _is_demo(root / "dataset_description.json"):
        raise CannotCreate(f"{root} is not a demonstration dataset: name a new or empty folder.")
    for person in _PEOPLE:
        shutil.rmtree(root / f"sub-{person.label}", ignore_errors=True)
    shutil.rmtree(root / _TRUTH, ignore_errors=True)


def _is_demo(description: Path) -> bool:
    """Was a dataset made here, going by its description?"""
    try:
        made_by = read_json(description)["GeneratedBy"][0]["Name"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return made_by == GENERATOR


def _write_visit(
    root: Path, person: Person, visit: Visit, head: Head, seed: tuple[int, int, int]
) -> None:
    """Write the scans, sidecars, true masks and true motion of one visit."""
    entities = [f"sub-{person.label}", *([f"ses-{visit.session}"] if visit.session else [])]
    anat = Path(*entities, "anat", "_".join(entities))
    lesions = [_lesion(head, site, (*seed[:2], 1, n)) for n, site in enumerate(visit.lesions)]
    poses = _poses(np.random.default_rng([*seed, 2]))
    for number, (suffix, protocol) in enumerate(visit.scans.items()):
        scanner = _Scanner(head, poses[suffix], protocol.coarser(head.voxel_mm))
        rng = np.random.default_rng([*seed, 3, number])
        image = scanner.image(lesions, suffix, rng)
        _save(image, scanner, root / f"{anat}_{suffix}", _STORED[suffix], _sidecar(suffix, scanner))
        _write_masks(root, anat, suffix, scanner, lesions)
    if len(visit.scans) == 2:
        _write_motion(root, anat, poses)


def _lesion(head: Head, site: Site, seed: tuple[int, ...]) -> phantom.Lesion:
    """Grow a lesion; the seed is that of the site, so that it keeps its place between visits."""
    rng = np.random.default_rng(seed)
    mask = phantom.grow_lesion(head, site.centre_mm, site.volume_ml, rng)
    return phantom.age_lesion(mask, head, rng, chronic=site.chronic)


def _poses(rng: np.random.Generator) -> dict[str, phantom.Matrix]:
    """Where the head lies in the scanner during each scan; it moves between the two."""
    to_centre = phantom.rigid((0, 0, 0), (0, 6, -5))
    first = phantom.rigid(rng.uniform(-6, 6, 3), rng.uniform(-5, 5, 3)) @ to_centre
    motion = phantom.rigid(rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3))
    return {"T1w": first, "FLAIR": motion @ first}


@dataclass(frozen=True)
class _Scanner:
    """A head lying in a scanner that has a grid."""

    head: Head
    pose: phantom.Matrix
    protocol: Protocol

    @property
    def grid(self) -> Grid:
        """Grid of the scan."""
        p = self.protocol
        centre = (0.0, 0.0, p.height_mm)
        return phantom.scan_grid(
            p.shape, p.zooms, codes=p.codes, tilt_deg=p.tilt_deg, centre_mm=centre
        )

    def sample(self, data: NDArray) -> NDArray[np.float32]:
        """Bring a volume of the head onto the grid."""
        return phantom.scan(data, self.head, self.pose, self.grid)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bring a mask onto the grid: the voxels that are at least half of it."""
        if not mask.any():
            return np.zeros(self.protocol.shape, dtype=bool)
        return self.sample(mask.astype(np.float32)) >= 0.5

    def image(
        self, lesions: list[phantom.Lesion], suffix: str, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Scan the head with its lesions."""
        signal = phantom.render(self.head, _CONTRASTS[suffix], rng)
        for lesion in lesions:
            signal = phantom.paint(signal, self.head, lesion, _CONTRASTS[suffix], rng)
        signal = phantom.receive(signal, self.head, rng, strength=0.12)
        return phantom.digitise(self.sample(signal), rng, noise=_NOISE[suffix])


def _save(data: NDArray, scanner: _Scanner, stem: Path, dtype: Any, sidecar: dict) -> None:
    """Write an image and its sidecar."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_image(data, scanner.grid.affine, Path(f"{stem}.nii.gz"), dtype=dtype)
    write_json(Path(f"{stem}.json"), sidecar)


def _write_masks(
    root: Path, anat: Path, suffix: str, scanner: _Scanner, lesions: list[phantom.Lesion]
) -> None:
    """Write the true lesion and brain masks on the grid of one scan."""
    lesion = np.zeros(scanner.head.shape, dtype=bool)
    for one in lesions:
        lesion |= one.mask
    for name, mask, kind in (
        ("label-L_desc-truth", lesion, "Lesion"),
        ("desc-brainTruth", scanner.head.brain, "Brain"),
    ):
        data = scanner.mask(mask)
        scan = f"bids:raw:{anat}_{suffix}.nii.gz"
        sidecar = {
            "Description": f"The phantom's {kind.lower()} on the grid of its {suffix} (synthetic).",
            "Type": kind,
            "Manual": False,
            "SpatialReference": scan,
            "Sources": [scan],
            "VolumeMM3": round(float(data.sum()) * voxel_volume_mm3(scanner.grid.affine), 1),
        }
        stem = root / _TRUTH / f"{anat}_space-{suffix}_{name}_mask"
        _save(data, scanner, stem, np.uint8, sidecar)


def _write_motion(root: Path, anat: Path, poses: dict[str, phantom.Matrix]) -> None:
    """Write the true rigid motion between the scans, each way, as ITK files with sidecars."""
    for source, target in (("T1w", "FLAIR"), ("FLAIR", "T1w")):
        pull = poses[source] @ np.linalg.inv(poses[target])
        stem = root / _TRUTH / f"{anat}_from-{source}_to-{target}_mode-image_xfm"
        write_itk_affine(pull, Path(f"{stem}.txt"))
        write_json(
            Path(f"{stem}.json"),
            {
                "Description": f"True rigid motion of the phantom: brings {source} images onto the "
                f"{target} grid, so it takes points of the {target} to the {source} (synthetic).",
                "Sources": [f"bids:raw:{anat}_{suffix}.nii.gz" for suffix in (source, target)],
                "MatrixRAS": np.round(pull, 9).tolist(),
            },
        )


def _sidecar(suffix: str, scanner: _Scanner) -> dict[str, Any]:
    """Metadata of a scan: what a scanner would have written, marked as synthetic."""
    axis = int(np.argmax(scanner.protocol.zooms))
    thick = scanner.protocol.zooms[axis]
    three_d = suffix == "T1w" or thick < 3.0
    times = _TIMES[(suffix, three_d)]
    sidecar = {
        "Description": "Synthetic image of a phantom; no person was scanned.",
        **_HARDWARE,
        "MRAcquisitionType": "3D" if three_d else "2D",
        "ScanningSequence": "GR_IR" if suffix == "T1w" else "SE_IR",
        "SequenceVariant": "SK_SP_MP" if suffix == "T1w" else "SK",
        "SequenceName": f"synthetic {suffix}",
        "PulseSequenceType": "MPRAGE" if suffix == "T1w" else "inversion recovery spin echo",
        "PulseSequenceDetails": "none: synthetic",
        "SliceThickness": thick,
        **times,
    }
    if not three_d:
        sidecar["SliceTiming"] = _interleaved(scanner.protocol.shape[axis], times["RepetitionTime"])
    return sidecar


def _interleaved(count: int, duration: float) -> list[float]:
    """Start of each slice in s when odd slices come first."""
    order = [*range(0, count, 2), *range(1, count, 2)]
    starts = {place: round(duration * turn / count, 4) for turn, place in enumerate(order)}
    return [starts[place] for place in range(count)]


def _describe(root: Path, description: dict[str, Any], readme: str) -> None:
    """Write the description and the README of a dataset."""
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "dataset_description.json", description)
    write_text(root / "README.md", readme)


def _raw_description(seed: int) -> dict[str, Any]:
    return {
        "Name": "bids_stroke demonstration: synthetic heads with known lesions",
        "BIDSVersion": BIDS_VERSION,
        "HEDVersion": "8.3.0",  # the validator asks for one, tags or not
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": _AUTHORS,
        "Keywords": ["stroke", "synthetic", "phantom", "T1w", "FLAIR"],
        "Acknowledgements": "Grown around the MNI152 2009a template (Fonov et al., 2011).",
        "HowToAcknowledge": "Please cite the MNI152 template and bids_stroke.",
        "ReferencesAndLinks": ["https://doi.org/10.1016/j.neuroimage.2010.07.033"],
        "SourceDatasets": [{"URL": "https://doi.org/10.1016/j.neuroimage.2010.07.033"}],
        "GeneratedBy": [_generator(f"bids_stroke-demo --seed {seed}")],
    }


def _truth_description() -> dict[str, Any]:
    return {
        "Name": "True lesions, brains and motions of the bids_stroke demonstration",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "CC0",
        "Authors": _AUTHORS,
        "GeneratedBy": [_generator("The masks that the images were made from.")],
        "SourceDatasets": [{"URL": "../.."}],
        "DatasetLinks": {"raw": "../.."},
    }


def _generator(description: str) -> dict[str, str]:
    return {"Name": GENERATOR, "Version": __version__, "Description": description}


def _describe_people(root: Path) -> None:
    """Write the tables of participants and sessions, with their data dictionaries."""
    columns = ["participant_id", "age", "sex", "stage", "lesion_side"]
    rows = [[f"sub-{p.label}", p.age, p.sex, _stage(p.visits[0]), p.side] for p in _PEOPLE]
    _write_table(root / "participants", columns, rows)
    for person in _PEOPLE:
        if person.visits[0].session:
            days = [[f"ses-{v.session}", _stage(v)] for v in person.visits]
            folder = root / f"sub-{person.label}"
            folder.mkdir(exist_ok=True)
            _write_table(folder / f"{folder.name}_sessions", ["session_id", "stage"], days)


def _write_table(stem: Path, columns: list[str], rows: list[list[Any]]) -> None:
    """Write a TSV and its data dictionary."""
    lines = ["\t".join(map(str, row)) for row in [columns, *rows]]
    write_text(stem.with_suffix(".tsv"), "\n".join(lines) + "\n")
    write_json(stem.with_suffix(".json"), {c: _COLUMNS[c] for c in columns})
