"""A viewer of volumes inside a page: NiiVue, with reduced images written into the page itself.

NiiVue (BSD-2-Clause) is taken from the installed nilearn when a page is written, and its licence
is written into the page.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke.core.geometry import Box, Grid, bounding_box, crop, resample, to_ras
from bids_stroke.reports.pages import asset, fragment

KINDS = ("image", "labels", "map")
VOXEL_MM = 1.0
"""Voxels are not made smaller than this: the full files stay beside the page."""
MAX_BYTES = 7_000_000
MARGIN_MM = 5.0
STEPS_OF_A_MAP = 200


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One layer of a viewer, the first being the background; all of a viewer share one grid.

    ``data`` is [x, y, z]. ``kind`` is ``image`` (grey, linear interpolation), ``map`` (a colour
    scale, transparent under ``limits[0]``) or ``labels`` (0 is nothing, no interpolation).
    ``color`` is a colour ``#rrggbb`` for labels; for a map the name of a NiiVue colour map, or
    colours with a comma between them, from the first to the last value.
    ``limits`` are the values that get the first and the last colour; None takes them from the data.
    ``role`` is what controls know the layer by: ``lesions`` and ``probability`` belong to the
    slider of the threshold, ``count`` is a map of whole numbers, and of a ``template`` no values
    are told. ``file`` is the full file, relative to the page, where it is linked.
    """

    name: str
    data: NDArray[Any]
    kind: str = "image"
    color: str = ""
    opacity: float = 1.0
    limits: tuple[float, float] | None = None
    role: str = ""
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is left at one threshold: volume in mL and number of lesions, on the full grid."""

    threshold: float
    volume_ml: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """A slider of thresholds: ``own`` is the model's, at which the page starts."""

    own: float
    steps: tuple[Cut, ...]
    min_volume_mm3: float
    connectivity: int = 26
    inclusive: bool = True


@dataclass(frozen=True)
class _Coded:
    """A volume as the page holds it: unsigned bytes and what turns them into values."""

    voxels: NDArray[np.uint8]
    slope: float = field(default=1.0)
    offset: float = field(default=0.0)


def window(data: NDArray[Any]) -> tuple[float, float]:
    """Range of grey of an image: from 0, or its lowest value, to the 99.5th percentile inside."""
    known = data[np.isfinite(data) & (data != 0)]
    if not known.size:
        return 0.0, 1.0
    low = min(0.0, float(known.min()))
    high = float(np.percentile(known, 99.5))
    return low, high if high > low else low + 1.0


def _limits(volume: Volume) -> tuple[float, float]:
    if volume.limits is not None:
        return volume.limits
    return (0.0, 1.0) if volume.kind == "labels" else window(volume.data)


def _coded(volume: Volume, data: NDArray[Any]) -> _Coded:
    """Labels as they are (255 and over are one), values in equal steps over their range."""
    if volume.kind == "labels":
        return _Coded(np.clip(data, 0, 255).astype(np.uint8))
    low, high = _limits(volume)
    if volume.role == "count":
        slope = max(high / 255, 1.0)  # whole numbers up to 255 stay as they are, 1 never becomes 0
        return _Coded(np.clip(np.ceil((data - 0.5) / slope), 0, 255).astype(np.uint8), slope)
    low = 0.0 if volume.kind == "map" else low
    steps = STEPS_OF_A_MAP if volume.kind == "map" else 255
    slope = (high - low) / steps
    known = np.nan_to_num((data - low) / slope)
    rounded = np.floor(known + 1e-4) if volume.kind == "map" else np.rint(known)
    return _Coded(np.clip(rounded, 0, steps).astype(np.uint8), slope, low)


