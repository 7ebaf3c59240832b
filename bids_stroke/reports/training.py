"""The report of a training, from files on disk only, so that it can be written while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_stroke.core import metrics, stats
from bids_stroke.core.figures import lesion_figure
from bids_stroke.core.files import load_image, read_json
from bids_stroke.core.lesions import components
from bids_stroke.core.words import counted, millilitres
from bids_stroke.reports.evaluation import CROSS_VALIDATION, RUN
from bids_stroke.reports.pages import duration, render
from bids_stroke.reports.plots import Axis
from bids_stroke.reports.tables import KEYS, SPACE, interval, number, write_runs

COLUMNS = {
    **RUN,
    **KEYS,
    **SPACE,
    "model": "Name of the model that was trained.",
    "fold": "Fold in which the session was validated, so that its model has not seen it.",
    "threshold": "Probability from which a voxel was lesion: the best on the other folds.",
    "min_volume_mm3": "Components under this volume were dropped: the best on the other folds.",
    **metrics.COLUMNS,
}
SUMMARY = ("dice", "precision", "sensitivity", "lesion_f1_onevoxel", "volume_difference_ml")
WORST = 3
# Okabe and Ito's palette without yellow, which is faint on white
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
WIDTH, HEIGHT, LEFT, FLOOR = 760, 260, 60, 44


@dataclass(frozen=True)
class Line:
    """One line of a chart: its points in units of the SVG."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over epochs; sizes in units of the SVG."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    floor: int = HEIGHT - FLOOR


def page_name(name: str) -> str:
    """Name of the page's file."""
    return f"train-{name}.html"


def write_results(root: Path, output_dir: Path) -> list[str]:
    """Write the cross-validation into ``group_metrics`` (TSV, JSON); returns lines for people.

    Rows of the group level and of other trainings stay there.
    """
    table, run = _cross_validation(root), CROSS_VALIDATION + root.name
    write_runs(table, COLUMNS, output_dir / "group_metrics.tsv", lambda name: name == run)
    rows = _summary(table)
    dice = next(row for row in rows if row["metric"] == "dice")
    return [
        f"Cross-validation over {counted(len(table), 'session')}: Dice {dice['text']}",
        f"Agreement of each session: {output_dir / 'group_metrics.tsv'}",
    ]


def _cross_validation(root: Path) -> pd.DataFrame:
    """Agreement of each validation case; empty before the end of the training."""
    path = root / "cross_validation.tsv"
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.read_csv(path, sep="\t").assign(run=CROSS_VALIDATION + root.name, model=root.name)[
        list(COLUMNS)
    ]


