"""The exception tree: what can go wrong, each kind with the exit code of the program.

The codes follow BSD's ``sysexits.h`` where it has one, and the BIDS Apps of the field for 16 to 18.
Every message is one sentence that names the file and says what to do.
"""

import errno


class BidsStrokeError(Exception):
    """Base of all expected errors; alone, it means that some participants failed."""

    exit_code = 1

    def __str__(self) -> str:
        """The sentence in one line; what can't be printed, in names of files, is shown escaped."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


class UsageError(BidsStrokeError):
    """The command line or the configuration file is wrong."""

    exit_code = 2


class InvalidDataset(BidsStrokeError):
    """The input folder is not a valid BIDS dataset."""

    exit_code = 16


class UnknownLevel(BidsStrokeError):
    """The analysis level is not one that the program has."""

    exit_code = 17


class NothingSelected(BidsStrokeError):
    """The participant, session and file filters leave nothing to process."""

    exit_code = 18


class UnusableData(BidsStrokeError):
    """A file was found but can't be used: corrupt, empty, of the wrong shape."""

    exit_code = 65


class InputMissing(BidsStrokeError):
    """A file or folder that was asked for does not exist."""

    exit_code = 66


class CannotCreate(BidsStrokeError):
    """An output file or folder can't be created."""

    exit_code = 73


class InputOutputError(BidsStrokeError):
    """Reading or writing failed half-way."""

    exit_code = 74


class TryAgain(BidsStrokeError):
    """Memory or disk ran out: the same run may succeed with more of it."""

    exit_code = 75


def is_full(error: OSError) -> bool:
    """Does an error of the system mean that the disk or the user's share of it is full?"""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
