"""The index holds images of anat folders only, and a kept one is never out of date."""

from pathlib import Path

import pytest

from bids_stroke.bids import layout as module
from bids_stroke.bids.layout import build_layout
from bids_stroke.errors import CannotCreate
from tests.bids.skeleton import dataset, touch


def files(layout: object) -> set[str]:
    return {Path(path).name for path in layout.get_files()}  # type: ignore[attr-defined]


def test_only_anat(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "01/T1w", "02/a/FLAIR")
    for other in ("sub-01/func", "sub-01/ses-a/dwi", "code/sub-01/anat", ".git/sub-01/anat"):
        (root / other).mkdir(parents=True)
        (root / other / "sub-01_T1w.nii.gz").touch()
    (root / "sub-01" / "anat" / "sub-01_T1w.json").write_text("{")
    assert files(build_layout(root)) == {"sub-01_T1w.nii.gz", "sub-02_ses-a_FLAIR.nii.gz"}


def test_only_some_participants(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "01/T1w", "010/T1w", "02/T1w")
    assert files(build_layout(root, participants=["01"])) == {"sub-01_T1w.nii.gz"}


def test_kept_index_is_reused_and_made_anew_when_the_tree_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, kept = dataset(tmp_path / "raw", "01/T1w"), tmp_path / "kept"
    build_layout(root, database_dir=kept)
    (first,) = kept.iterdir()

    def fail(*_: object) -> None:
        raise AssertionError("the index was built again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_keep_index", fail)
        assert files(build_layout(root, database_dir=kept)) == {"sub-01_T1w.nii.gz"}
    touch(root, ["01/FLAIR"])
    now = build_layout(root, database_dir=kept)
    assert files(now) == {"sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"}
    (second,) = kept.iterdir()
    assert second != first


def test_kept_index_holds_all_participants(tmp_path: Path) -> None:
    root, kept = dataset(tmp_path / "raw", "01/T1w", "02/T1w"), tmp_path / "kept"
    build_layout(root, participants=["01"], database_dir=kept)
    assert len(files(build_layout(root, participants=["02"], database_dir=kept))) == 2


def test_two_datasets_share_a_folder(tmp_path: Path) -> None:
    one, two = dataset(tmp_path / "one", "01/T1w"), dataset(tmp_path / "two", "02/T1w")
    for _ in range(2):
        assert files(build_layout(one, database_dir=tmp_path / "kept")) == {"sub-01_T1w.nii.gz"}
        assert files(build_layout(two, database_dir=tmp_path / "kept")) == {"sub-02_T1w.nii.gz"}
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_no_place_for_the_index(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "01/T1w")
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="another folder"):
        build_layout(root, database_dir=tmp_path / "file")
