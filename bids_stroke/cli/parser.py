"""The command line: ``argv`` to a Config, with nothing heavy imported.

The order is default < ``--config-file`` < command line; ``cli.flags`` has the flags.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_stroke import config
from bids_stroke.cli.flags import build_parser
from bids_stroke.config import Config
from bids_stroke.errors import UsageError


def parse(argv: Sequence[str] | None = None) -> Config:
    """Config from the command line.

    Leaves by SystemExit 2 on wrong usage, as argparse does; raises UnknownLevel for an analysis
    level that does not exist, InputMissing or UsageError for a bad file that a flag names.
    """
    given = vars(build_parser().parse_args(argv))
    config_file = given.pop("config_file", None)
    table = _settings(config_file) if config_file else {}
    return config.from_table(_complete(_merged(table, given)))


def _settings(path: Path) -> dict[str, Any]:
    """Content of a configuration file; raises UsageError, which names the file, where it is bad."""
    table = config.read_table(path)
    try:
        config.check_table(table)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return table


def _merged(
    table: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    merged = {name: dict(section) for name, section in table.items()}
    for name, value in given.items():
        section, key = name.split(".")
        merged.setdefault(section, {})[key] = value
    return merged


PATHS = (
    ("dataset", "bids_dir"),
    ("dataset", "output_dir"),
    ("dataset", "database_dir"),
    ("model", "models_dir"),
    ("processing", "hdbet_weights"),
    ("execution", "plugin_file"),
    ("execution", "work_dir"),
)


def _complete(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Make paths absolute and fill in what depends on the machine."""
    execution = table.setdefault("execution", {})
    execution.setdefault("nprocs", available_cpus())
    execution.setdefault("work_dir", "work")
    for section, key in PATHS:
        if key in table.get(section, {}):
            table[section][key] = _absolute(table[section][key])
    processing = table.get("processing", {})
    templates = [s for s in processing.get("output_spaces", ()) if s in config.TEMPLATES]
    if len(templates) > 1:
        raise UsageError(
            f"--output-spaces takes one template a run, not {' and '.join(templates)}."
        )
    if "atlases" in processing:
        processing["atlases"] = {k: _absolute(path) for k, path in processing["atlases"].items()}
    derivatives = table["dataset"].get("derivatives", {})
    table["dataset"]["derivatives"] = {k: _absolute(path) for k, path in derivatives.items()}
    group = table.get("group", {})
    if "compare" in group:
        group["compare"] = {name: _absolute(path) for name, path in group["compare"].items()}
    if "ratings" in group:
        group["ratings"] = [_absolute(path) for path in group["ratings"]]
    model = table.get("model", {})
    if "name" in model:
        named = [model["name"]] if isinstance(model["name"], str) else model["name"]
        paths = [str(_absolute(one)) if _is_path(one) else one for one in named]
        model["name"] = paths[0] if len(paths) == 1 else paths
    return table


def _is_path(model: str) -> bool:
    return "/" in model or model.endswith(".toml")


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - keeps symbolic links


def available_cpus() -> int:
    """Cores that this process may use: its affinity, cut by the limit of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _cgroup_limit(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, min(cores or 1, limit or cores or 1))


def _cgroup_limit(path: Path) -> int | None:
    """Cores that a control group (version 2) allows, rounded down; None where it sets no limit."""
    try:
        quota, period = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
