"""The store: what it lists, how it fetches from a server on this computer, what it removes."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bids_stroke.errors import (
    CannotCreate,
    InputMissing,
    InputOutputError,
    TryAgain,
    UnusableData,
    UsageError,
)
from bids_stroke.models import descriptor, store
from bids_stroke.models.descriptor import Descriptor, ModelFile, Source
from tests.models.test_archives import zipped
from tests.tiny_model import write_model
from tests.web import Site, serve


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


@pytest.fixture
def published(tmp_path: Path, site: Site) -> Descriptor:
    """The tiny model on a server, with its manifest and as a zip; only its addresses are known."""
    model = descriptor.load(write_model(tmp_path / "elsewhere", folds=2))
    manifest = {}
    for file in model.files:
        content = (model.root / file.path).read_bytes()
        name = file.path.removeprefix("tiny/")
        site.files[f"/{name}"] = content
        digest = hashlib.sha256(content).hexdigest()
        manifest[name] = {"sha256": digest, "bytes": len(content)}
    site.files["/manifest.json"] = json.dumps({"files": manifest}).encode()
    entries = [(f"release/{n}", c) for n, c in site.files.items() if n != "/manifest.json"]
    entries = [(n.replace("//", "/"), c) for n, c in entries]
    site.files["/release.zip"] = zipped(tmp_path / "release.zip", *entries).read_bytes()
    files = [ModelFile(path=f.path, url=site.url(f.path.removeprefix("tiny"))) for f in model.files]
    return replace(model, files=tuple(files), source=Source(manifest=site.url("/manifest.json")))


def quiet(name: str, there: int, total: int) -> None:
    """Progress that nobody looks at."""


def fetch(model: Descriptor, folder: Path) -> Descriptor:
    return store.fetch_described(model, folder, progress=quiet)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_fetched_files_are_pinned_by_the_manifest(tmp_path: Path, published: Descriptor) -> None:
    seen: set[str] = set()
    folder = tmp_path / "store"
    model = store.fetch_described(published, folder, progress=lambda name, *_: seen.add(name))
    assert model == descriptor.find("tiny", folder)
    descriptor.verify(model)
    assert all(f.sha256 and f.size and f.url for f in model.files)
    assert seen == {f.path for f in model.files}
    assert names(folder) == ["tiny", "tiny.toml"]


def test_fetching_goes_on_where_it_broke_off(
    tmp_path: Path, published: Descriptor, site: Site
) -> None:
    folder = tmp_path / "store"
    site.cut_after, site.cuts = 3, 99
    with pytest.raises(InputOutputError, match="fetch again to go on"):
        fetch(published, folder)
    assert names(folder) == [".parts"]
    assert descriptor.installed(folder) == descriptor.installed(tmp_path / "none")
    site.cuts = 0
    site.error = 503
    with pytest.raises(TryAgain, match="later"):
        fetch(published, folder)
    site.error = 0
    assert fetch(published, folder).name == "tiny"
    assert names(folder) == ["tiny", "tiny.toml"]


def test_a_descriptor_of_ones_own_is_fetched(tmp_path: Path, published: Descriptor) -> None:
    table = (tmp_path / "elsewhere" / "tiny.toml").read_text()
    for file in published.files:
        table = table.replace(f'path = "{file.path}"', f'path = "{file.path}"\nurl = "{file.url}"')
    (tmp_path / "lab.toml").write_text(table)
    model = store.fetch(str(tmp_path / "lab.toml"), tmp_path / "store", progress=quiet)
    assert descriptor.is_whole(model) and model.root == tmp_path / "store"
    assert all(file.url.startswith("http://") for file in model.files)
    with pytest.raises(InputMissing, match="no model descriptor at"):
        store.fetch(str(tmp_path / "none.toml"), tmp_path / "store", progress=quiet)


def test_files_that_came_whole_are_not_fetched_again(
    tmp_path: Path, published: Descriptor, site: Site
) -> None:
    folder = tmp_path / "store"
    plans = site.files.pop("/plans.json")
    with pytest.raises(InputMissing, match=r"plans\.json"):
        fetch(published, folder)
    site.files["/plans.json"] = plans
    site.asked.clear()
    fetch(published, folder)
    assert [path for path, _ in site.asked] == ["/manifest.json", "/plans.json"]


def test_what_differs_from_the_manifest_is_refused(
    tmp_path: Path, published: Descriptor, site: Site
) -> None:
    site.files["/plans.json"] = b"x" + site.files["/plans.json"][1:]
    with pytest.raises(UnusableData, match="SHA-256"):
        fetch(published, tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.toml"))


@pytest.mark.parametrize("manifest", [b"{}", b"no JSON", b'{"files": {}}', b'{"files": [1]}'])
def test_a_manifest_of_something_else_is_refused(
    tmp_path: Path, published: Descriptor, site: Site, manifest: bytes
) -> None:
    site.files["/manifest.json"] = manifest
    with pytest.raises(UnusableData, match="manifest"):
        fetch(published, tmp_path / "store")


def test_a_manifest_that_contradicts_the_descriptor_is_refused(
    tmp_path: Path, published: Descriptor
) -> None:
    files = (replace(published.files[0], sha256="0" * 64), *published.files[1:])
    with pytest.raises(UnusableData, match="has changed"):
        fetch(replace(published, files=files), tmp_path / "store")


def test_an_archive_is_fetched_and_unpacked(
    tmp_path: Path, published: Descriptor, site: Site
) -> None:
    source = Source(archive=site.url("/release.zip?download=1"))
    model = fetch(replace(published, files=(), source=source), tmp_path / "store")
    descriptor.verify(model)
    assert len(model.files) == 4
    assert names(tmp_path / "store") == ["tiny", "tiny.toml"]


def test_a_hostile_archive_is_refused_and_removed(
    tmp_path: Path, published: Descriptor, site: Site
) -> None:
    archive = zipped(tmp_path / "hostile.zip", ("../plans.json", b"{}"))
    site.files["/release.zip"] = archive.read_bytes()
    source = Source(archive=site.url("/release.zip"))
    with pytest.raises(UnusableData, match="leaves the folder"):
        fetch(replace(published, files=(), source=source), tmp_path / "store")
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_a_model_without_address_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="can't be fetched.*import Task777 --as"):
        store.fetch("mmstrokenet-dual", tmp_path, progress=quiet)
    with pytest.raises(InputMissing, match="no model 'other' to fetch"):
        store.fetch("other", tmp_path, progress=quiet)


def test_a_full_disk_leaves_the_store_as_it_was(
    tmp_path: Path, published: Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_text", full)
        with pytest.raises(TryAgain, match="is full") as error:
            fetch(published, folder)
    assert error.value.exit_code == 75
    assert not list(folder.glob("*.toml")) and not (folder / "tiny").exists()
    assert not list(folder.glob(".staging-*"))
    assert fetch(published, folder).name == "tiny"


def test_a_store_that_can_not_be_written(tmp_path: Path, published: Descriptor) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="--models-dir") as error:
        fetch(published, tmp_path / "file")
    assert error.value.exit_code == 73


def test_states_of_models(tmp_path: Path) -> None:
    write_model(tmp_path)
    states = {e.model.name: e.state for e in store.entries(tmp_path)}
    assert states["embedded"] == "with the program"
    assert states["tiny"] == "installed"
    assert states["isles26-d507-topk10"] == "not installed"
    (tmp_path / "tiny" / "plans.json").unlink()
    states = {e.model.name: e.state for e in store.entries(tmp_path)}
    assert states["tiny"] == "incomplete"


def test_an_installed_model_stands_for_the_known_one(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    path.write_text(path.read_text().replace('name = "tiny"', 'name = "hd-bet"'))
    (entry,) = [e for e in store.entries(tmp_path) if e.model.name == "hd-bet"]
    assert entry.state == "installed"
    assert store.find("hd-bet", tmp_path).file == path
    assert store.find("mmstrokenet-t1w", tmp_path).files == ()
    with pytest.raises(InputMissing):
        store.find("other", tmp_path)


def test_remove_takes_what_is_listed_and_no_more(tmp_path: Path) -> None:
    write_model(tmp_path, folds=2)
    (tmp_path / "tiny" / "mine.txt").write_text("kept")
    store.remove("tiny", tmp_path)
    left = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")]
    assert sorted(left) == ["tiny", "tiny/mine.txt"]


def test_remove_of_a_model_without_a_folder_of_its_own(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    for file in (tmp_path / "tiny").iterdir():
        file.rename(tmp_path / file.name)
    shutil.rmtree(tmp_path / "tiny")
    text = path.read_text().replace('folder = "tiny"', 'folder = "."').replace('"tiny/', '"')
    path.write_text(text)
    (tmp_path / "other.toml.kept").touch()
    store.remove("tiny", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["other.toml.kept"]


@pytest.mark.parametrize("name", ["embedded", "hd-bet"])
def test_only_models_of_the_store_are_removed(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="nothing to remove"):
        store.remove(name, tmp_path)
    assert descriptor.find("embedded").file.is_file()
