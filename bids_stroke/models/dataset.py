"""A dataset of nnU-Net v2 from preprocessed pairs: links, labels, fingerprint, arrays, splits."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bids_stroke.core.files import load_image, read_json, write_json, write_text
from bids_stroke.core.splits import Item, Split
from bids_stroke.errors import UsageError
from bids_stroke.models.recipe import Cases

LABELS = {"background": 0, "lesion": 1}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One session to train on. Files are absolute paths; images and ``brain`` and ``label`` lie on
    the network's grid, ``native``, ``native_brain`` and ``truth`` on that of the image ``space`` on
    which the reference was drawn. ``transform`` is an ITK file that takes maps from the network's
    image to ``space``, or empty. ``outside`` is the share of the label outside the brain, and
    ``contrast`` that of ``core.sides.mirror_contrast`` (None: no answer). ``where`` is what
    ``interfaces.locate.LocateReference`` says of the lesion, where a recipe asks for it.
    """

    case: str
    participant: str
    session: str
    group: str
    images: Mapping[str, str]
    brain: str
    label: str
    space: str
    native: str
    native_brain: str
    truth: str
    transform: str = ""
    volume_ml: float = 0.0
    spacing: tuple[float, ...] = ()
    cropped_shape: tuple[int, ...] = ()
    cropped_share: float = 1.0
    outside: float = 0.0
    contrast: float | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    def item(self) -> Item:
        """What splits need to know."""
        return Item(
            case=self.case,
            participant=self.participant,
            group=self.group,
            volume_ml=self.volume_ml,
        )

    def stack(self, channels: Sequence[str]) -> tuple[np.ndarray, tuple[float, ...]]:
        """Channels [c, x, y, z] as float32, and the voxel size in mm along x, y, z."""
        images = [load_image(self.images[channel]) for channel in channels]
        data = np.stack([image.get_fdata(dtype=np.float32) for image in images])
        return data, tuple(map(float, images[0].header.get_zooms()[:3]))


@dataclass(frozen=True)
class Places:
    """Folders of one training, below ``sourcedata/nnunet/<name>`` of the output folder."""

    root: Path
    name: str

    @property
    def dataset(self) -> str:
        """nnU-Net's name of the dataset."""
        return f"Dataset001_{self.name}"

    @property
    def raw(self) -> Path:
        """Raw dataset: links to images, labels."""
        return self.root / "raw" / self.dataset

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's arrays, plans and splits."""
        return self.root / "preprocessed" / self.dataset

    @property
    def results(self) -> Path:
        """What trainers write."""
        return self.root / "results" / self.dataset

    @property
    def validation(self) -> Path:
        """Probability maps of validation cases, by fold."""
        return self.root / "validation"

    @property
    def model(self) -> Path:
        """Folder of the finished model: its descriptor, and beside it its files."""
        return self.root / "model"

    def environment(self) -> dict[str, str]:
        """Variables that nnU-Net reads."""
        return {
            "nnUNet_raw": str(self.raw.parent),
            "nnUNet_preprocessed": str(self.preprocessed.parent),
            "nnUNet_results": str(self.results.parent),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "0",  # augmentation in the process itself needs no shared memory
        }

    @contextmanager
    def entered(self) -> Iterator[None]:
        """nnU-Net's variables for a while; what it prints is dropped."""
        before = dict(os.environ)
        os.environ.update({**self.environment(), "nnUNet_n_proc_DA": "1"})  # planners want one
        try:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def select_cases(
    rule: Cases, cases: Sequence[Case], columns: Mapping[str, Mapping[str, Any]], seed: int
) -> list[Case]:
    """Cases that a recipe's rule lets train.

    ``columns`` are the values of participants.tsv by participant; its columns ``region`` and
    ``super_region``, else the case's ``where``, say where a lesion lies. Raises UsageError where a
    rule needs a column that a participant does not have, and where nothing is left.
    """
    kept = [case for case in cases if case.volume_ml >= rule.min_volume_ml]
    if rule.drop_regions:
        dropped = set(rule.drop_regions)
        kept = [c for c in kept if _column(columns, c, "region") not in dropped]
    if rule.super_regions:
        wanted = set(rule.super_regions)
        kept = [c for c in kept if _column(columns, c, "super_region") in wanted]
    for name, value in rule.where.items():
        kept = [c for c in kept if _column(columns, c, name) == str(value)]
    if rule.most is not None and len(kept) > rule.most:
        chosen = np.random.default_rng(seed).permutation(len(kept))[: rule.most]
        kept = [kept[index] for index in sorted(chosen)]
    if not kept:
        raise UsageError("The recipe's rule of cases leaves none to train on: look at its [cases].")
    return kept


def _column(columns: Mapping[str, Mapping[str, Any]], case: Case, name: str) -> str:
    value = columns.get(case.participant, {}).get(name, case.where.get(name))
    if value is None:
        raise UsageError(
            f"The recipe chooses cases by '{name}', but participants.tsv has none for "
            f"{case.participant}: add the column."
        )
    return str(value)


