#!/usr/bin/env python3
"""Prints one line a rank: where it may run, and what it was given there.

    rankmap launch -n 4 python mpi_examples/hello_affinity.py
    mpirun  -n 4 python mpi_examples/hello_affinity.py

``--pages`` also touches 32 MiB of memory and tells on which NUMA domains its pages are.
Needs Linux and mpi4py. CPU and NUMA numbers are Linux's (os indices).
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import re
import socket
from pathlib import Path

from mpi4py import MPI

GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
TOUCHED_BYTES = 32 << 20


def linux_list(cpus: set[int]) -> str:
    """Return CPU numbers as Linux lists them: ``0-3,8-11``."""
    parts: list[str] = []
    for first in sorted(cpu for cpu in cpus if cpu - 1 not in cpus):
        last = first
        while last + 1 in cpus:
            last += 1
        parts.append(f"{first}-{last}" if last > first else f"{first}")
    return ",".join(parts)


def parse_list(text: str) -> set[int]:
    """Return the CPU numbers of a Linux list."""
    ranges = [part.split("-") for part in text.strip().split(",") if part]
    return {cpu for bounds in ranges for cpu in range(int(bounds[0]), int(bounds[-1]) + 1)}


def numa_domains(cpus: set[int]) -> str:
    """Return the NUMA domains that these CPUs are in, or ``?`` where Linux does not tell.

    Source: Linux, Documentation/ABI/stable/sysfs-devices-node.
    """
    files = Path("/sys/devices/system/node").glob("node[0-9]*/cpulist")
    return linux_list({int(file.parent.name[4:]) for file in files if cpus & parse_list(file.read_text())}) or "?"


def touched_pages() -> str:
    """Touch 32 MiB and return how much of it is on which NUMA domain, or ``?`` where Linux does not tell.

    Source: numa(7), "/proc/pid/numa_maps".
    """
    memory = mmap.mmap(-1, TOUCHED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)  # a flag of its own: else Linux merges it with its neighbours into one line
    for offset in range(0, len(memory), mmap.PAGESIZE):
        memory[offset] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    maps = Path("/proc/self/numa_maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        if int(line.split()[0], 16) == address:
            pages = {int(domain): int(count) for domain, count in re.findall(r" N(\d+)=(\d+)", line)}
            mib = {domain: count * mmap.PAGESIZE / (1 << 20) for domain, count in pages.items()}
            return ", ".join(f"{size:g} MiB on {domain}" for domain, size in sorted(mib.items()))
    return "?"


def widest(one: list[int], other: list[int]) -> list[int]:
    """Return the larger width of each column."""
    return list(map(max, one, other))


def main() -> None:
    """Write this rank's line, its columns as wide as the widest of all ranks."""
    parser = argparse.ArgumentParser(description="Print one line a rank: where it may run, and what it was given.")
    parser.add_argument("--pages", action="store_true", help="touch 32 MiB and tell where its pages are")
    options = parser.parse_args()

    comm = MPI.COMM_WORLD
    cpus = os.sched_getaffinity(0)
    gpus = [f"{name}={os.environ[name]}" for name in GPU_VARIABLES if name in os.environ]
    columns = [
        f"rank {comm.rank:{len(str(comm.size - 1))}} of {comm.size}",
        f"host {socket.gethostname()}",
        f"pid {os.getpid()}",
        f"cpus {linux_list(cpus)}",
        f"numa {numa_domains(cpus)}",
        " ".join(gpus) or "no GPU variable",
    ]
    if options.pages:
        columns.append(f"pages {touched_pages()}")
    widths = comm.allreduce([len(column) for column in columns], op=widest)
    line = "  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True))
    # one write, so that no other rank's text can come between
    os.write(1, (line.rstrip() + "\n").encode())


if __name__ == "__main__":
    main()
