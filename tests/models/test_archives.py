"""Zip files: what is taken, and what is refused before anything is written."""

import stat
import zipfile
from pathlib import Path

import pytest

from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models import archives
from bids_stroke.models.archives import extract


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.create_system = 3
    return info


def zipped(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return path


def test_files_of_models_are_taken_and_others_left(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "m.zip",
        ("a/", b""),
        ("a/plans.json", b"{}"),
        ("a/fold_0/checkpoint_final.pth", b"weights"),
        ("a/progress.png", b"picture"),
        ("a/run.sh", b"script"),
    )
    taken = extract(archive, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in taken] == [
        "a/plans.json",
        "a/fold_0/checkpoint_final.pth",
    ]
    assert taken[1].read_bytes() == b"weights"
    assert sum(p.is_file() for p in (tmp_path / "out").rglob("*")) == 2


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (entry("../outside.json"), "leaves the folder"),
        (entry("a/../../outside.json"), "leaves the folder"),
        (entry("/etc/outside.json"), "leaves the folder"),
        (entry("a\\..\\outside.json"), "leaves the folder"),
        (entry("C:/outside.json"), "leaves the folder"),
        (entry("link.json", stat.S_IFLNK | 0o777), "a link"),
        (entry("pipe.json", stat.S_IFIFO | 0o644), "no plain file"),
        (entry("device.json", stat.S_IFCHR | 0o644), "no plain file"),
    ],
)
def test_hostile_entries_are_refused(tmp_path: Path, hostile: zipfile.ZipInfo, reason: str) -> None:
    archive = zipped(tmp_path / "m.zip", ("plans.json", b"{}"), (hostile, b"/etc/passwd"))
    with pytest.raises(UnusableData, match=reason) as error:
        extract(archive, tmp_path / "deep" / "out")
    assert str(archive) in str(error.value)
    assert [p.name for p in tmp_path.rglob("*")] == ["m.zip"]


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "m.zip", ("plans.json", b"{}"), ("PLANS.json", b"[]"))
    with pytest.raises(UnusableData, match="twice"):
        extract(archive, tmp_path / "out")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "m.zip", ("checkpoint.pth", bytes(60 << 20)))
    assert archive.stat().st_size < 100_000
    with pytest.raises(UnusableData, match="would unpack to 63 MB"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "m.zip", ("checkpoint.pth", bytes(60 << 20)))
    true = (60 << 20).to_bytes(4, "little")
    content = archive.read_bytes()
    assert content.count(true) == 2
    archive.write_bytes(content.replace(true, (1000).to_bytes(4, "little")))
    with pytest.raises(UnusableData, match="no whole zip"):
        extract(archive, tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) <= 1000


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MOST_FILES", 3)
    archive = zipped(tmp_path / "m.zip", *((f"{i}.json", b"") for i in range(4)))
    with pytest.raises(UnusableData, match="in 4 files"):
        extract(archive, tmp_path / "out")


def test_damaged_encrypted_and_absent(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "m.zip", ("plans.json", b"{}" * 1000))
    whole = archive.read_bytes()
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    wrong_sum = bytearray(whole)
    wrong_sum[whole.index(b"PK\x01\x02") + 16] ^= 1
    no_deflate = bytearray(whole)
    no_deflate[30 + len("plans.json")] = 0xFF
    no_name = whole.replace(b"plans.json", b"\0lans.json")
    spoilt = (b"", b"no zip", whole[:-30], encrypted, wrong_sum, no_deflate, no_name)
    for number, content in enumerate(spoilt):
        archive.write_bytes(content)
        with pytest.raises(UnusableData, match=r"m\.zip"):
            extract(archive, tmp_path / f"out{number}")
    with pytest.raises(InputMissing, match=r"none\.zip"):
        extract(tmp_path / "none.zip", tmp_path / "out")
