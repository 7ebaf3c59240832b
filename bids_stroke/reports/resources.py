"""Time and memory by step, from the tables that a run leaves in its logs."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from bids_stroke.reports.pages import duration

TIMES, MEMORY = "timing.tsv", "memory.tsv"


def _table(path: Path) -> pd.DataFrame:
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else pd.DataFrame()


@lru_cache(maxsize=2)
def _read(path: Path, _: int) -> pd.DataFrame:
    """The table of a time: every page of a run looks into the same one."""
    return pd.read_csv(path, sep="\t", dtype={"label": str, "participant": str, "node": str})


def steps(log_dir: Path | None, label: str) -> list[dict[str, Any]]:
    """Steps of a session, the longest first: seconds in words, share of the longest, peak memory.

    ``memory`` is the largest resident size that a process reached in one of the step's nodes, in
    words; empty where it was not measured (a node whose result was there already did not run).
    """
    if log_dir is None:
        return []
    times = _table(Path(log_dir) / TIMES)
    if times.empty or not (times["label"] == label).any():
        return []
    peaks = _table(Path(log_dir) / MEMORY)
    largest = peaks.groupby("node")["peak_mb"].max() if len(peaks) else pd.Series(dtype=float)
    own = times[times["label"] == label].assign(peak=lambda t: t["node"].map(largest))
    by_step = own.groupby("step").agg(seconds=("seconds", "sum"), peak=("peak", "max"))
    longest = by_step["seconds"].max() or 1.0
    return [
        {
            "step": step,
            "time": duration(row.seconds),
            "share": round(100 * row.seconds / longest, 1),
            "memory": f"{row.peak / 1024:.1f} GB" if row.peak > 0 else "",
        }
        for step, row in by_step.sort_values("seconds", ascending=False).iterrows()
    ]


def total(log_dir: Path | None, label: str) -> str:
    """Computing time of a session in words; empty where none is known."""
    times = _table(Path(log_dir) / TIMES) if log_dir else pd.DataFrame()
    if times.empty:
        return ""
    seconds = times.loc[times["label"] == label, "seconds"].sum()
    return duration(seconds) if seconds else ""
