"""What the viewer of a session shows, from the images in its output folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke.bids.names import output_path
from bids_stroke.core.files import load_image
from bids_stroke.core.geometry import bounding_box, voxel_volume_mm3
from bids_stroke.core.lesions import components
from bids_stroke.core.palette import ANATOMY, LESION
from bids_stroke.reports.collect import Session
from bids_stroke.reports.viewer import MAX_BYTES, Cut, Cuts, Volume, viewer_html

LOWEST = 0.05
THRESHOLDS = tuple(round(LOWEST * step, 2) for step in range(1, 20))
NAMES = {"brain": "Brain mask", "probability": "Probability", "lesions": "Lesions"}


@dataclass(frozen=True)
class Images:
    """Images of a session on the grid of one space: arrays [x, y, z], and where their files lie."""

    space: str
    affine: NDArray[np.floating]
    arrays: dict[str, NDArray[Any]]
    files: dict[str, str]

    @property
    def modalities(self) -> list[str]:
        """Images, that of the space first."""
        return [name for name in self.arrays if name not in NAMES and name != "disagreement"]


def _paths(session: Session, space: str) -> dict[str, str]:
    """Files of a session on the grid of a space, relative to the output folder, by role."""
    entities, modalities = session.record["entities"], list(session.record["inputs"])
    other = {"space": space}
    paths = {space: output_path(entities, "preproc", suffix=space)}
    for modality in modalities:
        if modality != space:
            paths[modality] = output_path(entities, "preproc", suffix=modality, **other)
    named = {} if space == modalities[0] else other
    paths["brain"] = output_path(entities, "brain_mask", **named)
    paths["probability"] = output_path(entities, "lesion_probseg", **other)
    paths["lesions"] = output_path(entities, "lesion_dseg", extension=".nii.gz", **other)
    name = paths["probability"].name.replace("_desc-stroke_", "_desc-uncertainty_")
    paths["disagreement"] = paths["probability"].with_name(name)
    return {role: path.as_posix() for role, path in paths.items()}


def load(output_dir: Path, session: Session) -> Images | None:
    """Images of a session in its reference space, or in the other where only that was written.

    None where there is no image with its lesions; what lies on another grid is left out.
    """
    spaces = sorted(session.record["lesions"], key=lambda space: space != session.reference)
    for space in spaces:
        paths = _paths(session, space)
        if all((output_dir / paths[role]).is_file() for role in (space, "lesions")):
            return _loaded(output_dir, space, paths)
    return None


def _loaded(output_dir: Path, space: str, paths: dict[str, str]) -> Images:
    first = load_image(output_dir / paths[space])
    there = {role: path for role, path in paths.items() if (output_dir / path).is_file()}
    opened = {role: load_image(output_dir / path) for role, path in there.items()}
    same = {role: image for role, image in opened.items() if _on_grid(image, first)}
    arrays = {role: np.asarray(image.dataobj) for role, image in same.items()}
    return Images(space, first.affine, arrays, {role: paths[role] for role in arrays})


def _on_grid(image: nib.Nifti1Image, first: nib.Nifti1Image) -> bool:
    return image.shape == first.shape and np.allclose(image.affine, first.affine, atol=1e-3)


def volumes(images: Images) -> list[Volume]:
    """Layers of the viewer: images, brain mask, probability, disagreement and lesions."""

    def layer(key: str, name: str, **look: Any) -> Volume:
        return Volume(name=name, data=images.arrays[key], file=images.files[key], **look)

    layers = [
        layer(name, name, opacity=1.0 if name == images.space else 0.0)
        for name in images.modalities
    ]
    if "brain" in images.arrays:
        layers.append(layer("brain", NAMES["brain"], kind="labels", color=ANATOMY, opacity=0.0))
    for role, color, limits in (
        ("probability", "viridis", (LOWEST, 1.0)),
        ("disagreement", "plasma", (LOWEST, 0.5)),
    ):
        if role in images.arrays:
            name = NAMES.get(role, role.capitalize())
            look = {"kind": "map", "color": color, "limits": limits, "role": role, "opacity": 0.0}
            layers.append(layer(role, name, **look))
    look = {"kind": "labels", "color": LESION, "opacity": 0.6, "role": "lesions"}
    return [*layers, layer("lesions", NAMES["lesions"], **look)]


def places(images: Images) -> dict[int, tuple[float, float, float]]:
    """A point in mm inside each lesion: its voxel that is next to its centroid.

    The centroid of a curved lesion may lie outside it.
    """
    found = {}
    for number, box in enumerate(ndimage.find_objects(images.arrays["lesions"]), 1):
        if box is None:
            continue
        voxels = np.argwhere(images.arrays["lesions"][box] == number) + [s.start for s in box]
        nearest = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]
        x, y, z = apply_affine(images.affine, nearest)
        found[number] = (round(float(x), 2), round(float(y), 2), round(float(z), 2))
    return found


def cuts(
    probability: NDArray[np.floating], affine: NDArray[np.floating], own: Cut, **rules: Any
) -> Cuts:
    """Volume and number of lesions at each threshold, on the grid of the map itself.

    ``own`` is what the program wrote at the model's threshold. ``rules`` are ``min_volume_mm3``,
    ``connectivity`` and ``inclusive`` as ``core.lesions.segment`` has them.
    """
    known = probability >= LOWEST
    part = probability[bounding_box(known)] if known.any() else np.zeros((1, 1, 1))
    voxel = voxel_volume_mm3(affine)
    others = [_cut(part, t, voxel, **rules) for t in THRESHOLDS if t != own.threshold]
    steps = sorted([own, *others], key=lambda cut: cut.threshold)
    return Cuts(own=own.threshold, steps=tuple(steps), **rules)


def _cut(
    probability: NDArray[np.floating],
    threshold: float,
    voxel_mm3: float,
    *,
    min_volume_mm3: float,
    connectivity: int,
    inclusive: bool,
) -> Cut:
    mask = probability >= threshold if inclusive else probability > threshold
    sizes = components(mask, connectivity)[1] * voxel_mm3
    kept = sizes[sizes >= min_volume_mm3] if inclusive else sizes[sizes > min_volume_mm3]
    return Cut(threshold=threshold, volume_ml=float(kept.sum() / 1000), count=len(kept))


def _session_cuts(session: Session, images: Images) -> Cuts | None:
    if "probability" not in images.arrays:
        return None
    model, lesions = session.record["model"], session.record["lesions"][images.space]
    own = Cut(threshold=model["threshold"], volume_ml=lesions["volume_ml"], count=lesions["count"])
    return cuts(
        images.arrays["probability"],
        images.affine,
        own,
        min_volume_mm3=model["min_volume_mm3"],
        connectivity=model["connectivity"],
        inclusive=model.get("inclusive", True),
    )


def session_viewer(
    session: Session,
    images: Images,
    name: str,
    *,
    linked: bool = False,
    max_bytes: int = MAX_BYTES,
    points: Sequence[tuple[float, float, float]] = (),
) -> Markup:
    """The viewer of a session; the crosshair starts in the first of ``points``."""
    return viewer_html(
        volumes(images),
        images.affine,
        name=name,
        title=f"Images of {session.label} on the {images.space} grid, with the lesions found",
        centre=points[0] if points else None,
        cuts=_session_cuts(session, images),
        linked=linked,
        max_bytes=max_bytes,
    )
