"""Prints what MPI itself says of every rank, in rank order, one JSON object a line.

``rank``, ``size``, ``host``, ``beside`` (the world ranks of its shared-memory communicator), ``cpus``
(that it may use), ``clock_s`` (its wall clock, when all have come).
Rank 0 writes it all, so that the order of the lines says nothing of who wrote first. With an argument RANK=STATUS this
rank exits with this status.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

from mpi4py import MPI


def main() -> None:
    """Gather what each rank sees to rank 0, and print it."""
    world = MPI.COMM_WORLD
    beside = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.rank).allgather(world.rank)
    seen = {"rank": world.rank, "size": world.size, "host": socket.gethostname(), "beside": sorted(beside)}
    seen |= {"cpus": sorted(os.sched_getaffinity(0)), "clock_s": time.time()}
    for line in world.gather(json.dumps(seen)) or ():
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    rank, _, status = "".join(sys.argv[1:]).partition("=")
    sys.exit(int(status) if rank == str(world.rank) else 0)


if __name__ == "__main__":
    main()
