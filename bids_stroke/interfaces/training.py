"""Steps of the train level: cases, nnU-Net's dataset and plans, arrays, folds, the model."""

import json
import os
import subprocess  # nosec B404 # one call, of our own module, as a list of words
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_stroke import errors
from bids_stroke.core import geometry, metrics, sides, tuning
from bids_stroke.core.files import atomic_path, load_image, save_image, write_json, write_text


class _CaseInput(BaseInterfaceInputSpec):
    network_t1w = File(exists=True, desc="preprocessed T1w on the network's grid")
    network_flair = File(exists=True, desc="preprocessed FLAIR on the network's grid")
    network_mask = File(exists=True, mandatory=True, desc="brain mask on the network's grid")
    native = File(exists=True, mandatory=True, desc="image on which the reference was drawn")
    native_mask = File(exists=True, mandatory=True, desc="brain mask on that image's grid")
    truth = File(exists=True, mandatory=True, desc="reference mask of the dataset")
    to_network = File(exists=True, desc="ITK transform from that image to the network's")
    to_native = File(exists=True, desc="ITK transform from the network's image to that image")
    space = traits.Enum("T1w", "FLAIR", mandatory=True, desc="modality of that image")
    channels = traits.List(
        traits.Str, [], usedefault=True, desc="of the network; mirrored ones are made here"
    )
    case = traits.Str(mandatory=True, desc="label of the pair")
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    group = traits.Str(mandatory=True, desc="what stays together in one fold")


class _CaseOutput(TraitedSpec):
    label = File(desc="reference mask on the network's grid, uint8")
    case = File(desc="JSON of models.dataset.Case")


class PrepareCase(SimpleInterface):
    """Bring a reference mask to the network's grid, and say all that training wants to know."""

    input_spec = _CaseInput
    output_spec = _CaseOutput

    def _run_interface(self, runtime: Any) -> Any:
        from dataclasses import asdict

        given, cwd = self.inputs, Path(runtime.cwd)
        brain_image = load_image(given.network_mask)
        grid, brain = geometry.grid_of(brain_image), np.asanyarray(brain_image.dataobj) > 0
        truth = self._on_native(cwd / "truth.nii.gz")
        drawn = np.asanyarray(truth.dataobj)
        label = geometry.resample(
            drawn,
            geometry.grid_of(truth),
            grid,
            transform=_matrix(given.to_network),
            order=0,
        )
        save_image(label > 0.5, grid.affine, cwd / "label.nii.gz", dtype=np.uint8)
        native_mm3 = geometry.voxel_volume_mm3(truth.affine)
        box = geometry.bounding_box(brain)
        cropped = tuple(int(axis.stop - axis.start) for axis in box)
        case = _case_kind()(
            case=given.case,
            participant=given.participant,
            session=given.session,
            group=given.group,
            images={**self._images(), **self._mirrored(cwd)},
            brain=given.network_mask,
            label=str(cwd / "label.nii.gz"),
            space=given.space,
            native=given.native,
            native_brain=given.native_mask,
            truth=str(cwd / "truth.nii.gz"),
            transform=given.to_native if isdefined(given.to_native) else "",
            volume_ml=float(np.count_nonzero(drawn) * native_mm3 / 1000),
            spacing=tuple(float(side) for side in brain_image.header.get_zooms()[:3]),
            cropped_shape=cropped,
            cropped_share=float(np.prod(cropped) / brain.size),
            outside=sides.outside_share(brain, label),
            contrast=self._contrast(brain, label),
        )
        self._results["label"] = case.label
        self._results["case"] = str(write_json(cwd / "case.json", asdict(case)))
        return runtime

    def _images(self) -> dict[str, str]:
        files = {"T1w": self.inputs.network_t1w, "FLAIR": self.inputs.network_flair}
        return {modality: file for modality, file in files.items() if isdefined(file)}

    def _mirrored(self, folder: Path) -> dict[str, str]:
        """Files of the mirrored channels that the network sees beside the images."""
        from bids_stroke.models.channels import MIRRORED, with_mirrored

        asked = [name for name in self.inputs.channels if name in MIRRORED]
        brain, files = load_image(self.inputs.network_mask), self._images()
        images = {
            modality: load_image(files[modality]).get_fdata(dtype=np.float32)
            for modality in {MIRRORED[name] for name in asked} & set(files)
        }
        mask, voxel = np.asanyarray(brain.dataobj), brain.header.get_zooms()[:3]
        every = with_mirrored(images, asked, mask, voxel)
        made = {name: folder / f"{name}.nii.gz" for name in asked if name in every}
        for name, path in made.items():
            save_image(every[name], brain.affine, path, dtype=np.float32)
        return {name: str(path) for name, path in made.items()}

    def _on_native(self, path: Path) -> Any:
        """The reference as uint8 on the grid of the image on which it was drawn."""
        source, native = load_image(self.inputs.truth), load_image(self.inputs.native)
        mask = np.asanyarray(source.dataobj)
        x, y, z = mask.shape[:3]
        mask = (mask.reshape(x, y, z) > 0).astype(np.uint8)
        grid = geometry.Grid((x, y, z), source.affine)
        if not geometry.same_grid(grid, geometry.grid_of(native)):
            mask = geometry.resample(mask, grid, geometry.grid_of(native), order=0) > 0.5
        save_image(mask, native.affine, path, dtype=np.uint8)
        return load_image(path)

    def _contrast(self, brain: np.ndarray, label: np.ndarray) -> float | None:
        """Does the mask lie on the side that looks ill? By the T1w where there is one."""
        images = self._images()
        modality = "T1w" if "T1w" in images else "FLAIR"
        data = load_image(images[modality]).get_fdata(dtype=np.float32)
        return sides.mirror_contrast(data, brain, label, bright=modality == "FLAIR")


