"""The variables with which an OpenMP program starts so many threads on the places of its rank.

Source: OpenMP 5.2, chapter 21: OMP_NUM_THREADS, OMP_PLACES (os indices in braces), OMP_PROC_BIND.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.errors import PlacementError

if TYPE_CHECKING:
    from rankmap.cpuset import CpuSet
    from rankmap.topology import NodeTopology

__all__ = ["thread_environment"]


def thread_environment(
    topology: NodeTopology, cpus: CpuSet | None, count: int, host: str
) -> tuple[tuple[str, str], ...]:
    """Return the variables for so many threads on these CPUs: a core for each, or hardware threads where cores are few.

    Raises:
        PlacementError: There are more threads than CPUs.
    """
    if cpus is None:
        return (("OMP_NUM_THREADS", str(count)),)
    cores = [[pu.os_index for pu in core.pus if pu.os_index in cpus] for core in topology.cores]
    cores = [pus for pus in cores if pus]
    if count <= len(cores):
        each = len(cores) // count
        places = [[pu for core in cores[i * each : (i + 1) * each] for pu in core] for i in range(count)]
    else:
        places = [[pu] for core in cores for pu in core]
        if count > len(places):
            msg = f"--threads {count}: a rank on {host} has CPUs {cpus}, which are {len(places)}"
            raise PlacementError(msg, hint=f"--threads {len(places)}, or more cores for each rank (-c)")
        places = places[:count]
    text = ",".join("{" + ",".join(map(str, place)) + "}" for place in places)
    return (("OMP_NUM_THREADS", str(count)), ("OMP_PLACES", text), ("OMP_PROC_BIND", "close"))
