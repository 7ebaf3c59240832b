"""Readers of what users give, each with a sample, for the tests that change its bytes at random."""

import gzip
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_stroke import data
from bids_stroke.bids import checks, description, ratings
from bids_stroke.bids.layout import build_layout
from bids_stroke.bids.masks import find_reference_masks
from bids_stroke.bids.pairs import Pair, select
from bids_stroke.cli import engine, parser, train, train_plan, values
from bids_stroke.core import splits
from bids_stroke.core.conform import conform, load_labels, read_mask
from bids_stroke.core.crashes import read_crash
from bids_stroke.core.geometry import read_itk_affine, write_itk_affine
from bids_stroke.errors import BidsStrokeError
from bids_stroke.models import archives, descriptor, recipe
from bids_stroke.models.weights import load_checkpoint, load_plain_pickle
from bids_stroke.reports import group
from tests.bad_inputs import stored

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
DESCRIPTION = b'{"Name": "n", "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "bids_stroke"}]}'
PARTICIPANTS = b"participant_id\tage\tcentre\nsub-01\t61\tA\nsub-02\tn/a\tB\n"
RATINGS = "\t".join(ratings.COLUMNS) + "\n" + "\t".join(
    ["sub-01", "ses-1", "n/a", "me", "pass", "good", "1", "missed", "1.5", "2", "3", "now"]
)  # fmt: skip
SPLITS = b'[{"train": ["sub-01"], "val": ["sub-02"]}, {"train": ["sub-02"], "val": ["sub-01"]}]'
CRASH = b"Node: a.b\nTraceback (most recent call last):\n  File\nValueError: no\n"


@dataclass(frozen=True)
class Reader:
    """A function that reads a file, the file's name, a sample, and what it may raise."""

    read: Callable[[Path], object]
    name: str
    sample: bytes
    raises: tuple[type[Exception], ...] = (BidsStrokeError,)

    def try_on(self, content: bytes) -> None:
        """Read such a file; raises whatever is no error of ours, or is more than one line."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.name
            path.write_bytes(content)
            try:
                self.read(path)
            except self.raises as error:
                if "\n" in str(error).strip():
                    raise AssertionError(f"More than one line: {error}") from error


def _voxels(path: Path) -> None:
    np.asanyarray(load_labels(path).dataobj)


def _dataset(path: Path) -> None:
    (path.parent / "sub-01").mkdir()
    checks.check_dataset(path.parent)


def _describe(path: Path) -> None:
    description.describe_dataset(path.parent, path.parent / "in")


def _settings(path: Path) -> None:
    parser.parse(["b", "o", "participant", "--config-file", str(path)])


def _participants(path: Path) -> None:
    group._participants(path.parent)
    train_plan.read_columns(path.parent)


def _splits(path: Path) -> None:
    people = ("sub-01", "sub-02")
    items = [splits.Item(case=p, participant=p, group=p, volume_ml=1.0) for p in people]
    splits.from_table(train._read_split_file(path), items)


def _reference(path: Path) -> None:
    pair = Pair(subject="01", session=None, t1w=path, entities={"subject": "01"})
    folder = path.parent / "sub-01"
    folder.mkdir()
    mask = path.rename(folder / "sub-01_label-L_mask.nii")
    path.symlink_to(mask)
    find_reference_masks([path.parent], pair)


def _sidecar(path: Path) -> None:
    """A dataset whose only image has such a sidecar."""
    anat = path.parent / "sub-01" / "anat"
    anat.mkdir(parents=True)
    path.rename(anat / path.name)
    (anat / "sub-01_T1w.nii.gz").touch()
    (path.parent / "dataset_description.json").write_bytes(DESCRIPTION)
    assert len(select(build_layout(path.parent)).pairs) == 1


def _transform(path: Path) -> None:
    matrix = read_itk_affine(path)
    assert matrix.shape == (4, 4)


def _unpack(path: Path) -> None:
    archives.extract(path, path.parent / "unpacked")


def _sample_of(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def _write_mat(path: Path) -> None:
    from scipy.io import savemat

    parameters = np.r_[np.eye(3).ravel(), 1, 2, 3][:, None]
    savemat(path, {"AffineTransform_double_3_3": parameters, "fixed": np.zeros((3, 1))}, format="4")


def _write_zip(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("m/plans.json", "m/dataset.json", "m/fold_0/checkpoint_final.pth"):
            archive.writestr(name, name * 20)


def _write_pickle(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"plans": [1, 2.5, "x", None], "array": np.arange(6.0)}, 2))


def _write_checkpoint(path: Path) -> None:
    import torch

    state = {"network_weights": {"a.weight": torch.arange(4.0)}, "init_args": {"fold": 1}}
    torch.save(state, path, _use_new_zipfile_serialization=path.suffix == ".pth")


IMAGE = stored()
READERS: dict[str, Reader] = {
    "image": Reader(conform, "sub-01_T1w.nii", IMAGE),
    "packed image": Reader(conform, "sub-01_T1w.nii.gz", gzip.compress(IMAGE, 1, mtime=0)),
    "mask": Reader(read_mask, "sub-01_mask.nii", IMAGE),
    "labels": Reader(_voxels, "sub-01_dseg.nii", IMAGE),
    "reference": Reader(_reference, "sub-01_T1w.nii", IMAGE),
    "sidecar": Reader(_sidecar, "sub-01_T1w.json", b'{"EchoTime": 0.1, "Manufacturer": "x"}'),
    "dataset": Reader(_dataset, "dataset_description.json", DESCRIPTION),
    "output": Reader(_describe, "dataset_description.json", DESCRIPTION),
    "participants": Reader(_participants, "participants.tsv", PARTICIPANTS),
    "ratings": Reader(lambda p: ratings.read([p]), "ratings.tsv", RATINGS.encode()),
    "descriptor": Reader(
        descriptor.load, "model.toml", data.path("models", "embedded.toml").read_bytes()
    ),
    "recipe": Reader(
        lambda p: recipe.find(str(p)),
        "r.toml",
        data.path("recipes", "default.toml").read_bytes(),
    ),
    "settings": Reader(_settings, "c.toml", SETTINGS),
    "filters": Reader(lambda p: values.filters(str(p)), "f.json", FILTERS),
    "plugin": Reader(engine.read_plugin, "p.yml", b"plugin: Linear\nplugin_args: {n_procs: 2}\n"),
    "splits": Reader(_splits, "splits.json", SPLITS),
    "transform": Reader(
        _transform,
        "x.txt",
        _sample_of(lambda p: write_itk_affine(np.eye(4), p), "x.txt"),
        (ValueError,),
    ),
    "mat": Reader(_transform, "x.mat", _sample_of(_write_mat, "x.mat"), (ValueError,)),
    "zip": Reader(_unpack, "m.zip", _sample_of(_write_zip, "m.zip")),
    "pickle": Reader(load_plain_pickle, "m.pkl", _sample_of(_write_pickle, "m.pkl")),
    "checkpoint": Reader(load_checkpoint, "c.pth", _sample_of(_write_checkpoint, "c.pth")),
    "old checkpoint": Reader(load_checkpoint, "c.model", _sample_of(_write_checkpoint, "c.model")),
    "crash": Reader(lambda p: read_crash(p.read_text(errors="replace")), "crash.txt", CRASH),
}
