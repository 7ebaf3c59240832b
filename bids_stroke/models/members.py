"""Members of a prediction: the models, folds or mirrored copies whose results are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass

from bids_stroke.errors import UnusableData
from bids_stroke.models.descriptor import Descriptor
from bids_stroke.models.ensemble import models_of


@dataclass(frozen=True)
class Members:
    """What the members are (``model``, ``fold``, ``mirrored copy``), and how many there are."""

    kind: str
    count: int

    @property
    def several(self) -> bool:
        """Whether there are two or more, so that they can disagree."""
        return self.count > 1

    def __str__(self) -> str:
        return f"{self.count} {self.kind[:-1] + 'ie' if self.kind.endswith('y') else self.kind}s"


def available_folds(model: Descriptor) -> tuple[str, ...]:
    """Names of the folds that are in the model folder, for example ``("0", "1", "all")``."""
    found = model.model_folder.glob(f"fold_*/{model.inference.checkpoint}")
    return tuple(sorted(p.parent.name.removeprefix("fold_") for p in found))


def chosen_folds(model: Descriptor, asked: Sequence[str]) -> tuple[str, ...]:
    """Folds asked for, else those of the descriptor, else all that are there.

    Raises UnusableData when one is not there, or none at all.
    """
    there = available_folds(model)
    folds = tuple(map(str, asked or model.inference.folds)) or there
    if missing := [f for f in folds if f not in there]:
        raise UnusableData(
            f"Model '{model.name}' has no fold {missing[0]} in {model.model_folder}: "
            f"there are {', '.join(there) or 'none'}."
        )
    if not folds:
        raise UnusableData(
            f"{model.model_folder} has no weights fold_*/{model.inference.checkpoint}: install the "
            "model again."
        )
    return folds


def mirror_axes(model: Descriptor, tta: bool | None) -> tuple[int, ...]:
    """Axes to mirror; ``tta`` switches mirroring on or off, None takes the descriptor's axes."""
    if tta is None:
        return model.inference.mirror_axes
    return model.inference.mirror_axes or (0, 1, 2) if tta else ()


def members_of(model: Descriptor, asked: Sequence[str] = (), tta: bool | None = None) -> Members:
    """The members at the coarsest level that has several: models, then folds, then copies."""
    if (models := len(models_of(model))) > 1:
        return Members("model", models)
    if model.format != "nnunetv2":
        return Members("model", 1)
    folds = len(chosen_folds(model, asked))
    if folds > 1:
        return Members("fold", folds)
    return Members("mirrored copy", 2 ** len(mirror_axes(model, tta)))
