"""The cores of a node that ranks may have, by NUMA domain, in topology order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology, OsIndex

__all__ = ["Domain", "FreeCore", "free_domains", "numa_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCore:
    """A core that ranks may have: its usable PUs, and the positions of its package and its domain."""

    cpus: CpuSet
    package: int
    domain: int


Domain = tuple[FreeCore, ...]
"""The free cores of one NUMA domain, in logical order; never empty."""


def free_domains(topology: NodeTopology, *, reserve: CpuSet) -> tuple[Domain, ...]:
    """Return the free cores of every NUMA domain that has any, domains and cores in topology order.

    A reserved PU takes its whole core out. A usable PU without a core counts as a core. Of several memories of the
    same PUs (HBM beside DDR) the one that is local counts, of nested ones the smallest. PUs without a NUMA domain
    are grouped by package.
    """
    known = CpuSet()
    pieces = []
    for core in topology.cores:
        known |= core.cpus
        if core.cpus.isdisjoint(reserve) and (cpus := core.cpus & topology.usable):
            pieces.append(cpus)
    pieces += [CpuSet.of((cpu,)) for cpu in topology.usable - known - reserve]
    homes = sorted((d for d in topology.numa_domains if d.local and d.cpus), key=lambda d: len(d.cpus))
    cores = []
    for cpus in pieces:
        package = next((i for i, p in enumerate(topology.packages) if not cpus.isdisjoint(p.cpus)), -1)
        home = next((d.logical_index for d in homes if not cpus.isdisjoint(d.cpus)), None)
        cores.append(FreeCore(cpus=cpus, package=package, domain=-2 - package if home is None else home))
    first: dict[int, int] = {}
    for position, free in enumerate(cores):
        first.setdefault(free.domain, position)
    cores.sort(key=lambda core: first[core.domain])
    return tuple(tuple(group) for _, group in groupby(cores, key=lambda core: core.domain))


def numa_of(topology: NodeTopology, cpus: CpuSet) -> tuple[OsIndex, ...]:
    """Return the os indices of the NUMA domains that these PUs lie in, ascending."""
    return tuple(sorted(d.os_index for d in topology.numa_domains if d.local and not d.cpus.isdisjoint(cpus)))
