"""The files that describe the output dataset as a whole, written whole and only when they change.

Several processes may write them at once, as on a cluster with one job a participant: each file is
renamed into place, and all processes write the same.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_stroke import __version__
from bids_stroke.bids import names
from bids_stroke.core.files import read_json, write_text
from bids_stroke.core.files import write_json as write_json_file
from bids_stroke.errors import CannotCreate, is_full

NAME = "bids_stroke"
BIDS_VERSION = "1.10.0"
CONTAINER_VARIABLE = "BIDS_STROKE_CONTAINER"
"""Environment variable that an image sets to ``<type>:<tag>``, for example ``docker:x/y:1.0``."""

README = """\
# Stroke lesions found by bids_stroke

Derivatives of T1w and FLAIR images: preprocessed images, brain masks, the probability of stroke
lesion, lesion masks, numbered lesions with their table, and transforms. Every image lies on the
grid of a source image, which its sidecar names in `SpatialReference`.

| file | what it is |
|---|---|
| `*_desc-preproc_{T1w,FLAIR}.nii.gz` | preprocessed image, brain only |
| `*_desc-brain_mask.nii.gz` | brain |
| `*_space-*_label-L_desc-stroke_probseg.nii.gz` | probability of lesion |
| `*_space-*_label-L_desc-uncertainty_probseg.nii.gz` | disagreement of models, folds or copies |
| `*_space-*_label-L_desc-stroke_mask.nii.gz` | lesions |
| `*_space-*_seg-lesions_dseg.nii.gz`, `.tsv` | lesions, one number each, and their table |
| `*_from-*_to-*_mode-image_xfm.txt` | transform, in the format of ITK |
| `sub-*.html`, `group.html` | reports |
| `logs/` | settings, messages and timing of each run; methods text in `logs/CITATION.md` |

For research use only: results are not for diagnosis or treatment.
"""


def describe_dataset(
    output_dir: Path,
    bids_dir: Path,
    *,
    derivatives: Mapping[str, Path] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Write ``dataset_description.json``, README.md, descriptions.{tsv,json} and .bidsignore.

    README.md and .bidsignore are left alone where they exist. Raises CannotCreate when
    ``output_dir`` can't be written or holds the outputs of another program.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        _refuse_other_program(output_dir)
        content = dataset_description(output_dir, bids_dir, derivatives or {}, environ)
        _write_json(output_dir / "dataset_description.json", content)
        _write_descriptions(output_dir)
        _write(output_dir / "README.md", README, replace=False)
        _write(output_dir / ".bidsignore", "\n".join(names.spec()["ignore"]) + "\n", replace=False)
    except OSError as error:
        if is_full(error):
            raise
        raise CannotCreate(
            f"The output folder {output_dir} can't be written: {error}; choose another."
        ) from error


def dataset_description(
    output_dir: Path, bids_dir: Path, derivatives: Mapping[str, Path], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Content of ``dataset_description.json``; names and authors come from the input dataset."""
    source = _source_description(bids_dir)
    links = {names.SOURCE_DATASET: bids_dir, **derivatives}
    content = {
        "Name": f"Stroke lesions of {source.get('Name', bids_dir.name)}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "Authors": source.get("Authors"),
        "License": source.get("License"),
        "GeneratedBy": [generated_by(environ)],
        "SourceDatasets": [_source_dataset(source, _link(bids_dir, output_dir))],
        "DatasetLinks": {name: _link(path, output_dir) for name, path in links.items()},
    }
    return {key: value for key, value in content.items() if value}


def generated_by(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The program, its version, and the container that it runs in, where it runs in one."""
    program: dict[str, Any] = {"Name": NAME, "Version": __version__}
    kind, colon, tag = environ.get(CONTAINER_VARIABLE, "").partition(":")
    if colon:
        program["Container"] = {"Type": kind, "Tag": tag}
    return program


def _source_description(bids_dir: Path) -> dict[str, Any]:
    try:
        content = read_json(bids_dir / "dataset_description.json")
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _source_dataset(source: Mapping[str, Any], link: str) -> dict[str, str]:
    doi = source.get("DatasetDOI")
    return {"URL": link, **({"DOI": doi} if isinstance(doi, str) else {})}


def _link(path: Path, output_dir: Path) -> str:
    """Relative path where the output lies in the dataset, as both move together, else a URI."""
    if output_dir.is_relative_to(path):
        return Path(os.path.relpath(path, output_dir)).as_posix()
    return path.absolute().as_uri()


def _refuse_other_program(output_dir: Path) -> None:
    described = _source_description(output_dir)
    if described.get("DatasetType", "derivative") == "raw":
        raise CannotCreate(
            f"{output_dir} is a raw dataset: choose an empty folder as OUTPUT_DIR, or our own."
        )
    programs = described.get("GeneratedBy") or [{"Name": NAME}]
    first = programs[0] if isinstance(programs, list) else programs
    name = first.get("Name") if isinstance(first, dict) else first
    if name != NAME:
        raise CannotCreate(
            f"{output_dir} holds the outputs of {name}: choose an empty folder or our own."
        )


def _write_descriptions(output_dir: Path) -> None:
    rows = [f"{desc}\t{text}" for desc, text in names.spec()["descs"].items()]
    _write(output_dir / "descriptions.tsv", "\n".join(["desc_id\tdescription", *rows]) + "\n")
    columns: dict[str, Any] = {
        "Description": "Values of the entity desc in names of files, and what they mean.",
        "desc_id": {"Description": "Value of the entity desc in names of files."},
        "description": {"Description": "What the value means."},
    }
    _write_json(output_dir / "descriptions.json", columns)


def _write(path: Path, text: str, *, replace: bool = True) -> None:
    if path.exists() and (not replace or path.read_text(encoding="utf-8") == text):
        return
    write_text(path, text)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    if path.exists() and _source_description_at(path) == content:
        return
    write_json_file(path, content)


def _source_description_at(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError:
        return None
