"""The page of the cohort: everything of a ``Cohort`` in one file that works offline."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from bids_stroke import boilerplate
from bids_stroke.config import THIS_RUN
from bids_stroke.core import metrics
from bids_stroke.core.files import read_json
from bids_stroke.core.overlap import peak, scale_colours
from bids_stroke.core.words import millilitres, plain_name
from bids_stroke.reports import tables, viewer
from bids_stroke.reports.cohort_map import CohortMap
from bids_stroke.reports.collect import Failure
from bids_stroke.reports.group import Cohort
from bids_stroke.reports.pages import asset, render
from bids_stroke.reports.plots import Value, dot_plot, scatter, strip
from bids_stroke.reports.tables import interval, number

SUMMARY = (
    *("dice", "dice_micro", "precision", "sensitivity", "lesion_f1_onevoxel"),
    *("lesion_f1_overlap10", "assd_pooled_mm", "hd95_pooled_mm", "volume_difference_ml"),
)
MICRO_MEANING = "Dice of the voxels of all sessions together."
MOST_ROWS = 500
"""Rows of a plain table on the page; the TSV beside it holds all."""
MOST_NAMES = 40
MOST_OUTLIERS = 10
FEW = 100
"""Up to so many participants the first of 256 colours begins at half a participant."""


def p_value(p: float) -> str:
    """A p value, never 0."""
    return "n/a" if pd.isna(p) else "< .001" if p < 0.001 else f"{p:.3f}"


def write_page(cohort: Cohort) -> Path:
    """Write ``group.html`` and return its path."""
    three_d = _three_d(cohort.overlap)
    scripts = viewer.assets([three_d])
    return render(
        "group.html.j2",
        cohort.output_dir / "group.html",
        **{**scripts, "libraries": [*scripts.get("libraries", ()), asset("group.js")]},
        style=asset("page.css") + asset("viewer.css") + asset("group.css"),
        dataset=_dataset_name(cohort.bids_dir),
        tiles=_tiles(cohort),
        synthetic=any(s.record["model"]["synthetic"] for s in cohort.sessions),
        plot=dot_plot([(s.label, s.page, s.lesions["volume_ml"]) for s in cohort.sessions]),
        cohort_data=viewer.as_json(cohort_data(cohort)) if cohort.sessions else None,
        failures=_failures(cohort.failed),
        problems=cohort.problems,
        strips=_strips(cohort),
        overlap=cohort.overlap,
        three_d=three_d,
        gradient=", ".join(scale_colours()),
        statistics=_cohort_statistics(cohort),
        bootstraps=cohort.bootstraps,
        convention=boilerplate.text("evaluate"),
        **_evaluation(cohort),
        **_longitudinal(cohort),
        rated=cohort.rated,
        raters=cohort.tables["group_raters"].to_dict("records"),
        number=number,
        interval=interval,
        p_value=p_value,
    )


def _dataset_name(bids_dir: Path) -> str:
    path = Path(bids_dir) / "dataset_description.json"
    return str(read_json(path).get("Name", "")) if path.is_file() else ""


def _tiles(cohort: Cohort) -> dict[str, str]:
    """Numbers at the top of the page."""
    sessions = cohort.sessions
    volumes = [s.lesions["volume_ml"] for s in sessions if s.lesions["count"]]
    warned = sum(any(f["severity"] == "warning" for f in s.record["flags"]) for s in sessions)
    tiles = {
        "participants": str(len({s.subject for s in sessions})),
        "sessions": str(len(sessions)),
        "with a lesion": str(len(volumes)),
        "median volume of those": millilitres(float(np.median(volumes))) if volumes else "–",
        "sessions with a warning": str(warned),
        "outliers in quality": str(int(cohort.qc["outliers"].notna().sum())),
        "failed steps": str(len(cohort.failed)),
    }
    if cohort.rated.consensus:
        tiles["excluded by rating"] = str(len(cohort.rated.excluded))
    return tiles


def cohort_data(cohort: Cohort) -> dict[str, Any]:
    """The table of the cohort as the script gets it: columns, and rows as arrays."""
    table = cohort.session_table
    dice = cohort.judged[THIS_RUN].set_index("label")["dice"]
    columns: list[tuple[str, str, Iterable[Any]]] = [
        ("Session", "label", table["label"]),
        ("Images", "text", table["images"]),
        ("Volume (mL)", "volume", table["lesion_volume_ml"]),
        ("Lesions", "number", table["lesion_count"]),
        ("Brain (mL)", "number", table["brain_volume_ml"]),
        ("Warnings", "number", table["warnings"]),
        ("Flags", "list", table["flags"]),
        ("Outlier in", "list", cohort.qc["outliers"]),
    ]
    if len(dice):
        columns.append(("Dice", "share", table["label"].map(dice)))
    if cohort.rated.consensus:
        columns.append(("Rating", "text", table["label"].map(cohort.rated.consensus)))
    columns += [(name, "text", table[name].astype(object)) for name in cohort.strata]
    columns.append(("Model", "text", table["model"]))
    rows = zip(*(map(_plain, values) for _, _, values in columns), strict=True)
    heads = [{"title": title, "kind": kind} for title, kind, _ in columns]
    return {"columns": heads, "rows": [list(row) for row in rows]}


def _plain(value: Any) -> Any:
    """A value for JSON: None for what is not there, four digits after the point at most."""
    if value is None or pd.isna(value):
        return None
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4)
    return str(value)


def _failures(failed: Sequence[Failure]) -> list[dict[str, Any]]:
    """Failures by their sentence, the most frequent first, with the participants they befell."""
    found: dict[str, list[Failure]] = defaultdict(list)
    for failure in failed:
        found[failure.message].append(failure)
    return [
        {
            "first": of[0],
            "subjects": sorted({f.subject for f in of})[:MOST_NAMES],
            "count": len({f.subject for f in of}),
        }
        for of in sorted(found.values(), key=len, reverse=True)
    ]


def _strips(cohort: Cohort) -> list[dict[str, Any]]:
    """A plot of each measure of quality, with its outliers, the farthest first."""
    table = cohort.qc
    pages = {session.label: session.page for session in cohort.sessions}
    scores = tables.outlier_scores(table)
    meanings = tables.qc_columns(table)
    return [
        _strip(name, meanings[name], table, scores[name], pages)
        for name in scores
        if name != "lesion_volume_ml" and table[name].notna().sum() > 1
    ]


def _strip(
    name: str, meaning: str, table: pd.DataFrame, scores: pd.Series, pages: Mapping[str, str]
) -> dict[str, Any]:
    far = scores.abs() > tables.OUTLIER_Z
    order = scores.abs().sort_values(ascending=False, kind="stable").index
    values = [
        Value(label, pages[label], value, marked)
        for label, value, marked in zip(
            table["label"][order], table[name][order], far[order], strict=True
        )
    ]
    outliers = [v for v in values if v.marked]
    return {
        "name": plain_name(name),
        "meaning": meaning,
        "plot": strip(values),
        "outliers": outliers[:MOST_OUTLIERS],
        "more": max(len(outliers) - MOST_OUTLIERS, 0),
    }


def _cohort_statistics(cohort: Cohort) -> list[dict[str, Any]]:
    """Lesion volume of the cohort, of all and by the columns that were asked for."""
    table = cohort.tables["group_statistics"]
    return table[table["metric"] == "lesion_volume_ml"].to_dict("records")


def _evaluation(cohort: Cohort) -> dict[str, Any]:
    """Agreement with references and between runs: tables and plots."""
    found = cohort.tables
    agreement = found["group_metrics"]
    return {
        "runs": list(cohort.judged),
        "summary": _summary(found["group_statistics"], cohort),
        "strata": _strata(found["group_statistics"]),
        "papers": _papers(found["group_papers"]),
        "volumes": found["group_volumes"].to_dict("records"),
        "comparisons": found["group_comparisons"].to_dict("records"),
        "agreement": agreement.head(MOST_ROWS).to_dict("records"),
        "agreement_count": len(agreement),
        "plots": _plots(cohort),
    }


def _summary(table: pd.DataFrame, cohort: Cohort) -> list[dict[str, Any]]:
    """Each measure by run: of all sessions, and of those with a lesion in the reference."""
    rows = []
    for metric in SUMMARY:
        of = table[table["metric"] == metric]
        runs = [run for run in cohort.judged if (of["run"] == run).any()]
        for run in runs:
            mine = of[of["run"] == run].set_index(["grouping", "stratum"])
            meaning = metrics.COLUMNS.get(metric, MICRO_MEANING)
            rows.append(
                {
                    "name": metric,
                    "meaning": meaning,
                    "run": run,
                    "first": run == runs[0],
                    "all": _told(mine, ("all", "all")),
                    "with_lesion": _told(mine, ("lesion", "with a lesion")),
                }
            )
    return rows


def _told(rows: pd.DataFrame, key: tuple[str, str]) -> str:
    """Mean with its interval, median and number of one stratum."""
    if key not in rows.index:
        return "n/a"
    row = rows.loc[key]
    middle = "" if pd.isna(row["median"]) else f", median\u00a0{number(row['median'])}"
    return f"{interval(row, 'mean')}{middle}, n\u00a0=\u00a0{row['n']}"


def _strata(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Dice by strata of volume and by the columns that were asked for."""
    chosen = table[(table["metric"] == "dice") & ~table["grouping"].isin(["all", "lesion"])]
    return chosen.to_dict("records")


