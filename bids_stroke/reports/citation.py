"""The methods text of a run, as Markdown, HTML and BibTeX."""

import re
from collections.abc import Iterator
from html import escape
from importlib.metadata import version
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from bids_stroke import __version__, boilerplate
from bids_stroke.core.files import write_text
from bids_stroke.reports.pages import render

_CITED = re.compile(r"\[(@[\w-]+(?:; ?@[\w-]+)*)\]")
_ENTRY = re.compile(r"^@\w+\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+) = \{(.*)\},?$", re.MULTILINE)
_ACCENTS = {r"{\`e}": "è", r"{\'e}": "é"}


def methods_text(description: str) -> str:
    """Methods as Markdown: what frames every run, around what the workflow says of itself."""
    packages = ("nipype", "niworkflows", "pybids", "nibabel")
    opening = boilerplate.text(
        "preproc", version=__version__, **{name: version(name) for name in packages}
    )
    parts = [opening, description.strip(), boilerplate.text("segment")]
    parts.append(boilerplate.text("closing"))
    return "\n\n".join(part for part in parts if part) + "\n"


def cited_keys(text: str) -> list[str]:
    """Keys of ``[@a; @b]`` in a text, in the order of their first mention."""
    keys = (key.strip().lstrip("@") for m in _CITED.finditer(text) for key in m[1].split(";"))
    return list(dict.fromkeys(keys))


def _entries() -> dict[str, str]:
    return {m[1]: m[0] for m in _ENTRY.finditer(boilerplate.bibliography())}


def bibtex(text: str) -> str:
    """BibTeX entries of what a text cites; raises KeyError for a key that nobody wrote."""
    entries = _entries()
    return "\n\n".join(entries[key] for key in cited_keys(text)) + "\n"


def reference(entry: str) -> str:
    """One BibTeX entry of ours as a line of plain text."""
    fields = {name: _plain(value) for name, value in _FIELD.findall(entry)}
    place = [fields.get("journal", fields.get("howpublished", ""))]
    place += [f"{fields['volume']}:{fields['pages']}"] if {"volume", "pages"} <= set(fields) else []
    place += [fields["year"]] if "year" in fields else []
    doi = f" doi:{fields['doi']}" if "doi" in fields else ""
    where = ", ".join(part for part in place if part)
    return f"{_authors(fields['author']).rstrip('.')}. {fields['title']}. {where}.{doi}"


def _plain(value: str) -> str:
    for code, letter in _ACCENTS.items():
        value = value.replace(code, letter)
    return value.replace("{", "").replace("}", "").replace("--", "–")


def _authors(names: str) -> str:
    people = names.split(" and ")
    shown = [name.partition(",")[0] for name in people if name != "others"]
    more = len(shown) > 4 or "others" in people
    return f"{shown[0]} et al." if more else ", ".join(shown)


def _rendered(text: str, level: int) -> str:
    """HTML of Markdown without raw HTML, links and images; headings start at ``level``."""
    markdown = MarkdownIt("commonmark", {"html": False}).disable(["link", "image", "autolink"])
    return re.sub(
        r"(</?h)([1-6])>",
        lambda m: f"{m[1]}{min(int(m[2]) + level - 1, 6)}>",
        markdown.render(text),
    )


def _numbered(text: str, rendered: str, prefix: str) -> Iterator[str]:
    """Rendered HTML with each citation as a link to its place in the list of references."""
    number = {key: i for i, key in enumerate(cited_keys(text), 1)}
    end = 0
    for match in _CITED.finditer(rendered):
        keys = [key.strip().lstrip("@") for key in match[1].split(";")]
        links = [f'<a href="#{prefix}{number[k]}">{number[k]}</a>' for k in keys]
        yield rendered[end : match.start()] + f"[{', '.join(links)}]"
        end = match.end()
    yield rendered[end:]


def methods_html(text: str, *, level: int = 2, prefix: str = "ref-") -> Markup:
    """Safe HTML of a methods text, with numbered references; no raw HTML and no address passes."""
    entries = _entries()
    body = "".join(_numbered(text, _rendered(text, level), prefix))
    known = [(i, key) for i, key in enumerate(cited_keys(text), 1) if key in entries]
    items = (f'<li id="{prefix}{i}">{escape(reference(entries[key]))}</li>' for i, key in known)
    references = f'<ol class="references">{"".join(items)}</ol>' if known else ""
    return Markup(body + references)  # noqa: S704 # nosec B704 # rendered without raw HTML, escaped


def write_citation(description: str, logs: Path) -> Path:
    """Write ``CITATION.md``, ``.html`` and ``.bib`` into ``logs``; returns the Markdown file.

    ``description`` is the text of a workflow (``LiterateWorkflow.visit_desc()``).
    """
    logs = Path(logs)
    logs.mkdir(parents=True, exist_ok=True)
    text = methods_text(description)
    write_text(logs / "CITATION.bib", bibtex(text))
    render("citation.html.j2", logs / "CITATION.html", methods=methods_html(text))
    return write_text(logs / "CITATION.md", text)
