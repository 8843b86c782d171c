"""Which processes belong to a job, and ending exactly these: found in /proc, told apart by pid and start time."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rankmap.errors import RuntimeUnusableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "JOB_VARIABLE",
    "Found",
    "adopt_orphans",
    "ancestors",
    "carrying",
    "descendants",
    "end_all",
    "everything",
    "require_pidfd",
    "send_signal",
    "wind_down",
]

JOB_VARIABLE = "RANKMAP_JOB"
"""What a job's ranks and their children have in their environment, with a value that no other job has."""

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.01
# Closing a PMIx group on several hosts took 1.5 s, and 14 s after jobs that were interrupted.
_WIND_DOWN_S = 15.0


class Found(NamedTuple):
    """One process that was seen to run. ``start`` (clock ticks since boot) tells it from a later one of its pid."""

    pid: int
    parent: int
    start: int


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, so that ``descendants`` misses none.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def ancestors() -> set[int]:
    """Return the pids of what has started this process: ssh's and the batch system's own, maybe marked like the job."""
    found, pid = set(), os.getppid()
    while pid > 1 and (process := _read(pid)) is not None:
        found.add(pid)
        pid = process.parent
    return found


def descendants(root: int, running: Iterable[Found] | None = None) -> list[Found]:
    """Return the processes that ``root`` has started, and those that these have started, and so on; not ``root``.

    Args:
        root: A pid.
        running: What ``everything`` returned, for callers with several roots.
    """
    children: dict[int, list[Found]] = {}
    for found in everything() if running is None else running:
        children.setdefault(found.parent, []).append(found)
    result = list(children.get(root, ()))
    for found in result:  # grows as we go
        result.extend(children.get(found.pid, ()))
    return result


def carrying(name: str, value: str) -> list[Found]:
    """Return the processes that were started with this environment variable, this one excepted."""
    mark = os.fsencode(f"{name}={value}")
    result = []
    for found in everything():
        with suppress(OSError):
            if found.pid != os.getpid() and mark in Path(f"/proc/{found.pid}/environ").read_bytes().split(b"\0"):
                result.append(found)
    return result


def everything() -> list[Found]:
    """Return every process of this host that runs (zombies do not)."""
    entries = os.listdir("/proc")  # noqa: PTH208 - Path objects for a thousand pids take their time
    return [found for entry in entries if entry.isdigit() and (found := _read(int(entry))) is not None]


def _read(pid: int) -> Found | None:
    # Source: proc_pid_stat(5): after the name in brackets come state, ppid, pgrp, ...; field 20 is num_threads, 22
    # starttime.
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()  # the name in it may be cut inside a character
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    if fields[0] in b"ZX" and int(fields[17]) <= 1:  # with more threads only the first of them has ended
        return None
    return Found(pid=pid, parent=int(fields[1]), start=int(fields[19]))


def require_pidfd() -> None:
    """Raise unless the kernel lets us watch processes by descriptor.

    Raises:
        RuntimeUnusableError: It does not.

    Source: pidfd_open(2), since Linux 5.3.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        msg = f"pidfd_open(2) cannot be used here: {error.strerror}"
        raise RuntimeUnusableError(msg, hint="rankmap needs Linux 5.3, and a container that allows it") from error


def send_signal(process: Found, number: signal.Signals) -> None:
    """Send a signal to this process and to no other that has its pid by now."""
    with suppress(ProcessLookupError, PermissionError):
        pidfd = os.pidfd_open(process.pid)
        try:
            now = _read(process.pid)
            if now is not None and now.start == process.start:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def end_all(find: Callable[[], list[Found]], *, timeout_s: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Kill what ``find`` returns until it returns nothing; return whether it came to that in time.

    Args:
        find: Returns the processes to end.
        timeout_s: When to give up.
        meanwhile: Called between looks; where the processes are children of ours, it has to reap them.
    """
    deadline_s = time.monotonic() + timeout_s
    while left := find():
        for process in left:
            send_signal(process, signal.SIGKILL)
        meanwhile()
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_PAUSE_S)
    return True


def wind_down(
    ours: Callable[[], list[Found]], left: Callable[[], list[Found]], *, head_pid: int, hurry: Callable[[], bool]
) -> None:
    """Give what Dragon has started for a job its time to end by itself, in a runtime that goes on.

    A process that is killed while it talks to global services takes a place in their queue with it, and when all are
    gone every request waits for ever. The head has been told to finish; where it does not, it is told to end.

    Args:
        ours: Returns what there is of the job on this host.
        left: Returns what ranks have left behind, which is killed.
        head_pid: The head's pid; 0 where it is not here.
        hurry: Whether somebody does not want to wait, asked again and again.
    """
    for _ in range(2):
        deadline_s = time.monotonic() + _WIND_DOWN_S
        while ours() and time.monotonic() < deadline_s and not hurry():
            for process in left():
                send_signal(process, signal.SIGKILL)
            time.sleep(_PAUSE_S)
        for process in ours():
            if process.pid == head_pid:
                send_signal(process, signal.SIGTERM)
