"""The preprocessing graph over models and pairs, and real runs on a small asymmetric brain."""

from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline import engine as pe
from scipy import ndimage

from bids_stroke.core import geometry
from bids_stroke.core.files import load_image, read_json, save_image
from bids_stroke.errors import UnusableData
from bids_stroke.workflows.preproc import OUTPUTS, check_steps, init_preproc_wf

S0 = ("brain_extraction", "reorient", "register", "n4", "zscore")
S1 = ("reorient", "brain_extraction", "register", "crop", "n4")
S2 = ("reorient", "brain_extraction", "n4", "register", "crop", "zscore")
OURS = ("reorient", "brain_extraction", "crop", "n4", "register", "zscore")
ORDERS = {"S0": S0, "S1": S1, "S2": S2, "ours": OURS}
PAIRS = (("T1w",), ("FLAIR",), ("T1w", "FLAIR"))
TURN = np.array([[0.995, -0.0998, 0, 3], [0.0998, 0.995, 0, -2], [0, 0, 1, 4], [0, 0, 0, 1]])


def build(**changes: Any) -> pe.Workflow:
    settings: dict[str, Any] = {
        "modalities": ("T1w", "FLAIR"),
        "steps": OURS,
        "reference": "FLAIR",
        "brain_extraction": "skip",
        "hdbet_weights": None,
        "n4_shrink": 2,
        "n4_levels": 3,
        "omp_nthreads": 1,
        "use_gpu": False,
        "device": "cpu",
        "sloppy": True,
        "random_seed": 1,
    }
    return init_preproc_wf(**{**settings, **changes})


def given_out(workflow: pe.Workflow) -> set[str]:
    """Fields of the outputnode that some node fills."""
    outputnode = workflow.get_node("outputnode")
    edges = workflow._graph.in_edges(outputnode, data=True)
    return {field for *_, data in edges for _, field in data["connect"]}


@pytest.mark.parametrize(
    "order, modalities, reference", list(product(ORDERS, PAIRS, ("T1w", "FLAIR")))
)
def test_every_order_pair_and_reference_gives_its_outputs(
    order: str, modalities: tuple[str, ...], reference: str
) -> None:
    steps = ORDERS[order]
    workflow = build(steps=steps, modalities=modalities, reference=reference)
    present = [modality.lower() for modality in modalities]
    expected = {"network_mask"}
    for m in present:
        expected |= {f"{m}_conformed", f"{m}_mask", f"{m}_preproc", f"network_{m}"}
        expected |= {f"conform_qc_{m}", f"brain_qc_{m}", f"{m}_n4_before", f"{m}_n4_after"}
    if len(present) == 2:
        expected |= {"moving_preproc", "moving_before", "registration_qc"}
        expected |= {"t1w_to_flair_xfm", "flair_to_t1w_xfm"}
    assert given_out(workflow) == expected
    assert expected <= set(OUTPUTS)
    assert bool(workflow.get_node("register")) == (len(present) == 2)


def test_nodes_follow_the_order_of_the_steps() -> None:
    def upstream(workflow: pe.Workflow, node: str) -> set[str]:
        import networkx

        return {n.name for n in networkx.ancestors(workflow._graph, workflow.get_node(node))}

    assert "t1w_n4" in upstream(build(steps=OURS), "register")
    assert "register" in upstream(build(steps=S0), "t1w_n4")
    assert "flair_reorient" in upstream(build(steps=S1), "brain")
    assert "brain" in upstream(build(steps=S0), "flair_reorient")
    assert "t1w_crop" in upstream(build(steps=S1), "t1w_n4")
    assert {"t1w_crop", "t1w_n4"} <= upstream(build(steps=OURS), "register")


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_n4_has_the_levels_that_the_model_asks_for(levels: int) -> None:
    workflow = build(sloppy=False, n4_levels=levels)
    for name in ("t1w_n4", "flair_n4"):
        assert workflow.get_node(name).inputs.levels == levels


