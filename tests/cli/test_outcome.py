"""A crash file becomes one sentence."""

from pathlib import Path

import pytest

from bids_stroke.bids.pairs import Pair
from bids_stroke.cli.outcome import (
    Failure,
    exit_code,
    failures,
    sentence,
    summary_lines,
    write_refusal,
)
from bids_stroke.core.crashes import read_crash
from bids_stroke.errors import UnusableData

NODE = "bids_stroke_wf.sub_01_wf.preproc_wf.n4_t1w"
HEAD = f"Node: {NODE}\nWorking directory: /w\n\nNode inputs:\n\nname = UnusableData: no\n"
TRACE = "Traceback (most recent call last):\n  File x\nNodeExecutionError: Exception raised.\n"
INNER = "\nTraceback:\n\tTraceback (most recent call last):\n\t  File y\n"


@pytest.mark.parametrize(
    ("last", "expected", "again"),
    [
        ("\tbids_stroke.errors.UnusableData: /a/b.nii is empty.\n", "/a/b.nii is empty.", False),
        ("\tTryAgain: The disk is full.\n", "The disk is full.", True),
        (
            "\tOSError: [Errno 28] No space left on device\n",
            "The disk is full: free some space and run again (step N4, see",
            True,
        ),
        ("\tMemoryError\n", "Memory ran out: give more, or lower --nprocs (step N4, see", True),
        ("\ttorch.OutOfMemoryError: CUDA out of memory. Tried\n", "Memory ran out: give", True),
        ("\tValueError: odd\n", "Unexpected error in the step N4: ValueError: odd (see", False),
        ("\tSomething else\n", "Unexpected error in the step N4: Something else (see", False),
        (
            "\tValueError: low\n\nThe above exception was the direct cause of:\n\n"
            "\tTraceback (most recent call last):\n\tUnusableData: high\n",
            "high",
            False,
        ),
    ],
)
def test_reason(last: str, expected: str, again: bool) -> None:
    crash = read_crash(HEAD + TRACE + INNER + last)
    assert crash.node == NODE
    assert sentence(crash, Path("/logs/crash.txt")).startswith(expected)
    assert crash.again is again


def test_failures_name_the_session(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01"
    folder.mkdir()
    text = HEAD + TRACE + INNER + "\tUnusableData: /a.nii is empty.\n"
    for name in ("crash-1.txt", "crash-2.txt"):
        (folder / name).write_text(text.replace("sub_01_wf", "sub_01_ses_a_wf"))
    found = failures(tmp_path, ["sub-01"], {"sub_01_ses_a_wf": "sub-01_ses-a"})
    assert found == [Failure("sub-01", "sub-01_ses-a", "/a.nii is empty.")]
    assert failures(tmp_path, ["sub-02"], {}) == []


def test_refusal_reads_like_a_crash(tmp_path: Path) -> None:
    pair = Pair(subject="01", flair=Path("f.nii"), entities={"subject": "01"})
    write_refusal(tmp_path, pair, UnusableData("Model 'x' needs T1w."))
    assert failures(tmp_path, ["sub-01"], {"sub_01_wf": "sub-01"}) == [
        Failure("sub-01", "sub-01", "Model 'x' needs T1w.")
    ]


BAD, AGAIN = Failure("sub-01", "sub-01_ses-a", "No."), Failure("sub-02", "sub-02", "Full.", True)


@pytest.mark.parametrize(
    ("failed", "code"), [([], 0), ([BAD], 1), ([AGAIN], 75), ([BAD, AGAIN], 1)]
)
def test_exit_code(failed: list, code: int) -> None:
    assert exit_code(failed) == code


def test_summary() -> None:
    lines = list(summary_lines(["sub-01", "sub-02", "sub-03"], [BAD, AGAIN], Path("/out")))
    assert lines == [
        "1 of 3 participants are complete.",
        "  sub-01: FAILED (sub-01_ses-a): No.",
        "  sub-02: FAILED: Full.",
        "  sub-03: complete, see /out/sub-03.html",
    ]
