"""What one rank is really like: values only; looking is done by runtime/shim.py and runtime/observer.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.cpuset import CpuSet

__all__ = ["Observation", "Pages", "ThreadObservation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadObservation:
    """One thread of a running rank.

    Args:
        tid: Its thread id.
        cpus: The PU os indices that the kernel lets it use.
        state: What it does, as /proc says it: "R" runs or waits for a CPU, "S" sleeps; "" where that is not known.
        ticks: For how many clock ticks it has run (100 a second).
        last_cpu: The PU os index that it last ran on; None where that is not known.
    """

    tid: int
    cpus: CpuSet
    state: str = ""
    ticks: int = 0
    last_cpu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Where the private memory of a running rank is, in bytes by the os index of the NUMA domain.

    Args:
        resident: All of it.
        chosen: What of it is in a domain that the memory policy of its mapping names.
    """

    resident: Mapping[int, int]
    chosen: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One rank as it was seen.

    Args:
        rank: Its MPI rank.
        host: The name that its host gives itself (uname(2)).
        pid: Its process id on that host.
        cpus: PU os indices that it may use, read in the rank before the application ran (sched_getaffinity(2)).
        variables: What the application got of the GPU visibility variables and of those that the plan sets, by name;
            None before it was started.
        gpu_uuids: The UUIDs of the GPUs that these variables show on its host, looked up once more when the application
            was started; None where nobody can tell.
        mem: Its memory policy as a plan writes it ("bind:0"), "default" for the kernel's, "" where that is not known:
            read back just before it was started where the plan has one, then when it was last looked at while running.
        threads: Its threads when it was last looked at while running; empty when it ended before that.
        pages: Where its memory was when that was last looked at; None when it was not.
        ended: Whether it has ended since: its threads are in nobody's way any more.
    """

    rank: int
    host: str
    pid: int
    cpus: CpuSet
    variables: Mapping[str, str] | None = None
    gpu_uuids: tuple[str, ...] | None = None
    mem: str = ""
    threads: tuple[ThreadObservation, ...] = ()
    pages: Pages | None = None
    ended: bool = False