def test_only_brain_extraction_asks_for_the_gpu() -> None:
    workflow = build(brain_extraction="auto", use_gpu=True, device="cuda", omp_nthreads=4)
    on_gpu = {
        name
        for name in workflow.list_node_names()
        if getattr(workflow.get_node(name).inputs, "use_gpu", False) is True
    }
    assert on_gpu == {"brain"}
    assert workflow.get_node("brain").n_procs == 1
    assert build(omp_nthreads=4).get_node("brain").n_procs == 4
    for given, asks in (({"T1w"}, True), ({"T1w", "FLAIR"}, False)):
        workflow = build(brain_extraction="auto", use_gpu=True, precomputed=frozenset(given))
        assert workflow.get_node("brain").inputs.use_gpu is asks


@pytest.mark.parametrize(
    "steps, word",
    [
        (("reorient", "n4"), "no brain_extraction"),
        (("n4", "brain_extraction"), "n4 before"),
        (("brain_extraction", "n4", "n4"), "twice"),
        (("brain_extraction", "sharpen"), "sharpen"),
    ],
)
def test_orders_that_cannot_run_are_refused(steps: tuple[str, ...], word: str) -> None:
    with pytest.raises(UnusableData, match=word):
        check_steps(steps)


def test_methods_text_says_what_is_run() -> None:
    text = build(steps=S0, brain_extraction="hd-bet-1", n4_shrink=3).visit_desc()
    assert text.index("HD-BET 1 [@hdbet]") < text.index("RAS") < text.index("[@ants]")
    assert "shrink factor of at most 3 and 3 levels of B-splines" in text
    assert "T1w was registered rigidly to the FLAIR" in text
    alone = build(modalities=("T1w",)).visit_desc()
    assert "registered" not in alone
    assert "The T1w image of each session was" in alone
    automatic = build(brain_extraction="auto").visit_desc()
    assert "deepbet [@deepbet] unless an image was skull-stripped" in automatic
    weights = build(brain_extraction="auto", hdbet_weights=Path("weights")).visit_desc()
    assert "HD-BET 2 [@hdbet] unless" in weights
    one = build(brain_extraction="hd-bet-1", precomputed=frozenset({"FLAIR"})).visit_desc()
    assert "HD-BET 1 [@hdbet], and by a precomputed mask on the FLAIR" in one
    given = build(brain_extraction="auto", precomputed=frozenset({"T1w", "FLAIR"})).visit_desc()
    assert "deepbet" not in given


def brain(points: np.ndarray) -> np.ndarray:
    """Intensity of a lopsided brain at n x 3 points in RAS mm; 0 outside."""
    x, y, z = np.moveaxis(points, -1, 0)
    inside = (x / 52) ** 2 + (y / 66) ** 2 + (z / 45) ** 2 < 1
    value = 100 + 40 * np.sin(x / 14) * np.cos(y / 17 + 0.5) + 30 * np.sin(z / 11 + x / 40)
    blob = (x - 25) ** 2 + (y - 20) ** 2 + (z - 10) ** 2 < 14**2
    return np.where(inside, np.where(blob, value + 120, value), 0)


def scan(path: Path, codes: str, world: np.ndarray, sides: tuple[float, float, float]) -> Path:
    """A scan of the brain moved by ``world``, stored in any orientation."""
    shape = tuple(int(length / side) for length, side in zip((132, 160, 116), sides, strict=True))
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -np.array(sides) * (np.array(shape) - 1) / 2
    grid = np.stack(np.indices(shape), -1)
    points = nib.affines.apply_affine(world @ affine, grid)
    data = brain(points)
    ornt = nib.orientations.axcodes2ornt(codes)
    turned = nib.apply_orientation(
        data, nib.orientations.ornt_transform(nib.io_orientation(affine), ornt)
    )
    back = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(nib.io_orientation(affine), ornt), shape
    )
    return save_image(turned, affine @ back, path, dtype=np.float32)


