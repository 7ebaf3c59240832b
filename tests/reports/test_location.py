"""Words on template space, from the record of a session."""

import shutil
from pathlib import Path

from bids_stroke.core.files import read_json, write_json
from bids_stroke.reports import location
from bids_stroke.reports.participant import write_participant_report

NORMALIZATION = {
    "template": "MNI152NLin2009aSym",
    "similarity_before": 1.01,
    "similarity_after": 1.0544,
    "brain_overlap_dice": 0.984,
    "left_out_ml": None,
    "jacobian": {"relative_p0.1": 0.57, "relative_p99.9": 2.2},
}
LOCATION = {
    "hemisphere": "left",
    "volume_mm3": {"lobe": {"insula": 500.0, "frontal": 2500.0}},
    "ventricle_distance_mm": 12.4,
    "tracts": {
        "left <corticospinal> tract": {
            "raw_mm3": 900.0, "weighted_mm3": 2100.0, "share": 0.05, "severity": "medium"
        }
    },
}  # fmt: skip


def test_facts() -> None:
    record = {"normalization": NORMALIZATION, "location": LOCATION}
    assert dict(location.template(record)) == {
        "Template": "MNI152NLin2009aSym",
        "Similarity before": "1.010",
        "Similarity after": "1.054",
        "Overlap of the brains (Dice)": "0.98",
        "Local change of volume (99.8 % of the brain)": "0.57 to 2.20 times",
    }
    assert dict(location.location(record)) == {
        "Hemisphere": "left",
        "Lobes": "frontal 2.50 mL, insula 0.50 mL",
        "To the ventricles": "12 mm",
        "Lesion load of the left <corticospinal> tract": "0.90 mL, weighted 2.10 mL: medium",
    }


def test_nothing_without_a_template() -> None:
    assert location.template({}) == []
    assert location.location({"location": None}) == []


def test_the_page_shows_it_and_escapes_names(outputs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(outputs, tmp_path / "out"))
    path = next(copy.glob("sub-*/figures/*_desc-qc.json"))
    write_json(path, {**read_json(path), "normalization": NORMALIZATION, "location": LOCATION})
    page = write_participant_report(copy, path.parent.parent.name).read_text()
    assert "Registration to the template" in page
    assert "left &lt;corticospinal&gt; tract" in page
