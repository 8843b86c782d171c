"""Random nodes, allocations and requests: the shapes that real machines have, and those that break planners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from rankmap.cpuset import CpuSet
from rankmap.layout import LayoutSpec
from rankmap.topology import Allocation, Core, NodeTopology, OsIndex
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Mapping

NASTY = (
    made([[1]]),
    made([[4] * 4] * 2),
    made([[1], [15]]),
    made([[2, 0, 2], [0]], extra_memory=2),
    made([[3, 5], [1, 7]], smt=2, usable=CpuSet.parse("1-8,12,17-31")),
    made([[4], [4]], numa=False),
    replace(made([[3], [2]]), cores=()),
)
"""Nodes that are hard for a reason, mixed into the random ones."""


@st.composite
def topologies(draw: st.DrawFn) -> NodeTopology:
    """Draw a node: SMT 1, 2 or 4, uneven and CPU-less domains, any numbering of its PUs, some PUs not usable."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(NASTY))
    domain = st.sampled_from((0, 1, 2, 3, 4, 4, 4, 8))
    cores = draw(st.lists(st.lists(domain, min_size=1, max_size=4), min_size=1, max_size=4))
    if not sum(map(sum, cores)):
        cores[0][0] = 2
    smt = draw(st.sampled_from((1, 2, 4)))
    n_pus = smt * sum(map(sum, cores))
    numbers = draw(st.permutations(range(n_pus))) if draw(st.booleans()) else range(n_pus)
    topology = made(
        cores,
        smt=smt,
        number=lambda core, thread: numbers[core * smt + thread],
        extra_memory=draw(st.integers(0, 2)),
        numa=draw(st.integers(0, 5)) > 0,
    )
    if draw(st.booleans()):
        out = draw(st.sets(st.integers(0, n_pus - 1), max_size=max(1, n_pus // 2)))
        return topology.restricted(topology.present - CpuSet.of(out))
    return topology


@st.composite
def allocations(draw: st.DrawFn) -> Allocation:
    """Draw one to five hosts, alike or not."""
    shapes = draw(st.lists(topologies(), min_size=1, max_size=3))
    order = draw(st.lists(st.sampled_from(range(len(shapes))), min_size=1, max_size=5))
    return Allocation.of(tuple((f"n{i}", shapes[shape]) for i, shape in enumerate(order)))


@st.composite
def specs(draw: st.DrawFn) -> LayoutSpec:
    """Draw a request, sometimes one that no allocation can honour."""
    count = st.none() | st.integers(1, 12) | st.integers(1, 80)
    return LayoutSpec(
        n_ranks=draw(count),
        ranks_per_node=draw(st.none() | st.none() | st.integers(1, 12)),
        cpus_per_rank=draw(st.none() | st.none() | st.integers(1, 12)),
        oversubscribe=draw(st.booleans()),
        reserve=CpuSet.of(draw(st.sets(st.integers(0, 12), max_size=2) if draw(st.booleans()) else st.just(set()))),
        hosts=tuple(draw(st.lists(st.sampled_from(("n0", "n1", "n2")), max_size=2) | st.just([]))),
        exclude_hosts=tuple(draw(st.just([]) | st.lists(st.sampled_from(("n0", "n3")), max_size=1))),
    )


def relabelled(topology: NodeTopology, names: Mapping[int, int]) -> NodeTopology:
    """Return the same node with other PU os indices."""

    def swap(cpus: CpuSet) -> CpuSet:
        return CpuSet.of(names[cpu] for cpu in cpus)

    def core(old: Core) -> Core:
        pus = tuple(replace(pu, os_index=OsIndex(names[pu.os_index])) for pu in old.pus)
        return replace(old, cpus=swap(old.cpus), pus=pus)

    return replace(
        topology,
        packages=tuple(replace(package, cpus=swap(package.cpus)) for package in topology.packages),
        numa_domains=tuple(replace(domain, cpus=swap(domain.cpus)) for domain in topology.numa_domains),
        cores=tuple(core(old) for old in topology.cores),
        present=swap(topology.present),
        usable=swap(topology.usable),
    )
