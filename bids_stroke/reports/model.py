"""The page of a model, from what the record of a session says of it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_stroke.reports.pages import render

OLD_RECORD = {
    "intended_use": "What it is meant for",
    "training_data": "What it was trained on",
    "licence": "Licence",
}


def model_page_name(model: Mapping[str, Any]) -> str:
    """Name of the page's file: ``model-embedded.html``."""
    return f"model-{re.sub(r'[^A-Za-z0-9._-]', '-', str(model['name']))}.html"


def _sections(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The card that the record holds; what a record from before there were cards says."""
    if model.get("card"):
        return list(model["card"])
    return [
        {"title": title, "text": model[key], "facts": [], "columns": [], "rows": []}
        for key, title in OLD_RECORD.items()
        if model.get(key)
    ]


def write_model_page(output_dir: Path, model: Mapping[str, Any]) -> Path:
    """Write ``model-<name>.html`` beside the pages of participants; returns its path.

    ``model`` is the part ``model`` of a quality record (``workflows.reports.model_record``).
    """
    return render(
        "model.html.j2",
        Path(output_dir) / model_page_name(model),
        model=model,
        sections=_sections(model),
    )