def _summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean with its interval, median and number of each metric."""
    described = stats.describe(table, SUMMARY, rng=np.random.default_rng(1))
    return [
        {
            "metric": row["metric"],
            "meaning": metrics.COLUMNS[row["metric"]],
            "text": f"{interval(row, 'mean')}, median {number(row['median'])}",
            "n": row["n"],
        }
        for row in described.to_dict("records")
    ]


def write_training_page(root: Path, output_dir: Path) -> Path:
    """Write ``train-<name>.html``: data, splits, schedule, curves, agreement, worst cases."""
    setup, table = read_json(root / "setup.json"), _cross_validation(root)
    return render(
        "training.html.j2",
        output_dir / page_name(root.name),
        name=root.name,
        recipe=setup["recipe"],
        setup=setup,
        tiles=_tiles(root, table),
        stages=_stages(root, setup["recipe"]),
        splits=pd.read_csv(root / "splits.tsv", sep="\t", dtype=str).to_dict("records"),
        charts=_charts(root, setup["recipe"]),
        progress=_progress(root),
        summary=_summary(table) if len(table) else [],
        folds=_folds(table),
        worst=_worst(root, table),
        model=_model(root),
        done=bool(len(table)),
    )


def _tiles(root: Path, table: pd.DataFrame) -> dict[str, str]:
    cases = pd.read_csv(root / "splits.tsv", sep="\t", dtype={"fold": str})
    numbers = {
        "session": len(cases),
        "participant": cases["participant_id"].nunique(),
        "fold": cases["fold"].nunique(),
    }
    tiles = {counted(n, noun).split()[1]: str(n) for noun, n in numbers.items()}
    tiles["median lesion"] = millilitres(cases["lesion_volume_ml"].median())
    if len(table):
        tiles["mean Dice of the cross-validation"] = f"{table['dice'].mean():.3f}"
    return tiles


def _stages(root: Path, recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    """What each stage does, from the plans that its trainer read."""
    rows = []
    for stage in recipe["stages"]:
        path = next(root.glob(f"preprocessed/*/{stage['name']}.json"), None)
        if path is None:
            continue
        plans = read_json(path)
        own = plans["bids_stroke"]
        settings = plans["configurations"][own["plan"]["configuration"]]
        rows.append(
            {
                "stage": stage["name"],
                "start": stage["start"],
                "channels": " + ".join(own["channels"]),
                "network": settings["architecture"]["network_class_name"].rpartition(".")[2],
                "patch": " × ".join(map(str, settings["patch_size"])),
                "spacing": " × ".join(f"{s:.3g}" for s in settings["spacing"]) + " mm",
                "batch": str(settings["batch_size"]),
                "epochs": f"{own['schedule']['epochs']} × {own['schedule']['iterations']}",
                "rate": f"{own['optimiser']['learning_rate']:g} ({own['schedule']['name']})",
                "loss": own["loss"]["name"],
            }
        )
    return rows


def _curves(root: Path, stage: str) -> dict[int, list[dict[str, Any]]]:
    """Curves of a stage by fold."""
    found = {}
    for path in sorted(root.glob(f"results/*/*__{stage}__*/fold_*/curves.json")):
        found[int(path.parent.name.removeprefix("fold_"))] = read_json(path)
    return found


def _charts(root: Path, recipe: Mapping[str, Any]) -> list[Chart]:
    """Loss and Dice over the epochs of each stage."""
    charts = []
    for stage in recipe["stages"]:
        curves = _curves(root, stage["name"])
        loss = {f"fold {f}": [(c["epoch"], c["loss"]) for c in own] for f, own in curves.items()}
        loss |= {
            f"fold {f}, validation": [(c["epoch"], c["validation_loss"]) for c in own]
            for f, own in curves.items()
        }
        charts.append(_chart(f"Loss of the stage {stage['name']}", loss))
        charts.append(_chart(f"Dice of watched cases, stage {stage['name']}", _watched(curves)))
    return [chart for chart in charts if chart.lines]


def _watched(curves: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """Dice of each watched case over the epochs."""
    series: dict[str, list[Any]] = {}
    for fold, own in curves.items():
        for row in own:
            for case, dice in (row.get("dice") or {}).items():
                series.setdefault(f"fold {fold}, {case}", []).append((row["epoch"], dice))
    return series


def _chart(title: str, series: Mapping[str, Sequence[tuple[float, float | None]]]) -> Chart:
    """Lines of (epoch, value); values that are None are left out."""
    known = {n: [(x, y) for x, y in points if y is not None] for n, points in series.items()}
    known = {name: points for name, points in known.items() if points}
    if not known:
        return Chart(title, (), (), ())
    flat = [point for points in known.values() for point in points]
    xs, ys = [x for x, _ in flat], [y for _, y in flat]
    x_axis = Axis(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - 16)
    y_axis = Axis(min(ys), max(max(ys), min(ys) + 1e-3), HEIGHT - FLOOR, 16)
    lines = tuple(
        Line(
            name,
            COLOURS[int(name.split()[1].rstrip(",")) % len(COLOURS)],
            tuple((round(x_axis.at(x), 1), round(y_axis.at(y), 1)) for x, y in points),
            dashed="validation" in name,
        )
        for name, points in known.items()
    )
    epochs = tuple((at, text) for at, text in x_axis.ticks() if float(text).is_integer())
    return Chart(title, lines, epochs, y_axis.ticks())


def _progress(root: Path) -> list[dict[str, str]]:
    """Where each fold is."""
    newest: dict[str, Mapping[str, Any]] = {}
    for path in root.glob("results/*/*/fold_*/progress.json"):
        found = read_json(path)
        fold = str(found["fold"])
        if fold not in newest or newest[fold]["time"] < found["time"]:
            newest[fold] = found
    return [
        {
            "fold": fold,
            "stage": one["stage"],
            "epoch": f"{one['epoch']} of {one['epochs']}",
            "seconds": f"{one['seconds_per_iteration']:.2f}",
            "left": duration(one["seconds_left"]),
        }
        for fold, one in sorted(newest.items())
    ]


def _folds(table: pd.DataFrame) -> list[dict[str, str]]:
    """Mean Dice and the point of each fold."""
    return [
        {
            "fold": str(fold),
            "n": str(len(part)),
            "dice": f"{part['dice'].mean():.3f}",
            "threshold": f"{part['threshold'].iloc[0]:g}",
            "volume": f"{part['min_volume_mm3'].iloc[0]:g}",
        }
        for fold, part in table.groupby("fold")
    ]


def _worst(root: Path, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The sessions with the smallest Dice, each with its picture."""
    if not len(table):
        return []
    cases = {case["case"]: case for case in read_json(root / "cases.json")}
    rows = table.sort_values("dice", kind="stable").head(WORST).to_dict("records")
    return [
        {**row, "picture": _picture(root, cases[row["label"]], int(row["fold"]))}
        for row in rows
        if Path(cases[row["label"]]["native"]).is_file()
    ]


def _picture(root: Path, case: Mapping[str, Any], fold: int) -> Path:
    """The reference's lesions on their image, and where the probability is above a tenth."""
    path = root / "figures" / f"{case['case']}.webp"
    source = root / "validation" / f"fold_{fold}" / f"{case['case']}.nii.gz"
    if path.is_file() and path.stat().st_mtime > source.stat().st_mtime:
        return path
    path.parent.mkdir(exist_ok=True)
    native, truth = load_image(case["native"]), load_image(case["truth"])
    labels, _ = components(np.asanyarray(truth.dataobj) > 0)
    return lesion_figure(
        {case["space"]: native.get_fdata(dtype=np.float32)},
        labels,
        load_image(source).get_fdata(dtype=np.float32),
        native.affine,
        path,
        brain=np.asanyarray(load_image(case["native_brain"]).dataobj),
        max_lesions=2,
    )


def _model(root: Path) -> dict[str, Any] | None:
    """Descriptor of the finished model as a table."""
    import tomllib

    path = root / "model" / f"{root.name}.toml"
    if not path.is_file():
        return None
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {**table, "folder": str(path.parent)}