def _case_kind() -> Any:
    from bids_stroke.models.dataset import Case

    return Case


def _matrix(path: Any) -> np.ndarray | None:
    return geometry.read_itk_affine(Path(path)) if isdefined(path) and path else None


class _PlanInput(BaseInterfaceInputSpec):
    setup = File(exists=True, mandatory=True, desc="JSON: root, name, recipe, pretrained")
    cases = File(exists=True, mandatory=True, desc="JSON of all cases")


class _PlanOutput(TraitedSpec):
    plans = File(desc="plans that the arrays are made by")


class PlanDataset(SimpleInterface):
    """Write nnU-Net's raw dataset (links), its fingerprint, and the plans of all stages."""

    input_spec = _PlanInput
    output_spec = _PlanOutput
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.models import dataset, descriptor, planning, recipe

        setup = json.loads(Path(self.inputs.setup).read_text(encoding="utf-8"))
        places = dataset.Places(Path(setup["root"]), setup["name"])
        chosen = recipe.from_table(setup["recipe"])
        pretrained = descriptor.load(Path(setup["pretrained"])) if setup["pretrained"] else None
        dataset.write_raw(places, dataset.read_cases(Path(self.inputs.cases)), chosen.channels)
        base = planning.base_plans(chosen, places, pretrained)
        for stage in chosen.stages:
            table = planning.stage_plans(base, chosen, stage)
            batch = table["configurations"][chosen.plan.configuration]["batch_size"]
            planning.check_division(batch, setup["ranks"], stage.name)
            write_json(places.preprocessed / f"{stage.name}.json", table)
        # Equal plans keep their file, so that arrays which were made by them are kept as well.
        path = places.preprocessed / "base.json"
        text = json.dumps(base, indent=2)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        self._results["plans"] = str(path)
        return runtime


class _ArraysInput(BaseInterfaceInputSpec):
    case = File(exists=True, mandatory=True, desc="JSON of the case")
    plans = File(exists=True, mandatory=True, desc="plans of the dataset")
    channels = traits.List(traits.Str, mandatory=True)
    configuration = traits.Str(mandatory=True)
    folder = traits.Str(mandatory=True, desc="folder of the arrays")


class _ArraysOutput(TraitedSpec):
    arrays = traits.List(File(exists=True), desc="files of the case")


