"""What belongs to a job on a host that its supervisor is not on, and ending it: for the agent there (agent.py)."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from rankmap.runtime.processes import JOB_VARIABLE, carrying, descendants, end_all, send_signal, wind_down
from rankmap.runtime.services import RUNTIME
from rankmap.runtime.shared_memory import SharedMemory, remove_directories

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from rankmap.runtime.processes import Found
    from rankmap.runtime.services import Service

__all__ = ["CLEANED", "Kept", "clean_up_after"]

CLEANED = "rankmap-cleaned"
"""What a line begins with that says on which host nothing is left, but for these pids."""

_KILL_TIMEOUT_S = 10.0


class Kept:
    """The job's processes and shared memory on this host.

    Its processes are those below the agent, and all that were started with the job's mark in their environment,
    wherever Dragon's own launcher has put them.

    Args:
        job: The job's name.
        runtime_stays: Whether the runtime goes on when the job has ended.
        above: The pids of the agent and what it was started by: they are not ended.
        late: Whether the job may have made shared memory before this.
    """

    def __init__(self, job: str, *, runtime_stays: bool, above: Collection[int] = (), late: bool = False) -> None:
        self.runtime_stays = runtime_stays
        # Dragon's local services are the leader of the group of all that they start.
        self._runtime = os.getpgid(0) if runtime_stays else 0
        self._services: set[int] = set()
        self._job = job
        self._above = {os.getpid(), *above}
        self._expected: dict[int, subprocess.Popen[bytes]] = {}
        self.shared_memory = SharedMemory(self.processes, late=late)

    def processes(self) -> list[Found]:
        """Return the job's processes."""
        found = {one.pid: one for one in (*carrying(JOB_VARIABLE, self._job), *descendants(os.getpid()))}
        return [one for pid, one in found.items() if pid not in self._above]

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return the pids of the runtime's processes on this host, and of the agent."""
        runtime = [self._runtime] if self.runtime_stays else []
        pids = [os.getpid(), *runtime, *(one.pid for one in self.processes() if one.pid not in ranks)]
        self._services = set(pids)
        return pids

    def vital(self, services: Iterable[Service]) -> list[Service]:
        """Return those that are not started for a moment only."""
        others = [service for service in services if service.pid != os.getpid()]
        return [service for service in others if service.name != RUNTIME or service.pid == self._runtime]

    def left_by_ranks(self, services: Collection[int]) -> list[Found]:
        """Return what belongs to the job and is no service: when the ranks have ended, what they have left."""
        return [one for one in self.processes() if one.pid not in services]

    def end(self) -> list[int]:
        """Return when nothing of the job is left here, or the pids of what cannot be killed."""
        for process in self.processes():  # first, so that nobody makes a file after we have looked whose they are
            send_signal(process, signal.SIGSTOP)
        self.shared_memory.look()
        end_all(self.processes, timeout_s=_KILL_TIMEOUT_S, meanwhile=self.reap)
        self.shared_memory.remove()
        return [one.pid for one in self.processes()]

    def wind_down(self, *, head_pid: int) -> None:
        """Return when all has ended by itself, in a runtime that stays, or had its time to.

        Args:
            head_pid: The head's pid where it is on this host, else 0.
        """
        wind_down(self.processes, self._left, head_pid=head_pid, hurry=lambda: False)

    def _left(self) -> list[Found]:
        return self.left_by_ranks(self._services) if self._services else []

    def wait(self, *, timeout_s: float) -> None:
        """Return when all has ended by itself, or the time is over."""
        end_s = time.monotonic() + timeout_s
        while self.processes() and time.monotonic() < end_s:
            self.reap()
            time.sleep(0.02)

    def expect(self, child: subprocess.Popen[bytes]) -> None:
        """Let it be known how this child ends, whoever has waited for it first (``reap``)."""
        self._expected[child.pid] = child

    def status(self, pid: int) -> int:
        """Return how an expected child has ended, when it has, -N for signal N."""
        return self._expected.pop(pid).wait()

    def reap(self) -> None:
        """Wait for the children that have ended."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if ended[0] in self._expected:
                    self._expected[ended[0]].returncode = os.waitstatus_to_exitcode(ended[1])


def clean_up_after(control: Path, *, above: Collection[int]) -> str:
    """Leave nothing of a job whose agent on this host was killed; return the line that says so (``CLEANED``).

    What has cleared its environment is not found, nor files in /dev/shm of processes that have ended.

    Args:
        control: The job's directory, which has the job's name.
        above: The pids of what this process was started by.
    """
    stuck = Kept(control.name, runtime_stays=False, above=above, late=True).end()
    remove_directories(control)
    return " ".join([CLEANED, os.uname().nodename, *map(str, stuck)])
