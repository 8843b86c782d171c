"""The parts of session.py that need no Dragon; starting and ending a runtime is in tests/e2e."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.libpmix import Libpmix
from rankmap.runtime.session import (
    ControlDirectory,
    dragon_command,
    in_runtime,
    processes_of_group,
    restored,
    runtime_environment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty temporary directory with a short name, which TMPDIR stands for."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.fixture
def control(temporary: Path) -> ControlDirectory:
    """Return a control directory below it."""
    assert temporary.is_dir()
    return ControlDirectory()


def test_the_control_directory_is_private_and_goes_with_all_in_it(control: ControlDirectory, temporary: Path) -> None:
    """Nobody else may enter it: marshal over its socket rests on that."""
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o700
    assert control.path.parent == temporary
    control.socket.touch()
    control.offer_libpmix(Libpmix(path=Path("/x/libpmix.so.2"), version="5"))
    control.remove()
    control.remove()
    assert list(temporary.iterdir()) == []


def test_two_jobs_have_two_directories(control: ControlDirectory) -> None:
    """Jobs side by side do not meet."""
    other = ControlDirectory()
    assert control.path != other.path


def test_a_temporary_directory_with_a_long_name_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix socket's path holds 107 bytes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    control = ControlDirectory()
    control.remove()
    assert control.path.parent == Path("/tmp")  # noqa: S108 - the directory in it is private
    assert len(os.fsencode(control.socket)) < 100


def test_libpmix_is_offered_under_the_name_that_dragon_opens(control: ControlDirectory) -> None:
    """A link named libpmix.so, and the directory of the file itself for its dependencies."""
    dirs = control.offer_libpmix(Libpmix(path=Path("/x/libpmix.so.2.13"), version="5"))
    assert (str(control.lib), "/x") == dirs
    assert (control.lib / "libpmix.so").readlink() == Path("/x/libpmix.so.2.13")


def test_dragon_gets_the_users_environment_with_more_on_top(control: ControlDirectory) -> None:
    """Dragon's commands come first on PATH, ours before the user's libraries and modules, temporary files with us."""
    environ = {"PATH": "/user/bin", "LD_LIBRARY_PATH": "/user/lib", "PYTHONPATH": "/user/py", "TMPDIR": "/t", "A": "b"}
    made = runtime_environment(environ, control=control, library_dirs=("/one", "/two"))
    dragon = dragon_command(environ).parent
    assert made == {
        "PATH": f"{dragon}:/user/bin",
        "LD_LIBRARY_PATH": "/one:/two:/user/lib",
        "PYTHONPATH": f"{CHECKOUT}:/user/py",
        "TMPDIR": str(control.path),
        "A": "b",
    }


def test_unset_paths_leave_no_empty_entry(control: ControlDirectory) -> None:
    """An empty entry would be the working directory."""
    made = runtime_environment({}, control=control, library_dirs=())
    assert (made["LD_LIBRARY_PATH"], made["PYTHONPATH"]) == ("", str(CHECKOUT))


def test_the_ranks_get_back_what_was_changed_for_dragon(control: ControlDirectory) -> None:
    """Every variable that differs is restored, or handled by the shim; one that was not set is taken out."""
    environ = {"PATH": "/user/bin", "TMPDIR": "/t"}
    made = runtime_environment(environ, control=control, library_dirs=("/one",))
    changed = {name for name in made if made[name] != environ.get(name)}
    assert changed - {"LD_LIBRARY_PATH"} == set(restored(environ))
    assert restored(environ) == {"PATH": "/user/bin", "PYTHONPATH": None, "TMPDIR": "/t"}


def test_being_inside_a_runtime_is_seen_in_the_environment() -> None:
    """Dragon gives every process that it starts a number."""
    assert (in_runtime({"DRAGON_MY_PUID": "4294967296"}), in_runtime({"DRAGON_DEBUG": "1"})) == (True, False)


def test_dragon_is_looked_for_beside_python_then_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment need not be activated; without any dragon the error says how to get one."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(RuntimeUnusableError, match="not installed") as caught:
        dragon_command({"PATH": str(tmp_path / "elsewhere")})
    assert caught.value.hint == "pip install dragonhpc"
    for folder in ("elsewhere", "bin"):
        (tmp_path / folder).mkdir()
        command = tmp_path / folder / "dragon"
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
        assert command == dragon_command({"PATH": str(tmp_path / "elsewhere")})


def test_processes_of_a_group_are_those_that_run() -> None:
    """Children count, other groups and zombies do not."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo up; wait"], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        pids = processes_of_group(leader.pid)
        assert (2, True, False) == (len(pids), leader.pid in pids, os.getpid() in pids)
        os.killpg(leader.pid, signal.SIGKILL)
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        assert leader.pid not in processes_of_group(leader.pid)


def test_a_process_whose_name_looks_like_fields_is_read_right(tmp_path: Path) -> None:
    """The name in /proc/PID/stat may hold blanks and brackets."""
    odd = tmp_path / "a) R 1"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"], process_group=0) as process:
        try:
            assert processes_of_group(process.pid) == [process.pid]
        finally:
            process.kill()
