"""The parts of session.py that need no Dragon; starting and ending a runtime is in tests/e2e."""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.libpmix import Libpmix
from rankmap.runtime.mending import STARTUP
from rankmap.runtime.processes import descendants
from rankmap.runtime.session import (
    ControlDirectory,
    Session,
    dragon_command,
    in_runtime,
    restored,
    runtime_environment,
)
from rankmap.runtime.wire import Connection, listen
from tests.children import CHECKOUT, LIMIT_S, child

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty temporary directory with a short name, which TMPDIR stands for."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.fixture
def control(temporary: Path) -> Iterator[ControlDirectory]:
    """Return a control directory below it."""
    assert temporary.is_dir()
    made = ControlDirectory()
    yield made
    made.remove()


def test_the_control_directory_is_private_and_goes_with_all_in_it(control: ControlDirectory, temporary: Path) -> None:
    """Nobody else may enter it: marshal over its socket rests on that."""
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o700
    assert control.path.parent == temporary
    control.socket.touch()
    control.offer_libpmix(Libpmix(path=Path("/x/libpmix.so.2"), version="5"))
    control.remove()
    control.remove()
    assert list(temporary.iterdir()) == []


def test_the_job_has_a_directory_in_shared_memory_that_goes_with_it(control: ControlDirectory) -> None:
    """As private, and removed with what the MPI library has left in it."""
    made = control.shared_memory
    assert made == Path("/dev/shm") / f"{control.path.name}.mpi"  # noqa: S108 - where it has to be
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    (made / "sm_segment.0").touch()
    control.remove()
    assert not made.exists()


def test_two_jobs_have_two_directories(control: ControlDirectory) -> None:
    """Jobs side by side do not meet, nor does one remove what is the other's."""
    other = ControlDirectory()
    other.remove()
    assert (control.path != other.path, control.shared_memory != other.shared_memory) == (True, True)
    assert (control.path.is_dir(), control.shared_memory.is_dir()) == (True, True)


def test_a_temporary_directory_with_a_long_name_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix socket's path holds 107 bytes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    control = ControlDirectory()
    control.remove()
    assert control.path.parent == Path("/tmp")  # noqa: S108 - the directory in it is private
    assert len(os.fsencode(control.socket)) < 100


def test_the_directory_of_a_job_of_another_host_is_made_at_the_same_place(temporary: Path) -> None:
    """Or taken as it is, where it is there already: as private, and with all that belongs to it."""
    path = temporary / "rankmap-x"
    control = ControlDirectory.at(path)
    for again in (control, ControlDirectory.at(path)):
        assert (path, path / "socket", path / "socket") == (again.path, again.socket, again.door)
        assert (0o700, True) == (stat.S_IMODE(path.stat().st_mode), again.shared_memory.is_dir())
    control.remove()
    assert (False, False) == (path.exists(), control.shared_memory.exists())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_the_directory_of_somebody_else_is_not_taken(temporary: Path) -> None:
    """Whoever made it first could read and write our messages."""
    path = temporary / "rankmap-x"
    path.mkdir()
    os.chown(path, 12345, 12345)
    with pytest.raises(RuntimeUnusableError, match=f"^{path} is somebody else's$"):
        ControlDirectory.at(path)


def test_a_directory_that_cannot_be_made_is_said_with_its_place(temporary: Path) -> None:
    """The host has no such TMPDIR, or no room in it."""
    with pytest.raises(RuntimeUnusableError, match=rf"^no directory can be made in {temporary}/none: No such file"):
        ControlDirectory.at(temporary / "none" / "rankmap-x")


def test_libpmix_may_be_offered_twice(control: ControlDirectory) -> None:
    """By the supervisor, and by the agent of its own host."""
    libpmix = Libpmix(path=Path("/x/libpmix.so.2"), version="5")
    assert control.offer_libpmix(libpmix) == control.offer_libpmix(libpmix)


