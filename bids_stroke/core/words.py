"""Numbers and names of columns in plain words, the same on pages and in pictures."""

import re

UNITS = {
    "ml": "(mL)",
    "mm": "(mm)",
    "mm3": "(mm³)",
    "deg": "(degrees)",
    "dice": "(Dice)",
}
"""Last word of a column's name, and how it is written."""


def millilitres(value: float) -> str:
    """A volume with as many digits as mean something: 12.3, 1.23, 0.012 mL."""
    digits = 1 if value >= 10 else 2 if value >= 0.1 or value == 0 else 3
    return f"{value:.{digits}f} mL"


def plain_name(column: str) -> str:
    """A column's name as a heading: ``T1w_brain_volume_ml`` is ``T1w brain volume (mL)``."""
    words = re.split(r"[ _]+", column.strip())
    if len(words) > 1 and words[-1] in UNITS:
        words[-1] = UNITS[words[-1]]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 session", "2 sessions"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
