"""Downloads from a server on this computer: interrupted, truncated, wrong, moved, disk full."""

import errno
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bids_stroke.errors import (
    BidsStrokeError,
    CannotCreate,
    InputMissing,
    InputOutputError,
    TryAgain,
    UnusableData,
)
from bids_stroke.models import downloads
from bids_stroke.models.downloads import Remote, download
from tests.web import Site, serve

CONTENT = random.Random(1).randbytes(3_000_000)
RIGHT = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)}


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        site.files["/model.pth"] = CONTENT
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "store" / "model.pth"


def names(target: Path) -> list[str]:
    return sorted(p.name for p in target.parent.glob("*"))


def test_a_file_comes_whole_and_alone(site: Site, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    remote = Remote(url=site.url("/model.pth"), **RIGHT)
    download(remote, target, progress=lambda there, total: seen.append((there, total)))
    assert target.read_bytes() == CONTENT
    assert names(target) == ["model.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    download(remote, target)
    assert len(site.asked) == 1  # what is there and right is not fetched again


@pytest.mark.parametrize("stated", [RIGHT, {}, {"size": len(CONTENT)}])
def test_an_interrupted_download_goes_on(site: Site, target: Path, stated: dict[str, Any]) -> None:
    site.cut_after, site.cuts = 1_000_000, 1
    remote = Remote(url=site.url("/model.pth"), **stated)
    with pytest.raises(InputOutputError, match="broke off after 1000000 bytes") as error:
        download(remote, target, attempts=1)
    assert error.value.exit_code == 74
    assert names(target) == ["model.pth.part", "model.pth.part.etag"]
    download(remote, target)
    assert site.asked == [("/model.pth", ""), ("/model.pth", "bytes=1000000-")]
    assert target.read_bytes() == CONTENT
    assert names(target) == ["model.pth"]


def test_it_goes_on_by_itself_some_times(site: Site, target: Path) -> None:
    site.cut_after, site.cuts = 1_000_000, 2
    download(Remote(url=site.url("/model.pth"), **RIGHT), target)
    assert [asked for _, asked in site.asked] == ["", "bytes=1000000-", "bytes=2000000-"]
    assert target.read_bytes() == CONTENT


def test_a_changed_file_starts_anew(site: Site, target: Path) -> None:
    site.cut_after, site.cuts = 1_000_000, 1
    remote = Remote(url=site.url("/model.pth"))
    with pytest.raises(InputOutputError):
        download(remote, target, attempts=1)
    site.files["/model.pth"], site.etag = CONTENT[::-1], '"two"'
    download(remote, target)
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": ""}])
def test_servers_that_can_not_go_on_start_anew(
    site: Site, target: Path, change: dict[str, Any]
) -> None:
    vars(site).update(change)
    site.cut_after, site.cuts = 1_000_000, 1
    download(Remote(url=site.url("/model.pth")), target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_starts_anew(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("model.pth.part").write_bytes(CONTENT + b"more")
    download(Remote(url=site.url("/model.pth"), sha256=RIGHT["sha256"]), target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_complete_is_only_verified(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("model.pth.part").write_bytes(CONTENT)
    download(Remote(url=site.url("/model.pth"), **RIGHT), target)
    assert target.read_bytes() == CONTENT
    assert not site.asked


def test_a_truncated_file_is_refused(site: Site, target: Path) -> None:
    site.files["/model.pth"], site.lengths = CONTENT[:-1], False
    with pytest.raises(InputOutputError, match="broke off") as error:
        download(Remote(url=site.url("/model.pth"), **RIGHT), target)
    assert error.value.exit_code == 74
    assert "model.pth" not in names(target)


def test_another_length_is_refused_before_it_is_fetched(site: Site, target: Path) -> None:
    with pytest.raises(UnusableData, match="has 3000000 bytes, not 5") as error:
        download(Remote(url=site.url("/model.pth"), size=5), target)
    assert error.value.exit_code == 65
    assert names(target) == []


def test_more_than_announced_is_refused(site: Site, target: Path) -> None:
    site.lengths = False
    with pytest.raises(UnusableData, match="more than it announced"):
        download(Remote(url=site.url("/model.pth"), size=5), target)
    assert "model.pth" not in names(target)


def test_a_wrong_checksum_is_refused_and_removed(site: Site, target: Path) -> None:
    site.files["/model.pth"] = b"x" + CONTENT[1:]
    with pytest.raises(UnusableData, match="SHA-256") as error:
        download(Remote(url=site.url("/model.pth"), **RIGHT), target)
    assert error.value.exit_code == 65
    assert names(target) == []


def test_a_wrong_file_under_the_name_is_replaced(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"something else")
    download(Remote(url=site.url("/model.pth"), **RIGHT), target)
    assert target.read_bytes() == CONTENT


def test_a_moved_file_is_followed(site: Site, target: Path) -> None:
    site.moved["/old.pth"] = site.url("/model.pth")
    download(Remote(url=site.url("/old.pth"), **RIGHT), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("where", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_only_the_web_is_followed(site: Site, target: Path, where: str) -> None:
    site.moved["/old.pth"] = where
    with pytest.raises(BidsStrokeError, match="no address|not allowed"):
        download(Remote(url=site.url("/old.pth")), target)
    with pytest.raises(UnusableData, match="no address"):
        download(Remote(url=where), target)
    assert not target.exists()


def test_nobody_is_led_from_https_to_http() -> None:
    with pytest.raises(UnusableData, match="only https:// is followed"):
        downloads._check_address("http://example.org/x", secure=True)


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (404, InputMissing, 66),
        (410, InputMissing, 66),
        (403, InputOutputError, 74),
        (429, TryAgain, 75),
        (503, TryAgain, 75),
    ],
)
def test_what_the_server_refuses(
    site: Site, target: Path, code: int, kind: type[BidsStrokeError], exit_code: int
) -> None:
    site.error = code
    with pytest.raises(kind, match=str(code)) as error:
        download(Remote(url=site.url("/model.pth"), **RIGHT), target)
    assert error.value.exit_code == exit_code
    assert names(target) == []


def test_no_network(target: Path) -> None:
    with serve() as gone:
        url = gone.url("/model.pth")
    with pytest.raises(InputOutputError, match="can't be reached") as error:
        download(Remote(url=url), target)
    assert error.value.exit_code == 74


class FullDisk:
    """A file that takes a million bytes and no more."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.left = stream, 1_000_000

    def write(self, block: bytes) -> None:
        self.stream.write(block[: self.left])
        self.left -= len(block)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def test_a_full_disk_keeps_what_came(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.open

    def full(path: Path, *arguments: Any, **more: Any) -> Any:
        stream = usual(path, *arguments, **more)
        return FullDisk(stream) if path.suffix == ".part" and "b" in str(arguments) else stream

    remote = Remote(url=site.url("/model.pth"), **RIGHT)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(TryAgain, match="disk .* is full") as error:
            download(remote, target)
    assert error.value.exit_code == 75
    assert "model.pth" not in names(target)
    download(remote, target)
    assert target.read_bytes() == CONTENT
    assert site.asked[-1] == ("/model.pth", "bytes=1000000-")


def test_a_disk_that_is_too_small_is_seen_before(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TryAgain, match="needs 3"):
        download(Remote(url=site.url("/model.pth")), target)
    assert not target.exists()


def test_a_folder_that_can_not_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="can't be written") as error:
        download(Remote(url=site.url("/model.pth")), tmp_path / "file" / "model.pth")
    assert error.value.exit_code == 73