class MakeArrays(SimpleInterface):
    """Write a case as nnU-Net trains on it."""

    input_spec = _ArraysInput
    output_spec = _ArraysOutput

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.models import dataset

        case = dataset.Case(**json.loads(Path(self.inputs.case).read_text(encoding="utf-8")))
        plans = json.loads(Path(self.inputs.plans).read_text(encoding="utf-8"))
        files = dataset.preprocess_case(
            case,
            self.inputs.channels,
            plans,
            self.inputs.configuration,
            Path(self.inputs.folder),
        )
        self._results["arrays"] = [str(file) for file in files]
        return runtime


class _FoldInput(DynamicTraitedSpec, BaseInterfaceInputSpec):
    job = File(exists=True, mandatory=True, desc="JSON of models.fit.Job")
    after = traits.Any(desc="what has to be done before")
    only_estimate = traits.Bool(False, usedefault=True, desc="time a few iterations, no more")
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)
    num_threads = traits.Int(1, usedefault=True, nohash=True)


class _FoldOutput(TraitedSpec):
    done = traits.Any(desc="the job's file")


class TrainFold(SimpleInterface):
    """Train and validate a fold in a process of its own, which a killed run can leave and rejoin.

    What is done already is not done again, so that this is run every time.
    """

    input_spec = _FoldInput
    output_spec = _FoldOutput
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.models.dataset import Places

        job = json.loads(Path(self.inputs.job).read_text(encoding="utf-8"))
        places = Places(Path(job["root"]), job["name"])
        command = [sys.executable, "-m", "bids_stroke.models.fit", self.inputs.job]
        command += ["--estimate"] if self.inputs.only_estimate else []
        with _gpus(places.root, self.inputs.device, job["fold"], job["ranks"]) as visible:
            environment = {**os.environ, **places.environment(), **visible}
            environment |= {"OMP_NUM_THREADS": str(self.inputs.num_threads)}
            with (places.root / f"fold_{job['fold']}.log").open("a", encoding="utf-8") as log:
                done = subprocess.run(  # noqa: S603 # nosec B603 # our own module
                    command, env=environment, stdout=log, stderr=subprocess.PIPE, text=True
                )
                log.write(done.stderr)
        if done.returncode:
            raise _error(done.returncode, done.stderr, job["fold"])
        self._results["done"] = self.inputs.job
        return runtime


def _error(code: int, messages: str, fold: int) -> Exception:
    """What a training process that failed says, as an error of ours."""
    if code in (-9, 137):
        return errors.TryAgain(
            f"The training of fold {fold} was killed, most likely because memory ran out: give "
            "more memory, or a smaller patch or batch; a new run goes on where it was."
        )
    last = (messages.strip().splitlines() or ["no message"])[-1]
    kind, colon, sentence = last.partition(": ")
    known = getattr(errors, kind.rpartition(".")[2], None)
    if colon and isinstance(known, type) and issubclass(known, errors.BidsStrokeError):
        return known(sentence)
    return RuntimeError(f"The training of fold {fold} stopped with code {code}: {last}")


@contextmanager
def _gpus(root: Path, device: str, fold: int, count: int) -> Iterator[dict[str, str]]:
    """The environment that shows a process ``count`` GPUs: free ones where there are enough."""
    if not device.startswith("cuda"):
        yield {}
        return
    if ":" in device:
        yield {"CUDA_VISIBLE_DEVICES": device.partition(":")[2]}
        return
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    first = fold * count % len(names)
    order = names[first:] + names[:first]
    with ExitStack() as locks:
        free: list[str] = []
        for name in order:
            if len(free) < count and _locked(root / f"gpu-{name}.lock", locks):
                free.append(name)
        shared = [name for name in order if name not in free]
        yield {"CUDA_VISIBLE_DEVICES": ",".join([*free, *shared][:count])}


def _locked(path: Path, locks: ExitStack) -> bool:
    """Lock a file until ``locks`` ends, if no other process has it."""
    import fcntl

    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return False
    locks.enter_context(lock)
    return True


class _CollectInput(BaseInterfaceInputSpec):
    setup = File(exists=True, mandatory=True, desc="JSON: root, name, recipe, facts of the model")
    folds = traits.List(traits.Int, mandatory=True)
    after = traits.Any(desc="what has to be done before")


class _CollectOutput(TraitedSpec):
    table = File(desc="agreement of each validation case, TSV")
    model = File(desc="descriptor of the model")


