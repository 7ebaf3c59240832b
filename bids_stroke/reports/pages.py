"""What all pages share: templates, figures as data URIs, numbers in words."""

from base64 import b64encode
from datetime import datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from bids_stroke import __version__, data
from bids_stroke.core.files import write_text
from bids_stroke.core.words import millilitres

MEDIA = {".webp": "image/webp", ".png": "image/png", ".svg": "image/svg+xml"}


def data_uri(path: Path, share: float = 1.0) -> str:
    """A figure as an address that holds its content, in at most ``share`` of its bytes."""
    if share < 1 and path.suffix != ".svg":
        return _address("image/webp", _smaller(path, share))
    return _address(MEDIA[path.suffix], path.read_bytes())


def _address(media: str, content: bytes) -> str:
    return f"data:{media};base64,{b64encode(content).decode('ascii')}"


def _smaller(path: Path, share: float) -> bytes:
    """A picture as WebP in at most ``share`` of its bytes, by fewer pixels; not under 300 wide."""
    wanted, scale = path.stat().st_size * share, min(share**0.5, 1.0)
    with Image.open(path) as image:
        while True:
            size = max(round(image.width * scale), 300), max(round(image.height * scale), 1)
            buffer = BytesIO()
            image.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=66)
            if buffer.tell() <= wanted or size[0] <= 300:
                return buffer.getvalue()
            scale *= 0.85


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels; (0, 0) for drawings without pixels."""
    if path.suffix == ".svg":
        return 0, 0
    with Image.open(path) as image:
        return image.size


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(data.path("templates"))
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        data_uri=data_uri, size=image_size, ml=millilitres, duration=duration
    )
    return environment


def asset(name: str) -> Markup:
    """Style, script or text of the package, put into the page unchanged."""
    text = data.path("templates", name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 # nosec B704 # a file of ours


def load_templates() -> None:
    """Read and compile the templates of ``data/templates``, which are then kept."""
    for name in _environment().list_templates(["j2"]):
        _environment().get_template(name)


def fragment(template: str, **values: Any) -> Markup:
    """Fill a template of ``data/templates`` that is a part of a page."""
    return Markup(_environment().get_template(template).render(**values))  # noqa: S704 # nosec B704


def render(template: str, path: Path, **values: Any) -> Path:
    """Fill a template of ``data/templates`` and write the page atomically.

    ``libraries`` are scripts that only some pages need, ``packed`` those that such a script unpacks
    when it needs them (base64 of gzip, by the id of their element), ``licences`` pairs of the name
    and the licence of what they carry (``viewer.assets()`` gives all). ``connect`` is what the page
    may load besides itself: a source of the Content-Security-Policy.
    """
    common = {
        "style": asset("page.css") + asset("viewer.css"),
        "script": asset("page.js"),
        "version": __version__,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "libraries": (),
        "packed": {},
        "licences": (),
        "connect": "'none'",
    }
    return write_text(Path(path), fragment(template, **(common | values)))
