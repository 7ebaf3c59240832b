"""Files that ship with the package: names, templates, recipes and the embedded model."""

from importlib.resources import files
from pathlib import Path


def path(*parts: str) -> Path:
    """Path of a packaged file or folder, for example ``path("models", "embedded.toml")``."""
    return Path(str(files(__name__))).joinpath(*parts)
