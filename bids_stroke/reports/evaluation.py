"""Agreement with reference masks, per run and between runs, and the tables of the papers."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator

from bids_stroke.bids.masks import find_reference_masks
from bids_stroke.bids.pairs import Pair
from bids_stroke.core import geometry, metrics, stats
from bids_stroke.core.conform import is_placed, load_labels
from bids_stroke.core.files import UNREADABLE, load_image
from bids_stroke.errors import InputMissing, UnusableData, UsageError
from bids_stroke.reports.collect import Session
from bids_stroke.reports.tables import KEYS, SPACE, keys, model_name

References = Mapping[str, Mapping[str, Path]]

MANUAL = "reference masks"
LOST_SHARE = 0.2
"""A reference of which more than this lies off the image is that of another space."""
PARALLEL_FROM = 8
FEW_VALUES = 5
"""A column with more different numbers is given by its quartiles."""

CROSS_VALIDATION = "cross-validation of "
"""What the run of a training is called, before the name of its model."""
RUN = {
    "run": "Run: the output folder itself, the name of another one that was compared, or the "
    "cross-validation of a training."
}
METRIC_COLUMNS = {
    **RUN,
    **KEYS,
    **SPACE,
    "model": "Name and version of the model.",
    "reference_resampled": "True where the reference mask lay on another grid and was brought to "
    "the prediction's by nearest neighbour.",
    **metrics.COLUMNS,
}
STATISTICS_COLUMNS = {**RUN, **stats.DESCRIBE_COLUMNS}
VOLUME_COLUMNS = {
    "reference": "Where the first volume comes from: reference masks, or a run.",
    "run": "Run whose volumes are compared with it.",
    **stats.VOLUME_COLUMNS,
}
MICRO = "dice_micro"
_COUNTS = ("tp_voxels", "fp_voxels", "fn_voxels")
STATISTICS = tuple(name for name in metrics.COLUMNS if name not in _COUNTS)
COMPARED = (
    *("dice", "jaccard", "precision", "sensitivity", "volume_absolute_relative_error"),
    *("lesion_f1_onevoxel", "lesion_f1_overlap10", "assd_pooled_mm", "hd_mm", "nsd_surfel_2mm"),
)
PAPERS = {
    "Meddahi et al. 2024": {
        "Precision": "precision",
        "Sensitivity": "sensitivity",
        "Dice": "dice",
        "Jaccard": "jaccard",
        "ASD (mm)": "assd_meanofmeans_mm",
        "F1": "lesion_f1_overlap10",
    },
    "Tomita et al. 2020": {
        "Dice": "dice",
        "Dice at the best threshold": "dice_best",
        "Micro Dice": MICRO,
        "HD (mm)": "hd_mm",
        "ASSD (mm)": "assd_pooled_mm",
        "TPR": "sensitivity",
        "Precision": "precision",
    },
}
PAPER_STRATA = {"Meddahi et al. 2024": ("all",), "Tomita et al. 2020": ("all", "volume_quartile")}
PAPER_COLUMNS = {
    "paper": "Paper whose table the row belongs to.",
    **RUN,
    "grouping": "all sessions, or volume_quartile.",
    "stratum": "all, or the quartile of the lesion volume by rank, 1 the smallest.",
    "measure": "Name of the measure in the paper.",
    **{name: text for name, text in stats.DESCRIBE_COLUMNS.items() if name not in ("grouping",)},
}


@dataclass(frozen=True)
class Job:
    """One mask to be compared with its reference."""

    row: Mapping[str, Any]
    reference: Path
    predicted: Path
    maps: Mapping[str, Path]


@dataclass(frozen=True)
class Problem:
    """A mask that could not be judged, and why."""

    label: str
    message: str


def find_references(
    sessions: Iterable[Session], bids_dir: Path, roots: Sequence[Path]
) -> dict[str, dict[str, Path]]:
    """Reference masks of each session that has some, by its label and by space."""
    found = {s.label: find_reference_masks(roots, _pair(s, Path(bids_dir))) for s in sessions}
    return {label: masks for label, masks in found.items() if masks}


def _pair(session: Session, bids_dir: Path) -> Pair:
    """The images of a session where they lie in the input dataset."""
    entities = session.record["entities"]
    folder = bids_dir / f"sub-{session.subject}"
    folder = folder / f"ses-{session.session}" if session.session else folder
    files = {m.lower(): folder / "anat" / of["file"] for m, of in session.record["inputs"].items()}
    return Pair(subject=session.subject, session=session.session, entities=entities, **files)


def compare(
    reference: Path,
    predicted: Path,
    *,
    probability: Path | None = None,
    brain: Path | None = None,
) -> dict[str, float]:
    """Agreement of two mask files; a reference on another grid is brought to the prediction's.

    The probability map and the brain mask lie on the prediction's grid. Raises UnusableData when a
    file can't be read, or when the reference lies largely off the prediction's image, and
    InputMissing when the reference is not there.
    """
    try:
        truth, found = load_labels(Path(reference)), load_image(Path(predicted))
        grid = geometry.grid_of(found)
        mask, resampled = _on_grid(truth, grid, Path(reference))
        maps = {
            name: np.asanyarray(load_image(path).dataobj)
            for name, path in {"probability": probability, "brain": brain}.items()
            if path
        }
        values = metrics.agreement(mask, np.asarray(found.dataobj) > 0, grid.affine, **maps)
    except UNREADABLE as error:
        raise UnusableData(f"{reference} can't be compared with {predicted}: {error}") from error
    return {"reference_resampled": resampled, **values}


def _on_grid(truth: Any, grid: geometry.Grid, path: Path) -> tuple[np.ndarray, bool]:
    """A reference mask on the prediction's grid, and whether it had to be resampled."""
    mask, own = np.asarray(truth.dataobj) > 0, geometry.grid_of(truth)
    if geometry.same_grid(own, grid):
        return mask, False
    if not is_placed(truth):
        raise UnusableData(
            f"{path} is on another grid than the image, and has neither sform nor qform to tell "
            "where it lies: give it a header."
        )
    moved = geometry.resample(mask.astype(np.uint8), own, grid, order=0) > 0
    before = np.count_nonzero(mask) * geometry.voxel_volume_mm3(own.affine)
    after = np.count_nonzero(moved) * geometry.voxel_volume_mm3(grid.affine)
    if before > 100 and after < (1 - LOST_SHARE) * before:
        raise UnusableData(
            f"{path} lies largely off the image that it is compared with: is it of another space?"
        )
    return moved, True


