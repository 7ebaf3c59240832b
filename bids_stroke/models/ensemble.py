"""Several models run as one: a descriptor of descriptors, and how their results are combined."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from bids_stroke.errors import UsageError
from bids_stroke.models.descriptor import Descriptor, Preprocessing, accepted

METHODS = ("mean", "stack", "window")


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How results are combined: ``core.ensembles`` by name, with its parameters.

    ``weights`` () are equal ones. ``window`` (voxels) and ``share`` are those of the agreement
    window, whose stride is 1 voxel.
    """

    method: str = "mean"
    weights: tuple[float, ...] = ()
    window: int = 2
    share: float = 0.75

    def __str__(self) -> str:
        if self.method == "stack":
            return "voxels that every model marks (stacking)"
        if self.method == "window":
            return (
                f"the union of the models' masks where they agree on more than {self.share:g} of "
                f"it in a cube of {self.window} voxels (agreement window, stride 1)"
            )
        if not self.weights:
            return "the mean of their probabilities"
        return f"the mean of their probabilities, weighted {', '.join(map(str, self.weights))}"


@dataclass(frozen=True, kw_only=True)
class Ensemble(Descriptor):
    """Several models as one descriptor; what an ensemble can't differ in is its first model's."""

    models: tuple[Descriptor, ...]
    combination: Combination

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the files of all models, under the names of the models."""
        return {
            f"{model.name}/{path}": value
            for model in self.models
            for path, value in model.checksums().items()
        }


def models_of(descriptor: Descriptor) -> tuple[Descriptor, ...]:
    """The models that are run: those of an ensemble, or the one."""
    return descriptor.models if isinstance(descriptor, Ensemble) else (descriptor,)


def ensemble(
    models: Sequence[Descriptor], modalities: Sequence[str], combination: Combination
) -> Ensemble:
    """Models as one for a session that has ``modalities``, which each of them can be run on.

    The grid and the smallest volume of a lesion are the first model's; the threshold of a mean is
    the mean of the models' own, with their weights. Raises UsageError for a model named twice or a
    wrong number of weights.
    """
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise UsageError(f"--model names a model twice: {', '.join(names)}.")
    weights = combination.weights or (1.0,) * len(models)
    if len(weights) != len(models) or not sum(weights):
        raise UsageError(
            f"--ensemble-weights needs one for each of the {len(models)} models, not all 0."
        )
    first = models[0]
    shared = {f.name: getattr(first, f.name) for f in fields(first)}
    used = {m for model in models for m in accepted(model, modalities)}
    channels = tuple(m for m in modalities if m in used)
    threshold = sum(
        w * m.operating_point.threshold for w, m in zip(weights, models, strict=True)
    ) / sum(weights)
    differing = {
        "name": "+".join(names),
        "version": "+".join(m.version for m in models),
        "title": f"Ensemble of {' and '.join(names)}: {combination}",
        "description": " ".join(m.description for m in models),
        "intended_use": " ".join(dict.fromkeys(m.intended_use for m in models)),
        "training_data": " ".join(f"{m.name}: {m.training_data}" for m in models),
        "licence": "; ".join(dict.fromkeys(m.licence for m in models)),
        "citation": " ".join(dict.fromkeys(m.citation for m in models)),
        "files": (),
        "evaluation": {},
        "synthetic": any(m.synthetic for m in models),
        "channels": channels,
        "inputs": (channels,),
        "operating_point": replace(first.operating_point, threshold=round(threshold, 4)),
    }
    return Ensemble(models=tuple(models), combination=combination, **{**shared, **differing})


def preprocessings(models: Sequence[Descriptor]) -> list[Preprocessing]:
    """Different ways of preprocessing among models, in order."""
    return list(dict.fromkeys(model.preprocessing for model in models))


def network_suffix(model: Descriptor, models: Sequence[Descriptor]) -> str:
    """End of the names of the fields that hold a model's input: "", then "_2", "_3"."""
    number = preprocessings(models).index(model.preprocessing) + 1
    return "" if number == 1 else f"_{number}"
