"""The card of a model: what it is, how it did, what it must not be used for. One text for all.

``bids_stroke-models show`` and the page of a model say the same, because both say this.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bids_stroke.models.descriptor import Descriptor

Section = dict[str, Any]
"""``title``, ``text``, ``facts`` (pairs of a name and a value), ``columns`` and ``rows``."""

NOT_FOR = {
    "lesions": (
        "The diagnosis, treatment or care of patients: it is no medical device.",
        "Telling stroke from other disease: it may mark what only looks like stroke, such as "
        "multiple sclerosis, small vessel disease, tumours and artefacts.",
        "Images of the first hours of a stroke, and kinds of images other than {images}.",
        "Proof that there is no lesion: small and faint ones can be missed.",
    ),
    "brain": ("The diagnosis, treatment or care of patients: it is no medical device.",),
}
SYNTHETIC = "Any statement on real strokes: it has seen synthetic lesions only."


def runs_on(model: Descriptor) -> str:
    """Sets of images that a model runs on: ``T1w+FLAIR, FLAIR``; in brackets what else it finds."""
    if model.purpose != "lesions":
        return f"({model.purpose})"
    return ", ".join("+".join(modalities) for modalities in model.inputs)


def not_for(model: Descriptor) -> list[str]:
    """What a model must not be used for, in sentences."""
    sentences = [text.format(images=runs_on(model)) for text in NOT_FOR[model.purpose]]
    return [SYNTHETIC, *sentences] if model.synthetic else sentences


def card(model: Descriptor) -> list[Section]:
    """All that is known of a model, in the order in which a reader asks. JSON can hold it."""
    sections = [
        _section("What it is", model.description, facts=_what(model)),
        _section("What it is meant for", model.intended_use),
        _section("What it must not be used for", facts=[("", text) for text in not_for(model)]),
        _section("What it was trained on", model.training_data),
        _evaluation(model.evaluation),
        _section("How it is run", facts=_run(model)),
        _section("Licence", model.licence),
        _section("Citation", model.citation),
        _section("Where it comes from", facts=_source(model)),
        _section("Files", facts=_files(model)),
    ]
    return [s for s in sections if s["text"] or s["facts"] or s["rows"]]


def lines(model: Descriptor) -> Iterator[str]:
    """The card as lines for a terminal."""
    yield f"{model.name} {model.version}: {model.title}"
    for section in card(model):
        yield f"{section['title']}: {section['text']}".rstrip()
        for name, value in section["facts"]:
            yield f"  {name}: {value}" if name else f"  {value}"
        for row in section["rows"]:
            named = zip(section["columns"][2:], row[2:], strict=True)
            yield f"  {row[0]} {row[1]}: " + ", ".join(f"{c} {v}".strip() for c, v in named)
    yield f"descriptor: {model.file}"


def _section(title: str, text: str = "", **content: Any) -> Section:
    empty: Section = {"facts": [], "columns": [], "rows": []}
    return {"title": title, "text": text, **empty, **content}


def _what(model: Descriptor) -> list[tuple[str, str]]:
    return [
        ("version", model.version),
        ("runs on", runs_on(model)),
        ("channels", ", ".join(model.channels)),
        *([("trained on synthetic lesions", "yes")] if model.synthetic else []),
        *([] if model.automatic else [("runs", "only when named by --model")]),
    ]


def _run(model: Descriptor) -> list[tuple[str, str]]:
    point, inference = model.operating_point, model.inference
    folds = ", ".join(map(str, inference.folds)) or "all"
    mirrored = ", ".join(map(str, inference.mirror_axes)) or "no axis"
    asked = model.preprocessing
    steps = ", ".join(asked.steps)
    levels = f"; N4 of {asked.n4_levels} levels" if "n4" in asked.steps else ""
    return [
        ("preprocessing", f"{steps}; on the grid of {asked.reference}{levels}"),
        ("prediction", f"folds {folds}, mirrors {mirrored}, resamples {inference.resample}"),
        (
            "operating point",
            f"probability {point.threshold}, at least {point.min_volume_mm3} mm3, "
            f"{point.connectivity}-connected",
        ),
    ]


def _source(model: Descriptor) -> list[tuple[str, str]]:
    names = ("page", "archive", "manifest", "note")
    return [(key, value) for key in names if (value := getattr(model.source, key))]


def _files(model: Descriptor) -> list[tuple[str, str]]:
    return [
        (file.path, f"{file.size or '?'} bytes, sha256 {file.sha256 or 'not pinned'}")
        for file in model.files
    ]


def _evaluation(found: Mapping[str, Any]) -> Section:
    """What has a value for each bin of volume as rows of a table, the rest as facts."""
    title = "How it did"
    if not found:
        return _section(title, "Its descriptor states no evaluation.")
    bins = [f"{b} mL" for b in found.get("bins_ml", ())]
    values = list(_measures(found))
    binned = [of for of in values if bins and _is_by_bin(of[2], len(bins))]
    facts = [
        (f"{on}, {name}" if on else name, _words(value))
        for on, name, value in values
        if (on, name, value) not in binned
    ]
    rows = [[on or "all", name, *map(_words, value)] for on, name, value in binned]
    return _section(title, facts=facts, columns=["On", "Measure", *bins] if rows else [], rows=rows)


def _measures(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Images, measure and value of each entry; images are empty on the first level."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from ((name, key.replace("_", " "), of) for key, of in value.items())
        elif name != "bins_ml":
            yield "", name.replace("_", " "), value


def _is_by_bin(value: Any, bins: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == bins


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(v) for v in value)
    return str(value)
