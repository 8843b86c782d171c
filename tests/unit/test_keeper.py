"""The keeper as Session starts it, with a shell or a small program where Dragon would be."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from rankmap.runtime.processes import carrying, end_all
from rankmap.runtime.session import ControlDirectory
from tests.children import CHECKOUT, LIMIT_S, Lines, child, has_ended

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what is tested works there
MAPS = """
import mmap, os, signal, sys
with open(sys.argv[1], "x+b") as file:
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
open(sys.argv[1] + "_again", "x").close()  # a reason to look, now that it is mapped
os.unlink(sys.argv[1] + "_again")
print(os.getpid(), flush=True)
signal.alarm(60)
signal.pause()
"""
WITHOUT_INOTIFY = (
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"',
    "sh",
)


class Kept:
    """A keeper that runs, and the supervisor's end of its link."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket, control: ControlDirectory) -> None:
        assert process.stdout is not None
        self.process = process
        self.link = link
        self.control = control
        self.lines = Lines(process.stdout.fileno())
        self.pidfds: list[int] = []

    def hear_pids(self, n_processes: int) -> list[int]:
        """Return the pids that so many processes below it say, one a line."""
        pids = [int(self.lines.next()) for _ in range(n_processes)]
        self.pidfds += [os.pidfd_open(pid) for pid in pids]
        return pids

    def hear_link(self) -> str:
        """Return what it says next on the link, "" at its end."""
        assert select.select([self.link], [], [], LIMIT_S)[0]
        return self.link.recv(1 << 16).decode()

    def assert_ends_and_leaves_nothing(self) -> None:
        """The keeper ends by itself; processes and directories are gone by then."""
        assert self.process.wait(LIMIT_S) == 0
        assert has_ended(self.pidfds, limit_s=0)
        assert not self.control.path.exists()
        assert not self.control.shared_memory.exists()


@contextmanager
def keeper(*command: str, under: tuple[str, ...] = ()) -> Iterator[Kept]:
    """Start a keeper of this command; end it with all that has said its pid."""
    control = ControlDirectory()
    mark = ("RANKMAP_TEST", control.path.name)
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [*under, sys.executable, "-m", "rankmap.runtime.keeper", str(theirs.fileno()), str(control.path), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=control.path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), mark[0]: mark[1]},
            process_group=0,
            pass_fds=[theirs.fileno()],
        )
    kept = Kept(process, link, control)
    try:
        yield kept
    finally:
        link.close()
        for pidfd in kept.pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        end_all(lambda: carrying(*mark), timeout_s=LIMIT_S)
        with process:  # closes the pipe and waits
            pass
        control.remove()


class Gate:
    """A file that a command reads a line from when it is to go on."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR)  # opening waits for nobody

    def open(self) -> None:
        """Let the command go on."""
        os.write(self._fd, b"go\n")

    def remove(self) -> None:
        """Close it for good."""
        os.close(self._fd)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Return one that is shut."""
    made = Gate(tmp_path / "gate")
    yield made
    made.remove()


def sh(script: str) -> tuple[str, str, str]:
    """Return the command that runs this script."""
    return "/bin/sh", "-c", script


@pytest.fixture
def segment() -> Iterator[Path]:
    """Return a file in /dev/shm that is not there, with a name as Dragon's pools have; it is gone after the test."""
    path = SHARED_MEMORY / f"DD_rankmap_test_{uuid4().hex}"
    yield path
    path.unlink(missing_ok=True)


def test_when_the_link_closes_all_below_ends() -> None:
    """The supervisor was killed: the command and its children go, also one that ignores SIGTERM."""
    script = "sh -c 'trap \"\" TERM HUP; echo $$; sleep 60 & echo $!; wait' & echo $$; wait"
    with keeper(*sh(script)) as kept:
        kept.hear_pids(3)
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()


def test_a_daemon_does_not_get_away() -> None:
    """A session and an environment of its own, and a parent that has ended, do not hide it."""
    script = "(setsid env -i /bin/sh -c 'echo $$; sleep 60 & echo $!; wait' &) & wait; echo $$; exec sleep 60"
    with keeper(*sh(script)) as kept:
        daemon, its_child, command = kept.hear_pids(3)
        assert len({os.getsid(pid) for pid in (daemon, its_child)} - {os.getsid(command)}) == 1
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()


def test_processes_that_were_stopped_end_too() -> None:
    """SIGTERM would wait until they go on."""
    with keeper(*sh("sh -c 'echo $$; kill -STOP $$' & echo $$; wait")) as kept:
        kept.hear_pids(2)
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()


def test_the_head_is_asked_to_end_and_the_command_waited_for() -> None:
    """``end PID``: what the command does after its head has ended is done."""
    head = "trap 'echo head ended; exit' TERM; echo $$; while :; do sleep 60 & wait; done"
    with keeper(*sh('sh -c "$0"; echo command goes on; exec sh -c "echo command ended"'), head) as kept:
        (head_pid,) = kept.hear_pids(1)
        kept.link.send(f"end {head_pid}\n".encode())
        assert kept.lines.rest() == ["head ended", "command goes on", "command ended"]
        kept.assert_ends_and_leaves_nothing()


def test_what_the_command_leaves_is_ended_after_it() -> None:
    """A clean end of Dragon does not end the ranks' own daemons."""
    script = "setsid sleep 60 & echo $!; trap 'exit 0' TERM; echo $$; while :; do sleep 60 & wait; done"
    with keeper(*sh(script)) as kept:
        _, command = kept.hear_pids(2)
        kept.link.send(f"end {command}\n".encode())
        kept.assert_ends_and_leaves_nothing()


