"""Readers of what users give see random changes: only errors of our own may come out."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_stroke import config, data
from bids_stroke.bids import checks, description
from bids_stroke.bids.names import parse
from bids_stroke.cli import engine, parser
from bids_stroke.core.conform import conform, read_mask
from bids_stroke.core.crashes import read_crash
from bids_stroke.errors import BidsStrokeError
from bids_stroke.models import descriptor
from tests.bad_inputs import stored

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGE = stored()
DESCRIPTOR = data.path("models", "embedded.toml").read_bytes()
SETTINGS = b"""
[model]
name = "auto"
threshold = 0.5
folds = [0, "all"]
[processing]
output_spaces = ["T1w"]
[execution]
nprocs = 2
work_dir = "/w"
[dataset]
filters = {t1w = {run = "1"}}
"""
FILTERS = json.dumps({"t1w": {"run": [1, None], "acq": "x"}, "mask": {"desc": "brain"}}).encode()

Changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=6)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changed(content: bytes, changes: list[tuple[float, bytes]]) -> bytes:
    """Content with some places overwritten."""
    raw = bytearray(content)
    for share, new in changes:
        start = int(share * len(raw))
        raw[start : start + len(new)] = new
    return bytes(raw)


def survives(read: Callable[[Path], object], name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            read(path)
        except BidsStrokeError as error:
            assert "\n" not in str(error).strip()


@quick
@given(Changes)
@pytest.mark.parametrize("read", [conform, read_mask])
def test_image_headers(read: Callable[[Path], object], changes: list) -> None:
    content = changed(IMAGE[:352], changes) + IMAGE[352:]
    survives(read, "sub-01_T1w.nii.gz", gzip.compress(content, 1))
    survives(read, "sub-01_T1w.nii", content)


@quick
@given(Changes)
def test_compressed_images(changes: list) -> None:
    survives(conform, "sub-01_T1w.nii.gz", changed(gzip.compress(IMAGE, 1), changes))


@quick
@given(Changes)
def test_descriptors(changes: list) -> None:
    survives(descriptor.load, "model.toml", changed(DESCRIPTOR, changes))


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def _settings(path: Path) -> object:
    return parser.parse(["b", "o", "participant", "--config-file", str(path)])


@quick
@given(Changes)
def test_settings(changes: list) -> None:
    survives(_settings, "c.toml", changed(SETTINGS, changes))


@quick
@given(st.dictionaries(st.sampled_from(["model", "dataset", "execution", "x"]), VALUES))
def test_settings_of_any_shape(table: dict) -> None:
    try:
        config.check_table(table)
    except BidsStrokeError as error:
        assert str(error)


@quick
@given(Changes, VALUES)
def test_filter_files(changes: list, value: object) -> None:
    read = lambda path: parser._filters(str(path))  # noqa: E731
    survives(read, "f.json", changed(FILTERS, changes))
    survives(read, "f.json", json.dumps(value).encode())
    survives(read, "f.json", json.dumps({"t1w": value}).encode())


@quick
@given(VALUES, st.sampled_from(["Name", "BIDSVersion", "DatasetType", "GeneratedBy", "Authors"]))
def test_dataset_descriptions(value: object, key: str) -> None:
    content = {"Name": "n", "BIDSVersion": "1.10.0", key: value}

    def read(path: Path) -> None:
        checks.check_dataset(path.parent)

    def describe(path: Path) -> None:
        description.describe_dataset(path.parent, path.parent / "in")

    for reader in (read, describe):
        survives(reader, "dataset_description.json", json.dumps(content).encode())
        survives(reader, "dataset_description.json", json.dumps(value).encode())


@quick
@given(VALUES)
def test_plugin_files(value: object) -> None:
    for content in (value, {"plugin": value}, {"plugin": "Linear", "plugin_args": value}):
        survives(engine.read_plugin, "p.yml", json.dumps(content).encode())


@quick
@given(st.binary(max_size=60))
def test_plugin_bytes(content: bytes) -> None:
    survives(engine.read_plugin, "p.yml", content)


@quick
@given(TEXT, TEXT)
def test_names_and_crash_files(one: str, two: str) -> None:
    assert "extension" in parse(f"sub-{one}_{two}.nii.gz")
    assert read_crash(f"Node: {one}\nTraceback (most recent call last)\n{two}: {one}\n").message
