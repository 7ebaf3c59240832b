"""Where the lesions of a session lie: columns for its tables, and its table of regions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_stroke.core import geometry, normalization, regions, tracts
from bids_stroke.core.files import atomic_path, load_image, write_json
from bids_stroke.interfaces.images import read
from bids_stroke.interfaces.normalize import register_to_template
from bids_stroke.models import atlases
from bids_stroke.models.atlases import AtlasSet
from bids_stroke.models.templates import SHIPPED, find_template


class _LocateInput(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True, desc="lesion mask in template space")
    template = traits.Str(mandatory=True, desc="name of the template")
    inverse = File(exists=True, mandatory=True, desc="ITK composite, template to registered image")
    source = traits.Enum("t1w", "flair", mandatory=True, desc="registered image")
    transform = File(exists=True, desc="ITK: registered image to the other image")
    t1w_labels = File(exists=True)
    flair_labels = File(exists=True)
    t1w_table = File(exists=True)
    flair_table = File(exists=True)
    atlases = traits.Dict(desc="files of the user by name")
    threshold = traits.Float(0.25, usedefault=True, desc="cut of probability maps")
    cutoffs_ml = traits.List(traits.Float, list(tracts.CUTOFFS_ML), usedefault=True)


class _LocateOutput(TraitedSpec):
    t1w_table = File(desc="lesion table with the columns of core.regions")
    flair_table = File(desc="the same on the FLAIR's grid")
    regions = File(desc="TSV: how much of each region is lesioned, loads of the tract")
    location = File(desc="JSON: the same in short")


class LocateLesions(SimpleInterface):
    """Look lesions up in atlases: native voxels for the tables, template space for shares."""

    input_spec = _LocateInput
    output_spec = _LocateOutput

    def _run_interface(self, runtime: Any) -> Any:
        cwd = Path(runtime.cwd)
        given = self.inputs.atlases if isdefined(self.inputs.atlases) else {}
        known = atlases.gather(
            {name: Path(path) for name, path in given.items()}, threshold=self.inputs.threshold
        )
        located, voxels = {}, {}
        for modality in ("t1w", "flair"):
            if isdefined(getattr(self.inputs, f"{modality}_table")):
                voxels[modality] = self._voxels(modality)
                located[modality] = self._located(modality, voxels[modality], known)
                path = _write(located[modality], cwd / f"{modality}.tsv")
                self._results[f"{modality}_table"] = str(path)
        mask, grid = read(self.inputs.mask)
        brain = find_template(self.inputs.template).brain
        table = region_table(mask, grid, brain, known, tuple(self.inputs.cutoffs_ml))
        self._results["regions"] = str(_write(table, cwd / "regions.tsv"))
        source = self.inputs.source
        record = summary(located[source], table, regions.hemisphere(voxels[source]))
        self._results["location"] = str(write_json(cwd / "location.json", record))
        return runtime

    def _located(self, modality: str, voxels: regions.Voxels, known: AtlasSet) -> pd.DataFrame:
        """The lesion table of a grid with columns of where."""
        table = pd.read_csv(
            getattr(self.inputs, f"{modality}_table"), sep="\t", keep_default_na=False
        )
        where = regions.locate(voxels, len(table), known.tissue, known.columns)
        return pd.concat([table, where], axis=1)

    def _voxels(self, modality: str) -> regions.Voxels:
        """Lesion voxels of a native grid, in the template's space."""
        from bids_stroke.core import warps

        image = load_image(getattr(self.inputs, f"{modality}_labels"))
        labels = np.asarray(image.dataobj)
        index = np.argwhere(labels > 0)
        points = apply_affine(image.affine, index)
        if modality != self.inputs.source and isdefined(self.inputs.transform):
            matrix = geometry.read_itk_affine(Path(self.inputs.transform))
            points = apply_affine(matrix, points)
        mapped = warps.map_points(points, warps.read_transform(self.inputs.inverse))
        return regions.Voxels(labels[tuple(index.T)].astype(np.int64), mapped)


class _ReferenceInput(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="brain-only image")
    brain = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    label = File(exists=True, mandatory=True, desc="lesions on the same grid")
    atlases = traits.Dict(desc="files of the user by name")
    threshold = traits.Float(0.25, usedefault=True, desc="cut of probability maps")
    affine_iterations = traits.List(traits.Int, [100, 50, 20], usedefault=True)
    seed = traits.Int(1, usedefault=True, desc="seed of ANTs")


class _ReferenceOutput(TraitedSpec):
    where = File(desc="JSON: region (a lobe of core.regions) and super_region, or n/a")


