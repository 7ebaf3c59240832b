"""``bids_stroke-models``: look after the weights of models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bids_stroke import __version__
from bids_stroke.cli import ensemble_search
from bids_stroke.errors import BidsStrokeError, UsageError

INTERRUPTED = 130
TEXTS = (
    "version",
    "title",
    "description",
    "intended_use",
    "training_data",
    "licence",
    "citation",
)
CHANNELS_HELP = "in the network's order: T1w, FLAIR, or as T1w-mirrored the mirror image of one"
EXAMPLES = """\
examples:
  bids_stroke-models list
  bids_stroke-models fetch isles26-d507-topk10
  bids_stroke-models import MMStrokeNet/Task777 --as mmstrokenet-dual
  bids_stroke-models import my_model.zip --channels T1w,FLAIR --reference FLAIR --threshold 0.4
  bids_stroke-models adapt isles26-d507-topk10 --channels FLAIR,T1w --new-channel mean

The store is --models-dir, else the environment's BIDS_STROKE_MODELS, else a folder of the user's
data. Nothing but fetch uses the network.

exit codes: 0 done; 2 usage; 65 unusable or hostile files; 66 a file or model is missing; 73 the
store can't be written; 74 input/output or network error; 75 try again (disk full, server busy).
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line: one subcommand for each thing to do."""
    parser = argparse.ArgumentParser(
        prog="bids_stroke-models",
        description="List, fetch, verify, import, adapt and remove the models of bids_stroke.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bids_stroke {__version__}")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--models-dir", metavar="DIR", type=Path, help="the store of models")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        added = commands.add_parser(name, parents=[place], help=text, description=text)
        added.set_defaults(run=run)
        return added

    command("list", _list, "list the models that are installed, and those that can be had")
    named = command("show", _show, "show what a model is, wants and was tested on")
    named.add_argument("model", metavar="MODEL", help="name, folder or descriptor")
    fetch = command("fetch", _fetch, "download a known model; goes on where it was interrupted")
    fetch.add_argument(
        "model",
        metavar="MODEL",
        nargs="+",
        help="name, as list gives it, or a descriptor's .toml with addresses",
    )
    fetch.add_argument("--overwrite", action="store_true", help="replace the one in the store")
    verify = command("verify", _verify, "compare the files of models with their SHA-256")
    verify.add_argument("model", metavar="MODEL", nargs="*", help="default: all installed")
    _add_import(command("import", _import, "bring a folder or zip of nnU-Net v2, or one of v1"))
    _add_adapt(command("adapt", _adapt, "make a model for other channels, to train further"))
    ensemble_search.add_arguments(
        command("ensemble-search", ensemble_search.run, ensemble_search.TEXT)
    )
    remove = command("remove", _remove, "remove models from the store")
    remove.add_argument("model", metavar="MODEL", nargs="+", help="name, as list gives it")
    return parser


_Parser = argparse.ArgumentParser


def _add_import(parser: _Parser) -> None:
    parser.add_argument("source", metavar="FOLDER_OR_ZIP", type=Path, help="the model's files")
    parser.add_argument("--as", dest="known", metavar="MODEL", default="", help="a known model")
    parser.add_argument("--name", default="", help="name in the store (default: the dataset's)")
    parser.add_argument("--inside", default="", metavar="PATH", help="the model in FOLDER_OR_ZIP")
    parser.add_argument(
        "--checkpoint", default="", metavar="FILE", help="which checkpoint of a fold to take"
    )
    parser.add_argument("--channels", type=_names, default=(), metavar="A,B", help=CHANNELS_HELP)
    parser.add_argument(
        "--inputs",
        type=_sets,
        default=(),
        metavar="A+B,A",
        help="sets of modalities that it runs on (default: all of its channels together)",
    )
    parser.add_argument("--reference", default="", metavar="A", help="image whose grid it sees")
    parser.add_argument("--steps", type=_names, default=(), metavar="A,B", help="preprocessing")
    parser.add_argument(
        "--n4-levels", type=_levels, metavar="N", help="of N4's splines (default: 4, as in ANTs)"
    )
    parser.add_argument("--folds", type=_names, default=(), metavar="N,N", help="folds to average")
    parser.add_argument(
        "--mirror-axes", type=_axes, metavar="N,N", help="axes to mirror (default: none)"
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="default: 0.5")
    parser.add_argument("--min-lesion-volume", type=float, metavar="MM3", help="default: 0")
    for text in TEXTS:
        parser.add_argument(f"--{text.replace('_', '-')}", default="", help="for the descriptor")
    parser.add_argument("--overwrite", action="store_true", help="replace the one in the store")


def _add_adapt(parser: _Parser) -> None:
    parser.add_argument("model", metavar="SOURCE", help="name, folder or descriptor of a model")
    parser.add_argument("--channels", type=_names, required=True, metavar="A,B", help=CHANNELS_HELP)
    parser.add_argument(
        "--new-channel",
        choices=("mean", "zero", "copy"),
        default="mean",
        help="how a new channel begins: as the mean of the others, all divided by their number "
        "(the default; equal inputs give the identical network), at zero, or as a copy",
    )
    parser.add_argument(
        "--plans", type=Path, metavar="SKELETON", help="plans.json whose network it shall get"
    )
    parser.add_argument(
        "--kernel",
        choices=("centre", "sum"),
        default="centre",
        help="where the skeleton has a kernel of 1 for one of 3: its centre plane or the sum",
    )
    parser.add_argument("--name", default="", help="name in the store")
    parser.add_argument("--overwrite", action="store_true", help="replace the one in the store")


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _sets(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group.split("+")) for group in _names(text))


def _axes(text: str) -> tuple[int, ...]:
    axes = tuple(int(word) for word in _names(text))
    if not set(axes) <= {0, 1, 2}:
        raise argparse.ArgumentTypeError(f"{text!r} are not axes among 0, 1, 2")
    return axes


def _levels(text: str) -> int:
    from bids_stroke.models.descriptor import N4_LEVELS

    levels = int(text)
    if levels not in N4_LEVELS:
        raise argparse.ArgumentTypeError(f"it is {N4_LEVELS[0]} to {N4_LEVELS[-1]}")
    return levels


# What the subcommands do


def _store(options: argparse.Namespace) -> Path:
    from bids_stroke.models.descriptor import models_folder

    return models_folder(options.models_dir)


def _list(options: argparse.Namespace) -> int:
    from bids_stroke.models.card import runs_on
    from bids_stroke.models.store import entries

    folder = _store(options)
    rows = [("MODEL", "VERSION", "STATE", "RUNS ON", "TITLE")]
    rows += [
        (e.model.name, e.model.version, e.state, runs_on(e.model), e.model.title)
        for e in entries(folder)
    ]
    print("\n".join(_columns(rows)))
    print(f"The store is {folder}")
    return 0


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)).rstrip()


def _show(options: argparse.Namespace) -> int:
    from bids_stroke.models.card import lines
    from bids_stroke.models.store import find

    print("\n".join(lines(find(options.model, _store(options)))))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from bids_stroke.models.store import fetch

    for name in options.model:
        model = fetch(
            name, _store(options), overwrite=options.overwrite, progress=_progress(sys.stderr)
        )
        print(f"Fetched {model.name} into {model.model_folder}")
    return 0


def _progress(stream: object) -> Callable[[str, int, int], None]:
    """Say how far a download is: a moving line in a terminal, a line every tenth elsewhere."""
    moving = bool(getattr(stream, "isatty", lambda: False)())
    said: dict[str, int] = {}

    def say(name: str, there: int, total: int) -> None:
        tenth = 10 * there // total if total else there // (50 << 20)
        if not moving and said.get(name) == tenth:
            return
        said[name] = tenth
        share = f"{100 * there / total:.0f} %" if total else f"{there / 1e6:.0f} MB"
        end = "\n" if not moving or there == total else "\r"
        print(f"{name}: {share}", end=end, file=sys.stderr, flush=True)

    return say


def _verify(options: argparse.Namespace) -> int:
    """Verify each model; the exit code is that of the last one that failed."""
    from bids_stroke.models import descriptor

    folder = _store(options)
    models = [descriptor.find(name, folder) for name in options.model]
    code = 0
    for model in models or descriptor.installed(folder):
        try:
            descriptor.verify(model)
            unpinned = sum(not file.sha256 for file in model.files)
            note = f", {unpinned} without a stated SHA-256" if unpinned else ""
            print(f"{model.name}: {len(model.files)} files are right{note}")
        except BidsStrokeError as error:
            code = _say_error(error)
    return code


def _import(options: argparse.Namespace) -> int:
    from bids_stroke.models.card import lines
    from bids_stroke.models.importing import Wishes, import_model

    wishes = Wishes(
        name=options.name,
        known=options.known,
        inside=options.inside,
        checkpoint=options.checkpoint,
        channels=options.channels,
        inputs=options.inputs,
        reference=options.reference,
        steps=options.steps,
        n4_levels=options.n4_levels,
        folds=options.folds,
        mirror_axes=options.mirror_axes,
        threshold=options.threshold,
        min_volume_mm3=options.min_lesion_volume,
        texts={text: getattr(options, text) for text in TEXTS},
        overwrite=options.overwrite,
    )
    model, checks = import_model(options.source, _store(options), wishes)
    for check in checks:
        print(
            f"fold {check.fold}: {check.parameters} parameters of nnU-Net v1, each used once; "
            f"outputs differ by {check.largest_difference:.1e} at most"
        )
    print("\n".join(lines(model)))
    return 0


def _adapt(options: argparse.Namespace) -> int:
    from bids_stroke.models.adaptation import adapt_model
    from bids_stroke.models.channels import CHANNELS
    from bids_stroke.models.descriptor import find

    if unknown := set(options.channels) - set(CHANNELS):
        raise UsageError(f"--channels are among {', '.join(CHANNELS)}, not {min(unknown)}.")
    folder = _store(options)
    model, report = adapt_model(
        find(options.model, folder),
        options.channels,
        folder,
        name=options.name,
        new_channel=options.new_channel,
        kernel=options.kernel,
        skeleton=options.plans,
        overwrite=options.overwrite,
    )
    print("\n".join(report.lines()))
    print(f"Wrote {model.name} into {model.model_folder}: not trained further")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from bids_stroke.models.store import remove

    for name in options.model:
        model = remove(name, _store(options))
        print(f"Removed {model.name} from {model.root}")
    return 0


def _say_error(error: BidsStrokeError) -> int:
    print(f"bids_stroke-models: {error}", file=sys.stderr)
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bids_stroke-models`` and return its exit code."""
    options = build_parser().parse_args(argv)
    try:
        return options.run(options)
    except BidsStrokeError as error:
        return _say_error(error)
    except KeyboardInterrupt:
        print("bids_stroke-models: interrupted; fetch goes on at the next call.", file=sys.stderr)
        return INTERRUPTED
