"""The group level: tables of the cohort and one page, from files on disk only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bids_stroke.config import THIS_RUN, Group
from bids_stroke.core import stats
from bids_stroke.errors import InputMissing, NothingSelected, UnusableData, UsageError
from bids_stroke.reports import changes, cohort_map, collect, evaluation, exports, raters, tables
from bids_stroke.reports.cohort_map import CohortMap
from bids_stroke.reports.collect import Failure, Session
from bids_stroke.reports.raters import Rated

__all__ = ["Cohort", "agreement_lines", "gather", "write_group"]

WRITTEN = {
    "group_statistics": evaluation.STATISTICS_COLUMNS,
    "group_papers": evaluation.PAPER_COLUMNS,
    "group_comparisons": stats.COMPARISON_COLUMNS,
    "group_volumes": evaluation.VOLUME_COLUMNS,
    "group_metrics": evaluation.METRIC_COLUMNS,
    "group_longitudinal": changes.COLUMNS,
    "group_longitudinal_lesions": changes.LESION_COLUMNS,
    "group_ratings": raters.RATING_COLUMNS,
    "group_raters": raters.AGREEMENT_COLUMNS,
}


@dataclass(frozen=True)
class Cohort:
    """All that the page shows: sessions, failures, tables by their names, and the overlap map.

    ``judged`` holds, for each run, one row of agreement a session; ``problems`` are sentences on
    what could not be used.
    """

    bids_dir: Path
    output_dir: Path
    sessions: Sequence[Session]
    failed: Sequence[Failure]
    rated: Rated
    session_table: pd.DataFrame
    qc: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    judged: Mapping[str, pd.DataFrame]
    overlap: CohortMap | None
    strata: tuple[str, ...] = ()
    bootstraps: int = stats.RESAMPLES
    problems: list[str] = field(default_factory=list)


def write_group(
    bids_dir: Path,
    output_dir: Path,
    reference_roots: Sequence[Path] = (),
    *,
    options: Group | None = None,
    nprocs: int = 1,
    seed: int = 1,
    tell: Callable[[str], None] = print,
) -> Path:
    """Write all ``group_*`` tables (TSV, each with a JSON that explains it), the map and the page.

    Reference masks are looked for in ``reference_roots`` (``bids.masks.find_reference_masks``);
    without any there are no tables of agreement. ``tell`` gets a sentence for each file that could
    not be used; the page has them too. Returns the path of ``group.html``. Raises
    NothingSelected when no participant was processed, InputMissing for a run or file of ratings
    that is not there, UsageError for an unknown column or run, UnusableData for bad ratings.
    """
    from bids_stroke.reports.group_page import write_page

    options = options or Group()
    cohort = gather(
        Path(bids_dir), Path(output_dir), reference_roots, options, nprocs=nprocs, seed=seed
    )
    _write(cohort)
    for problem in cohort.problems:
        tell(problem)
    if "fmriprep" in options.export:
        exports.export_fmriprep(cohort.bids_dir, cohort.output_dir, cohort.sessions)
    return write_page(cohort)


def gather(
    bids_dir: Path,
    output_dir: Path,
    roots: Sequence[Path],
    options: Group,
    *,
    nprocs: int = 1,
    seed: int = 1,
) -> Cohort:
    """Read the outputs and compute all tables; the overlap map and transforms are written."""
    sessions = collect.sessions(output_dir)
    failed = collect.standing_failures(output_dir)
    if not sessions and not failed:
        raise NothingSelected(
            f"{output_dir} holds no participant: run the participant level first."
        )
    rated = raters.read(options.ratings, sessions, options.exclude)
    kept = [session for session in sessions if session.label not in rated.excluded]
    people = _participants(bids_dir)
    table = evaluation.grouped(tables.session_table(sessions), people, options.strata)
    runs = _runs(kept, options)
    problems = list(rated.problems)
    rng = np.random.default_rng(seed)
    metric_tables, unjudged = _metrics(bids_dir, roots, runs, nprocs)
    problems += unjudged
    judged = {
        run: evaluation.grouped(evaluation.one_per_session(rows, runs[run]), people, options.strata)
        for run, rows in metric_tables.items()
    }
    of_change, of_lesions, unpaired = changes.write_changes(kept, seed)
    found = {
        **_statistics(table[table["label"].isin({s.label for s in kept})], judged, options, rng),
        **_between(runs, judged, options, rng),
        "group_metrics": pd.concat(metric_tables.values(), ignore_index=True),
        "group_longitudinal": of_change,
        "group_longitudinal_lesions": of_lesions,
        "group_ratings": rated.table,
        "group_raters": rated.agreement,
    }
    mapped = cohort_map.write_map(output_dir, kept)
    return Cohort(
        bids_dir=bids_dir,
        output_dir=output_dir,
        sessions=sessions,
        failed=failed,
        rated=rated,
        session_table=table,
        qc=tables.qc_table(sessions),
        tables=found,
        judged=judged,
        overlap=mapped,
        strata=options.strata,
        bootstraps=options.bootstraps,
        problems=[*problems, *unpaired, *(mapped.left_out if mapped else ())],
    )


def _participants(bids_dir: Path) -> pd.DataFrame:
    path = bids_dir / "participants.tsv"
    if not path.is_file():
        return pd.DataFrame({"participant_id": []})
    try:
        table = pd.read_csv(path, sep="\t", na_values="n/a", dtype={"participant_id": str})
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UnusableData(f"{path} is no table of tabs in UTF-8: {why}.") from error
    if "participant_id" not in table:
        raise UnusableData(f"{path} has no column participant_id: add it.")
    return table.drop_duplicates("participant_id")


def _runs(kept: Sequence[Session], options: Group) -> dict[str, list[Session]]:
    """Sessions of this output and of the compared ones, by name; only labels that are kept here.

    Raises InputMissing for a folder without results, UsageError for an unknown ``against``.
    """
    runs = {THIS_RUN: list(kept)}
    labels = {session.label for session in kept}
    for name, path in options.compare.items():
        found = collect.sessions(path) if path.is_dir() else []
        if not found:
            raise InputMissing(f"{path} holds no results of bids_stroke: check --compare {name}=.")
        runs[name] = [session for session in found if session.label in labels]
    if options.against is not None and options.against not in runs:
        raise UsageError(f"--against {options.against} is none of {', '.join(runs)}.")
    return runs


def _metrics(
    bids_dir: Path, roots: Sequence[Path], runs: Mapping[str, list[Session]], nprocs: int
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Agreement of every run with the reference masks, and sentences on what was not judged."""
    references = evaluation.find_references(runs[THIS_RUN], bids_dir, roots) if roots else {}
    found, problems = {}, []
    for run, sessions in runs.items():
        found[run], unjudged = evaluation.metric_table(run, sessions, references, nprocs)
        problems += [f"{problem.label}: {problem.message}" for problem in unjudged]
        problems += evaluation.unmatched(run, sessions, references)
    return found, problems