@pytest.mark.parametrize(
    "order, reference", [("S0", "FLAIR"), ("S1", "FLAIR"), ("S2", "T1w"), ("ours", "T1w")]
)
def test_a_real_run_keeps_grids_and_finds_the_turn(
    order: str, reference: str, tmp_path: Path
) -> None:
    """Two orientations and a known turn: derivatives are on native grids, images coincide."""
    files = {
        "t1w": scan(tmp_path / "t1w.nii.gz", "LPS", np.eye(4), (4, 4, 4)),
        "flair": scan(tmp_path / "flair.nii.gz", "PIR", TURN, (4, 4, 5)),
    }
    outputs = run(build(steps=ORDERS[order], reference=reference), files, tmp_path)
    moving = "t1w" if reference == "FLAIR" else "flair"
    native = {name: geometry.grid_of(load_image(path)) for name, path in files.items()}
    for name in files:
        for kind in ("conformed", "mask", "preproc"):
            found = geometry.grid_of(load_image(outputs[f"{name}_{kind}"]))
            assert geometry.same_grid(found, native[name]), kind
        mask = values(outputs[f"{name}_mask"])
        np.testing.assert_array_equal(mask != 0, values(files[name]) != 0)
        assert not values(outputs[f"{name}_preproc"])[mask == 0].any()
    for kind in ("moving_preproc", "moving_before"):
        found = geometry.grid_of(load_image(outputs[kind]))
        assert geometry.same_grid(found, native[reference.lower()])
    matrix = geometry.read_itk_affine(Path(outputs["t1w_to_flair_xfm"]))
    inverse = geometry.read_itk_affine(Path(outputs["flair_to_t1w_xfm"]))
    np.testing.assert_allclose(matrix @ inverse, np.eye(4), atol=1e-6)
    points = np.argwhere(values(outputs["flair_mask"]))
    points = nib.affines.apply_affine(native["flair"].affine, points)
    error = nib.affines.apply_affine(matrix, points) - nib.affines.apply_affine(TURN, points)
    assert np.linalg.norm(error, axis=1).mean() < 1.0
    quality = read_json(outputs["registration_qc"])
    assert quality["similarity_after"] > quality["similarity_before"]
    assert quality["rotation_deg"] == pytest.approx(5.7, abs=0.6)
    assert quality["flags"] == []
    check_network(outputs, moving, order)


def check_network(outputs: dict[str, str], moving: str, order: str) -> None:
    mask = load_image(outputs["network_mask"])
    assert "".join(nib.aff2axcodes(mask.affine)) == "RAS"
    images = {name: load_image(outputs[f"network_{name}"]) for name in ("t1w", "flair")}
    for image in images.values():
        assert geometry.same_grid(geometry.grid_of(image), geometry.grid_of(mask))
        assert not image.get_fdata()[mask.get_fdata() == 0].any()
    inside = mask.get_fdata() != 0
    both = inside & (images[moving].get_fdata() != 0)
    assert both.sum() > 0.9 * inside.sum()
    pair = [image.get_fdata()[both] for image in images.values()]
    assert np.corrcoef(*pair)[0, 1] > 0.9
    if "zscore" in ORDERS[order]:
        reference = images["flair" if moving == "t1w" else "t1w"].get_fdata()[inside]
        assert reference.mean() == pytest.approx(0, abs=1e-4)
        assert reference.std() == pytest.approx(1, abs=1e-4)


def run(workflow: pe.Workflow, files: dict[str, Path], folder: Path) -> dict[str, str]:
    """Run a workflow and give the files at its outputnode."""
    workflow.base_dir = str(folder / "work")
    for name, path in files.items():
        setattr(workflow.inputs.inputnode, name, str(path))
    graph = workflow.run()
    nodes = {node.name: node for node in graph.nodes}
    outputnode = workflow.get_node("outputnode")
    found = {}
    for source, _, data in workflow._graph.in_edges(outputnode, data=True):
        for out, field in data["connect"]:
            found[field] = getattr(nodes[source.name].result.outputs, out)
    return found


