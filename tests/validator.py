"""The BIDS validator on a dataset that a test made."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def issues(folder: Path) -> list[dict[str, Any]]:
    """Errors and warnings that bids-validator-deno has on a folder."""
    program = Path(sys.executable).parent / "bids-validator-deno"
    command = [str(program), str(folder), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["issues"]["issues"]
