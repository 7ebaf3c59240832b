"""What a page says of template space: how the brain came there, and what the lesions touch."""

from collections.abc import Mapping
from typing import Any

Facts = list[tuple[str, str]]

VIEWS = {"templatebefore_xfm": "Before", "templateafter_xfm": "After"}
_NUMBERS = {
    "similarity_before": ("Similarity before", "{:.3f}"),
    "similarity_after": ("Similarity after", "{:.3f}"),
    "brain_overlap_dice": ("Overlap of the brains (Dice)", "{:.2f}"),
    "left_out_ml": ("Left out of the comparison", "{:.1f} mL"),
}


def template(record: Mapping[str, Any]) -> Facts:
    """Facts of the registration to a template, as pairs of a name and a text."""
    found = record.get("normalization") or {}
    facts = [("Template", str(found["template"]))] if found else []
    facts += [
        (name, form.format(found[key]))
        for key, (name, form) in _NUMBERS.items()
        if found.get(key) is not None
    ]
    if jacobian := found.get("jacobian"):
        stretch = f"{jacobian['relative_p0.1']:.2f} to {jacobian['relative_p99.9']:.2f} times"
        facts.append(("Local change of volume (99.8 % of the brain)", stretch))
    return facts


def location(record: Mapping[str, Any]) -> Facts:
    """Where the lesions are: hemisphere, volumes by lobe, ventricles, loads of the tract."""
    found = record.get("location") or {}
    facts = [("Hemisphere", str(found["hemisphere"]))] if found else []
    lobes = found.get("volume_mm3", {}).get("lobe", {})
    if lobes:
        ordered = sorted(lobes.items(), key=lambda item: -item[1])
        facts.append(("Lobes", ", ".join(f"{n} {v / 1000:.2f} mL" for n, v in ordered)))
    if found.get("ventricle_distance_mm") is not None:
        facts.append(("To the ventricles", f"{found['ventricle_distance_mm']:.0f} mm"))
    for name, load in found.get("tracts", {}).items():
        raw, weighted = load["raw_mm3"] / 1000, load["weighted_mm3"] / 1000
        text = f"{raw:.2f} mL, weighted {weighted:.2f} mL: {load['severity']}"
        facts.append((f"Lesion load of the {name}", text))
    return facts
