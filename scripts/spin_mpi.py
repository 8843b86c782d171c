"""How much of its core each rank gets: an MPI program that computes for 4 s and prints what the kernel says of that.

``rankmap launch -n 2 -- python scripts/spin_mpi.py``; the same with mpirun is the peer. ``waiting`` is the share of
time in which a rank was ready to run and something else had its core (proc_pid_schedstat, second field).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mpi4py import MPI

SECONDS = 4.0


def usage() -> tuple[float, float, int]:
    """Return seconds on a CPU, seconds waiting for one, and involuntary context switches of this process so far."""
    on_cpu_ns, waiting_ns, _ = Path("/proc/self/schedstat").read_text().split()
    switches = Path("/proc/self/status").read_text().partition("nonvoluntary_ctxt_switches:")[2]
    return int(on_cpu_ns) / 1e9, int(waiting_ns) / 1e9, int(switches)


world = MPI.COMM_WORLD
world.Barrier()
time.sleep(1.5)  # the services have been moved aside by now
start_s, before = time.monotonic(), usage()
while time.monotonic() - start_s < SECONDS:
    pass
cpu_s, waiting_s, switches = (now - then for now, then in zip(usage(), before, strict=True))
sys.stdout.write(
    f"rank {world.rank}: on its CPU {cpu_s / SECONDS:.1%}, waiting {waiting_s / SECONDS:.2%}, "
    f"{switches / SECONDS:.0f} interruptions/s\n"
)
world.Barrier()