def write_cases(cases: Sequence[Case], path: Path) -> Path:
    """Write cases as JSON."""
    return write_json(path, [asdict(case) for case in cases])


def read_cases(path: Path) -> list[Case]:
    """Cases that ``write_cases`` wrote."""
    return [Case(**row) for row in read_json(path)]


def dataset_json(name: str, channels: Sequence[str], cases: int) -> dict[str, Any]:
    """nnU-Net's ``dataset.json``: channels by modality, background and lesion."""
    return {
        "name": name,
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def write_raw(places: Places, cases: Sequence[Case], channels: Sequence[str]) -> Path:
    """Write the raw dataset: symbolic links to images and labels, ``dataset.json``, fingerprint.

    Links of cases that are gone are removed. Returns the folder.
    """
    wanted = {
        f"imagesTr/{case.case}_{number:04d}.nii.gz": case.images[channel]
        for case in cases
        for number, channel in enumerate(channels)
    }
    wanted |= {f"labelsTr/{case.case}.nii.gz": case.label for case in cases}
    for folder in ("imagesTr", "labelsTr"):
        (places.raw / folder).mkdir(parents=True, exist_ok=True)
        for link in (places.raw / folder).iterdir():
            if f"{folder}/{link.name}" not in wanted:
                link.unlink()
    for name, target in wanted.items():
        _link(places.raw / name, Path(target))
    places.preprocessed.mkdir(parents=True, exist_ok=True)
    table = dataset_json(places.name, channels, len(cases))
    write_json(places.raw / "dataset.json", table)
    write_json(places.preprocessed / "dataset.json", table)
    write_json(places.preprocessed / "dataset_fingerprint.json", fingerprint(cases, channels))
    write_cases(cases, places.root / "cases.json")
    return places.raw


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def fingerprint(cases: Sequence[Case], channels: Sequence[str]) -> dict[str, Any]:
    """nnU-Net's fingerprint of the dataset, axes in its order (z, y, x).

    Intensities are left out: they are used for CT only.
    """
    return {
        "spacings": [list(case.spacing[::-1]) for case in cases],
        "shapes_after_crop": [list(case.cropped_shape[::-1]) for case in cases],
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(len(channels))},
        "median_relative_size_after_cropping": float(np.median([c.cropped_share for c in cases])),
    }


def preprocess_case(
    case: Case, channels: Sequence[str], plans: Mapping[str, Any], configuration: str, folder: Path
) -> list[Path]:
    """Write a case as nnU-Net trains on it (crop, normalise, resample): its three files.

    The arrays enter nnU-Net as they do in ``models.predictor``, so that training sees what
    prediction will see.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    settings = manager.get_configuration(configuration)
    stack, spacing = case.stack(channels)
    label = np.asarray(load_image(case.label).dataobj, dtype=np.int16)[None]
    image, seg, properties = settings.preprocessor_class(verbose=False).run_case_npy(
        stack.transpose(0, 3, 2, 1),
        label.transpose(0, 3, 2, 1),
        {"spacing": list(spacing[::-1])},
        manager,
        settings,
        dataset_json("", channels, 1),
    )
    image, seg = image.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
    patch = tuple(settings.patch_size)
    blocks, chunks = comp_blosc2_params(image.shape, patch, image.itemsize)
    seg_blocks, seg_chunks = comp_blosc2_params(seg.shape, patch, seg.itemsize)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{case.case}{end}" for end in (".b2nd", "_seg.b2nd", ".pkl")]
    for file in files:
        file.unlink(missing_ok=True)  # blosc2 does not overwrite
    nnUNetDatasetBlosc2.save_case(
        image,
        seg,
        properties,
        str(folder / case.case),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=seg_chunks,
        blocks_seg=seg_blocks,
    )
    return files


def write_splits(places: Places, splits: Sequence[Split], cases: Sequence[Case]) -> Path:
    """Write nnU-Net's ``splits_final.json`` and, for people, ``splits.tsv`` in the root."""
    table = [{"train": list(s.train), "val": list(s.val)} for s in splits]
    write_json(places.preprocessed / "splits_final.json", table)
    fold = {case: number for number, split in enumerate(splits) for case in split.val}
    lines = ["case\tparticipant_id\tgroup\tlesion_volume_ml\tfold"]
    lines += [
        f"{c.case}\t{c.participant}\t{c.group}\t{c.volume_ml:.3f}\t{fold.get(c.case, 'n/a')}"
        for c in sorted(cases, key=lambda c: c.case)
    ]
    write_text(places.root / "splits.tsv", "\n".join(lines) + "\n")
    return write_json(places.root / "splits.json", table)


def read_splits(path: Path) -> list[Split]:
    """Splits that ``write_splits`` wrote."""
    return [
        Split(train=tuple(row["train"]), val=tuple(row["val"]))
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