def _maps(session: Session, space: str) -> dict[str, Path]:
    """Probability map and brain mask of a session in a space, where they are on disk."""
    named = {} if space == next(iter(session.record["inputs"])) else {"space": space}
    files = {
        "probability": session.output("lesion_probseg", space=space),
        "brain": session.output("brain_mask", **named),
    }
    return {name: path for name, path in files.items() if path.is_file()}


def _jobs(run: str, sessions: Iterable[Session], references: References) -> list[Job]:
    jobs = []
    for session in sessions:
        for space, reference in sorted(references.get(session.label, {}).items()):
            mask = session.output("lesion_mask", space=space)
            if mask.is_file():
                row = {"run": run, **keys(session), "space": space, "model": model_name(session)}
                jobs.append(Job(row, reference, mask, _maps(session, space)))
    return jobs


def unmatched(run: str, sessions: Iterable[Session], references: References) -> list[str]:
    """A sentence for each space of reference masks that a run has no lesion masks in.

    A mask in another template than the run's is not compared: their grids are alike, and their
    anatomy is not.
    """
    alone: dict[str, list[Path]] = {}
    for session in sessions:
        for space, path in references.get(session.label, {}).items():
            if not session.output("lesion_mask", space=space).is_file():
                alone.setdefault(space, []).append(path)
    return [
        f"{len(paths)} reference mask{'s' * (len(paths) > 1)} in space {space} (first: "
        f"{paths[0].name}) not compared with run '{run}', which has no lesion mask there: choose "
        f"{space} in --output-spaces, or bring the references to a space of the run."
        for space, paths in sorted(alone.items())
    ]


def _judged(job: Job) -> dict[str, Any] | Problem:
    try:
        return {**job.row, **compare(job.reference, job.predicted, **job.maps)}
    except (InputMissing, UnusableData) as error:
        return Problem(str(job.row["label"]), str(error))


def metric_table(
    run: str, sessions: Iterable[Session], references: References, nprocs: int = 1
) -> tuple[pd.DataFrame, list[Problem]]:
    """Agreement with each reference mask, one row a session and space, and what was not judged.

    With ``nprocs`` above 1 and many masks, processes share the work.
    """
    jobs = _jobs(run, sessions, references)
    if nprocs > 1 and len(jobs) >= PARALLEL_FROM:
        with ProcessPoolExecutor(nprocs, mp_context=get_context("forkserver")) as pool:
            results = list(pool.map(_judged, jobs, chunksize=4))
    else:
        results = [_judged(job) for job in jobs]
    rows = [result for result in results if not isinstance(result, Problem)]
    problems = [result for result in results if isinstance(result, Problem)]
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)), problems


def one_per_session(table: pd.DataFrame, sessions: Iterable[Session]) -> pd.DataFrame:
    """One row of agreement a session: of its reference space, else of the first that there is."""
    main = {session.label: session.reference for session in sessions}
    other = table["space"] != table["label"].map(main)
    ordered = table.assign(_other=other).sort_values("_other", kind="stable")
    return ordered.drop_duplicates("label").drop(columns="_other").sort_values("label")


