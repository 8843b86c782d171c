"""Keeps Dragon's own processes out of the ranks' way, and says where they run.

Dragon has, on one node, the runtime itself (global and local services, one process) and four more processes per PMIx
group: its manager, and for the dictionary that MPI's start-up data go through an orchestrator, its group's manager
and the dictionary's manager. None of them spins any more (quiet.py), but two still wake up often enough to take 15 %
of a core each. In a runtime of our own they get a low priority: the ranks' start needs them for a moment only, and
nobody needs them at its end. In a runtime that stays they keep theirs, because there the group has to be closed.
With reserved CPUs all services are bound to these instead. The runtime itself keeps its priority, because the ranks
are its children.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Service", "keep_aside"]

_LOWEST_PRIORITY = 19
_GROUP_SERVICE = "_dragon_native_python_process_main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process of the runtime that is no rank. ``cpus`` are PU os indices, ``nice`` its priority (19 is lowest)."""

    pid: int
    name: str
    cpus: CpuSet
    nice: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"pid": self.pid, "name": self.name, "cpus": list(self.cpus), "nice": self.nice}


def keep_aside(pids: Iterable[int], *, head_pid: int, reserve: CpuSet, lower: bool) -> tuple[Service, ...]:
    """Return where these processes of the runtime run, after they were moved aside.

    Args:
        pids: The runtime's processes, ranks excluded.
        head_pid: The head among them.
        reserve: PU os indices to bind every thread of them to; empty leaves them where they are.
        lower: Whether the group's services get the lowest priority.
    """
    services = []
    for pid in pids:
        name = _name(pid, head_pid=head_pid)
        for tid in _threads(pid):
            with suppress(ProcessLookupError):
                if reserve:
                    os.sched_setaffinity(tid, set(reserve))
                if lower and name == "Dragon group service":
                    os.setpriority(os.PRIO_PROCESS, tid, _LOWEST_PRIORITY)
        with suppress(ProcessLookupError):
            cpus = CpuSet.of(os.sched_getaffinity(pid))
            nice = os.getpriority(os.PRIO_PROCESS, pid)
            services.append(Service(pid=pid, name=name, cpus=cpus, nice=nice))
    return tuple(services)


def _threads(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _name(pid: int, *, head_pid: int) -> str:
    if pid == head_pid:
        return "rankmap head"
    with suppress(OSError):
        if _GROUP_SERVICE in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
            return "Dragon group service"
    return "Dragon runtime"
