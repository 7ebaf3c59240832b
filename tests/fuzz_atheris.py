"""Coverage-guided search for bytes that a reader does not expect, where ``atheris`` is installed.

    python -m tests.fuzz_atheris NAME [-max_total_time=60 ...]

``NAME`` is one of ``tests.readers``, the rest are flags of libFuzzer. What it finds becomes an
``@example`` of ``tests/test_fuzz.py``. Not needed by any test: ``pip install atheris``.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bids_stroke", "nibabel"]):
    from tests.readers import READERS


def main() -> None:
    """Fuzz one reader, from its sample."""
    name, *flags = sys.argv[1:]
    reader = READERS[name]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "sample").write_bytes(reader.sample)
        atheris.Setup(["fuzz", *flags, corpus], reader.try_on)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
