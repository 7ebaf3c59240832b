"""Ensembles and members in the graph: from network images to combined results."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_stroke.core.files import load_image, save_image
from bids_stroke.errors import UsageError
from bids_stroke.models import descriptor
from bids_stroke.models.ensemble import Combination, ensemble, preprocessings
from bids_stroke.models.members import members_of
from bids_stroke.workflows.segment import init_segment_wf
from tests.tiny_model import write_model

SHAPE = (24, 26, 22)
OTHER = 'steps = ["reorient", "brain_extraction", "zscore"]\nreference = "T1w"'


def tiny(folder: Path, name: str, **options: Any) -> descriptor.Descriptor:
    path = write_model(folder / name, **options)
    path.write_text(path.read_text().replace('name = "tiny"', f'name = "{name}"'))
    return descriptor.load(path)


def run(folder: Path, model: descriptor.Descriptor, **options: Any) -> dict[str, Any]:
    """Results of all nodes, by name, on one random T1w."""
    settings: dict[str, Any] = {
        "descriptor": model,
        "modalities": ("T1w",),
        "reference": "T1w",
        "operating_point": model.operating_point,
        "folds": (),
        "tta": None,
        "precision": "auto",
        "device": "cpu",
        "use_gpu": False,
        "omp_nthreads": 1,
        **options,
    }
    workflow = init_segment_wf(**settings)
    rng, affine = np.random.default_rng(0), np.diag([2.0, 2, 2, 1])
    brain = np.zeros(SHAPE)
    brain[4:20, 4:22, 4:18] = 1
    image = save_image(
        rng.normal(size=SHAPE) * brain, affine, folder / "t1w.nii.gz", dtype=np.float32
    )
    mask = save_image(brain, affine, folder / "mask.nii.gz", dtype=np.uint8)
    given = {"t1w_conformed": image, "t1w_mask": mask}
    for end in ("", "_2"):
        given |= {f"network_t1w{end}": image, f"network_mask{end}": mask}
    for field, path in given.items():
        if field in workflow.inputs.inputnode.get():
            setattr(workflow.inputs.inputnode, field, str(path))
    workflow.base_dir = str(folder / "work")
    return {node.name: node.result.outputs for node in workflow.run().nodes()}


def values(path: str) -> np.ndarray:
    return load_image(path).get_fdata(dtype=np.float32)


@pytest.mark.parametrize("method", ["mean", "stack", "window"])
def test_two_models_are_combined(tmp_path: Path, method: str) -> None:
    models = [tiny(tmp_path, "one"), tiny(tmp_path, "two", folds=1, preprocessing=OTHER)]
    both = ensemble(models, ("T1w",), Combination(method=method, window=3, share=0.5))
    assert len(preprocessings(models)) == 2
    done = run(tmp_path, both, threshold=0.4)
    maps = [values(done[f"t1w_to_native{end}"].probability) for end in ("", "_2")]
    mean = values(done["t1w_combine"].probability)
    np.testing.assert_allclose(mean, np.mean(maps, axis=0), atol=1e-6)
    if method == "stack":
        marked = values(done["t1w_combine"].candidates) > 0
        assert np.array_equal(marked, (maps[0] >= 0.4) & (maps[1] >= 0.4))
    spread = values(done["t1w_agreement"].uncertainty)
    np.testing.assert_allclose(spread, np.std(maps, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("folds", "tta", "kind", "count"),
    [(2, False, "fold", 2), (2, True, "fold", 2), (1, True, "mirrored copy", 8)],
)
def test_members_are_folds_or_mirrored_copies(
    tmp_path: Path, folds: int, tta: bool, kind: str, count: int
) -> None:
    model = tiny(
        tmp_path, "one", folds=folds, operating_point="threshold = 0.5\nmin_volume_mm3 = 0"
    )
    members = members_of(model, (), tta)
    assert (members.kind, members.count) == (kind, count)
    done = run(tmp_path, model, tta=tta)
    maps = [values(path) for path in done["predict"].members]
    assert len(maps) == count
    spread = values(done["t1w_agreement"].uncertainty)
    np.testing.assert_allclose(spread, np.std(maps, axis=0), atol=1e-6)
    logits = np.mean([np.log(m / (1 - m)) for m in np.clip(maps, 1e-6, 1 - 1e-6)], axis=0)
    brain = nib.load(tmp_path / "mask.nii.gz").get_fdata() > 0
    whole = values(done["predict"].probability)
    np.testing.assert_allclose(whole[brain], 1 / (1 + np.exp(-logits[brain])), atol=1e-4)
    table = pd.read_csv(done["t1w_agreement"].table, sep="\t")
    assert table["members_share"].between(0, 1).all()
    assert table["disagreement"].between(0, 0.5).all()


def test_one_member_has_no_disagreement(tmp_path: Path) -> None:
    model = tiny(tmp_path, "one", operating_point="threshold = 0.3\nmin_volume_mm3 = 0")
    done = run(tmp_path, model, tta=False)
    assert "t1w_agreement" not in done
    table = pd.read_csv(done["t1w_segment"].table, sep="\t")
    assert table[["members_share", "disagreement"]].isna().all(axis=None)


def test_an_ensemble_tells_of_each_model(tmp_path: Path) -> None:
    models = [tiny(tmp_path, "one"), tiny(tmp_path, "two")]
    both = ensemble(models, ("T1w",), Combination(weights=(1, 3)))
    assert both.name == "one+two"
    assert both.synthetic
    assert {key.split("/")[0] for key in both.checksums()} == {"one", "two"}
    assert both.inputs == (("T1w",),)


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0)])
def test_wrong_weights_are_a_usage_error(tmp_path: Path, weights: tuple[float, ...]) -> None:
    models = [tiny(tmp_path, "one"), tiny(tmp_path, "two")]
    with pytest.raises(UsageError, match="--ensemble-weights"):
        ensemble(models, ("T1w",), Combination(weights=weights))
    with pytest.raises(UsageError, match="twice"):
        ensemble([models[0], models[0]], ("T1w",), Combination())