def values(path: str | Path) -> np.ndarray:
    return load_image(path).get_fdata()


def test_one_modality_and_a_precomputed_mask(tmp_path: Path) -> None:
    """A mask on another grid is used, and said; the result stays on the file's grid."""
    t1w = scan(tmp_path / "t1w.nii.gz", "ASL", np.eye(4), (4, 4, 4))
    coarse = load_image(scan(tmp_path / "coarse.nii.gz", "RAS", np.eye(4), (5, 5, 5)))
    eroded = ndimage.binary_erosion(coarse.get_fdata() != 0)
    mask = save_image(eroded, coarse.affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    workflow = build(modalities=("T1w",), precomputed=frozenset({"T1w"}))
    outputs = run(workflow, {"t1w": t1w, "t1w_mask": mask}, tmp_path)
    record = read_json(outputs["brain_qc_t1w"])
    assert record["method"] == "precomputed"
    assert any("resampled" in note for note in record["notes"])
    found = load_image(outputs["t1w_mask"])
    assert geometry.same_grid(geometry.grid_of(found), geometry.grid_of(load_image(t1w)))
    ratio = (found.get_fdata().sum() * 64) / (eroded.sum() * 125)
    assert ratio == pytest.approx(1, abs=0.05)


def field_in_the_brain(steps: tuple[str, ...], t1w: Path, folder: Path) -> np.ndarray:
    """What N4 divides by, at each voxel of the brain."""
    workflow = build(steps=steps, modalities=("T1w",), sloppy=False, n4_levels=2)
    outputs = run(workflow, {"t1w": t1w}, folder)
    before, after = (values(outputs[f"t1w_n4_{side}"]) for side in ("before", "after"))
    return before[after > 0] / after[after > 0]


def test_air_around_the_head_changes_no_field_where_n4_sees_the_brain_only(tmp_path: Path) -> None:
    """A shaded brain, and the same scan with air around it."""
    plain = load_image(scan(tmp_path / "plain.nii.gz", "RAS", np.eye(4), (4, 4, 4)))
    shading = np.exp(np.linspace(-0.4, 0.4, plain.shape[1]) ** 3 * 6)[:, None]
    shaded = plain.get_fdata() * shading
    air = np.pad(shaded, 14)
    files = [
        save_image(data, plain.affine, tmp_path / f"{name}.nii.gz", dtype=np.float32)
        for name, data in (("shaded", shaded), ("air", air))
    ]
    for steps, alike in ((OURS, True), (S2, False)):
        fields = [field_in_the_brain(steps, f, tmp_path / f"{steps[2]}{f.name}") for f in files]
        assert np.allclose(*fields, rtol=1e-5) is alike


@pytest.mark.parametrize("modalities", PAIRS)
def test_a_network_may_see_whole_heads(modalities: tuple[str, ...]) -> None:
    steps = ("reorient", "brain_extraction", "register")
    workflow = build(steps=steps, modalities=modalities, whole_head=True)
    edges = workflow._graph.in_edges(workflow.get_node("outputnode"), data=True)
    sources = {new: str(node) for node, _, d in edges for _, new in d["connect"]}
    names = {"t1w": "t1w_reorient", "flair": "flair_reorient"}
    if len(modalities) == 2:
        names["t1w"] = "t1w_head_to_flair"
    for modality in modalities:
        assert sources[f"network_{modality.lower()}"].endswith(names[modality.lower()])
    assert sources["network_mask"].endswith(".brain")
    assert "with their skull" in workflow.__desc__
    assert "with their skull" not in build(steps=steps, modalities=modalities).__desc__
