"""An MPI program whose rank 0 measures, for three seconds, what share of a core each process of its runtime uses.

Prints {"pid name": share of one core} of every process but the ranks, as JSON. The ranks do nothing meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from mpi4py import MPI

SECONDS = 3.0


def cpu_seconds() -> dict[str, float]:
    """Return the CPU time of every process of this process group and of the rankmap command above it."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        outside = "rankmap launch" in command or "rankmap.runtime.keeper" in command  # of a process group of their own
        if outside or (int(fields[2]) == os.getpgid(0) and __file__ not in command):
            ticks = int(fields[11]) + int(fields[12])
            found[f"{entry.name} {command}"] = ticks / os.sysconf("SC_CLK_TCK")
    return found


world = MPI.COMM_WORLD
world.Barrier()
if world.rank == 0:
    before = cpu_seconds()
    time.sleep(SECONDS)
    after = cpu_seconds()
    sys.stdout.write(
        json.dumps({name: round((after[name] - before[name]) / SECONDS, 3) for name in before if name in after})
    )
else:
    time.sleep(SECONDS)
world.Barrier()
