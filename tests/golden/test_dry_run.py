"""What ``rankmap launch --dry-run`` shows, as a person reads it: paths of this checkout and this Python by a name."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cli import main
from rankmap.runtime.session import dragon_command

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parents[2]
JOB = ("DRAGON_RUN_NODEFILE", "DRAGON_MY_PUID", "PBS_JOBID", "PBS_NODEFILE", "SLURM_JOB_ID", "SLURM_JOB_NODELIST")


def test_a_dry_run_is_as_reviewed(
    capsys: pytest.CaptureFixture[str], golden: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hosts, how they are reached, what Dragon is started with, and the ranks' command; stderr is empty."""
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dragon").write_text("#!/bin/sh\n")  # where this Python has none beside it
    (tmp_path / "dragon").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["launch", "--dry-run", "--hosts", "n1,n2", "--nodes", "2", "--transport", "tcp", "--preload", "/bin/sh"]
    words += ["--env", "A=1", "--cwd", "/"]
    command = ["/bin/sh", "-c", "echo $A"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--", *command])
    said = capsys.readouterr()
    text = said.out.replace(str(dragon_command(os.environ)), "DRAGON").replace(sys.executable, "PYTHON")
    assert (0, "") == (end.value.code or 0, said.err)
    asked = f"$ rankmap {shlex.join([*words, '--', *command])}\n"
    golden("launch-dry-run", asked + text.replace(str(CHECKOUT), "CHECKOUT"))
