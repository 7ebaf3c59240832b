"""Ways in which what users give is wrong: what is made, and what has to be said about it.

``IMAGES`` are participants of one dataset, ``CALLS`` are command lines that end before any image is
read, ``REFERENCES`` are manual masks for the group and the train level. Each entry tells words of
the one sentence that must come.
"""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec

from tests.small import AFFINE, SHAPE, add_subject, brain, image, place, write_dataset

Make = Callable[[Path], object]
"""Writes an image (for ``IMAGES``) or a place with dataset, output and files (for ``CALLS``)."""

BYTES = gzip.decompress


def stored(data: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> bytes:
    """A NIfTI file, not compressed."""
    return nib.Nifti1Image(brain() if data is None else data, affine).to_bytes()


def saved(data: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Make:
    return lambda path: path.write_bytes(gzip.compress(stored(data, affine), 1))


def patched(data: np.ndarray | None = None, **fields: tuple[int, str, list[float]]) -> Make:
    """The good file with raw header fields: offset, type and values."""

    def make(path: Path) -> None:
        raw = bytearray(stored(data))
        for offset, kind, values in fields.values():
            content = np.array(values, kind).tobytes()
            raw[offset : offset + len(content)] = content
        path.write_bytes(gzip.compress(bytes(raw), 1))

    return make


def with_affine(affine: np.ndarray, data: np.ndarray | None = None) -> Make:
    """The good file with an sform that nibabel would not write."""
    rows = affine[:3].ravel().tolist()
    return patched(data, codes=(252, "<i2", [0, 1]), rows=(280, "<f4", rows))


def broken(change: Callable[[bytes], bytes], data: np.ndarray | None = None) -> Make:
    """The good file with its compressed bytes changed."""
    return lambda path: path.write_bytes(change(gzip.compress(stored(data), 1)))


def with_values(value: float, share: float) -> Make:
    data = brain().astype(np.float32)
    data.ravel()[: int(share * data.size)] = value
    return saved(data)


def moved(kind: str) -> Make:
    """Something else than a file under the file's name."""

    def make(path: Path) -> None:
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path.name if kind == "loop" else "absent.nii.gz")

    return make


def no_pixdim(path: Path) -> None:
    patched(pixdim=(80, "<f4", [0, -2, np.nan]), codes=(252, "<i2", [1, 0]))(path)


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
SHEARED = AFFINE + np.array([[0, 3.0, 0, 0], [0] * 4, [0] * 4, [0] * 4])

IMAGES: dict[str, tuple[Make, str]] = {
    "empty": (Path.touch, "is empty"),
    "text": (lambda p: p.write_text("not an image"), "can't be read as an image"),
    "truncated": (broken(lambda b: b[: len(b) // 2]), "truncated"),
    "tail": (broken(lambda b: b[:-6]), "truncated"),
    "corrupt": (broken(lambda b: b[:2000] + bytes(200) + b[2200:]), "corrupt"),
    "checksum": (broken(lambda b: b[:-8] + bytes(4) + b[-4:]), "corrupt"),
    "notgzip": (lambda p: p.write_bytes(stored()), "can't be read as an image"),
    "doublegzip": (broken(lambda b: gzip.compress(b)), "can't be read as an image"),
    "headeronly": (broken(lambda b: gzip.compress(BYTES(b)[:352])), "truncated or corrupt"),
    "halfheader": (broken(lambda b: gzip.compress(BYTES(b)[:100])), "can't be read as an image"),
    "gigabytes": (patched(dim=(42, "<i2", [3000, 3000, 3000])), "holds less data"),
    "oneslice": (patched(dim=(46, "<i2", [SHAPE[2] + 1])), "truncated or corrupt"),
    "negativedim": (patched(dim=(42, "<i2", [-26])), "too small"),
    "nodim": (patched(dim=(40, "<i2", [0, 0, 0, 0])), "is not 3-D"),
    "manydims": (patched(dim=(40, "<i2", [99])), "can't be read as an image"),
    "offset": (patched(vox_offset=(108, "<f4", [1e9])), "truncated or corrupt"),
    "nanoffset": (patched(vox_offset=(108, "<f4", [np.nan])), "can't be read as an image"),
    "datatype": (patched(datatype=(70, "<i2", [1234])), "can't be read as an image"),
    "magic": (patched(magic=(344, "u1", [120, 120, 120, 0])), "can't be read as an image"),
    "flat": (saved(brain()[:, :, 11]), "is not 3-D"),
    "slice": (saved(brain()[:, :, 11:12]), "is not 3-D"),
    "series": (saved(np.stack([brain(), brain()], -1)), "several volumes"),
    "tiny": (saved(brain()[8:18, 8:18, 8:18]), "too small"),
    "colours": (saved(RGB), "colours"),
    "complex": (saved(brain().astype(np.complex64)), "complex"),
    "nan": (with_values(np.nan, 0.3), "NaN"),
    "infinite": (with_values(-np.inf, 0.3), "infinite"),
    "slope": (patched(slope=(112, "<f4", [3e38])), "overflowing"),
    "zero": (saved(np.zeros(SHAPE, np.int16)), "constant"),
    "constant": (saved(np.full(SHAPE, 7, np.int16)), "constant"),
    "binary": (saved((brain() > 500).astype(np.uint8)), "mask"),
    "noaffine": (with_affine(np.zeros((4, 4))), "voxel sizes"),
    "nanaffine": (with_affine(AFFINE * np.nan), "not finite"),
    "singular": (with_affine(AFFINE[[0, 0, 2, 3]]), "singular"),
    "sheared": (with_affine(SHEARED), "sheared"),
    "microns": (with_affine(np.diag([1e-6, 1e-6, 1e-6, 1])), "voxel sizes"),
    "giant": (saved(affine=np.diag([6, 6, 50.0, 1])), "voxel sizes"),
    "nopixdim": (no_pixdim, "impossible voxel sizes"),
    "pipe": (moved("pipe"), "does not exist"),
    "dangling": (moved("dangling"), "does not exist"),
    "loop": (moved("loop"), "does not exist"),
}
"""Label of a participant -> its bad T1w, and words of the sentence that also names the file."""

NAMES = {
    "sub-a b/anat/sub-a b_T1w.nii.gz": "BIDS does not allow",
    "sub-ü/anat/sub-ü_T1w.nii.gz": "BIDS does not allow",
    "sub-x;rm/anat/sub-x;rm_T1w.nii.gz": "BIDS does not allow",
    "sub-" + "l" * 200 + "/anat/sub-" + "l" * 200 + "_T1w.nii.gz": "too long a name",
}
"""Paths of good images whose names can't be used."""


def few_nan(path: Path) -> None:
    with_values(np.nan, 0.002)(path)


def two_forms(path: Path) -> None:
    one = image()
    one.set_sform(AFFINE, 1)
    one.set_qform(np.diag([6.0, 6, 6, 1]), 1)
    path.write_bytes(gzip.compress(one.to_bytes(), 1))


def negative(path: Path) -> None:
    data = brain().astype(np.int16)
    data[12:14, 14:16, 10:12] = -50
    saved(data)(path)


def with_sidecar(content: str) -> Make:
    """The good file with such a sidecar."""

    def make(path: Path) -> None:
        saved()(path)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(content)

    return make


def beside(name: str) -> Make:
    """The good file, and another one that tells the same entities."""

    def make(path: Path) -> None:
        saved()(path)
        other = path.with_name(path.name.replace("_T1w.nii.gz", name))
        other.write_bytes(stored() if other.suffix == ".nii" else gzip.compress(stored(), 1))

    return make


def folder_loop(path: Path) -> None:
    saved()(path)
    (path.parent / "again").symlink_to("..")


REPAIRED: dict[str, tuple[Make, str]] = {
    "fewnan": (few_nan, "NaN or infinite voxels were set to 0"),
    "twoforms": (two_forms, "the sform was used"),
    "negative": (negative, "are negative"),
    "onevolume": (saved(brain()[..., None]), "4-D with one volume"),
    "noform": (patched(codes=(252, "<i2", [0, 0])), "left and right are a guess"),
    "badsidecar": (with_sidecar("[1, 2"), ""),
    "listsidecar": (with_sidecar("[1, 2]"), ""),
    "textsidecar": (with_sidecar('"text"'), ""),
    "typesidecar": (
        with_sidecar('{"EchoTime": "long", "Manufacturer": [{}], "RepetitionTime": null}'),
        "",
    ),
    "folderloop": (folder_loop, ""),
    "twins": (beside("_T1w.nii"), ""),
    "repeated": (beside("_acq-a_acq-b_T1w.nii.gz"), ""),
    "thickslices": (saved(brain(shape=(26, 30, 18)), np.diag([6, 6, 8.0, 1])), ""),
    "submillimetre": (saved(brain(shape=(60, 60, 60)), np.diag([0.7, 0.7, 0.7, 1])), ""),
    "nosidecar": (saved(), ""),
    "trailing": (broken(lambda b: b + bytes(50)), ""),
}
"""Label of a participant -> an odd T1w that can be used, and the note that its page has on it."""


@dataclass(frozen=True)
class Call:
    """A command line in a folder that ``make`` fills; ``{root}`` stands for that folder."""

    make: Make
    flags: str
    code: int
    words: str
    level: str = "participant"
    bids: str = "bids"
    out: str = "out"


def good(root: Path) -> Path:
    return write_dataset(root / "bids", ["01"])


def described(content: str | None) -> Make:
    """A dataset with another text in its ``dataset_description.json``."""

    def make(root: Path) -> None:
        path = good(root) / "dataset_description.json"
        if content is None:
            path.unlink()
        else:
            path.write_text(content)

    return make


def output(content: str) -> Make:
    """An output folder that describes itself so."""

    def make(root: Path) -> None:
        good(root)
        (root / "out").mkdir()
        (root / "out" / "dataset_description.json").write_text(content)

    return make


def file(name: str, content: str | bytes | None) -> Make:
    """A dataset and a file beside it; None makes a folder."""

    def make(root: Path) -> None:
        good(root)
        if content is None:
            (root / name).mkdir()
        elif isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            (root / name).write_text(content)

    return make


def filters(content: str | bytes | None, words: str, code: int = 2) -> Call:
    return Call(file("f.json", content), "--bids-filter-file {root}/f.json", code, words)


def settings(content: str | bytes | None, words: str, code: int = 2) -> Call:
    return Call(file("c.toml", content), "--config-file {root}/c.toml", code, words)


def without_images(root: Path) -> None:
    good(root)
    for path in (root / "bids" / "sub-01" / "anat").iterdir():
        path.unlink()


def folder_as_image(root: Path) -> None:
    without_images(root)
    place(root / "bids", "01").mkdir()


def only_file(root: Path) -> None:
    (root / "bids").write_text("a file")


def no_subject(root: Path) -> None:
    good(root)
    (root / "bids" / "sub-01").rename(root / "bids" / "subject01")


def only_derived(root: Path) -> None:
    described(NAMED + ', "DatasetType": "derivative"}')(root)
    for path in list((root / "bids" / "sub-01" / "anat").glob("*.nii.gz")):
        stem, _, suffix = path.name.partition(".")[0].rpartition("_")
        path.rename(path.with_name(f"{stem}_desc-preproc_{suffix}.nii.gz"))


NAMED = json.dumps({"Name": "n", "BIDSVersion": "1.10.0"})[:-1]
MODEL = "--model {root}/m.toml"

CALLS: dict[str, Call] = {
    "no dataset": Call(lambda r: None, "", 66, "no folder"),
    "dataset is a file": Call(only_file, "", 66, "no folder"),
    "no description": Call(described(None), "", 16, "is missing"),
    "description is no JSON": Call(described("{"), "", 16, "can't be read as JSON"),
    "description is a list": Call(described("[]"), "", 16, "must hold a JSON object"),
    "description is binary": Call(described("\x00"), "", 16, "JSON"),
    "description without Name": Call(described('{"BIDSVersion": "1"}'), "", 16, "lacks 'Name'"),
    "Name is a number": Call(described('{"Name": 1, "BIDSVersion": "1"}'), "", 16, "'Name'"),
    "derivatives": Call(only_derived, "", 18, "desc-preproc_T1w.nii.gz: has desc-preproc"),
    "no participant": Call(no_subject, "", 16, "no folder sub-"),
    "no image": Call(without_images, "", 18, "No T1w or FLAIR"),
    "a folder as image": Call(folder_as_image, "", 18, "No T1w or FLAIR"),
    "absent participant": Call(good, "--participant-label 77", 18, "There is no sub-77"),
    "label with a slash": Call(good, "--participant-label ../etc", 2, "is no label"),
    "absent session": Call(good, "--session-label 77", 18, "No T1w or FLAIR"),
    "unknown level": Call(good, "", 17, "no analysis level", level="all"),
    "output is input": Call(good, "", 2, "can't be BIDS_DIR", out="bids"),
    "output in a participant": Call(good, "", 2, "participant's folder", out="bids/sub-01/o"),
    "output is a file": Call(file("out", "x"), "", 73, "can't be written"),
    "output below a file": Call(file("o", "x"), "", 73, "can't be written", out="o/out"),
    "output of another": Call(
        output('{"GeneratedBy": [{"Name": "fMRIPrep"}]}'), "", 73, "fMRIPrep"
    ),
    "output of nobody": Call(output('{"GeneratedBy": {"Name": "x"}}'), "", 73, "outputs of"),
    "output is a raw dataset": Call(output(NAMED + ', "DatasetType": "raw"}'), "", 73, "raw"),
    "work in the input": Call(good, "-w {root}/bids/work", 2, "can't be inside BIDS_DIR"),
    "work is a file": Call(file("w", "x"), "-w {root}/w", 73, "another by -w"),
    "database is a file": Call(
        file("d", "x"), "--bids-database-dir {root}/d", 73, "another folder"
    ),
    "no filter file": Call(good, "--bids-filter-file {root}/none", 66, "can't be read"),
    "filter is a folder": filters(None, "can't be read", 66),
    "filter is no JSON": filters("{'t1w': 1}", "not valid JSON"),
    "filter is binary": filters(b"\xff\xfe\x00", "not valid JSON"),
    "filter is deep": filters("[" * 100_000, "not valid JSON"),
    "filter is a list": filters("[]", "must hold an object"),
    "filter with a wrong key": filters('{"bold": {}}', "'bold'"),
    "filter with a wrong entity": filters('{"t1w": {"colour": "red"}}', "'colour'"),
    "filter with a wrong value": filters('{"t1w": {"run": {"a": 1}}}', "must be text"),
    "filter with a number": filters('{"t1w": {"run": 1.5}}', "must be text"),
    "filter that is no object": filters('{"t1w": []}', "must be an object"),
    "filter selects nothing": filters('{"t1w": {"run": 9}}', "No T1w or FLAIR", 18),
    "settings are a folder": settings(None, "can't be read", 66),
    "settings are no TOML": settings("a = ", "not valid TOML"),
    "settings are binary": settings(b"\xff\x00", "not valid TOML"),
    "settings of a wrong section": settings("[colour]\n", "no section 'colour'"),
    "settings of a wrong key": settings("[model]\ncolour = 1\n", "no key 'colour'"),
    "settings of a wrong type": settings('[execution]\nnprocs = "many"\n', "nprocs"),
    "settings of a negative number": settings("[execution]\nnprocs = -3\n", "nprocs"),
    "settings of a wrong choice": settings('[processing]\nbrain_extraction = "x"\n', "choose from"),
    "settings of a wrong path": settings("[execution]\nwork_dir = 7\n", "work_dir"),
    "settings of a wrong name": settings("[model]\nname = 7\n", "name"),
    "settings of a value as section": settings("model = 3\n", "must be a section"),
    "settings of a wrong threshold": settings("[model]\nthreshold = 7.0\n", "threshold"),
    "settings of wrong derivatives": settings("[dataset]\nderivatives = 3\n", "derivatives"),
    "plugin file is missing": Call(good, "--nipype-plugin-file {root}/p", 66, "can't be read"),
    "plugin file is wrong": Call(file("p", "a: ["), "--nipype-plugin-file {root}/p", 2, "YAML"),
    "plugin is unknown": Call(file("p", "plugin: X"), "--nipype-plugin-file {root}/p", 2, "'X'"),
    "plugin with wrong arguments": Call(
        file("p", "{plugin: Linear, plugin_args: [1, 2]}"),
        "--nipype-plugin-file {root}/p",
        2,
        "args",
    ),
    "derivatives without a name": Call(good, "-d /tmp", 2, "is not NAME=PATH"),
    "derivatives are missing": Call(good, "-d a={root}/none", 66, "check -d a="),
    "derivatives twice": Call(good, "-d a={root} a={root}", 2, "taken already"),
    "threshold of 2": Call(good, "--threshold 2", 2, "not between"),
    "threshold of nan": Call(good, "--threshold nan", 2, "not between"),
    "threshold in words": Call(good, "--threshold half", 2, "threshold"),
    "no cores": Call(good, "--nprocs 0", 2, "whole number"),
    "no memory": Call(good, "--mem 0", 2, "not between"),
    "negative seed": Call(good, "--random-seed -1", 2, "random-seed"),
    "wrong device": Call(good, "--device tpu", 2, "none of auto"),
    "absent device": Call(good, "--device cuda:99", 2, "no device 'cuda:99'"),
    "wrong space": Call(good, "--output-spaces Mars", 2, "Mars"),
    "template is missing": Call(
        good, "--output-spaces T1w MNI152NLin6Asym", 66, "MNI152NLin6Asym is not on this machine"
    ),
    "unknown model": Call(good, "--model nobody", 66, "no model 'nobody'"),
    "model folder is empty": Call(file("m", None), "--model {root}/m", 66, "one model descriptor"),
    "model is missing": Call(good, MODEL, 66, "no model descriptor"),
    "model is a folder": Call(file("m.toml", None), MODEL, 66, "descriptor"),
    "model is no TOML": Call(file("m.toml", "name ="), MODEL, 65, "not valid TOML"),
    "model is binary": Call(file("m.toml", b"\xff"), MODEL, 65, "not valid TOML"),
    "model is empty": Call(file("m.toml", ""), MODEL, 65, "is incomplete"),
    "model with a wrong key": Call(file("m.toml", "colour = 1"), MODEL, 65, "'colour'"),
    "model with wrong files": Call(file("m.toml", "files = 3"), MODEL, 65, "files"),
    "model with a wrong section": Call(file("m.toml", "inference = 3"), MODEL, 65, "table"),
    "weights of HD-BET are missing": Call(
        good, "--brain-extraction hd-bet --hd-bet-weights {root}/none", 66, "check --hd-bet-weights"
    ),
    "group without results": Call(good, "", 66, "participant level first", level="group"),
    "unknown reference": Call(output("{}"), "--reference no", 66, "no", level="group"),
}


LESION = np.zeros(SHAPE, np.uint8)
LESION[8:13, 10:15, 8:13] = 1
HALVES = from_matvec(np.eye(3) / 2, [-0.25] * 3)
TURN = np.eye(4)[[1, 2, 0, 3]]
FAR = from_matvec(np.eye(3), [500, 0, 0]) @ AFFINE

MOVED: dict[str, Make] = {
    "finer": saved(np.kron(LESION, np.ones((2, 2, 2), np.uint8)), AFFINE @ HALVES),
    "turned": saved(LESION.transpose(2, 0, 1), AFFINE @ TURN),
    "part": saved(LESION[4:20, 6:20, 5:20], AFFINE @ from_matvec(np.eye(3), [4, 6, 5])),
}
"""Label of a participant -> a reference mask on another grid, at the right place."""

REFERENCES: dict[str, tuple[Make, str, str]] = {
    "far": (saved(LESION, FAR), "lies largely off the image", "does not lie where the T1w lies"),
    "noplace": (
        patched(LESION[1:], codes=(252, "<i2", [0, 0])),
        "neither sform nor qform",
        "neither sform nor qform",
    ),
    **{
        label: (make, words, words)
        for label, (make, words) in {
            "noaffine": (with_affine(np.zeros((4, 4)), LESION), "voxel sizes"),
            "nanaffine": (with_affine(AFFINE * np.nan, LESION), "not finite"),
            "singular": (with_affine(AFFINE[[0, 0, 2, 3]], LESION), "singular"),
            "empty": (Path.touch, "is empty"),
            "text": (lambda p: p.write_text("not an image"), "can't be read as an image"),
            "truncated": (broken(lambda b: b[: len(b) // 2], LESION), "truncated"),
            "corrupt": (broken(lambda b: b[:150] + bytes(20) + b[170:], LESION), "corrupt"),
            "datatype": (
                patched(LESION, datatype=(70, "<i2", [1234])),
                "can't be read as an image",
            ),
            "gigabytes": (patched(LESION, dim=(42, "<i2", [3000] * 3)), "holds less data"),
            "short": (patched(LESION, dim=(46, "<i2", [SHAPE[2] + 1])), "truncated or corrupt"),
            "series": (saved(np.stack([LESION, LESION], -1)), "several volumes"),
            "flat": (saved(LESION[:, :, 10]), "is not 3-D"),
            "colours": (saved(RGB), "colours"),
            "complex": (saved(LESION.astype(np.complex64)), "complex"),
            "dangling": (moved("dangling"), "does not exist"),
            "loop": (moved("loop"), "does not exist"),
        }.items()
    },
}
"""Label -> a bad reference mask, and words of what the group and the train level say of it."""


def write_references(bids: Path) -> Path:
    """A dataset of images that differ, with good, moved and bad manual masks."""
    write_dataset(bids, [])
    makes = {"good": saved(LESION), **MOVED, **{k: make for k, (make, *_) in REFERENCES.items()}}
    for seed, (label, make) in enumerate(makes.items()):
        saved(brain(seed))(place(bids, label))
        mask = place(bids / "derivatives" / "manual", label)
        make(mask.with_name(f"sub-{label}_label-L_mask.nii.gz"))
    return bids


def write_images(bids: Path) -> Path:
    """A dataset of one good participant and all bad and odd ones."""
    write_dataset(bids, ["good"])
    for label, (make, _) in {**IMAGES, **REPAIRED}.items():
        make(place(bids, label))
    for name in NAMES:
        (bids / name).parent.mkdir(parents=True)
        saved()(bids / name)
    add_subject(bids, "zlast")
    return bids