def grouped(table: pd.DataFrame, participants: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The table with the columns ``by`` of participants.tsv; numbers become quartiles.

    Raises UsageError for a column that is not there.
    """
    if missing := [column for column in by if column not in participants]:
        known = ", ".join(c for c in participants if c != "participant_id") or "no column"
        raise UsageError(f"participants.tsv has no column '{missing[0]}': it has {known}.")
    if not by:
        return table
    wanted = participants.set_index("participant_id")[list(by)].apply(_categories)
    return table.join(wanted, on="participant_id")


def _categories(values: pd.Series) -> pd.Series:
    """Values as they are, or in quartiles where they are many numbers."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().sum() < values.notna().sum() or numbers.nunique() <= FEW_VALUES:
        return values
    quartile = pd.qcut(numbers, 4, duplicates="drop")
    text = {each: f"over {each.left:g}, to {each.right:g}" for each in quartile.cat.categories}
    first = quartile.cat.categories[0]
    text[first] = f"to {first.right:g}"
    return quartile.cat.rename_categories(text)


def statistics(
    run: str, table: pd.DataFrame, by: Sequence[str], rng: Generator, resamples: int
) -> pd.DataFrame:
    """Summary of a run over strata, with micro Dice: STATISTICS_COLUMNS."""
    models = ("model",) if table["model"].nunique() > 1 else ()
    names, columns = list(STATISTICS), [*by, *models]
    described = stats.describe_strata(table, names, rng=rng, by=columns, resamples=resamples)
    micro = _micro(table, columns, rng, resamples)
    together = pd.concat([described, micro], ignore_index=True)
    return together.assign(run=run)[list(STATISTICS_COLUMNS)]


def _micro(table: pd.DataFrame, by: Sequence[str], rng: Generator, resamples: int) -> pd.DataFrame:
    """Micro Dice of every stratum, with an interval that draws participants."""
    rows = []
    for grouping, strata in stats.strata_of(table, by).items():
        for stratum, part in table.groupby(strata, observed=True):
            tp, fp, fn = (part[name].to_numpy(dtype=float) for name in _COUNTS)
            people = part["participant_id"].to_numpy()
            low, high = stats.ratio_interval(
                2 * tp, 2 * tp + fp + fn, people, rng=rng, resamples=resamples
            )
            rows.append(
                {
                    "grouping": grouping,
                    "stratum": str(stratum),
                    "metric": MICRO,
                    "n": len(part),
                    "n_participants": len(set(people)),
                    "n_missing": 0,
                    "mean": metrics.micro_dice(part),
                    "mean_low": low,
                    "mean_high": high,
                }
            )
    return pd.DataFrame(rows, columns=list(stats.DESCRIBE_COLUMNS))


def cohort_statistics(
    run: str, table: pd.DataFrame, by: Sequence[str], rng: Generator, resamples: int
) -> pd.DataFrame:
    """Lesion volume and number of all sessions, and by columns: STATISTICS_COLUMNS."""
    names = ["lesion_volume_ml", "lesion_count"]
    groupings = {"all": None, **{column: table[column] for column in by}}
    described = [
        stats.describe(table, names, rng=rng, strata=of, grouping=name, resamples=resamples)
        for name, of in groupings.items()
    ]
    return pd.concat(described, ignore_index=True).assign(run=run)[list(STATISTICS_COLUMNS)]


def volume_table(judged: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Agreement of each run's volumes with the references': VOLUME_COLUMNS."""
    rows = [
        {
            "reference": MANUAL,
            "run": run,
            **stats.volume_agreement(table["reference_volume_ml"], table["predicted_volume_ml"]),
        }
        for run, table in judged.items()
        if len(table)
    ]
    return pd.DataFrame(rows, columns=list(VOLUME_COLUMNS))


def run_volumes(runs: Mapping[str, pd.DataFrame], against: str | None) -> pd.DataFrame:
    """Agreement of the lesion volumes of runs with each other: VOLUME_COLUMNS.

    ``runs`` are tables of sessions (``tables.session_table``), paired by label.
    """
    names = list(runs)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    if against:
        pairs = [(against, other) for other in names if other != against]
    rows = []
    for one, other in pairs:
        both = runs[one].merge(runs[other], on="label", suffixes=("_first", "_second"))
        values = (both[f"lesion_volume_ml_{which}"] for which in ("first", "second"))
        rows.append({"reference": one, "run": other, **stats.volume_agreement(*values)})
    return pd.DataFrame(rows, columns=list(VOLUME_COLUMNS))


def comparisons(
    judged: Mapping[str, pd.DataFrame],
    runs: Mapping[str, pd.DataFrame],
    against: str | None,
    rng: Generator,
    resamples: int,
) -> pd.DataFrame:
    """Paired tests between runs: of the agreement with references, else of volume and number."""
    with_rows = {run: table for run, table in judged.items() if len(table)}
    tables = with_rows if len(with_rows) == len(runs) else runs
    names = COMPARED if tables is with_rows else ("lesion_volume_ml", "lesion_count")
    return stats.compare_runs(
        tables,
        names,
        rng=rng,
        against=against,
        keys=("participant_id", "label"),
        resamples=resamples,
    )


def paper_table(statistics_table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the statistics that the papers report, under their names: PAPER_COLUMNS."""
    parts = []
    for paper, measures in PAPERS.items():
        chosen = statistics_table[statistics_table["grouping"].isin(PAPER_STRATA[paper])]
        for measure, metric in measures.items():
            rows = chosen[chosen["metric"] == metric]
            parts.append(rows.assign(paper=paper, measure=measure))
    together = pd.concat(parts)[list(PAPER_COLUMNS)]
    return together.sort_values(["paper", "run", "grouping"], kind="stable", ignore_index=True)