def _nifti(coded: _Coded, affine: NDArray[np.floating]) -> bytes:
    """A gzipped NIfTI file of unsigned bytes with the scaling in its header."""
    header = Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(coded.voxels.shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = coded.slope, coded.offset
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + coded.voxels.tobytes(order="F")
    return gzip.compress(content, compresslevel=7, mtime=0)  # 9: 1 % less, four times as long


def _coarser(grid: Grid, voxel_mm: float) -> Grid:
    """The same field of view with no voxel smaller than ``voxel_mm`` along any axis."""
    zooms = np.linalg.norm(grid.affine[:3, :3], axis=0)
    factor = np.maximum(voxel_mm / zooms, 1.0)
    shape = np.maximum(np.round(np.array(grid.shape) / factor), 1).astype(int)
    factor = np.array(grid.shape) / shape
    affine = grid.affine @ np.diag([*factor, 1.0])
    affine[:3, 3] = (grid.affine @ [*((factor - 1) / 2), 1.0])[:3]
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _reduced(volume: Volume, source: Grid, target: Grid) -> NDArray[Any]:
    """Values on the coarser grid; labels by the nearest voxel, the rest smoothed a little."""
    if volume.kind == "labels":
        return resample(volume.data, source, target, order=0)
    factor = np.array(source.shape) / np.array(target.shape)
    smooth = np.where(factor > 1.3, factor / 2.5, 0.0)
    data = ndimage.gaussian_filter(np.asarray(volume.data, np.float32), smooth)
    return resample(data, source, target, order=1)


def _shown_box(volumes: Sequence[Volume], zooms: NDArray[np.floating]) -> Box:
    """Box around what the background shows, with a margin."""
    first = volumes[0]
    shown = np.asarray(first.data > (0 if first.kind == "labels" else 0.02 * _limits(first)[1]))
    if not shown.any():
        return tuple(slice(0, n) for n in shown.shape)  # type: ignore[return-value]
    return bounding_box(shown, margin_vox=int(np.ceil(MARGIN_MM / zooms.min())))


def _cropped(
    volumes: Sequence[Volume], affine: NDArray[np.floating]
) -> tuple[list[Volume], NDArray[np.floating]]:
    """Volumes in RAS order, cut to what is there to be seen."""
    turned = [(v, *to_ras(v.data, np.asarray(affine, float))) for v in volumes]
    ras = turned[0][2]
    turned_volumes = [replace(volume, data=data) for volume, data, _ in turned]
    box = _shown_box(turned_volumes, np.linalg.norm(ras[:3, :3], axis=0))
    cut = [replace(v, data=crop(v.data, ras, box)[0]) for v in turned_volumes]
    return cut, crop(turned_volumes[0].data, ras, box)[1]


def encoded(
    volumes: Sequence[Volume], affine: NDArray[np.floating], max_bytes: int = MAX_BYTES
) -> tuple[list[str], float]:
    """Each volume as base64 of a small NIfTI file, and the smallest voxel edge in mm.

    All are cut to the box of the background and reduced to voxels of ``VOXEL_MM``, or to larger
    ones until they fit into ``max_bytes`` of base64 together.
    """
    for volume in volumes:
        if volume.kind not in KINDS:
            raise ValueError(f"A volume is one of {', '.join(KINDS)}, not {volume.kind!r}.")
    cut, cut_affine = _cropped(volumes, affine)
    source = Grid(cut[0].data.shape, cut_affine)  # type: ignore[arg-type]
    voxel = VOXEL_MM
    while True:
        target = _coarser(source, voxel)
        coded = [_nifti(_coded(v, _reduced(v, source, target)), target.affine) for v in cut]
        size = sum(map(len, coded)) * 4 / 3
        if size <= max_bytes or max(target.shape) <= 8:
            edges = np.linalg.norm(target.affine[:3, :3], axis=0)
            return [b64encode(c).decode("ascii") for c in coded], float(edges.min())
        voxel *= max(1.05, (size / max_bytes) ** (1 / 2))


def _layer(volume: Volume, content: str) -> dict[str, Any]:
    """What the script is told of a layer."""
    low, high = _limits(volume)
    return {
        "name": volume.name,
        "kind": volume.kind,
        "color": volume.color,
        "opacity": volume.opacity,
        "limits": [low, high],
        "role": volume.role,
        "file": volume.file,
        "base64": content,
    }


def as_json(value: Any) -> Markup:
    """JSON that may stand inside a script element, whatever text it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))  # noqa: S704 # nosec B704


def viewer_html(
    volumes: Sequence[Volume],
    affine: NDArray[np.floating],
    *,
    name: str,
    title: str,
    centre: Sequence[float] | None = None,
    cuts: Cuts | None = None,
    linked: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Markup:
    """HTML of a viewer with its images; the page also needs ``assets()`` among its values.

    ``volumes`` lie on one grid, whose RAS+ affine in mm is given; the first is the background.
    ``name`` is the id of the element: buttons ``data-viewer=name data-mm="x,y,z"`` anywhere on the
    page move its crosshair. ``title`` says to a screen reader what is shown. ``centre`` is where
    the crosshair starts, in mm. ``linked`` writes no image into the page, but links ``file`` of
    each volume. Returns markup in which every text is escaped.
    """
    contents, voxel = [""] * len(volumes), 0.0
    if not linked:
        contents, voxel = encoded(volumes, affine, max_bytes)
    data: dict[str, Any] = {
        "layers": [_layer(v, c) for v, c in zip(volumes, contents, strict=True)],
        "centre": [float(x) for x in centre] if centre is not None else None,
        "cuts": _cuts(cuts) if cuts else None,
    }
    return fragment(
        "viewer.html.j2",
        name=name,
        title=title,
        layers=data["layers"],
        cuts=cuts,
        linked=linked,
        voxel=voxel,
        data=as_json(data),
    )


def _cuts(cuts: Cuts) -> dict[str, Any]:
    steps = [{"threshold": c.threshold, "ml": c.volume_ml, "count": c.count} for c in cuts.steps]
    return {
        "own": cuts.own,
        "steps": steps,
        "minVolume": cuts.min_volume_mm3,
        "connectivity": cuts.connectivity,
        "inclusive": cuts.inclusive,
    }


@cache
def niivue() -> Markup:
    """The library's script as nilearn's wheel carries it, in base64 of gzip.

    A third of the bytes, and nothing that the browser compiles before a viewer is seen.
    """
    source = files("nilearn").joinpath("_assets", "js", "niivue.umd.js")
    packed = gzip.compress(source.read_bytes(), compresslevel=9, mtime=0)
    return Markup(b64encode(packed).decode("ascii"))  # noqa: S704 # nosec B704 # base64


def assets(needed: Iterable[object] = (True,)) -> Mapping[str, Any]:
    """Values for ``pages.render`` of a page with viewers: NiiVue and its licence, once.

    ``needed`` are the viewers of the page: without any, nothing is loaded.
    """
    if not any(needed):
        return {}
    return {
        "packed": {"packed-niivue": niivue()},
        "libraries": [asset("viewer.js")],
        "licences": [("NiiVue", asset("niivue-licence.txt"))],
    }
