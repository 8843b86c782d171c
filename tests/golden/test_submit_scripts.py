"""The ready scripts of scripts/ are what ``make scripts`` makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_ready_scripts_are_as_they_are_made(tmp_path: Path) -> None:
    """A change of the presets or of the scripts shows here, and `make scripts` brings it there."""
    program = CHECKOUT / "scripts" / "submit_scripts.py"
    subprocess.run([sys.executable, program, tmp_path], cwd=CHECKOUT, capture_output=True, timeout=120, check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    ready = {file.name: file.read_text() for file in program.parent.iterdir() if file.suffix in {".pbs", ".sbatch"}}
    assert sorted(ready) == sorted(made)
    assert ready == made
