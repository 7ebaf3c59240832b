"""Methods text: what was run, with references that exist."""

import re
from pathlib import Path

import pytest

from bids_stroke import __version__, boilerplate
from bids_stroke.reports import citation


def test_three_files_that_belong_together(tmp_path: Path) -> None:
    path = citation.write_citation("N4 [@n4] and brains by deepbet [@deepbet].", tmp_path)
    text = path.read_text(encoding="utf-8")
    assert __version__ in text
    assert "research" in text
    bib = (tmp_path / "CITATION.bib").read_text(encoding="utf-8")
    assert set(re.findall(r"@\w+\{(\w+),", bib)) == set(citation.cited_keys(text))
    html = (tmp_path / "CITATION.html").read_text(encoding="utf-8")
    assert "N4ITK" in html
    assert "[@" not in html
    assert "://" not in html


def test_keys_in_order_of_mention() -> None:
    assert citation.cited_keys("a [@n4; @ants] b [@n4] c [@nnunet]") == ["n4", "ants", "nnunet"]


def test_a_key_that_nobody_wrote_is_an_error() -> None:
    with pytest.raises(KeyError):
        citation.bibtex("as in [@nobody2099]")


def test_keys_of_all_texts_have_an_entry() -> None:
    sources = Path(boilerplate.__file__).parent.glob("*.md")
    package = Path(citation.__file__).parents[1]
    texts = [p.read_text(encoding="utf-8") for p in (*sources, *package.rglob("*.py"))]
    keys = {key for text in texts for key in re.findall(r"\[@(\w+)", text)} - {"a"}
    assert {"nnunet", "nipype"} <= keys
    assert keys <= set(citation._entries())


@pytest.mark.parametrize(
    "text",
    ["<script>x</script>", "[click](javascript:x)", "![p](http://a.b/c.png)", "<http://a.b>"],
)
def test_rendering_is_safe(text: str) -> None:
    html = citation.methods_html(text)
    assert not re.search(r"<(script|img|a)\b", html)


def test_reference_in_words() -> None:
    entry = citation._entries()["meddahi2024"]
    line = citation.reference(entry)
    assert line.startswith("Meddahi et al. Deep Learning")
    assert line.endswith("HAL preprint hal-04647365, 2024.")