class LocateReference(SimpleInterface):
    """Say where most of a session's lesion lies, by an affine registration that does not see it."""

    input_spec = _ReferenceInput
    output_spec = _ReferenceOutput

    def _run_interface(self, runtime: Any) -> Any:
        label, grid = read(self.inputs.label)
        row = self._located(label, grid, Path(runtime.cwd)) if label.any() else {}
        record = {
            "region": str(row.get("lobe", regions.NA)),
            "super_region": str(row.get("super_region", regions.NA)),
        }
        self._results["where"] = str(write_json(Path(runtime.cwd) / "where.json", record))
        return runtime

    def _located(self, label: np.ndarray, grid: geometry.Grid, cwd: Path) -> Any:
        """The row of ``core.regions.locate`` of all lesions as one."""
        from bids_stroke.core import warps

        image, brain = read(self.inputs.image)[0], read(self.inputs.brain)[0]
        _, inverse = register_to_template(
            find_template(SHIPPED),
            (image * (brain > 0), grid.affine),
            normalization.usable(brain, label, grid.affine),
            prefix=cwd / "template_",
            affine_iterations=tuple(self.inputs.affine_iterations),
            syn_iterations=(0, 0, 0),
            seed=self.inputs.seed,
        )
        given = self.inputs.atlases if isdefined(self.inputs.atlases) else {}
        known = atlases.gather(
            {name: Path(path) for name, path in given.items()}, threshold=self.inputs.threshold
        )
        points = apply_affine(grid.affine, np.argwhere(label > 0))
        mapped = warps.map_points(points, warps.read_transform(inverse))
        voxels = regions.Voxels(np.ones(len(mapped), dtype=np.int64), mapped)
        return regions.locate(voxels, 1, known.tissue, known.columns).iloc[0]


def _write(table: pd.DataFrame, path: Path) -> Path:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    return path


def region_table(
    lesion: np.ndarray,
    grid: geometry.Grid,
    brain: np.ndarray,
    known: AtlasSet,
    cutoffs_ml: tuple[float, ...],
) -> pd.DataFrame:
    """Rows of all atlases, and of the tracts with their loads; regions end where the brain does."""
    everything = {**known.shares, **({"tract": known.tract} if known.tract else {})}
    parts = []
    for name, atlas in everything.items():
        labels = atlas.on_grid(grid) * brain
        part = regions.region_shares(lesion, labels, atlas, grid.affine).assign(atlas=name)
        if name == "tract":
            part = _with_loads(part, lesion, labels, sorted(atlas.names), grid, cutoffs_ml)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True).reindex(columns=list(REGION_COLUMNS)[2:])
    table.insert(0, "index", np.arange(1, len(table) + 1))
    table.insert(
        1, "name", [f"{a}: {r}" for a, r in zip(table["atlas"], table["region"], strict=True)]
    )
    return table


def _with_loads(
    part: pd.DataFrame,
    lesion: np.ndarray,
    labels: np.ndarray,
    numbers: list[int],
    grid: geometry.Grid,
    cutoffs_ml: tuple[float, ...],
) -> pd.DataFrame:
    loads = [tracts.tract_load(lesion, labels == number, grid.affine) for number in numbers]
    weighted = [load.weighted_mm3 for load in loads]
    return part.assign(
        weighted_load_mm3=weighted, severity=[tracts.severity(w, cutoffs_ml) for w in weighted]
    )


REGION_COLUMNS = {
    "index": "Number of the row.",
    "name": "Atlas and region.",
    **regions.SHARE_COLUMNS,
    "weighted_load_mm3": "Weighted lesion load of a tract: the overlap of each axial slice times "
    "the tract's largest cross-section over that of the slice (Zhu et al. 2010); n/a for regions "
    "that are no tract. lesion_volume_mm3 is the raw load.",
    "severity": "Of the weighted load by cut-offs: none, small, medium or large.",
}


def region_dictionary() -> dict[str, dict[str, str]]:
    """Data dictionary of the table of regions as a BIDS sidecar holds it."""
    described = {name: {"Description": text} for name, text in REGION_COLUMNS.items()}
    return {**described, "index": {**described["index"], "Format": "integer"}}


def summary(table: pd.DataFrame, shares: pd.DataFrame, hemisphere: str) -> dict[str, Any]:
    """A session in short: hemisphere, volumes (mm3) by lobe and other columns, tract loads."""
    volume = table["volume_mm3"].astype(float)
    volumes = {
        name: volume.groupby(table[name]).sum().round(1).to_dict()
        for name in ("hemisphere", "lobe", "depth", "super_region", "territory")
    }
    tract = shares[shares["atlas"] == "tract"]
    distance = table["ventricle_distance_mm"].min()
    return {
        "hemisphere": hemisphere,
        "volume_mm3": volumes,
        "ventricle_distance_mm": None if pd.isna(distance) else float(distance),
        "tracts": {
            row["region"]: {
                "raw_mm3": round(row["lesion_volume_mm3"], 1),
                "weighted_mm3": round(row["weighted_load_mm3"], 1),
                "share": round(row["lesioned_share"], 4),
                "severity": row["severity"],
            }
            for row in tract.to_dict("records")
        },
    }
