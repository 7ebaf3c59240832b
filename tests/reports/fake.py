"""A small output folder as the program leaves it: phantom heads, drawn by the real figure code."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy import ndimage

from bids_stroke.bids.names import output_path
from bids_stroke.core import figures, lesions, quality
from bids_stroke.core.files import save_image, write_json
from bids_stroke.models.card import card
from bids_stroke.models.descriptor import find
from bids_stroke.workflows.reports import FIGURES

AFFINE = np.array([[-4.0, 0, 0, 76], [0, 4, 0, -90], [0, 0, 4, -60], [0, 0, 0, 1]])
SHAPE = (40, 48, 36)
HOSTILE = "<script>alert('x')</script> & \"quoted\""

CRASH = """Node: bids_stroke_wf.sub_03_wf.preproc_wf.conform_t1w
Working directory: work

Node inputs:

in_file = sub-03_T1w.nii.gz

Traceback (most recent call last):
  File "node.py", line 1, in run
    raise UnusableData(message)
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node conform_t1w.

\tTraceback:
\t\tTraceback (most recent call last):
\t\t  File "conform.py", line 12, in _run_interface
\t\t    raise UnusableData(message)
\t\tbids_stroke.errors.UnusableData: sub-03_T1w.nii.gz is cut short <b>: copy it again.
"""


def head(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image and brain mask of an ellipsoid with a skull."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    brain = radius < 0.75
    noise = np.random.default_rng(seed).normal(0, 20, SHAPE)
    image = np.where(brain, 600 + 100 * grid[1] + noise, 0) + np.where(
        (radius > 0.85) & (radius < 0.95), 500, 0
    )
    return image.astype(np.float32), brain.astype(np.uint8)


def lesion_probability(count: int) -> np.ndarray:
    """Probability map with ``count`` balls of decreasing size."""
    seeds = np.zeros(SHAPE, bool)
    rng = np.random.default_rng(3)
    out = np.zeros(SHAPE, np.float32)
    for number in range(count):
        seeds[:] = False
        seeds[tuple(rng.integers(12, n - 12) for n in SHAPE)] = True
        distance = ndimage.distance_transform_edt(~seeds)
        out = np.maximum(out, np.clip(1 - distance / (2.5 + 3 / (number + 1)), 0, 1))
    return out


MODEL: dict[str, Any] = {
    "name": "embedded",
    "version": "0.1",
    "title": "A small network for trying the program",
    "synthetic": True,
    "training_data": "synthetic lesions in a template",
    "intended_use": "For trying the program and for research, not for care.",
    "licence": "Apache-2.0",
    "sha256": {"checkpoint_final.pth": "0" * 64},
    "reason": "the default for T1w + FLAIR: it runs on T1w + FLAIR",
    "used": ["T1w", "FLAIR"],
    "threshold": 0.5,
    "min_volume_mm3": 10.0,
    "connectivity": 26,
    "card": [*card(find("embedded")), {"title": HOSTILE, "text": HOSTILE, "facts": [], "rows": []}],
}


def write_session(
    out: Path,
    entities: Mapping[str, str],
    modalities: tuple[str, ...] = ("T1w", "FLAIR"),
    count: int = 2,
    reason: str = "",
) -> Path:
    """Figures, tables, masks and record of one session; returns the record's path."""
    image, brain = head()
    probability = lesion_probability(count)
    labels = lesions.segment(probability, AFFINE, threshold=0.5, min_volume_mm3=10)
    rows = lesions.table(labels, probability, AFFINE)
    volume = float(np.count_nonzero(labels) * 64 / 1000)
    for space in modalities:
        table = out / output_path(entities, "lesion_table", space=space)
        table.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(table, sep="\t", index=False)
        mask = out / output_path(entities, "lesion_mask", space=space)
        save_image(labels > 0, AFFINE, mask, dtype=np.uint8)
        _write_images(out, entities, modalities, space, image, brain, labels, probability)
    _draw(out, entities, modalities, image, brain, labels, probability)
    record = quality.qc_record(
        label=Path(output_path(entities, "qc")).name.removesuffix("_desc-qc.json"),
        entities=entities,
        inputs={m: _input(entities, m) for m in modalities},
        reason=reason,
        reference=modalities[-1],
        registration=_registration() if len(modalities) == 2 else None,
        model=MODEL,
        lesions={m: {"count": int(labels.max(initial=0)), "volume_ml": volume} for m in modalities},
        flags=[
            *quality.lesion_volume_flags(int(labels.max(initial=0)), volume),
            *quality.edge_flags(labels, brain, (4, 4, 4)),
            *quality.step_flags("brain_mask", ["The brain mask has 520 mL."], "T1w"),
        ],
        versions={"python": "3.11", "bids_stroke": "0.1"},
    )
    return write_json(out / output_path(entities, "qc"), record)