def test_without_a_head_the_end_is_by_force() -> None:
    """``end 0``: nothing gets SIGTERM."""
    with keeper(*sh("trap 'echo asked; exit' TERM; echo $$; while :; do sleep 60 & wait; done")) as kept:
        kept.hear_pids(1)
        kept.link.send(b"end 0\n")
        assert kept.lines.rest() == []
        kept.assert_ends_and_leaves_nothing()


def test_a_head_that_is_none_of_the_jobs_processes_gets_no_signal(gate: Gate) -> None:
    """Its pid may be somebody else's by now."""
    with child("sleep", "60") as stranger, keeper(*sh('echo $$; read line < "$0"'), gate.path) as kept:
        kept.hear_pids(1)
        kept.link.send(f"end {stranger.pid}\n".encode())
        gate.open()
        kept.assert_ends_and_leaves_nothing()
        assert stranger.process.poll() is None


def test_it_says_when_the_command_ends_by_itself() -> None:
    """The supervisor then decides; what the command has left behind lives until the link says so."""
    with keeper(*sh("setsid sleep 60 & echo $!; exit 7")) as kept:
        kept.hear_pids(1)
        assert kept.hear_link() == "ended"
        assert not has_ended(kept.pidfds, limit_s=0)
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()


def test_the_end_of_an_adopted_process_is_not_the_commands() -> None:
    """Not a word is said about it."""
    script = "(setsid sh -c 'echo $$; exec sleep 60' &) & wait; echo $$; exec sleep 60"
    with keeper(*sh(script)) as kept:
        kept.hear_pids(2)
        for pidfd in kept.pidfds:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert has_ended([pidfd])
        assert kept.hear_link() == "ended"
        kept.link.send(b"end 0\n")
        assert kept.hear_link() == ""
        kept.assert_ends_and_leaves_nothing()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_to_the_keeper_end_nothing(number: signal.Signals, gate: Gate) -> None:
    """They are the supervisor's business; the command has not got them, and has them as they were."""
    with keeper(*sh('echo $$; read line < "$0"; grep ^SigIgn: /proc/self/status'), gate.path) as kept:
        (command,) = kept.hear_pids(1)
        assert os.getpgid(command) == command
        kept.process.send_signal(number)
        gate.open()
        ignored = int(kept.lines.next().split()[1], 16)
        assert not any(ignored >> (each - 1) & 1 for each in (number, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD))
        assert kept.hear_link() == "ended"
        assert kept.process.poll() is None
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()


def test_shared_memory_is_reported_and_goes(segment: Path) -> None:
    """The supervisor hears its name, should the keeper be killed; a file of another's stays."""
    other = segment.with_name(f"{segment.name}_other")
    other.touch()
    try:
        with keeper(sys.executable, "-c", MAPS, str(segment)) as kept:
            kept.hear_pids(1)
            assert kept.hear_link() == f"made {segment.name}"
            kept.link.close()
            kept.assert_ends_and_leaves_nothing()
        assert (segment.exists(), other.exists()) == (False, True)
    finally:
        other.unlink()


def test_shared_memory_that_was_made_at_the_last_moment_goes(segment: Path) -> None:
    """Without the time to notice it before the end."""
    with keeper(sys.executable, "-c", MAPS, str(segment)) as kept:
        kept.hear_pids(1)
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()
    assert not segment.exists()


def test_shared_memory_goes_although_its_process_has_ended(segment: Path) -> None:
    """A rank that has crashed leaves its file: it was noticed when it was made."""
    with keeper(*sh('"$0" -c "$1" "$2" & echo $$; wait'), sys.executable, MAPS, str(segment)) as kept:
        pids = kept.hear_pids(2)
        assert kept.hear_link() == f"made {segment.name}"
        for pidfd, pid in zip(kept.pidfds, pids, strict=True):
            if pid != os.getpgid(pid):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert kept.hear_link() == "ended"
        assert segment.exists()
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()
    assert not segment.exists()


def test_a_supervisor_that_was_killed_before_it_read_all_is_noticed(segment: Path) -> None:
    """The kernel reports such an end as an error of the connection."""
    with keeper(sys.executable, "-c", MAPS, str(segment)) as kept:
        kept.hear_pids(1)
        assert select.select([kept.link], [], [], LIMIT_S)[0]
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()
    assert not segment.exists()


def test_it_works_where_the_kernel_has_no_more_inotify_instances(segment: Path) -> None:
    """A user may have 128; what is in /dev/shm is then looked at when the job ends."""
    if subprocess.run([*WITHOUT_INOTIFY, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    with keeper(sys.executable, "-c", MAPS, str(segment), under=WITHOUT_INOTIFY) as kept:
        kept.hear_pids(1)
        kept.link.close()
        kept.assert_ends_and_leaves_nothing()
    assert not segment.exists()


def test_a_command_that_cannot_be_started_leaves_no_directories() -> None:
    """The supervisor reads why."""
    with keeper("/no/such/dragon") as kept:
        assert "/no/such/dragon cannot be started: No such file or directory" in "\n".join(kept.lines.rest())
        assert kept.process.wait(LIMIT_S) == 1
        assert kept.hear_link() == ""
        assert not kept.control.path.exists()
        assert not kept.control.shared_memory.exists()