def _statistics(
    table: pd.DataFrame,
    judged: Mapping[str, pd.DataFrame],
    options: Group,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Summaries of the cohort and of each run's agreement, and the papers' tables."""
    by, resamples = options.strata, options.bootstraps
    parts = [evaluation.cohort_statistics(THIS_RUN, table, by, rng, resamples)]
    parts += [
        evaluation.statistics(run, rows, by, rng, resamples)
        for run, rows in judged.items()
        if len(rows)
    ]
    together = pd.concat(parts, ignore_index=True)
    papers = evaluation.paper_table(together)
    return {"group_statistics": together, "group_papers": papers}


def _between(
    runs: Mapping[str, list[Session]],
    judged: Mapping[str, pd.DataFrame],
    options: Group,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Tests and volumes between runs, and volumes against the reference masks."""
    sessions = {run: tables.session_table(of) for run, of in runs.items()}
    compared = pd.DataFrame(columns=list(stats.COMPARISON_COLUMNS))
    volumes = evaluation.volume_table(judged)
    if len(runs) > 1:
        compared = evaluation.comparisons(
            judged, sessions, options.against, rng, options.bootstraps
        )
        between = evaluation.run_volumes(sessions, options.against)
        volumes = between if volumes.empty else pd.concat([volumes, between], ignore_index=True)
    return {"group_comparisons": compared, "group_volumes": volumes}


def _write(cohort: Cohort) -> None:
    """Write every table that has rows, and take away those of an earlier run that have none."""
    out = cohort.output_dir
    tables.write_lesions(cohort.sessions, out / "group_lesions.tsv")
    names = list(tables.SESSION_COLUMNS)
    tables.write_table(
        cohort.session_table[names], tables.SESSION_COLUMNS, out / "group_sessions.tsv"
    )
    tables.write_table(cohort.qc, tables.qc_columns(cohort.qc), out / "group_qc.tsv")
    for name, columns in WRITTEN.items():
        if name != "group_metrics":
            tables.write_or_remove(cohort.tables[name], columns, out / f"{name}.tsv")
    metrics = cohort.tables["group_metrics"]
    columns, path = WRITTEN["group_metrics"], out / "group_metrics.tsv"
    tables.write_runs(metrics, columns, path, lambda run: not _is_training(run))


def _is_training(run: str) -> bool:
    return run.startswith(evaluation.CROSS_VALIDATION)


def agreement_lines(output_dir: Path) -> list[str]:
    """Agreement with reference masks for the terminal: a line a mask, and the means over masks.

    Read from ``group_metrics.tsv``, of the output folder's own run; empty where there is none.
    """
    path = Path(output_dir) / "group_metrics.tsv"
    if not path.is_file():
        return []
    table = pd.read_csv(path, sep="\t")
    table = table[table["run"] == THIS_RUN]
    if table.empty:
        return []
    width = table["label"].str.len().max()
    rows = [
        f"  {row.label:{width}}  {row.space:5}  Dice {row.dice:5.3f}"
        f"  known {row.reference_volume_ml:7.2f} mL  found {row.predicted_volume_ml:7.2f} mL"
        for row in table.itertuples()
    ]
    lesions = table[table["reference_volume_ml"] > 0]
    mean = f"  mean Dice {table['dice'].mean():.3f} over {len(table)} masks"
    with_lesion = f"{lesions['dice'].mean():.3f} over the {len(lesions)} with a lesion"
    return ["Agreement with the reference masks:", *rows, f"{mean}, {with_lesion}"]
