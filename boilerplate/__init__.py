"""The methods text and its bibliography."""

from importlib.resources import files
from typing import Any


def text(name: str, **values: Any) -> str:
    """One part of the methods text, ``name``.md, with its ``{fields}`` filled in."""
    source = files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")
    return source.strip().format(**values)


def bibliography() -> str:
    """All references, as BibTeX."""
    return files(__name__).joinpath("boilerplate.bib").read_text(encoding="utf-8")
