"""A job in a Dragon runtime that somebody else started and will end: ours in it are the head, the ranks, no more.

On several hosts an agent on each (kept.py) clears up what is the job's, and leaves the runtime alone.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RankmapError, RuntimeUnusableError
from rankmap.runtime.ending import no_start
from rankmap.runtime.job import START_TIMEOUT_S
from rankmap.runtime.processes import JOB_VARIABLE, carrying, end_all, wind_down
from rankmap.runtime.services import RUNTIME
from rankmap.runtime.starting import Kind, Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from rankmap.runtime.processes import Found
    from rankmap.runtime.services import Service
    from rankmap.runtime.session import ControlDirectory
    from rankmap.runtime.starting import AgentStart

__all__ = [
    "Asked",
    "InsideSession",
    "ask_for_agents",
    "launcher_descriptors",
    "runtime_around",
    "wait_until_read",
]

_END_GRACE_S = 5.0
_FIONREAD = 0x541B
_PIDFD_GETFD = 438  # the same number on every architecture since Linux 5.6


class Asked:
    """Something that Dragon was asked for, in a thread: that hangs for ever where Dragon does.

    Args:
        ask: Asks for it.
        on_failure: Called, in the thread, when ``failure`` says why nothing will come of it.
    """

    def __init__(self, ask: Callable[[], None], on_failure: Callable[[], None]) -> None:
        self.failure: RankmapError | None = None
        self._ask, self._on_failure = ask, on_failure
        self._thread = threading.Thread(target=self._run, name="rankmap-ask-dragon", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ask()
        except RankmapError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - Dragon raises whatever it likes; this is the boundary to it
            self.failure = RuntimeUnusableError(f"Dragon: {type(error).__name__}: {error}")
        if self.failure is not None:
            self._on_failure()

    def wait(self, timeout_s: float = _END_GRACE_S) -> None:
        """Return when Dragon has answered, or not for a while: what it starts too late nobody would end."""
        self._thread.join(timeout_s)


def ask_for_agents(starts: Iterable[AgentStart], on_failure: Callable[[], None]) -> Asked:
    """Return the question that has Dragon start these agents."""
    from rankmap.runtime import dragon  # noqa: PLC0415 - only inside a runtime

    return Asked(lambda: dragon.start_agents(starts), on_failure)


def runtime_around(timeout_s: float = START_TIMEOUT_S) -> Reach | None:
    """Return the hosts of the Dragon runtime around this process, by its names of them; None where it has only one.

    Raises:
        RuntimeUnusableError: Dragon does not say in this time.
    """
    from rankmap.runtime import dragon  # noqa: PLC0415 - only inside a runtime

    found: list[str] = []
    asked = Asked(lambda: found.extend(node.name for node in dragon.live_nodes()), lambda: None)
    asked.wait(timeout_s)
    if asked.failure is not None:
        raise asked.failure
    if not found:
        outcome = no_start(timeout_s, late="", log_tail="")
        raise RuntimeUnusableError(outcome.reason, hint=outcome.hint)
    hosts = tuple(found)
    source = "the Dragon runtime around this process"
    return Reach(kind=Kind.DRAGON, hosts=hosts, source=source, named=hosts) if len(hosts) > 1 else None


class InsideSession:
    """The job's share of a runtime that is already there; the same interface as Session.

    Args:
        asked: The question that has Dragon start the head.
        job: The job's name.
        agents: Whether the runtime has several hosts, on all of which agents end what is the job's.
    """

    runtime_stays = True
    finish_timeout_s = interrupt_timeout_s = 150.0  # closing a group may take two minutes where all cores are busy

    def __init__(self, asked: Asked, job: str, *, agents: bool) -> None:
        self._asked = asked
        self._job = job
        self._agents = agents
        self._runtime = os.getpgid(0)
        self._services: set[int] = set()
        # On several hosts the leader of our process group is local services; the launcher may be on any host.
        self.output_descriptors = (1, 2) if agents else launcher_descriptors()

    @classmethod
    def start(cls, control: ControlDirectory, *, on_failure: Callable[[], None], host: str = "") -> InsideSession:
        """Return the session while the head is being started in this runtime, which may take for ever if that hangs.

        Args:
            control: The job's control directory.
            on_failure: Called, in another thread, when ``failure`` says why there will be no head.
            host: Dragon's name of the host for the head, where the runtime has several; else "".
        """
        from rankmap.runtime import dragon  # noqa: PLC0415 - only inside a runtime

        job, door = control.path.name, str(control.door)
        return cls(Asked(lambda: dragon.start_head(door, job=job, host=host), on_failure), job, agents=bool(host))

    @property
    def failure(self) -> RankmapError | None:
        """Why there will be no head; None where that is not known."""
        return self._asked.failure

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return the pids of the runtime itself and of what it started for this job, ranks excluded."""
        self._services = {process.pid for process in self._ours()} - set(ranks) | {self._runtime}
        return sorted(self._services)

    def log_tail(self) -> str:
        """Return nothing: what Dragon says goes to whoever started the runtime."""
        return ""

    def vital(self, services: Iterable[Service]) -> list[Service]:
        """Return those without which there is no job: the runtime's launcher among them."""
        return [service for service in services if service.name != RUNTIME or service.pid == self._runtime]

    def left_by_ranks(self, services: Collection[int]) -> list[Found]:
        """Return what belongs to the job and is no service: when the ranks have ended, what they have left."""
        return [process for process in self._ours() if process.pid not in services]

    def release(self) -> None:
        """Give back the launcher's descriptors, now that all output was written."""
        for descriptor in self.output_descriptors:
            if descriptor > 2:  # noqa: PLR2004 - not our own stdout and stderr
                os.close(descriptor)

    def end(self, *, head_pid: int, force: bool, hurry: Callable[[], bool]) -> list[int]:
        """Return when nothing of the job is left; the runtime and all else in it stay.

        What Dragon started for the job always gets its time to end by itself (processes.py, ``wind_down``).

        Args:
            head_pid: The head's pid; 0 where there is none.
            force: Of no consequence here.
            hurry: Whether somebody wants it to be by force after all, asked again and again.

        Returns the pids of what cannot be killed.
        """
        del force
        if self._agents:
            self._asked.wait()
            return []
        wind_down(self._ours, self._left, head_pid=head_pid, hurry=hurry)
        end_all(self._ours, timeout_s=_END_GRACE_S)
        return [process.pid for process in self._ours()]

    def _left(self) -> list[Found]:
        return self.left_by_ranks(self._services) if self._services else []

    def _ours(self) -> list[Found]:
        return carrying(JOB_VARIABLE, self._job)


