"""The image, built by buildah and run by podman with runc: any user, read-only, without a network.

``make image-test`` runs these tests: it builds the image, in the folder ``BIDS_STROKE_IMAGE_CACHE``
or in one that is removed. ``BIDS_STROKE_IMAGE`` names an image that podman has already.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bids_stroke import __version__
from tests.small import FLAGS, write_dataset, write_small_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
ROOT = Path(__file__).parents[1]
TAG = "localhost/bids_stroke:test"
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
FOREIGN = 54321


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    wanted = ("podman", "runc", "buildah", "debootstrap", "unshare")
    absent = [program for program in wanted if not shutil.which(program)]
    if absent or os.geteuid():
        pytest.skip(f"needs root and {', '.join(wanted)} (absent: {', '.join(absent) or 'root'})")
    if named := os.environ.get("BIDS_STROKE_IMAGE"):
        yield named
        return
    if not os.environ.get("BIDS_STROKE_BUILD_IMAGE"):
        pytest.skip("building takes half an hour: make image-test")
    kept = os.environ.get("BIDS_STROKE_IMAGE_CACHE")
    environ = {**os.environ, "PYTHON": sys.executable, "LAYERS": "--layers" if kept else ""}
    with tempfile.TemporaryDirectory() as folder:
        build = [ROOT / "tests" / "image" / "build.sh", TAG, kept or folder]
        subprocess.run(build, check=True, env=environ)
        yield TAG
    if not kept:
        subprocess.run(["podman", "rmi", "--force", TAG, f"{TAG}-base"], check=False)


def run(
    image: str, *words: object, flags: tuple[object, ...] = (), entry: str = "", user: int = FOREIGN
) -> subprocess.CompletedProcess[str]:
    """A container without a network, on a root that is read-only, as a user without a name."""
    command = ["unshare", "--net", "podman", "run", "--rm", "--runtime", "runc"]
    command += ["--network", "host", *LIMITS, "--read-only", "--user", f"{user}:{user}"]
    command += ["--entrypoint", json.dumps([entry])] if entry else []
    command += [*map(str, flags), image, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def inspected(image: str) -> dict[str, object]:
    done = subprocess.run(
        ["podman", "image", "inspect", image], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)[0]["Config"]


def test_what_the_image_says_of_itself(image: str) -> None:
    config = inspected(image)
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["/opt/app/bin/bids_stroke"]
    labels = config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.version"] == __version__
    assert "Research use only" in labels["org.opencontainers.image.description"]
    assert run(image, "/version", entry="/bin/cat").stdout.strip() == __version__


@pytest.mark.parametrize("user", [FOREIGN, 1000, 0])
def test_help_and_version_as_any_user(image: str, user: int) -> None:
    done = run(image, "--version", user=user)
    assert done.stdout.strip() == f"bids_stroke {__version__}", done.stderr
    assert "usage: bids_stroke" in run(image, "--help", user=user).stdout


def test_usage_error(image: str) -> None:
    assert run(image, "/nowhere", "/tmp/out", "participant").returncode == 66


@pytest.mark.parametrize("program", ["bids_stroke-models", "bids_stroke-demo"])
def test_other_programs(image: str, program: str) -> None:
    words = ["list"] if program == "bids_stroke-models" else ["--help"]
    done = run(image, "-u", "HOME", program, *words, entry="/usr/bin/env")
    assert done.returncode == 0, done.stderr


def test_no_other_part_of_the_repository_is_in_it(image: str) -> None:
    found = run(image, "/opt/app", "-maxdepth", "1", entry="/usr/bin/find").stdout.split()
    names = {Path(path).name for path in found}
    assert {"bids_stroke", "bin"} <= names
    assert not names & {"tests", "benchmarks", ".git", "docs", "constraints.txt"}
    assert run(image, "/src", entry="/bin/ls").returncode != 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A dataset that root owns, a model, and an output and work folder of another user."""
    write_dataset(tmp_path / "bids", ["01"], ("T1w", "FLAIR"))
    write_small_model(tmp_path / "model")
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, FOREIGN, FOREIGN)
    tmp_path.chmod(0o755)
    for path in (tmp_path / "bids", tmp_path / "model"):
        subprocess.run(["chmod", "-R", "a+rX,go-w", path], check=True)
    return tmp_path


def mounts(place: Path) -> tuple[str, ...]:
    volumes = [f"{place}/{name}:/{name}:ro" for name in ("bids", "model")]
    volumes += [f"{place}/{name}:/{name}" for name in ("out", "work")]
    return tuple(word for volume in volumes for word in ("--volume", volume))


@pytest.mark.parametrize("home", ["unset", "absent"])
def test_both_levels_on_a_dataset_that_is_read_only(image: str, place: Path, home: str) -> None:
    """64 MB of shared memory, as Docker gives, are enough."""
    environ = ("-u", "HOME") if home == "unset" else ("HOME=/home/of/the/host",)
    program = (*environ, "bids_stroke", "/bids", "/out")
    flags = (*mounts(place), "--shm-size", "64m")
    words = [*program, "participant", *FLAGS, "--model", "/model/tiny.toml", "-w", "/work"]
    done = run(image, *words, "--nprocs", "2", flags=flags, entry="/usr/bin/env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 participants are complete" in done.stdout
    made = list((place / "out").rglob("*_mask.nii.gz"))
    assert made
    assert {path.stat().st_uid for path in made} == {FOREIGN}
    described = json.loads((place / "out" / "dataset_description.json").read_text())
    container = {"Type": "docker", "Tag": f"bids_stroke:{__version__}"}
    assert described["GeneratedBy"][0]["Container"] == container
    group = run(image, *program, "group", flags=flags, entry="/usr/bin/env")
    assert group.returncode == 0, group.stdout + group.stderr
    assert (place / "out" / "group.html").is_file()


def test_the_embedded_model_on_the_demonstration(image: str, place: Path) -> None:
    """The weights that the image brings, and the brain extraction that is embedded."""
    flags = mounts(place)
    made = run(image, "/work/demo", flags=flags, entry="/opt/app/bin/bids_stroke-demo")
    assert made.returncode == 0, made.stderr
    one = "03"  # one session
    words = ["/work/demo", "/out", "participant", "--participant-label", one, "-w", "/work"]
    done = run(image, *words, "--sloppy", "--no-tta", flags=flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the model was trained on synthetic lesions" in (
        place / "out" / f"sub-{one}.html"
    ).read_text(encoding="utf-8")