def test_dragon_finds_our_ssh_and_a_cleanup_that_does_nothing(control: ControlDirectory) -> None:
    """Its own cleanup would end every Python program of the user; ssh asks the supervisor's socket."""
    folders = control.offer_commands()
    assert [["dragon-cleanup"], ["ssh"]] == [[path.name for path in folder.iterdir()] for folder in folders]
    environ = {"PATH": f"{folders[0]}:{folders[1]}:{os.defpath}"}
    cleanup = subprocess.run(["dragon-cleanup", "--all"], env=environ, check=False, capture_output=True)
    assert (0, b"", b"") == (cleanup.returncode, cleanup.stdout, cleanup.stderr)
    with listen(control.socket, 1) as listener:
        listener.settimeout(LIMIT_S)
        words = ["ssh", "-oBatchMode=yes", "n1", "cd '/a b' && x \"$y\""]
        with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE) as ssh:
            connection = Connection(listener.accept()[0])
            assert [{"kind": "remote", "host": "n1", "command": words[-1]}] == connection.receive()
            connection.send({"kind": "said", "number": 1, "end": 1, "data": b"hello"})
            connection.send({"kind": "exited", "number": 1, "status": 7})
            connection.close()
            out, _ = ssh.communicate(timeout=LIMIT_S)
            assert (b"hello", 7) == (out, ssh.returncode)


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
        "PYTHONPATH": f"{STARTUP}:{CHECKOUT}:/user/py",
        "TMPDIR": str(control.path),
        "A": "b",
    }


def test_unset_paths_leave_no_empty_entry(control: ControlDirectory) -> None:
    """An empty entry would be the working directory."""
    made = runtime_environment({}, control=control, library_dirs=())
    assert (made["LD_LIBRARY_PATH"], made["PYTHONPATH"]) == ("", f"{STARTUP}:{CHECKOUT}")


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


@pytest.fixture
def session() -> Iterator[tuple[Session, socket.socket]]:
    """Return a session whose keeper is a program that says what it is told to, and the keeper's end of the link."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, ours, theirs:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        yield Session(process, ours), theirs
        process.kill()


def say(session: Session, text: bytes) -> None:
    """Let its keeper say this, and return when it can be read."""
    assert session.keeper.stdin is not None
    session.keeper.stdin.write(text)
    session.keeper.stdin.flush()
    assert select.select([session], [], [], LIMIT_S)[0]


def test_what_the_keeper_says_on_the_link(session: tuple[Session, socket.socket]) -> None:
    """New shared memory ends nothing; the end of dragon, and of the keeper itself, has a name."""
    ours, theirs = session
    theirs.send(b"made DD1 DD2")
    theirs.send(b"made DD3")
    theirs.send(b"ended")
    assert ["", "", "dragon ended"] == [ours.read_link() for _ in range(3)]
    assert {"DD1", "DD2", "DD3"} == ours._shared_memory.ours
    ours._shared_memory.ours.clear()
    theirs.close()
    assert ours.read_link() == f"rankmap's keeper (pid {ours.keeper.pid}) ended"


def test_dragons_words_come_by_lines_and_the_last_are_kept(session: tuple[Session, socket.socket]) -> None:
    """A line that is not complete waits; what is empty, or said at every end of Dragon, is passed over."""
    ours, _ = session
    assert ([], "") == (ours.read_log(), ours.log_tail())
    say(ours, b"one\n\n+++ head proc exited, code 0\nha")
    assert [b"one"] == ours.read_log()
    say(ours, b"lf \xff\n")
    assert [b"half \xff"] == ours.read_log()
    assert ours.log_tail() == "\n  dragon: one\n  dragon: half \ufffd"
    say(ours, b"".join(b"%d\n" % number for number in range(20)))
    ours.read_log()
    assert ours.log_tail() == "".join(f"\n  dragon: {number}" for number in range(5, 20))


def test_the_end_of_dragons_output_is_told_from_silence(session: tuple[Session, socket.socket]) -> None:
    """None and nothing."""
    ours, _ = session
    ours.keeper.kill()
    assert select.select([ours], [], [], LIMIT_S)[0]
    assert ours.read_log() is None


def test_services_are_all_below_the_keeper_but_the_ranks() -> None:
    """With the keeper itself, and this process, which supervises."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, child("sh", "-c", "sleep 60 & echo $!; sleep 60 & echo $!; wait") as keeper:
        rank, service = int(keeper.hear()), int(keeper.hear())
        assert Session(keeper.process, ours).services([rank]) == [os.getpid(), keeper.pid, service]


def test_what_was_below_us_before_is_not_ours_to_end() -> None:
    """``exec > >(tee log); exec rankmap launch ...`` makes rankmap the parent of tee."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, child("sh", "-c", "sleep 60 & echo up; wait") as before, child("sleep", "60") as keeper:
        before.hear()
        there = frozenset(found for found in descendants(os.getpid()) if found.pid != keeper.pid)
        session = Session(keeper.process, ours, there)
        with child("sleep", "60") as after:
            assert {keeper.pid, after.pid} == {found.pid for found in session._ours()}
