"""The page of a model, from what the record of a session says of it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_stroke.bids.names import model_page
from bids_stroke.core.words import plain_name
from bids_stroke.reports.pages import render

OLD_RECORD = {
    "intended_use": "What it is meant for",
    "training_data": "What it was trained on",
    "licence": "Licence",
}


MEASURES = {
    "n": "Cases",
    "dice": "Dice",
    "dice within 10mm": "Dice within 10 mm of the lesion",
    "detected": "Share found (a tenth of it marked)",
    "marked elsewhere ml": "Falsely marked more than 10 mm from a lesion (mL)",
    "marked without lesion ml": "Falsely marked on a scan without lesions (mL)",
    "mean marked without lesion ml": "Falsely marked on a scan without lesions, mean (mL)",
}
"""What the measures of the models that come with the program are (``benchmarks/embedded``)."""
FOUND = re.compile(r"found of (\d+)( plain)? between (\d+) and (\d+) mm3")


def measure_name(name: str) -> str:
    """A measure of a model's card in plain words, with the images before it where they are."""
    images, _, measure = name.rpartition(", ")
    if found := FOUND.fullmatch(measure):
        count, plain, low, high = found.groups()
        words = f"Found of {count} small lesions ({low} to {high} mm³)"
        words += ", painted by other code than the training has" if plain else ""
    else:
        words = MEASURES.get(measure) or plain_name(measure)
    return f"{images}: {words}" if images else words


def _sections(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The card that the record holds; what a record from before there were cards says."""
    if model.get("card"):
        return [_readable(section) for section in model["card"]]
    return [
        {"title": title, "text": model[key], "facts": [], "columns": [], "rows": []}
        for key, title in OLD_RECORD.items()
        if model.get(key)
    ]


def _readable(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section of the card with its measures in plain words; files keep their names."""
    facts = [(name if "/" in name else measure_name(name), text) for name, text in section["facts"]]
    rows = [[on, measure_name(name), *values] for on, name, *values in section["rows"]]
    return {**section, "facts": facts, "rows": rows}


def write_model_page(output_dir: Path, model: Mapping[str, Any]) -> Path:
    """Write ``model-<name>.html`` beside the pages of participants; returns its path.

    ``model`` is the part ``model`` of a quality record (``workflows.reports.model_record``).
    """
    return render(
        "model.html.j2",
        Path(output_dir) / model_page(str(model["name"])),
        model=model,
        sections=_sections(model),
    )
