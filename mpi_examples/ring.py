#!/usr/bin/env python3
"""Times messages between neighbour ranks (0 and 1, 1 and 2, ..., the last and 0), sorted by how close they are.

    rankmap launch -n 4 python mpi_examples/ring.py
    mpirun  -n 4 python mpi_examples/ring.py

Rank 0 prints one table: half a round trip, and the bandwidth that this makes, between ranks of the same NUMA domain,
of two domains of one host, and of two hosts: the median over the pairs of each kind. ``--json FILE`` writes the same
with every pair. ``--collectives`` also times a barrier and Comm.Dup of all ranks.
Every second pair talks at the same time, so that the time does not grow with the number of ranks.
Needs Linux and mpi4py. For numbers without Python in them see bench_mpi.c.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from mpi4py import MPI

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (0, 8, 64, 512, 4096, 32768, 262144, 2097152)
REPEAT_S = 0.02  # about how long one repeat takes: long for the clock, short for a person
MOST_CALLS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTimes:
    """What two neighbours share (``kind``), and half a round trip between them by message size in bytes."""

    ranks: tuple[int, int]
    kind: str
    half_us: dict[int, float]


def numa_domains() -> tuple[int, ...]:
    """Return the NUMA domains that this rank's CPUs are in; empty where Linux does not tell.

    Source: Linux, Documentation/ABI/stable/sysfs-devices-node.
    """
    nodes = Path("/sys/devices/system/node").glob("node[0-9]*/")
    cpus = os.sched_getaffinity(0)
    return tuple(sorted(int(node.name[4:]) for node in nodes if any((node / f"cpu{cpu}").exists() for cpu in cpus)))


def closeness(one: tuple[str, tuple[int, ...]], other: tuple[str, tuple[int, ...]]) -> str:
    """Return what two ranks, each given by its host and NUMA domains, share."""
    if one[0] != other[0]:
        return "across hosts"
    return "same NUMA domain" if one[1] == other[1] and len(one[1]) == 1 else "across NUMA domains"


def rounds(n_ranks: int) -> list[list[tuple[int, int]]]:
    """Return the pairs of neighbours, each once, in two or three rounds with no rank twice in one round."""
    pairs = {(min(rank, right), max(rank, right)) for rank in range(n_ranks) for right in [(rank + 1) % n_ranks]}
    groups: list[list[tuple[int, int]]] = [[], [], []]
    for pair in sorted(pairs):
        next(group for group in groups if not any(set(pair) & set(other) for other in group)).append(pair)
    return [group for group in groups if group]


def time_calls(comm: MPI.Intracomm, call: Callable[[], object], repeats: int) -> float:
    """Return the median time of one call in seconds; every rank of the communicator must take part."""

    def run(calls: int) -> float:
        comm.Barrier()
        start = MPI.Wtime()
        for _ in range(calls):
            call()
        return (MPI.Wtime() - start) / calls

    run(3)
    estimate_s = comm.allreduce(run(3), op=MPI.MAX)
    calls = max(3, min(MOST_CALLS, int(REPEAT_S / estimate_s)))
    return median(run(calls) for _ in range(repeats))


def ping_pong(comm: MPI.Intracomm, pair: tuple[int, int] | None, buffer: bytearray, size: int) -> Callable[[], object]:
    """Return what one round trip is for this rank; nothing for a rank that is in no pair of this round."""
    message = (buffer, size, MPI.BYTE)

    def first() -> None:
        comm.Send(message, dest=peer)
        comm.Recv(message, source=peer)

    def second() -> None:
        comm.Recv(message, source=peer)
        comm.Send(message, dest=peer)

    if pair is None:
        return lambda: None
    peer = pair[1] if comm.rank == pair[0] else pair[0]
    return first if comm.rank == pair[0] else second


def time_pairs(comm: MPI.Intracomm, repeats: int) -> list[PairTimes]:
    """Return the times of every pair of neighbours, on every rank."""
    places = comm.allgather((socket.gethostname(), numa_domains()))
    buffer = bytearray(max(SIZES))
    times: list[PairTimes] = []
    for group in rounds(comm.size):
        mine = next((pair for pair in group if comm.rank in pair), None)
        half_us = {size: time_calls(comm, ping_pong(comm, mine, buffer, size), repeats) / 2 * 1e6 for size in SIZES}
        every = comm.allgather(half_us)
        times += [
            PairTimes(ranks=pair, kind=closeness(places[pair[0]], places[pair[1]]), half_us=every[pair[0]])
            for pair in group
        ]
    return sorted(times, key=lambda pair: pair.ranks)


def table(times: list[PairTimes]) -> str:
    """Return latency and bandwidth per size, two columns a kind of pair."""
    kinds = sorted({pair.kind for pair in times})
    counts = [sum(pair.kind == kind for pair in times) for kind in kinds]
    titles = [f"{kind}, {count} pair{'s' * (count > 1)}" for kind, count in zip(kinds, counts, strict=True)]
    lines = [f"{'':>9}" + "".join(f"{title:>32}" for title in titles)]
    lines.append(f"{'bytes':>9}" + f"{'latency us':>20}{'GB/s':>12}" * len(kinds))
    for size in SIZES:
        halves_us = [median(pair.half_us[size] for pair in times if pair.kind == kind) for kind in kinds]
        lines.append(f"{size:>9}" + "".join(f"{half_us:>20.2f}{size / half_us / 1e3:>12.3f}" for half_us in halves_us))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, then let rank 0 print and write."""
    parser = argparse.ArgumentParser(description="Time messages between neighbour ranks.")
    parser.add_argument("--json", metavar="FILE", help="write every pair's numbers there")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="repeats of each measurement (default: 5)")
    parser.add_argument("--collectives", action="store_true", help="also time a barrier and Comm.Dup")
    options = parser.parse_args()

    comm = MPI.COMM_WORLD
    if comm.size < 2 or options.repeats < 1:  # noqa: PLR2004  a pair is two
        sys.exit(f"ring.py: needs 2 ranks or more (there are {comm.size}) and 1 repeat or more")
    times = time_pairs(comm, options.repeats)
    result: dict[str, object] = {"n_ranks": comm.size, "repeats": options.repeats, "pairs": list(map(asdict, times))}
    text = table(times)
    if options.collectives:
        barrier_us = time_calls(comm, comm.Barrier, options.repeats) * 1e6
        dup_us = time_calls(comm, lambda: comm.Dup().Free(), options.repeats) * 1e6
        result |= {"barrier_us": round(barrier_us, 3), "comm_dup_us": round(dup_us, 3)}
        text += f"barrier {barrier_us:.2f} us, Comm.Dup and Free {dup_us:.2f} us ({comm.size} ranks)\n"
    if comm.rank == 0:
        os.write(1, text.encode())
        if options.json:
            Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
