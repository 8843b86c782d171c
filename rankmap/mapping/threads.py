"""The variables with which an OpenMP program starts so many threads on the places of its rank.

Source: OpenMP 5.2, chapter 21: OMP_NUM_THREADS, OMP_PLACES (os indices in braces), OMP_PROC_BIND.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rankmap.errors import PlacementError
from rankmap.mapping.apportion import level

if TYPE_CHECKING:
    from rankmap.cpuset import CpuSet
    from rankmap.topology import NodeTopology

__all__ = ["thread_environment"]


def thread_environment(
    topology: NodeTopology, cpus: CpuSet | None, count: int, host: str, share: tuple[int, int] = (0, 1)
) -> tuple[tuple[str, str], ...]:
    """Return the variables for so many threads on these CPUs: a core for each, or hardware threads where cores are few.

    Args:
        topology: The node.
        cpus: The rank's CPUs; None is anywhere.
        count: How many threads.
        host: The node's name, for messages.
        share: Which rank this is of how many that have these CPUs: each has its part of the cores, as far as that is
            enough for the threads.

    Raises:
        PlacementError: There are more threads than CPUs.
    """
    if cpus is None:
        if count > len(topology.usable):
            msg = f"--threads {count}: {host} has {len(topology.usable)} usable CPUs"
            raise PlacementError(msg, hint=f"--threads {len(topology.usable)} at most")
        return (("OMP_NUM_THREADS", str(count)),)
    cores = [[pu.os_index for pu in core.pus if pu.os_index in cpus] for core in topology.cores]
    cores = [pus for pus in cores if pus]
    which, of = share
    own = cores[which * len(cores) // of : (which + 1) * len(cores) // of]
    if count <= sum(map(len, own)):
        cores = own
    n_cpus = sum(map(len, cores))
    if count > n_cpus:
        msg = f"--threads {count}: a rank on {host} has CPUs {cpus}, which are {n_cpus}"
        raise PlacementError(msg, hint=f"--threads {n_cpus}, or more cores for each rank (-c)")
    if count <= len(cores):
        ends = [-(-len(cores) * i // count) for i in range(count + 1)]  # the first get one more
        places = [[pu for core in cores[first:end] for pu in core] for first, end in pairwise(ends)]
    else:  # the hardware threads of each core, as evenly as that goes
        used = level(count, capacities=[len(core) for core in cores])
        places = [[pu] for core, n in zip(cores, used, strict=True) for pu in core[:n]]
    text = ",".join("{" + ",".join(map(str, place)) + "}" for place in places)
    return (("OMP_NUM_THREADS", str(count)), ("OMP_PLACES", text), ("OMP_PROC_BIND", "close"))
