"""Looks at running ranks from outside: their threads and what the kernel lets each use."""

from __future__ import annotations

from pathlib import Path

from rankmap.cpuset import CpuSet
from rankmap.observe import ThreadObservation

__all__ = ["activity_of", "memory_policy_of", "threads_of"]

_FIELD = "Cpus_allowed_list:"


def threads_of(pid: int, *, proc: Path = Path("/proc")) -> tuple[ThreadObservation, ...]:
    """Return the threads of this process, by thread id; empty when it has ended.

    A thread that ends while it is looked at is left out.

    Source: proc_pid_status(5), Cpus_allowed_list.
    """
    try:
        tids = sorted(int(entry.name) for entry in (proc / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return ()
    threads = []
    for tid in tids:
        try:
            status = (proc / str(pid) / "task" / str(tid) / "status").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        cpus = next((line[len(_FIELD) :] for line in status.splitlines() if line.startswith(_FIELD)), None)
        if cpus is not None:
            threads.append(ThreadObservation(tid=tid, cpus=CpuSet.parse(cpus.strip())))
    return tuple(threads)


def memory_policy_of(pid: int, *, proc: Path = Path("/proc")) -> str:
    """Return the memory policy of this process as a plan writes it; "" when it has ended, or the kernel does not say.

    Source: numa_maps(5): the second word of a line is the policy of a mapping, of the first that of the process.
    """
    try:
        with (proc / str(pid) / "numa_maps").open(errors="replace") as file:
            words = file.readline().split()
    except OSError:
        return ""
    policy = words[1] if len(words) > 1 else ""
    return policy.replace("prefer:", "preferred:", 1) if policy.startswith("prefer:") else policy


def activity_of(pid: int, tid: int, *, proc: Path = Path("/proc")) -> tuple[str, int]:
    """Return a thread's state and the clock ticks that it has run for; "X" and 0 when it has ended.

    Source: proc_pid_stat(5), fields 3 (state), 14 (utime) and 15 (stime).
    """
    try:
        stat = (proc / str(pid) / "task" / str(tid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    fields = stat.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[11]) + int(fields[12])
