"""The plan that the parts of a job make together: layouts that alike nodes share, and what the user should know."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.mapping.notes import idle_note, layout_notes, unused_note
from rankmap.nics import with_nic_mapping
from rankmap.placement import NodeLayout, Part, Plan, PlannedNode
from rankmap.runs import expand, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.decisions import NodeDecisions, PartDecisions
    from rankmap.placement import LocalPlacement
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["assembled"]

Here = tuple[tuple["PartDecisions", "NodeDecisions"], ...]
"""What the parts have on one node, each with its part."""


def assembled(allocation: Allocation, parts: Sequence[PartDecisions]) -> Plan:
    """Return the plan that the parts make together."""
    of_node: dict[int, Here] = {node.site.node_index: ((parts[0], node),) for node in parts[0].nodes}
    for part in parts[1:]:
        for node in part.nodes:
            index = node.site.node_index
            of_node[index] = (*of_node.get(index, ()), (part, node))
    layouts: dict[tuple[int, ...], int] = {}
    made: list[NodeLayout] = []
    alike: list[list[Here]] = []
    nodes = []
    for index, here in sorted(of_node.items()):
        first = here[0][1]
        key: tuple[int, ...] = (id(first.kind), id(first.order))  # alike nodes share both
        for _, node in here[1:]:
            key += id(node.kind), id(node.order)
        layout_index = layouts.get(key)
        if layout_index is None:
            layout_index = layouts[key] = len(made)
            shape_index = allocation.nodes[index].shape_index
            made.append(NodeLayout(shape_index=shape_index, ranks=_ranks(allocation.shapes[shape_index], here)))
            alike.append([])
        alike[layout_index].append(here)
        runs = first.runs if len(here) == 1 else joined(run for _, node in here for run in node.runs)
        nodes.append(PlannedNode(node_index=index, layout_index=layout_index, runs=runs))
    return Plan(
        allocation=allocation,
        parts=tuple(Part(spec=part.spec, n_ranks=part.n_ranks) for part in parts),
        layouts=tuple(made),
        nodes=tuple(nodes),
        notes=tuple(_notes(allocation, parts, made, alike, {node.node_index for node in nodes})),
    )


def _ranks(topology: NodeTopology, here: Here) -> tuple[LocalPlacement, ...]:
    """Return the local ranks of a node, in their final order: only now is it known who uses which NIC of the node.

    Where a part's ranks may use more than they were mapped to, and nobody has asked for that, they leave other parts
    what those have, and the parts before what these may use: the places of parts are disjoint.
    """
    if len(here) == 1:
        ((_, node),) = here
        return with_nic_mapping(topology, [node.kind.ranks[i] for i in node.order])
    ranks: list[LocalPlacement] = []
    before = CpuSet()  # what the parts before may use
    for part, node in here:
        kind = node.kind
        others = reduce(or_, (other.kind.taken for _, other in here if other is not node), before)
        used = before
        for i in node.order:
            local = kind.ranks[i]
            own = kind.ground.cpus(kind.chosen[i])
            if part.spec.bind_to is None and local.cpus is not None and not (others - own).isdisjoint(local.cpus):
                cpus = local.cpus - (others - own)
                local = replace(local, cpus=cpus, numa=topology.numa_of(cpus))
            ranks.append(local)
            used |= local.cpus or CpuSet()
        before = used
    return with_nic_mapping(topology, ranks)


def _notes(
    allocation: Allocation,
    parts: Sequence[PartDecisions],
    layouts: Sequence[NodeLayout],
    alike: Sequence[Sequence[Here]],
    used: set[int],
) -> Iterator[str]:
    """Yield what the user should know.

    Args:
        allocation: The nodes.
        parts: The parts of the job.
        layouts: The layouts of the plan.
        alike: What the parts have on the nodes of each layout.
        used: The positions of all nodes with ranks.
    """
    for number, part in enumerate(parts, start=1):
        same: dict[tuple[int, int], list[NodeDecisions]] = {}
        for node in part.nodes:
            key = id(node.kind), id(node.order)
            if key in same:
                same[key].append(node)
            else:
                same[key] = [node]
        for nodes in same.values():
            first = nodes[0]
            found = layout_notes(
                part.spec,
                first.kind,
                hosts=[node.site.host for node in nodes],
                numbers=tuple(expand(first.runs)),
                ranks=[first.kind.ranks[i] for i in first.order],
                topology=allocation.topology(first.site.node_index),
            )
            yield from (f"part {number}: {note}" for note in found) if len(parts) > 1 else found
    for layout, here in zip(layouts, alike, strict=True):
        yield from idle_note(here[0][0][1].kind.ground, [each[0][1].site.host for each in here], layout.ranks)
    yield from unused_note([site.host for site in parts[0].unused if site.node_index not in used])
