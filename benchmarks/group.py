"""The group level on many synthetic outputs: time, memory and the page in a browser, as they grow.

    python benchmarks/group.py [--quick] [--sizes 100 1000 10000] [--references 200]
    python benchmarks/group.py --pages BEFORE.html AFTER.html

Outputs are written as files, as the participant level leaves them, on tiny grids: what is measured
is what grows with the number of sessions, not the metrics of large images. Each size runs in a
process of its own. The second form only opens pages that are there, in turns. The last line is one
JSON object of the figures.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bids_stroke.bids.names import output_path
from bids_stroke.core.files import save_image, write_json

SIZES, QUICK_SIZES = (100, 1000, 10_000), (20, 60)
TURNS = 7
SHAPE = (24, 28, 24)
TEMPLATE = np.array([[8.0, 0, 0, -92], [0, 8, 0, -130], [0, 0, 8, -72], [0, 0, 0, 1]])
NATIVE = np.diag([8.0, 8.0, 8.0, 1.0])
TABLE_HEAD = (
    "index\tname\tmapping\tvolume_mm3\tn_voxels\tside\tcentroid_x\tcentroid_y\tcentroid_z\t"
    "mean_probability\tmax_probability\n"
)
MODEL = {
    "name": "synthetic",
    "version": "1",
    "title": "Made by a benchmark",
    "synthetic": True,
    "training_data": "none",
    "intended_use": "benchmark",
    "licence": "none",
    "sha256": {},
    "reason": "benchmark",
    "used": ["T1w", "FLAIR"],
    "threshold": 0.5,
    "min_volume_mm3": 10.0,
    "connectivity": 26,
}


def ball(rng: np.random.Generator, radius: float) -> np.ndarray:
    """A lesion mask at a random place."""
    centre = [rng.uniform(6, n - 6) for n in SHAPE]
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    distance = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
    return np.asarray(distance <= radius**2)


def record(subject: str, volume: float, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """A quality record with everything that the group level reads."""
    inputs = {
        modality: {
            "file": f"sub-{subject}_{modality}.nii.gz",
            "conform": {"shape": list(SHAPE), "zooms": [8, 8, 8], "orientation": "RAS"},
            "brain": {"method": "deepbet", "volume_ml": round(rng.normal(1400, 110), 1)},
        }
        for modality in ("T1w", "FLAIR")
    }
    far = rng.random() < 0.01
    return {
        "label": f"sub-{subject}",
        "entities": {"subject": subject},
        "inputs": inputs,
        "reason": "",
        "reference": "FLAIR",
        "registration": {
            "metric": "normalised mutual information",
            "similarity_before": round(rng.normal(1.08, 0.01), 5),
            "similarity_after": round(rng.normal(1.2, 0.02), 5),
            "rotation_deg": round(abs(rng.normal(0, 2)) + 30 * far, 3),
            "translation_mm": round(abs(rng.normal(0, 3)), 3),
            "brain_overlap_dice": round(0.97 - 0.4 * far - abs(rng.normal(0, 0.005)), 4),
            "flags": [],
        },
        "model": MODEL,
        "lesions": {m: {"count": count, "volume_ml": volume} for m in ("T1w", "FLAIR")},
        "flags": [{"code": "brain_mask", "severity": "warning", "message": "Look."}] if far else [],
        "versions": {},
    }


def write_outputs(root: Path, sessions: int, references: int = 0) -> Path:
    """Outputs of ``sessions`` participants below ``root/out``, ``references`` with manual masks."""
    out, rng = root / "out", np.random.default_rng(7)
    lines = ["participant_id\tcentre"]
    for number in range(sessions):
        subject = f"{number:05}"
        _write_one(root, out, subject, rng, manual=number < references)
        lines.append(f"sub-{subject}\tcentre-{number % 5}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    write_json(root / "dataset_description.json", {"Name": "Synthetic", "BIDSVersion": "1.10.0"})
    write_json(out / "dataset_description.json", {"Name": "Synthetic", "DatasetType": "derivative"})
    return out


def _write_one(
    root: Path, out: Path, subject: str, rng: np.random.Generator, *, manual: bool
) -> None:
    entities = {"subject": subject}
    mask = ball(rng, rng.uniform(1, 4)) if rng.random() > 0.1 else np.zeros(SHAPE, bool)
    count, volume = int(mask.any()), float(mask.sum() * 0.512)
    row = f"1\tlesion-1\t7\t{volume * 1000:g}\t{mask.sum()}\tleft\t-20\t5\t8\t0.8\t0.99\n"
    for space in ("T1w", "FLAIR"):
        table = out / output_path(entities, "lesion_table", space=space)
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(TABLE_HEAD + row * count)
    native = out / output_path(entities, "lesion_mask", space="FLAIR")
    save_image(mask, NATIVE, native, dtype=np.uint8)
    template = native.name.replace("space-FLAIR", "space-MNI152NLin2009aSym")
    save_image(mask, TEMPLATE, native.with_name(template), dtype=np.uint8)
    if manual:
        name = f"sub-{subject}_space-FLAIR_label-lesion_mask.nii.gz"
        anat = root / "derivatives" / "manual" / f"sub-{subject}" / "anat"
        anat.mkdir(parents=True)
        save_image(mask | ball(rng, 1.5), NATIVE, anat / name, dtype=np.uint8)
    path = out / output_path(entities, "qc")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record(subject, volume, count, rng)))


def run_once(root: Path) -> dict[str, float]:
    """Time and peak memory of the group level, in this process."""
    from bids_stroke.bids.masks import reference_roots
    from bids_stroke.config import Group
    from bids_stroke.reports.group import write_group

    before, start = _peak_mb(), time.perf_counter()
    roots = reference_roots(root, derivatives={}, output_dir=root / "out")
    page = write_group(root, root / "out", roots, options=Group(strata=("centre",)), nprocs=2)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mb": round(_peak_mb(), 1),
        "imports_mb": round(before, 1),
        "page_mb": round(page.stat().st_size / 1e6, 2),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


TIMED = """(action) => new Promise((done) => {
    const start = performance.now();
    action === "sort" ? document.querySelectorAll("#cohort-table th button")[2].click()
      : (document.getElementById("filter-text").value = "sub-00001",
         document.querySelector(".filters").dispatchEvent(new Event("input")));
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""
OPENED = """() => {
    const { loadEventEnd, fetchStart } = performance.getEntriesByType("navigation")[0];
    return loadEventEnd - fetchStart;
}"""


def in_browser(*pages: Path) -> list[dict[str, float]]:
    """Milliseconds until each page is open, of a sort and of a filter, in headless Chromium.

    Pages take turns, each time in a new browser; medians of ``TURNS``. Empty without Chromium.
    """
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        return [{} for _ in pages]
    with sync_playwright() as playwright:
        turns = [
            [_opened(playwright.chromium, program, page) for page in pages] for _ in range(TURNS)
        ]
    return [
        {name: round(median(one[name] for one in of), 1) for name in of[0]}
        for of in zip(*turns, strict=True)
    ]


def _opened(chromium: Any, program: str, page: Path) -> dict[str, float]:
    browser = chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
    tab = browser.new_page()
    tab.goto(page.resolve().as_uri(), wait_until="load")
    tab.wait_for_selector("#cohort-table tbody tr")
    found = {
        "open_ms": tab.evaluate(OPENED),
        "sort_ms": tab.evaluate(TIMED, "sort"),
        "filter_ms": tab.evaluate(TIMED, "filter"),
        "elements": tab.evaluate("document.querySelectorAll('*').length"),
    }
    browser.close()
    return found


def measure(sessions: int, references: int) -> dict[str, float]:
    """Figures of one size, the group level in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_outputs(root, sessions, references)
        command = [sys.executable, __file__, "--worker", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        figures = json.loads(done.stdout.splitlines()[-1])
        (opened,) = in_browser(root / "out" / "group.html")
        return {"sessions": sessions, **figures, **opened}


def main(argv: list[str] | None = None) -> None:
    """Measure each size and print a table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--references", type=int, default=0, help="sessions with manual masks")
    parser.add_argument("--pages", type=Path, nargs="+", help="only open these, in turns")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(run_once(options.worker)))
        return
    if options.pages:
        opened = zip(map(str, options.pages), in_browser(*options.pages), strict=True)
        print(json.dumps({"benchmark": "group", "pages": dict(opened)}))
        return
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    rows = []
    for size in sizes:
        rows.append(measure(size, min(size, options.references)))
        if len(rows) == 1:
            print("  ".join(f"{name:>10}" for name in rows[0]))
        print("  ".join(f"{value:10g}" for value in rows[-1].values()), flush=True)
    first, last = rows[0], rows[-1]
    growth = {
        "sessions": last["sessions"] / first["sessions"],
        "seconds": last["seconds"] / first["seconds"],
        "peak_mb": last["peak_mb"] / first["peak_mb"],
    }
    print(json.dumps({"benchmark": "group", "sizes": rows, "growth": growth}))


if __name__ == "__main__":
    main()
