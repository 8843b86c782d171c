"""Every help text, as a person reads it on a terminal of 80 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rankmap.cli import rankmap

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = ("", *rankmap.list_commands(rankmap.make_context("rankmap", [], resilient_parsing=True)))


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, golden: Callable[..., None]) -> None:
    """Help goes to stdout with status 0; ``-h`` says the same as ``--help``."""
    long, short = (
        subprocess.run(
            [sys.executable, "-m", "rankmap", *command.split(), flag],
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )
        for flag in ("--help", "-h")
    )
    assert (long.returncode, long.stderr) == (0, "")
    assert short.stdout == long.stdout
    golden(f"help-{command or 'rankmap'}", long.stdout)