def _write_images(
    out: Path,
    entities: Mapping[str, str],
    modalities: tuple[str, ...],
    space: str,
    image: np.ndarray,
    brain: np.ndarray,
    labels: np.ndarray,
    probability: np.ndarray,
) -> None:
    """What the viewer shows, on the grid of one space."""
    own = {} if space == modalities[0] else {"space": space}
    named = {"space": space}
    images = {
        output_path(entities, "preproc", suffix=m, **({} if m == space else named)): image * brain
        for m in modalities
    }
    for name, data, dtype in (
        *((name, data, np.float32) for name, data in images.items()),
        (output_path(entities, "brain_mask", **own), brain, np.uint8),
        (output_path(entities, "lesion_probseg", **named), probability, np.float32),
        (output_path(entities, "lesion_dseg", extension=".nii.gz", **named), labels, np.int16),
    ):
        save_image(data, AFFINE, out / name, dtype=dtype)


def _input(entities: Mapping[str, str], modality: str) -> dict[str, Any]:
    return {
        "file": f"sub-{entities['subject']}_{modality}.nii.gz",
        "conform": {"shape": SHAPE, "zooms": (4, 4, 4), "orientation": "LAS", "notes": [HOSTILE]},
        "brain": {"method": "deepbet", "volume_ml": 1403.2},
    }


def _registration() -> dict[str, Any]:
    return {
        "metric": "mutual information",
        "similarity_before": 0.31,
        "similarity_after": 0.62,
        "rotation_deg": 3.1,
        "translation_mm": 4.2,
        "brain_overlap_dice": 0.97,
    }


def _draw(
    out: Path,
    entities: Mapping[str, str],
    modalities: tuple[str, ...],
    image: np.ndarray,
    brain: np.ndarray,
    labels: np.ndarray,
    probability: np.ndarray,
) -> None:
    def at(field: str) -> Path:
        desc, suffix = FIGURES[field]
        name = output_path(entities, "figure", desc=desc, suffix=suffix, extension=".webp")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        return out / name

    drawn = _figures_of_the_head()
    for modality in modalities:
        for part in ("brain_{}", "n4_{}_before", "n4_{}_after", "n4_{}_field"):
            at(part.format(modality.lower())).write_bytes(drawn[part])
    if len(modalities) == 2:
        for part in ("registration_before", "registration_after"):
            at(part).write_bytes(drawn[part])
    images = dict.fromkeys(modalities, image)
    for field, outlined in (("lesions", True), ("lesions_plain", False)):
        figures.lesion_figure(
            images, labels, probability, AFFINE, at(field), brain=brain, outlined=outlined
        )


@cache
def _figures_of_the_head() -> dict[str, bytes]:
    """Figures that are alike in all sessions, drawn once."""
    image, brain = head()
    with TemporaryDirectory() as folder:

        def at(name: str) -> Path:
            return Path(folder) / f"{name}.webp"

        figures.brain_mask_figure(image, brain, AFFINE, at("brain_{}"))
        parts = [at(f"n4_{{}}_{part}") for part in ("before", "after", "field")]
        figures.n4_figure(image * 1.1, image, brain, AFFINE, *parts)
        paths = at("registration_before"), at("registration_after")
        figures.registration_figure(image, np.roll(image, 3, 0), image, AFFINE, *paths)
        return {path.stem: path.read_bytes() for path in Path(folder).iterdir()}


def write_outputs(out: Path) -> Path:
    """Sub-01 with two sessions, sub-02 with a FLAIR and no lesion, sub-03 that failed."""
    write_session(out, {"subject": "01", "session": "1"}, reason=HOSTILE)
    write_session(out, {"subject": "01", "session": "2"}, count=1)
    write_session(out, {"subject": "02"}, ("FLAIR",), count=0)
    logs = out / "logs" / "run"
    (logs / "sub-03").mkdir(parents=True)
    (logs / "sub-03" / "crash-1.txt").write_text(CRASH)
    (logs / "timing.tsv").write_text(
        "participant\tlabel\tstep\tnode\tstart\tseconds\n"
        "sub-01\tsub-01_ses-1\tbrain_extraction\ta\t2026-01-01T00:00:00\t12.5\n"
        "sub-01\tsub-01_ses-1\tsegmentation\tb\t2026-01-01T00:00:13\t80\n"
    )
    (out / "logs" / "CITATION.bib").write_text("@misc{a,\n title = {<i>raw</i>}\n}\n")
    (logs / "memory.tsv").write_text("node\tpeak_mb\na\t2048.0\n")
    (out / "logs" / "CITATION.md").write_text(
        "# Methods\nUsed nnU-Net [@nnunet; @n4]. <i>raw</i>\n"
    )
    write_json(
        out / "dataset_description.json",
        {"Name": "x", "GeneratedBy": [{"Name": "bids_stroke", "Version": "0.1"}]},
    )
    return out