def _papers(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One table a paper: its measures across, runs and strata down."""
    found = []
    for paper, rows in table.groupby("paper", sort=False):
        measures = list(dict.fromkeys(rows["measure"]))
        lines = [
            {"run": run, "stratum": _stratum(grouping, stratum), "values": _by_measure(part)}
            for (run, grouping, stratum), part in rows.groupby(
                ["run", "grouping", "stratum"], sort=False
            )
        ]
        found.append({"paper": paper, "measures": measures, "lines": lines})
    return found


def _stratum(grouping: str, stratum: str) -> str:
    return "all" if grouping == "all" else f"volume quartile {stratum}"


def _by_measure(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["measure"]: row for row in rows.to_dict("records")}


def _plots(cohort: Cohort) -> list[dict[str, Any]]:
    """Scatter plots of this run's agreement: volumes, Bland-Altman, Dice by volume; of two runs."""
    rows = cohort.judged[THIS_RUN]
    if not len(rows):
        return []
    pages = {session.label: session.page for session in cohort.sessions}
    volumes = cohort.tables["group_volumes"].iloc[0]
    limits = [
        (volumes["bias_ml"], f"bias {volumes['bias_ml']:+.2f} mL"),
        (volumes["loa_low_ml"], f"{volumes['loa_low_ml']:+.2f}"),
        (volumes["loa_high_ml"], f"{volumes['loa_high_ml']:+.2f}"),
    ]
    reference, predicted = rows["reference_volume_ml"], rows["predicted_volume_ml"]

    def points(x: pd.Series, y: pd.Series) -> list[tuple[Value, float]]:
        labels = rows["label"]
        return [
            (Value(label, pages[label], float(a)), float(b))
            for label, a, b in zip(labels, x, y, strict=True)
        ]

    return [
        {
            "title": "Predicted against reference volume, with the line of least squares",
            "x": "Reference volume (mL, logarithmic)",
            "y": "Predicted volume (mL, logarithmic)",
            "plot": scatter(
                points(reference, predicted),
                log_x=True,
                log_y=True,
                diagonal=True,
                line=(volumes["slope"], volumes["intercept_ml"]),
            ),
        },
        {
            "title": "Bland-Altman: difference against mean of both volumes",
            "x": "Mean of both volumes (mL, logarithmic)",
            "y": "Predicted minus reference (mL)",
            "plot": scatter(
                points((reference + predicted) / 2, predicted - reference),
                log_x=True,
                levels=[each for each in limits if np.isfinite(each[0])],
            ),
        },
        {
            "title": "Dice against reference volume",
            "x": "Reference volume (mL, logarithmic)",
            "y": "Dice",
            "plot": scatter(points(reference, rows["dice"]), log_x=True, y_range=(0.0, 1.0)),
        },
        *_paired_plots(cohort, pages),
    ]


def _paired_plots(cohort: Cohort, pages: Mapping[str, str]) -> list[dict[str, Any]]:
    """Dice of each other run against that of this one, session by session."""
    mine = cohort.judged[THIS_RUN].set_index("label")["dice"]
    found = []
    for run, rows in cohort.judged.items():
        both = rows.set_index("label")["dice"].rename("other").to_frame().join(mine, how="inner")
        if run == THIS_RUN or not len(both):
            continue
        points = [
            (Value(str(label), pages[str(label)], float(row["dice"])), float(row["other"]))
            for label, row in both.iterrows()
        ]
        plot = scatter(points, y_range=(0.0, 1.0), x_range=(0.0, 1.0), diagonal=True)
        title = f"Dice of {run} against that of this run"
        found.append({"title": title, "x": "Dice of this run", "y": f"Dice of {run}", "plot": plot})
    return found


def _longitudinal(cohort: Cohort) -> dict[str, Any]:
    table = cohort.tables["group_longitudinal"]
    return {
        "changes": table.head(MOST_ROWS).to_dict("records"),
        "changes_count": len(table),
        "change_lesions": _lesions_by_pair(cohort.tables["group_longitudinal_lesions"]),
    }


def _lesions_by_pair(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Rows of lesions by the label of the later session."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.head(4 * MOST_ROWS).to_dict("records"):
        found[row["label_after"]].append(row)
    return dict(found)


def _three_d(overlap: CohortMap | None) -> Markup | None:
    """The overlap map in a viewer of three planes and 3-D."""
    if overlap is None or not overlap.largest:
        return None
    volumes = [
        viewer.Volume(name="Template", data=overlap.anatomy, role="template"),
        viewer.Volume(
            name="Number of participants",
            data=overlap.counts,
            kind="map",
            color=",".join(scale_colours()),
            limits=(0.5 if overlap.largest <= FEW else 0.01, float(max(overlap.largest, 2))),
            opacity=1.0,
            role="count",
            file="group_overlap.nii.gz",
        ),
    ]
    return viewer.viewer_html(
        volumes,
        overlap.grid.affine,
        centre=(overlap.grid.affine @ [*peak(overlap.counts), 1])[:3].tolist(),
        name="overlap-viewer",
        title=f"Lesion overlap of {overlap.participants} participants in {overlap.space}",
        max_bytes=3_000_000,
    )
