"""A small graph in place of the real one, for tests of how a run goes."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from nipype import Function, Node, Workflow

MODEL = SimpleNamespace(name="tiny", version="1", checksums=dict)


def work(image: str, out_dir: str, kind: str) -> str:
    """One step that does what the name of the participant's image says."""
    import os
    from pathlib import Path

    from bids_stroke.errors import UnusableData

    print("a tool that talks")
    name = Path(image).name
    if "bad" in name and kind == "conform":
        raise UnusableData(f"{image} is empty: remove it.")
    if "bug" in name and kind == "predict":
        raise KeyError("surprise")
    if "killed" in name and kind == "predict":
        os._exit(9)
    if "full" in name:
        raise OSError(28, "No space left on device")
    if kind == "predict":
        Path(out_dir, f"{name}.done").touch()
        folder = Path(out_dir, name.partition("_")[0], "anat")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("lesions")
    with Path(out_dir, "calls").open("a") as stream:
        stream.write(f"{name} {kind}\n")
    return image


def init_wf(*, config: Any, pairs: Any, log_dir: Path, **_: Any) -> Workflow:
    """Two nodes a pair, ``conform`` and ``predict``."""
    workflow = Workflow(name="bids_stroke_wf", base_dir=str(config.execution.work_dir))
    for pair in pairs:
        pair_wf = Workflow(name=pair.label.replace("-", "_") + "_wf")
        nodes = [_node(kind, config) for kind in ("conform", "predict")]
        nodes[0].inputs.image = str(pair.source)
        pair_wf.connect(nodes[0], "out", nodes[1], "image")
        for node in nodes:
            node.config = {"execution": {"crashdump_dir": str(log_dir / f"sub-{pair.subject}")}}
        workflow.add_nodes([pair_wf])
    workflow.visit_desc = lambda: "What was done."  # type: ignore[attr-defined]
    return workflow


def _node(kind: str, config: Any) -> Node:
    node = Node(Function(["image", "out_dir", "kind"], ["out"], work), name=kind)
    node.inputs.out_dir, node.inputs.kind = str(config.dataset.output_dir), kind
    return node


def write_page(output_dir: Path, subject: str, log_dir: Path | None, *, linked: bool) -> Path:
    """A page that says only where its logs are."""
    if subject == "nopage":
        raise ValueError("no page")
    path = output_dir / f"sub-{subject}.html"
    path.write_text(str(log_dir))
    with (output_dir / "writers").open("a") as stream:
        stream.write(f"{subject} {os.getpid()}\n")
    return path


def write_citation(description: str, logs: Path) -> None:
    """Only the description."""
    (logs / "CITATION.md").write_text(description)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the small graph, pages and model in place of the real ones."""
    parts = {
        "bids_stroke.workflows.base": {"init_bids_stroke_wf": init_wf},
        "bids_stroke.reports.participant": {"write_participant_report": write_page},
        "bids_stroke.reports.citation": {"write_citation": write_citation},
        "bids_stroke.models.descriptor": {
            "choose": choose,
            "verify": lambda model: None,
            "brain_weights": lambda models_dir: None,
        },
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def choose(model: str, modalities: tuple[str, ...], models_dir: Path | None) -> tuple:
    """A model that needs a T1w when it is called ``needs-t1w``."""
    from bids_stroke.errors import UnusableData

    if model == "needs-t1w" and "T1w" not in modalities:
        raise UnusableData("Model 'needs-t1w' needs T1w, but there is only FLAIR.")
    return MODEL, "the only one"
