"""A program whose ranks put themselves, their threads or their memory in wrong places, on purpose.

    rankmap launch ... -- python misplaced.py SECONDS FAULT...

The i-th FAULT is that of rank i; ranks without one do nothing wrong. Every rank lives for SECONDS:

    none         sleeps
    cpu          moves itself to a CPU that is not its own
    thread       has a second thread on a CPU that is not its own
    late         moves itself 3 s after its start, when the two looks that every job gets are over
    pin          computes, pinned to the first of its CPUs, as if it were alone on the node
    one-core     computes with two threads, both pinned to the first of its CPUs
    far-policy   takes its memory from the NUMA domain that is farthest from its CPUs
    far-pages    has memory that a thread of it, which is gone, took from there; its own policy never changed

Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from pathlib import Path

LATE_S = 3.0
TOUCHED_BYTES = 64 << 20
NODES = Path("/sys/devices/system/node")
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "ppc64le": 261, "riscv64": 237}  # asm/unistd.h
MPOL_BIND = 2  # linux/mempolicy.h
N_DOMAINS = 1024
LIBC = ctypes.CDLL(None, use_errno=True)


def parse_list(text: str) -> set[int]:
    """Return the numbers of a Linux list."""
    bounds = [[int(end) for end in part.split("-")] for part in text.strip().split(",") if part]
    return {number for ends in bounds for number in range(ends[0], ends[-1] + 1)}


def another_cpu(own: set[int]) -> int:
    """Return a CPU of this host that is not one of these."""
    return min(parse_list(Path("/sys/devices/system/cpu/online").read_text()) - own)


def far_domain(own: set[int]) -> int:
    """Return the NUMA domain that is farthest from the one that these CPUs are in."""
    cpus = {int(path.parent.name[4:]): parse_list(path.read_text()) for path in NODES.glob("node[0-9]*/cpulist")}
    home = next(domain for domain in cpus if cpus[domain] & own)
    distances = (NODES / f"node{home}" / "distance").read_text().split()
    return max(zip(map(int, distances), sorted(cpus), strict=True))[1]


def far_memory(own: set[int]) -> mmap.mmap:
    """Have the calling thread take its memory from a far domain from now on, and return some that it took.

    The policy comes first: a mapping joins the one beside it, and a touch there can give both a near huge page.
    """
    domain = far_domain(own)
    far = (ctypes.c_ulong * (N_DOMAINS // 64))()
    far[domain // 64] = 1 << domain % 64
    number = SET_MEMPOLICY[os.uname().machine]
    if LIBC.syscall(number, ctypes.c_int(MPOL_BIND), far, ctypes.c_ulong(N_DOMAINS)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = mmap.mmap(-1, TOUCHED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, len(memory), mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def compute_until(end_s: float) -> None:
    """Keep a CPU busy."""
    while time.monotonic() < end_s:
        pass


def sleep_elsewhere(cpu: int, end_s: float) -> None:
    """Move the calling thread to this CPU, and have it sleep there."""
    os.sched_setaffinity(0, {cpu})
    time.sleep(max(0.0, end_s - time.monotonic()))


def misbehave(fault: str, end_s: float) -> None:
    """Do this, and return when the time has come."""
    own = os.sched_getaffinity(0)
    kept: list[mmap.mmap] = []
    match fault:
        case "cpu":
            os.sched_setaffinity(0, {another_cpu(own)})
        case "thread":
            threading.Thread(target=sleep_elsewhere, args=(another_cpu(own), end_s)).start()
        case "late":
            time.sleep(LATE_S)
            os.sched_setaffinity(0, {another_cpu(own)})
        case "pin":
            os.sched_setaffinity(0, {min(own)})
            compute_until(end_s)
        case "one-core":
            os.sched_setaffinity(0, {min(own)})
            threading.Thread(target=compute_until, args=(end_s,)).start()
            compute_until(end_s)
        case "far-policy":
            kept.append(far_memory(own))
        case "far-pages":
            thread = threading.Thread(target=lambda: kept.append(far_memory(own)))
            thread.start()
            thread.join()
        case "none":
            pass
        case _:
            sys.exit(f"misplaced.py: there is no fault {fault!r}")
    time.sleep(max(0.0, end_s - time.monotonic()))


def main() -> None:
    """Do what the word for this rank says."""
    seconds, *faults = sys.argv[1:]
    rank = int(os.environ["RANKMAP_RANK"])
    misbehave(faults[rank] if rank < len(faults) else "none", time.monotonic() + float(seconds))


if __name__ == "__main__":
    main()
