"""The start-up hook that mends Dragon: what it reaches, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from rankmap.runtime.mending import MENDED, STARTUP, python_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def run(program: str, environ: Mapping[str, str]) -> list[str]:
    """Run a Python program under the hook; return the lines that it prints."""
    command = [sys.executable, "-B", "-c", program]
    done = subprocess.run(
        command, env={"PYTHONPATH": python_path(environ)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert "" == done.stderr
    return done.stdout.splitlines()


def test_the_hook_looks_for_the_modules_that_are_mended() -> None:
    """The hook names them without importing rankmap, so the two lists have to be compared."""
    program = "import sys; print(sorted(sys.modules['rankmap-startup']._MENDED))"
    assert [str(sorted(MENDED))] == run(program, {})


def test_a_sitecustomize_of_the_users_is_run_too(tmp_path: Path) -> None:
    """Python runs one module of this name; ours runs the one that it hides, and only that."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(f"print('{name} runs')")
    users = f"{tmp_path / 'first'}:{tmp_path / 'second'}"
    assert ["first runs"] == run("", {"PYTHONPATH": users})


def test_only_what_asks_for_dragon_pays() -> None:
    """Every Python in the runtime runs the hook; rankmap is imported where Dragon is."""
    assert ["False"] == run("import sys; print('rankmap' in sys.modules)", {})


def test_the_users_path_stays_behind_ours() -> None:
    """What the user has on PYTHONPATH is found as before; an empty value adds nothing."""
    assert python_path({"PYTHONPATH": "/a:/b"}).startswith(f"{STARTUP}:")
    assert python_path({"PYTHONPATH": "/a:/b"}).endswith(":/a:/b")
    assert python_path({"PYTHONPATH": ""}) == python_path({})
