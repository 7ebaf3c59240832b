"""``bids_stroke-models ensemble-search``: how the masks of several runs are best put together."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_stroke.core.words import counted
from bids_stroke.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from bids_stroke.core.atlases import Atlas
    from bids_stroke.core.ensemble_search import Case, Rule

SUPER_REGIONS = {"R1+R4": (1, 4), "R2": (2,), "R3": (3,)}  # of Mohapatra et al., R1 and R4 merged
TEXT = (
    "find the best ensemble of several runs by region of the brain: the top runs, all their "
    "subsets, by stacking and by agreement windows; tuned on some participants, told on others"
)
EXAMPLE = """\
example:
  bids_stroke-models ensemble-search --reference /data/manual --output /data/search \\
    --predictions unet=/out/unet vnet=/out/vnet attunet=/out/attunet --atlas super_region
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the subcommand."""
    parser.epilog, parser.formatter_class = EXAMPLE, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--reference", type=Path, required=True, metavar="DIR", help="folder of manual masks"
    )
    parser.add_argument(
        "--predictions",
        type=_named,
        nargs="+",
        required=True,
        metavar="NAME=DIR",
        help="output folders of this program, one for each run",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for the tables")
    parser.add_argument(
        "--space", default="T1w", help="space of the masks and of the references (default: T1w)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--atlas",
        type=_atlas_asked,
        metavar="NAME[=FILE]",
        help="atlas in template space: super_region or another one that participant knows, or a "
        "file as for participant --atlas; masks in space-T1w and space-FLAIR are looked up in it "
        "through the transforms that one of the runs wrote with --output-spaces "
        "MNI152NLin2009aSym (default: the whole brain only)",
    )
    where.add_argument(
        "--regions",
        type=Path,
        metavar="FILE_OR_DIR",
        help="image of region numbers for all cases, or a folder with one for each session, in the "
        "space of the masks",
    )
    parser.add_argument(
        "--region",
        type=_region,
        nargs="+",
        metavar="NAME=N,N",
        help="regions and their numbers (default: of super-regions, and with --regions, R1+R4=1,4 "
        "R2=2 R3=3; of another atlas each of its regions)",
    )
    parser.add_argument("--top", type=_positive, default=4, metavar="N", help="runs (default: 4)")
    parser.add_argument(
        "--windows", type=_numbers, default=(2, 3, 4), metavar="N,N", help="in voxels (2,3,4)"
    )
    parser.add_argument(
        "--shares", type=_shares, default=(0.5, 0.75), metavar="P,P", help="agreement (0.5,0.75)"
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="JSON file with train (to tune on) and val (to report), each a list of participants "
        "or sessions; of a list of such objects, the first",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the split in halves where no file is given"
    )


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(path)


def _atlas_asked(text: str) -> tuple[str, Path | None]:
    name, equals, path = text.partition("=")
    if not name or bool(equals) != bool(path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME or NAME=FILE")
    return name, Path(path) if path else None


def _region(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, numbers = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N,N")
    return name, _numbers(numbers)


def _positive(text: str) -> int:
    return _numbers(text)[0]


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) if word.isdecimal() else 0 for word in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} are no whole numbers above 0")
    return numbers


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers") from error
    if not all(0 <= share < 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text!r} are no shares from 0 to below 1")
    return shares


def run(options: argparse.Namespace) -> int:
    """Search, write the tables and say what was found."""
    from bids_stroke.bids.predictions import find_cases
    from bids_stroke.core import ensemble_search

    runs = dict(options.predictions)
    if len(runs) < 2 or len(runs) < len(options.predictions):
        raise UsageError("--predictions needs two runs or more, each with a name of its own.")
    if options.region and not (options.regions or options.atlas):
        raise UsageError("--region names numbers of --regions or --atlas: give one as well.")
    regions = find_atlas(*options.atlas) if options.atlas else options.regions
    names = dict(options.region or region_names(regions))
    cases = find_cases(runs, options.reference, options.space, regions, names)
    tune, told = split_cases(cases, options.split, options.seed)
    table = ensemble_search.search(
        tune,
        sorted(runs),
        (ensemble_search.WHOLE, *names),
        most=options.top,
        windows=options.windows,
        shares=options.shares,
    )
    if table.empty:
        raise UsageError("No reference of the tuning half has a lesion: give another --split.")
    best = ensemble_search.chosen(table)
    report = ensemble_search.report(told, sorted(runs), best)
    _write(options.output, table, best, report, tune, told)
    print("\n".join(_lines(table, report, len(tune), len(told))))
    print(f"Wrote ensembles.tsv, ensemble.json and report.tsv into {options.output}")
    return 0


def find_atlas(name: str, file: Path | None) -> Atlas:
    """An atlas as the participant level has it; raises UsageError where there is none."""
    from bids_stroke.models import atlases

    known = atlases.gather({name: file} if file else {}).shares
    if name not in known:
        raise UsageError(
            f"There is no atlas '{name}', but {', '.join(known)}: install the extra 'atlases', or "
            f"give --atlas {name}=FILE."
        )
    return known[name]


def region_names(regions: Atlas | Path | None) -> Mapping[str, Sequence[int]]:
    """Regions to search in, and their numbers: super-regions 1 and 4 as one, others as they are."""
    if regions is None:
        return {}
    from bids_stroke.core.atlases import SUPER_REGION_NAMES

    if isinstance(regions, Path) or regions.names == SUPER_REGION_NAMES:
        return SUPER_REGIONS
    return {name: (number,) for number, name in regions.names.items()}


def split_cases(
    cases: Sequence[Case], file: Path | None, seed: int
) -> tuple[list[Case], list[Case]]:
    """Cases to tune on and to report: as a file says, else halves of the participants."""
    import numpy as np

    if file is not None:
        tuned, told = _listed(file)
    else:
        people = sorted({case.participant for case in cases})
        order = np.random.default_rng(seed).permutation(people)
        tuned, told = set(order[::2]), set(order[1::2])
    halves = [[c for c in cases if {c.name, c.participant} & half] for half in (tuned, told)]
    if not all(halves) or set(halves[0]) & set(halves[1]):
        raise UsageError("Tuning and reporting need cases of their own: give another --split.")
    return halves[0], halves[1]


def _listed(file: Path) -> tuple[set[str], set[str]]:
    from bids_stroke.core.files import read_json

    try:
        table = read_json(file)
        first = table[0] if isinstance(table, list) else table
        named = [{f"sub-{str(n).removeprefix('sub-')}" for n in first[k]} for k in ("train", "val")]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UsageError(f"--split {file} has no lists train and val: correct it.") from error
    return named[0], named[1]


def _write(
    folder: Path,
    table: pd.DataFrame,
    best: Mapping[str, Rule],
    report: pd.DataFrame,
    tune: Sequence[Case],
    told: Sequence[Case],
) -> None:
    from dataclasses import asdict

    from bids_stroke.core.ensemble_search import COLUMNS, printed
    from bids_stroke.core.files import write_json, write_text

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("ensembles", printed(table)), ("report", report)):
        text = rows.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.4f")
        write_text(folder / f"{name}.tsv", text)
    write_json(folder / "ensembles.json", {k: {"Description": v} for k, v in COLUMNS.items()})
    chosen: dict[str, Any] = {region: asdict(rule) for region, rule in best.items()}
    cases = {"tuned_on": [c.name for c in tune], "reported_on": [c.name for c in told]}
    write_json(folder / "ensemble.json", {"chosen": chosen, **cases})


def _lines(table: pd.DataFrame, report: pd.DataFrame, tuned: int, told: int) -> list[str]:
    from bids_stroke.core.ensemble_search import printed

    best = printed(table[table["chosen"] == 1])
    lines = [f"Chosen on {counted(tuned, 'case')}:"]
    for row in best.itertuples():
        by = f"{row.method} {row.window:g}, {row.share:g}" if row.method == "window" else row.method
        lines.append(f"  {row.region}: {row.models} by {by}, Dice {row.dice:.3f} (n={row.cases})")
    lines.append(f"On {counted(told, 'other case')}, mean Dice and volume error:")
    means = report.groupby("run", sort=False)[["dice", "volume_error"]].mean()
    return lines + [
        f"  {name}: {row['dice']:.3f}, {100 * row['volume_error']:.1f} %"
        for name, row in means.iterrows()
    ]
