"""What is no BIDS dataset is refused with a sentence that names the file."""

from pathlib import Path

import pytest

from bids_stroke.bids.checks import check_dataset, check_participants, subjects
from bids_stroke.errors import InputMissing, InvalidDataset, NothingSelected
from tests.bids.skeleton import dataset, describe


def test_a_good_one(tmp_path: Path) -> None:
    root = dataset(tmp_path, "02/T1w", "01/T1w")
    check_dataset(root)
    assert subjects(root) == ["01", "02"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no folder .*absent"):
        check_dataset(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ("{", "can't be read as JSON"),
        ("[]", "JSON object"),
        ('{"Name": "x"}', "lacks 'BIDSVersion'"),
        ('{"Name": 1, "BIDSVersion": "1.8.0"}', "lacks 'Name'"),
    ],
)
def test_description(tmp_path: Path, content: str | None, message: str) -> None:
    root = dataset(tmp_path, "01/T1w")
    path = root / "dataset_description.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InvalidDataset, match=message):
        check_dataset(root)


def test_byte_order_mark_is_no_reason_to_stop(tmp_path: Path) -> None:
    path = dataset(tmp_path, "01/T1w") / "dataset_description.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    check_dataset(tmp_path)


def test_derivatives_may_hold_images_named_as_raw_ones(tmp_path: Path) -> None:
    root = dataset(tmp_path, "01/T1w")
    description = '{"Name": "x", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}'
    (root / "dataset_description.json").write_text(description)
    check_dataset(root)


def test_no_participants(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="no folder sub-"):
        check_dataset(describe(tmp_path))


def test_absent_participant(tmp_path: Path) -> None:
    root = dataset(tmp_path, "01/T1w")
    check_participants(root, ["01"])
    with pytest.raises(NothingSelected, match="no sub-02, sub-03"):
        check_participants(root, ["03", "01", "02"])