def launcher_descriptors() -> tuple[int, int]:
    """Return descriptors of the stdout and stderr that ``dragon`` itself was given, for the ranks' output.

    What a process writes to its own stdout inside a runtime goes through Dragon's messages, at half a megabyte a
    second. Where the launcher's own cannot be had (it is on another host, or the kernel forbids it), it is 1 and 2.

    Source: pidfd_getfd(2); proc_pid_fd(5).
    """
    leader = os.getpgid(0)
    return _descriptor_of(leader, 1), _descriptor_of(leader, 2)


def _descriptor_of(pid: int, number: int) -> int:
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        copy = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, number, 0)
        os.close(pidfd)
        if copy >= 0:
            return int(copy)
        # Opened anew, a terminal or a pipe is as good; a file is not: each opening has a position of its own.
        path = f"/proc/{pid}/fd/{number}"
        kind = Path(path).stat().st_mode
        if stat.S_ISCHR(kind) or stat.S_ISFIFO(kind):
            # A pipe that nobody reads any more must not be waited for.
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
            return descriptor
    return number


def wait_until_read(fd: int, *, timeout_s: float) -> None:
    """Return when the reader of this pipe has read all that was written, or the time is over.

    Dragon reads its processes' output through pipes and throws away what is still in one soon after the process has
    ended. Something that is no pipe needs no waiting.

    Source: ioctl_pipe FIONREAD, pipe(7).
    """
    count = ctypes.c_int()
    libc = ctypes.CDLL(None)
    deadline_s = time.monotonic() + timeout_s
    while libc.ioctl(fd, _FIONREAD, ctypes.byref(count)) == 0 and count.value and time.monotonic() < deadline_s:
        time.sleep(0.01)
