"""Keeps Dragon's own processes out of the ranks' way, and says where they run.

Dragon has, on one node, the runtime itself (global and local services, one process) and four more processes per PMIx
group: its manager, and for the dictionary that MPI's start-up data go through an orchestrator, its group's manager
and the dictionary's manager. None of them spins any more (mending.py), but all wait by sleeping 1 to 4 ms at a time, in
some ten threads: 2,500 wake-ups a second, each of which interrupts a rank on a node without a spare core.

* Timer slack lets the kernel put such wake-ups together (prctl(2), PR_SET_TIMERSLACK; inherited over fork and exec).
  A runtime of our own starts with ``START_SLACK_NS``: as much as does not slow its start. While the ranks run it is
  raised to ``RUN_SLACK_NS`` where the kernel lets us (CAP_SYS_NICE), and taken back when the first of them ends. The
  shim gives each rank the slack that the caller had.
* In a runtime of our own the group's services are put into SCHED_IDLE: nobody needs them at the end of the job. In a
  runtime that stays they keep their class, because there the group has to be closed. On several hosts Dragon's TCP
  agents go with them: they spin until the one who asked them has taken the answer, who gets no time there. When the
  first rank has ended they come back, where the kernel lets us.
* With reserved CPUs all services are bound to these.

docs/design/0007-quiet-services.md has the measurements.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rankmap.runtime.loop import Loop

__all__ = [
    "RUNTIME",
    "START_SLACK_NS",
    "Service",
    "Watch",
    "hurry",
    "keep_aside",
    "own_slack_ns",
    "slack_for_children",
]

START_SLACK_NS = 10_000_000
RUN_SLACK_NS = 50_000_000
_SLACK = "/proc/{}/timerslack_ns"
RUNTIME = "Dragon runtime"
"""What any other process of the runtime is called: its launcher, and what that may start for a moment."""
_GROUP_SERVICE = "Dragon group service"
_TCP_AGENT = "Dragon TCP agent"
_NAMES = {
    "_dragon_native_python_process_main": _GROUP_SERVICE,
    " --ch-in-sdesc ": _TCP_AGENT,
    "rankmap.runtime.keeper": "rankmap keeper",
    "rankmap.agent": "rankmap agent",
}
"""What a command line has in it, and what such a process is called."""

_LOWERED = {_GROUP_SERVICE, _TCP_AGENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process of the runtime that is no rank. ``cpus`` are PU os indices; ``idle``: it is in SCHED_IDLE."""

    pid: int
    name: str
    cpus: CpuSet
    idle: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"pid": self.pid, "name": self.name, "cpus": list(self.cpus), "idle": self.idle}


def keep_aside(pids: Iterable[int], *, head_pid: int, reserve: CpuSet, lower: bool) -> tuple[Service, ...]:
    """Return where these processes of the runtime run, after they were moved aside.

    Args:
        pids: The runtime's processes, ranks excluded.
        head_pid: The head among them.
        reserve: PU os indices to bind every thread of them to; empty leaves them where they are.
        lower: Whether the runtime is ours, so that what it does between the ranks' start and end may take its time.
    """
    services = []
    for pid in pids:
        name = _name(pid, head_pid=head_pid)
        for tid in _threads(pid):
            with suppress(OSError):  # it has ended, or these CPUs are not ours to use: the report says where it is
                if reserve:
                    os.sched_setaffinity(tid, set(reserve))
                if lower and name in _LOWERED:
                    os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
        if lower and pid != os.getpid():
            _set_slack([pid], RUN_SLACK_NS)
        with suppress(ProcessLookupError):
            cpus = CpuSet.of(os.sched_getaffinity(pid))
            idle = os.sched_getscheduler(pid) == os.SCHED_IDLE
            services.append(Service(pid=pid, name=name, cpus=cpus, idle=idle))
    return tuple(services)


class Watch:
    """Notices when a process of the runtime ends that has no reason to.

    Args:
        loop: The supervisor's.
        services: What to watch.
        on_end: Called with the one that has ended.
    """

    def __init__(self, loop: Loop, services: Iterable[Service], on_end: Callable[[Service], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._pidfds: list[int] = []
        for service in services:
            try:
                pidfd = os.pidfd_open(service.pid)
            except ProcessLookupError:
                loop.call_after(0, partial(on_end, service))
                continue
            self._pidfds.append(pidfd)
            loop.call_when_readable(pidfd, partial(self._notice, pidfd, service))

    def _notice(self, pidfd: int, service: Service) -> None:
        self._loop.forget(pidfd)  # it stays readable
        self._on_end(service)

    def close(self) -> None:
        """Watch no more."""
        for pidfd in self._pidfds:
            os.close(pidfd)


def own_slack_ns() -> int:
    """Return this process's timer slack in ns, for the ranks to get back."""
    with suppress(OSError, ValueError):
        return int(Path(_SLACK.format("self")).read_text())
    return 0


@contextmanager
def slack_for_children() -> Iterator[None]:
    """Let what is started in this context begin with ``START_SLACK_NS``."""
    before_ns = own_slack_ns()
    with suppress(OSError):
        Path(_SLACK.format("self")).write_text(str(START_SLACK_NS))
    try:
        yield
    finally:
        with suppress(OSError):
            Path(_SLACK.format("self")).write_text(str(before_ns))


def hurry(services: Iterable[Service]) -> None:
    """Let these be quick again, where the kernel lets us: the end of the job has begun, and goes through them.

    Without CAP_SYS_NICE it does not (sched(7), timerslack_ns in proc(5)). The end takes longer then on hosts where
    others keep every CPU busy: 32 s for 8 s (docs/design/0007).
    """
    for service in services:
        _set_slack([service.pid], START_SLACK_NS)
        if service.idle and service.name == _TCP_AGENT:
            for tid in _threads(service.pid):
                with suppress(OSError):
                    os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))


def _set_slack(pids: Iterable[int], slack_ns: int) -> None:
    """Set the timer slack of every thread of these processes, where the kernel lets us (CAP_SYS_NICE)."""
    for pid in pids:
        for tid in _threads(pid):
            with suppress(OSError):
                Path(_SLACK.format(tid)).write_text(str(slack_ns))


def _threads(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _name(pid: int, *, head_pid: int) -> str:
    if pid == head_pid:
        return "rankmap head"
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        for part, name in _NAMES.items():
            if part in command:
                return name
    return "rankmap supervisor" if pid == os.getpid() else RUNTIME