class CollectModel(SimpleInterface):
    """Tune the operating point on the validation maps, judge each fold, write the model folder."""

    input_spec = _CollectInput
    output_spec = _CollectOutput
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.models import dataset

        setup = json.loads(Path(self.inputs.setup).read_text(encoding="utf-8"))
        places = dataset.Places(Path(setup["root"]), setup["name"])
        splits = dataset.read_splits(places.root / "splits.json")
        fold_of = {case: fold for fold in self.inputs.folds for case in splits[fold].val}
        cases = [c for c in dataset.read_cases(places.root / "cases.json") if c.case in fold_of]
        points, final, mean = _points(places, cases, fold_of, setup)
        rows = [
            {
                "participant_id": case.participant,
                "session_id": case.session or None,
                "label": case.case,
                "space": case.space,
                "fold": fold_of[case.case],
                **_judge(places, case, fold_of[case.case], points[fold_of[case.case]]),
            }
            for case in cases
        ]
        self._results["table"] = str(_write_rows(rows, places.root / "cross_validation.tsv"))
        self._results["model"] = str(_write_model(places, setup, self.inputs.folds, final, mean))
        return runtime


def _map_of(places: Any, case: Any, fold: int) -> Path:
    return places.validation / f"fold_{fold}" / f"{case.case}.nii.gz"


def _points(places: Any, cases: Any, fold_of: Any, setup: Any) -> tuple[Any, Any, float]:
    """Operating point to judge each fold by, that of the model, and its mean Dice."""
    given = setup["recipe"]["operating_point"]
    grids = {}
    for case in cases:
        image = load_image(_map_of(places, case, fold_of[case.case]))
        truth = np.asanyarray(load_image(case.truth).dataobj)
        mm3 = geometry.voxel_volume_mm3(image.affine)
        grids[case.case] = tuning.dice_grid(image.get_fdata(dtype=np.float32), truth, mm3)
    *best, mean = tuning.best_point(list(grids.values()))
    if not given["tune"]:
        stated = (given["threshold"], given["min_volume_mm3"])
        return dict.fromkeys(set(fold_of.values()), stated), stated, mean
    return tuning.points_by_fold(grids, fold_of), tuple(best), mean


def _judge(places: Any, case: Any, fold: int, point: tuple[float, float]) -> dict[str, Any]:
    """Agreement of a case's map, cut at a point, with its reference."""
    from bids_stroke.core.lesions import segment

    image = load_image(_map_of(places, case, fold))
    probability = image.get_fdata(dtype=np.float32)
    labels = segment(
        probability,
        image.affine,
        threshold=point[0],
        min_volume_mm3=point[1],
        connectivity=26,
        inclusive=True,
    )
    truth = np.asanyarray(load_image(case.truth).dataobj)
    brain = np.asanyarray(load_image(case.native_brain).dataobj)
    values = metrics.agreement(
        truth, labels > 0, image.affine, probability=probability, brain=brain
    )
    return {"threshold": point[0], "min_volume_mm3": point[1], **values}


def _write_rows(rows: Any, path: Path) -> Path:
    import pandas as pd

    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    return path


def _write_model(places: Any, setup: Any, folds: Any, point: Any, mean: float) -> Path:
    """The model folder, with what the cross-validation says of it."""
    from bids_stroke.models import packing, recipe
    from bids_stroke.models.descriptor import OperatingPoint

    chosen = recipe.from_table(setup["recipe"])
    stage = chosen.stages[-1]
    own = chosen.of_stage(stage)
    facts = packing.Facts(
        name=setup["name"],
        training_data=setup["training_data"],
        synthetic=setup["synthetic"],
        evaluation={
            "state": "cross-validation on the training data, on the deployment path",
            "folds": len(folds),
            "mean_dice_at_operating_point": round(mean, 4),
        },
    )
    operating = OperatingPoint(threshold=point[0], min_volume_mm3=point[1])
    model = packing.draft(own, facts, operating, places.model / f"{setup['name']}.toml")
    if chosen.method == "lesiongnb":
        return packing.write_lesiongnb(model, places.results / "parameters.toml")
    stage_folder = next(places.results.glob(f"*__{stage.name}__{own.plan.configuration}"))
    return packing.write_model(model, stage_folder, list(folds), own)
