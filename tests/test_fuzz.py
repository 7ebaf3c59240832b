"""Readers of what users give see random changes: only errors of our own may come out.

``tests/fuzz_atheris.py`` goes further, guided by the code that is reached.
"""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke import config
from bids_stroke.bids.names import parse
from bids_stroke.core.crashes import read_crash
from bids_stroke.errors import BidsStrokeError
from tests.readers import IMAGE, READERS

pytestmark = pytest.mark.filterwarnings("ignore")

Changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=6)
quick = settings(max_examples=60, deadline=None)
SLOW = {"sidecar"}  # each makes an index
"""Readers that are tried some times only."""


def changed(content: bytes, changes: list[tuple[float, bytes]]) -> bytes:
    """Content with some places overwritten."""
    raw = bytearray(content)
    for share, new in changes:
        start = int(share * len(raw))
        raw[start : start + len(new)] = new
    return bytes(raw)


FOUND = [
    ("splits", b'[{"train": [["sub-01"]], "val": ["sub-02"]}]'),
    ("splits", b'[{"train": 1, "val": ["sub-02"]}]'),
    ("filters", b'{"t1w": {"\\n": null}}'),
    ("participants", b""),
    ("pickle", b"\x8e"),
    ("pickle", b"t"),
    ("pickle", b"cnumpy\ndtype\n(V(\ntR."),
    ("old checkpoint", b"\x80\x02h\x74."),
    ("mat", b"\x00" * 24),
    ("transform", b"Parameters: x\n"),
    ("labels", READERS["labels"].sample[:-3000]),
]
"""What random search has found, and other bytes of its kind."""


@pytest.mark.parametrize(("name", "content"), FOUND)
def test_what_was_found(name: str, content: bytes) -> None:
    READERS[name].try_on(content)


@pytest.mark.parametrize("name", READERS)
def test_samples_are_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    path = tmp_path / reader.name
    path.write_bytes(reader.sample)
    reader.read(path)


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
@quick
@given(Changes)
def test_changed_bytes(name: str, changes: list) -> None:
    READERS[name].try_on(changed(READERS[name].sample, changes))


@pytest.mark.parametrize("name", SLOW)
@settings(max_examples=8, deadline=None)
@given(Changes)
def test_changed_bytes_of_what_is_read_slowly(name: str, changes: list) -> None:
    READERS[name].try_on(changed(READERS[name].sample, changes))


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
@quick
@given(st.binary(max_size=60))
def test_any_bytes(name: str, content: bytes) -> None:
    READERS[name].try_on(content)


@pytest.mark.parametrize("name", ["image", "mask", "labels", "reference"])
@quick
@given(Changes)
def test_image_headers(name: str, changes: list) -> None:
    READERS[name].try_on(changed(IMAGE[:352], changes) + IMAGE[352:])


@quick
@given(Changes)
def test_headers_of_packed_images(changes: list) -> None:
    content = changed(IMAGE[:352], changes) + IMAGE[352:]
    READERS["packed image"].try_on(gzip.compress(content, 1))


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.dictionaries(st.sampled_from(["model", "dataset", "execution", "x"]), VALUES))
def test_settings_of_any_shape(table: dict) -> None:
    try:
        config.check_table(table)
    except BidsStrokeError as error:
        assert str(error)


@pytest.mark.parametrize("name", ["filters", "dataset", "output", "plugin", "splits"])
@quick
@given(VALUES)
def test_json_of_any_shape(name: str, value: object) -> None:
    READERS[name].try_on(json.dumps(value).encode())


@pytest.mark.parametrize("name", ["dataset", "output"])
@quick
@given(VALUES, st.sampled_from(["Name", "BIDSVersion", "DatasetType", "GeneratedBy", "Authors"]))
def test_dataset_descriptions(name: str, value: object, key: str) -> None:
    content = {"Name": "n", "BIDSVersion": "1.10.0", key: value}
    READERS[name].try_on(json.dumps(content).encode())


@quick
@given(VALUES)
def test_values_in_json(value: object) -> None:
    for name, content in (
        ("filters", {"t1w": value}),
        ("plugin", {"plugin": value}),
        ("plugin", {"plugin": "Linear", "plugin_args": value}),
        ("splits", [{"train": value, "val": ["sub-01"]}]),
        ("splits", [value]),
    ):
        READERS[name].try_on(json.dumps(content).encode())


@settings(max_examples=8, deadline=None)
@given(VALUES)
def test_sidecars_of_any_shape(value: object) -> None:
    READERS["sidecar"].try_on(json.dumps(value).encode())
    READERS["sidecar"].try_on(json.dumps({"EchoTime": value}).encode())


@quick
@given(TEXT, TEXT)
def test_names_and_crash_files(one: str, two: str) -> None:
    assert "extension" in parse(f"sub-{one}_{two}.nii.gz")
    assert read_crash(f"Node: {one}\nTraceback (most recent call last)\n{two}: {one}\n").message
