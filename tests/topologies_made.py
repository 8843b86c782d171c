"""NodeTopology values for tests, built directly: no hwloc, no file."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.topology import (
    Allocation,
    Cache,
    Core,
    CpuKind,
    Die,
    Gpu,
    LogicalIndex,
    Nic,
    NodeTopology,
    NumaDomain,
    OsIndex,
    Package,
    Pu,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GIB = 1 << 30


def interleaved(n_cores: int) -> Callable[[int, int], int]:
    """Return Linux's usual numbering on x86: all first PUs, then all second ones."""
    return lambda core, thread: core + n_cores * thread


def made(
    cores: Sequence[Sequence[int]],
    *,
    smt: int = 1,
    number: Callable[[int, int], int] | None = None,
    usable: CpuSet | None = None,
    extra_memory: int = 0,
    numa: bool = True,
) -> NodeTopology:
    """Return a node: ``cores[package][domain]`` is the number of cores of that domain, 0 for a domain without CPUs.

    Args:
        cores: Cores per domain per package.
        smt: PUs per core.
        number: PU os index of (core, thread); consecutive when None.
        usable: The PUs that may be used; all when None.
        extra_memory: How many further domains without CPUs there are (CXL, GPU memory).
        numa: Whether the node has NUMA domains at all.
    """
    number = number or (lambda core, thread: core * smt + thread)
    flat = [n for package in cores for n in package]
    n_cores = sum(flat)
    all_cores = []
    for c in range(n_cores):
        pus = tuple(Pu(os_index=OsIndex(number(c, t)), logical_index=LogicalIndex(c * smt + t)) for t in range(smt))
        cpus = CpuSet.of(pu.os_index for pu in pus)
        all_cores.append(Core(logical_index=LogicalIndex(c), cpus=cpus, pus=pus))

    def span(first: int, last: int) -> CpuSet:
        return CpuSet.of(cpu for core in all_cores[first:last] for cpu in core.cpus)

    ends = [0, *accumulate(flat)]
    domains = [
        NumaDomain(
            os_index=OsIndex(i),
            logical_index=LogicalIndex(i),
            cpus=span(ends[i], ends[i + 1]),
            memory_bytes=GIB,
            local=n > 0,
        )
        for i, n in enumerate(flat)
    ]
    domains += [
        NumaDomain(
            os_index=OsIndex(len(flat) + i),
            logical_index=LogicalIndex(len(flat) + i),
            cpus=CpuSet(),
            memory_bytes=GIB,
            local=False,
            subtype="CXL",
        )
        for i in range(extra_memory)
    ]
    package_ends = [0, *accumulate(sum(package) for package in cores)]
    present = span(0, n_cores)
    return NodeTopology(
        packages=tuple(
            Package(
                logical_index=LogicalIndex(i),
                os_index=OsIndex(i),
                cpus=span(package_ends[i], package_ends[i + 1]),
                model="Made",
            )
            for i in range(len(cores))
        ),
        dies=(),
        groups=(),
        numa_domains=tuple(domains) if numa else (),
        caches=(),
        cores=tuple(all_cores),
        cpu_kinds=(),
        distances=(),
        gpus=(),
        nics=(),
        present=present,
        usable=present if usable is None else usable,
        memory_bytes=GIB * len(domains),
    )


def allocation(*shapes: NodeTopology) -> Allocation:
    """Return an allocation of hosts n0, n1, ... of these topologies."""
    return Allocation.of(tuple((f"n{i}", shape) for i, shape in enumerate(shapes)))


def with_caches(topology: NodeTopology, level: int, sizes: Sequence[int]) -> NodeTopology:
    """Return the node with a cache of this level over each such number of neighbouring cores; the rest have none."""
    ends = [0, *accumulate(sizes)]
    caches = [
        Cache(
            logical_index=LogicalIndex(i),
            level=level,
            size_bytes=1 << 20,
            cpus=CpuSet.of(cpu for core in topology.cores[first:last] for cpu in core.cpus),
        )
        for i, (first, last) in enumerate(pairwise(ends))
    ]
    return replace(topology, caches=(*topology.caches, *caches))


def with_dies(topology: NodeTopology, sizes: Sequence[int]) -> NodeTopology:
    """Return the node with a die over each such number of neighbouring cores; the rest are in none."""
    ends = [0, *accumulate(sizes)]
    dies = [
        Die(
            logical_index=LogicalIndex(i),
            cpus=CpuSet.of(cpu for core in topology.cores[first:last] for cpu in core.cpus),
        )
        for i, (first, last) in enumerate(pairwise(ends))
    ]
    return replace(topology, dies=tuple(dies))


def with_kinds(topology: NodeTopology, *kinds: tuple[str, int, str]) -> NodeTopology:
    """Return the node with these kinds of core, slowest first: (positions of the cores, speed, name)."""
    found = [(CpuSet.parse(cores), speed, name) for cores, speed, name in kinds]
    return replace(
        topology,
        cpu_kinds=tuple(
            CpuKind(
                cpus=CpuSet.of(cpu for i in cores for cpu in topology.cores[i].cpus),
                efficiency=efficiency,
                name=name,
                speed=speed,
            )
            for efficiency, (cores, speed, name) in enumerate(found)
        ),
        cores=tuple(
            replace(core, kind=next((k for k, (cores, _, _) in enumerate(found) if i in cores), None))
            for i, core in enumerate(topology.cores)
        ),
    )


def with_nics(topology: NodeTopology, *homes: int | None, name: str = "hsn{}", fabric: str = "") -> NodeTopology:
    """Return the node with a NIC close to each of these NUMA domains, by position; None: nobody knows where it is."""
    nics = []
    for i, home in enumerate(homes):
        domain = None if home is None else topology.numa_domains[home]
        nics.append(
            Nic(
                name=name.format(i),
                fabric=fabric.format(i),
                cpus=domain.cpus if domain else CpuSet(),
                numa=(domain.os_index,) if domain else (),
            )
        )
    return replace(topology, nics=(*topology.nics, *nics))


def with_gpus(topology: NodeTopology, *homes: int | None) -> NodeTopology:
    """Return the node with a GPU close to each of these NUMA domains, by position; None: nobody knows where it is."""
    gpus = []
    for i, home in enumerate(homes):
        domain = None if home is None else topology.numa_domains[home]
        gpus.append(
            Gpu(
                pci_address=f"0000:{i:02x}:00.0",
                cpus=domain.cpus if domain else CpuSet(),
                numa=(domain.os_index,) if domain else (),
            )
        )
    return replace(topology, gpus=tuple(gpus))
