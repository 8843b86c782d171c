"""plan(): a pure function of an allocation and a request. Same input, same plan, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, PlacementError, RankmapError
from rankmap.hostlist import fold
from rankmap.mapping.cores import free_domains, numa_of
from rankmap.mapping.dealing import Site, deal, rooms
from rankmap.mapping.default import arrange
from rankmap.mapping.notes import LayoutUse, layout_notes, unused_note
from rankmap.mapping.refusal import refusal
from rankmap.placement import LocalPlacement, NodeLayout, Plan, PlannedNode
from rankmap.ranking import number_nodes
from rankmap.soundness import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.cores import FreeCore
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["plan"]


def plan(allocation: Allocation, spec: LayoutSpec) -> Plan:
    """Return where every rank goes.

    Raises:
        AllocationError: A host that is named is not in the allocation, or no host is left.
        PlacementError: The ranks do not fit, or no node has one of the reserved CPUs. The message has the numbers,
            the hint the nearest requests that fit.
    """
    sites = _sites(allocation, spec)
    counts = deal(spec, rooms(sites, cpus_per_rank=spec.cpus_per_rank))
    if counts is None:
        raise refusal(spec, sites)
    layout_index: dict[tuple[int, int], int] = {}
    members: list[list[Site]] = []
    used: list[tuple[Site, int]] = []
    for site, count in zip(sites, counts, strict=True):
        if not count:
            continue
        index = layout_index.setdefault((site.shape_index, count), len(members))
        if index == len(members):
            members.append([])
        members[index].append(site)
        used.append((site, index))
    runs = number_nodes([index for _, index in used], [[count] for _, count in layout_index])
    nodes = [
        PlannedNode(node_index=site.node_index, layout_index=index, runs=numbers)
        for (site, index), numbers in zip(used, runs, strict=True)
    ]
    layouts: list[NodeLayout] = []
    notes: list[str] = []
    for (shape_index, count), like in zip(layout_index, members, strict=True):
        blocks = arrange(like[0].domains, n_ranks=count, cpus_per_rank=spec.cpus_per_rank)
        ranks = _local_placements(allocation.shapes[shape_index], blocks)
        layouts.append(NodeLayout(shape_index=shape_index, ranks=ranks))
        use = LayoutUse(
            hosts=tuple(site.host for site in like),
            first_rank=next(node.runs[0].first for node in nodes if node.layout_index == len(layouts) - 1),
            domains=like[0].domains,
            blocks=blocks,
            ranks=ranks,
        )
        notes += layout_notes(spec, use)
    notes += unused_note([site.host for site, count in zip(sites, counts, strict=True) if not count])
    made = Plan(allocation=allocation, spec=spec, layouts=tuple(layouts), nodes=tuple(nodes), notes=tuple(notes))
    check(made)
    return made


def _local_placements(topology: NodeTopology, blocks: Sequence[tuple[FreeCore, ...]]) -> tuple[LocalPlacement, ...]:
    made: dict[int, LocalPlacement] = {}
    ranks: list[LocalPlacement] = []
    for block in blocks:
        mask = 0
        for core in block:
            mask |= core.cpus.mask
        if mask not in made:
            cpus = CpuSet(mask)
            made[mask] = LocalPlacement(cpus=cpus, numa=numa_of(topology, cpus))
        ranks.append(made[mask])
    return tuple(ranks)


def _sites(allocation: Allocation, spec: LayoutSpec) -> list[Site]:
    """Return the nodes that the request may use, in the allocation's order.

    Raises:
        AllocationError: A named host does not exist, or none is left.
        PlacementError: No node has a reserved CPU.
    """
    problems: list[RankmapError] = []
    known = dict.fromkeys(node.host for node in allocation.nodes)
    for option, hosts in (("--hosts", spec.hosts), ("--exclude-hosts", spec.exclude_hosts)):
        if strange := [host for host in dict.fromkeys(hosts) if host not in known]:
            there = fold(known) if known else "no hosts"
            problems.append(AllocationError(f"{option} {fold(strange)}: not in the allocation, which has {there}"))
    wanted, excluded = set(spec.hosts or known), set(spec.exclude_hosts)
    used = [i for i, node in enumerate(allocation.nodes) if node.host in wanted and node.host not in excluded]
    if not used and not problems:
        problems.append(AllocationError(_nothing_left(allocation, spec)))
    shapes = dict.fromkeys(allocation.nodes[i].shape_index for i in used)
    present = CpuSet()
    for shape in shapes:
        present |= allocation.shapes[shape].present
    if used and (absent := spec.reserve - present):
        problems.append(PlacementError(f"--reserve: no node has CPU {absent}; the CPUs are {present}"))
    if problems:
        raise _together(problems)
    domains = {shape: free_domains(allocation.shapes[shape], reserve=spec.reserve) for shape in shapes}
    return [
        Site(node_index=i, host=node.host, shape_index=node.shape_index, domains=domains[node.shape_index])
        for i, node in ((i, allocation.nodes[i]) for i in used)
    ]


def _nothing_left(allocation: Allocation, spec: LayoutSpec) -> str:
    if not allocation.nodes:
        return "the allocation has no hosts"
    limits = " and ".join(
        f"{option} {fold(hosts)}"
        for option, hosts in (("--hosts", spec.hosts), ("--exclude-hosts", spec.exclude_hosts))
        if hosts
    )
    there = fold([node.host for node in allocation.nodes])
    return f"{limits} leave{'s' * (not (spec.hosts and spec.exclude_hosts))} no host of the allocation's {there}"


def _together(problems: Sequence[RankmapError]) -> RankmapError:
    """Return one error with every problem; its kind is that of the first."""
    if len(problems) == 1:
        return problems[0]
    hint = " ".join(problem.hint for problem in problems if problem.hint)
    return type(problems[0])("\n".join(problem.message for problem in problems), hint=hint)
