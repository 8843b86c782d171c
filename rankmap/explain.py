"""Why a rank is where it is: the decisions of the planner in words, and why it has not the places beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.layout_parts import Level, Order, Pattern
from rankmap.runs import length, locate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.planner import Decisions, NodeDecisions, PartDecisions

__all__ = ["why"]

_MOST_COUNTS = 16
_NAMES = {
    "hwthread": "hardware thread",
    "l1cache": "L1 cache",
    "l2cache": "L2 cache",
    "l3cache": "L3 cache",
    "numa": "NUMA domain",
}


def why(decisions: Decisions, rank: int) -> tuple[str, ...]:
    """Return, in the order in which they were made, the decisions that put this rank where it is; a sentence each.

    Raises:
        UsageError: The job has no such rank.
    """
    made = decisions.plan
    placement = made.rank(rank)
    part = decisions.parts[made.part_of(rank)]
    node = next(one for one in part.nodes if one.site.node_index == placement.node_index)
    at = locate(node.runs, rank)
    assert at is not None  # noqa: S101 - the plan has the rank on this node
    local = node.order[at]
    return (
        *_request(decisions, part),
        _node(part, node),
        *_object(part.spec, node, local),
        *_processors(part.spec, node, local),
        *_reserved(decisions, part, node),
        _binding(part.spec, node, local),
        _number(part.spec, node, rank, at),
    )


def _request(decisions: Decisions, part: PartDecisions) -> Iterator[str]:
    asked = str(part.spec) or "nothing"
    if len(decisions.parts) == 1:
        yield f"asked: {asked}"
        return
    number = decisions.parts.index(part) + 1
    last = part.first_rank + part.n_ranks - 1
    yield f"asked: part {number} of {len(decisions.parts)}, ranks {part.first_rank} to {last}: {asked}"


def _node(part: PartDecisions, node: NodeDecisions) -> str:
    """Say why the node has as many ranks as it has."""
    here = length(node.runs)
    n_nodes = len(part.nodes) + len(part.unused)
    host, spec = node.site.host, part.spec
    has = f"{host} has {here} of the {part.n_ranks} ranks"
    if n_nodes == 1:
        return f"node: {host} is the only one there is"
    return f"node: {has}: {_dealing(spec, node, n_nodes)}"


def _dealing(spec: LayoutSpec, node: NodeDecisions, n_nodes: int) -> str:
    map_by = spec.map_by
    file = map_by.file.name if map_by.file is not None else ""
    slots = "" if node.site.slots is None else f"; it has {node.site.slots} slots"
    if map_by.pattern is Pattern.OBJECT and map_by.span:
        return f"the {_name(map_by.level)}s of {n_nodes} nodes take one rank each in turn (SPAN)"
    in_turn = f"{n_nodes} nodes take {map_by.count or 'one'} rank{'s' * bool(map_by.count)} each in turn"
    by_pattern = {
        Pattern.SEQ: f"{file} says so",
        Pattern.RANKFILE: f"{file} says so",
        Pattern.NODE: f"{in_turn} while they have room",
        Pattern.PLANE: f"{in_turn} while they have room",
        Pattern.PPR: f"each {_name(map_by.level)} takes {map_by.count}, one node after the other",
        Pattern.SLOT: f"nodes are filled one after the other{slots}",
        Pattern.OBJECT: f"nodes are filled one after the other{slots}",
    }
    evenly = f"they are dealt evenly to {n_nodes} nodes, as far as each has room{slots}"
    each = f"-N {spec.ranks_per_node} on each, one node after the other"
    return by_pattern.get(map_by.pattern, evenly if spec.ranks_per_node is None else each)


def _object(spec: LayoutSpec, node: NodeDecisions, local: int) -> Iterator[str]:
    """Say which object the rank was mapped to, and why that one."""
    kind = node.kind
    counts = [kind.objects.count(item) for item in range(max(kind.objects) + 1)]
    item = kind.objects[local]
    if spec.map_by.pattern in {Pattern.AUTO, Pattern.RS}:
        domains = kind.ground.domains
        sizes = [len(domain) for domain in domains]
        if len(domains) > 1:
            ranks = length(node.runs)
            rule = "in proportion to their free processors" if ranks >= len(domains) else "whole neighbouring ones each"
            name = f"{len(domains)} NUMA domains with {_row(sizes, f'free {_unit(node)}s')}"
            yield f"domain: {ranks} ranks go to {name}, {rule}"
        if kind.rule == "rs":
            yield f"resource set: number {item} of the node, with {spec.map_by.pe} cores for {spec.map_by.count} ranks"
        return
    if len(counts) > 1:
        turn = kind.objects[:local].count(item)
        taking = "is filled before the next" if spec.map_by.pattern is Pattern.PPR else "take one rank each in turn"
        name = _name(kind.object_name)
        rule = f"{len(counts)} {name}s {taking}; they have {_row(counts, 'ranks')}"
        yield f"{name}: number {item}, as its rank number {turn} there: {rule}"


def _processors(spec: LayoutSpec, node: NodeDecisions, local: int) -> Iterator[str]:
    """Say which processors the rank took, and who has those beside them."""
    kind = node.kind
    chosen = kind.chosen[local]
    unit = _unit(node)
    count = f"{len(chosen)} {unit}{'s' * (len(chosen) != 1)}"
    yield f"{unit}s: {count}, CPUs {kind.ground.cpus(chosen)}: {_choice(spec, node, local)}"
    owners: dict[int, list[int]] = {}
    for other, positions in enumerate(kind.chosen):
        for position in positions:
            owners.setdefault(position, []).append(node.order.index(other))
    own = node.order.index(local)
    for where, position in (("before", min(chosen) - 1), ("after", max(chosen) + 1)):
        if 0 <= position < len(kind.ground.processors):
            others = CpuSet.of(owners.get(position, ()))
            what = f"has local rank {others}" if others else "is idle"
            yield f"  the one {where} (CPUs {kind.ground.processors[position].cpus}) {what}"
    if shared := CpuSet.of(other for position in chosen for other in owners[position]) - CpuSet.of([own]):
        yield f"  shared with local rank {shared}: there are more ranks than {unit}s"


def _choice(spec: LayoutSpec, node: NodeDecisions, local: int) -> str:
    pattern, n_chosen = spec.map_by.pattern, len(node.kind.chosen[local])
    whole = " without straddling a cache" * (len(node.kind.ground.objects(Level.L3CACHE)) > 1)
    listed = {
        Pattern.MANUAL: f"list {local} of --map-by manual",
        Pattern.RANKFILE: "the rankfile's slots",
        Pattern.RS: "its share of the resource set",
        Pattern.AUTO: f"as many as divide evenly{whole}",
    }
    if pattern in listed and not (pattern is Pattern.AUTO and spec.processors_per_rank):
        return listed[pattern]
    asked = "as many as asked for, " * bool(spec.processors_per_rank)
    return f"{asked}the next free one{'s' * (n_chosen != 1)} of its place"


def _reserved(decisions: Decisions, part: PartDecisions, node: NodeDecisions) -> Iterator[str]:
    reserved = node.kind.ground.reserved
    topology = decisions.plan.allocation.topology(node.site.node_index)
    earlier = [
        other.kind.taken
        for before in decisions.parts[: decisions.parts.index(part)]
        for other in before.nodes
        if other.site.node_index == node.site.node_index
    ]
    taken = CpuSet()
    for cpus in earlier:
        taken |= cpus
    if kept := (reserved - taken) & topology.usable:
        yield f"kept free: CPUs {kept} (--reserve, --reserve-per)"
    if taken & reserved:
        yield f"taken: CPUs {taken & reserved}, by the parts before"
    if barred := topology.present - topology.usable:
        yield f"not usable on {node.site.host}: CPUs {barred} (offline, cgroup, or not Dragon's)"


def _binding(spec: LayoutSpec, node: NodeDecisions, local: int) -> str:
    cpus = node.kind.ranks[local].cpus
    binding = spec.binding
    if cpus is None:
        return "bound: to nothing (--bind-to none)"
    if binding.level is None:
        return f"bound: to CPUs {cpus}, what it was mapped to"
    asked = f"--bind-to {spec.bind_to}" if spec.bind_to is not None else f"what --map-by {spec.map_by} makes of it"
    if binding.level is Level.HWTHREAD:
        return f"bound: to CPUs {cpus}, the first hardware thread of each core ({asked})"
    return f"bound: to CPUs {cpus}, all of its {_name(binding.level)} ({asked})"


def _number(spec: LayoutSpec, node: NodeDecisions, rank: int, at: int) -> str:
    asked = f"--rank-by {spec.rank_by}" if spec.rank_by is not None else "the mapping's own order"
    words = {
        Order.SLOT: "in the order of mapping, node after node",
        Order.NODE: "one rank of each node in turn",
        Order.FILL: "object after object",
        Order.SPAN: "one rank of each object of all nodes in turn",
        Order.OBJECT: "one rank of each object of a node in turn, node after node",
        Order.PLANE: "some ranks of each node in turn",
        Order.FILE: "as the file lists them",
    }
    how = f": {words[spec.rank_by.order]}" if spec.rank_by is not None else ""
    return f"number: local rank {at} of {node.site.host} is rank {rank} ({asked}{how})"


def _name(object_name: str | None) -> str:
    return _NAMES.get(str(object_name), str(object_name))


def _unit(node: NodeDecisions) -> str:
    return "hardware thread" if node.kind.ground.threads else "core"


def _row(counts: Sequence[int], what: str) -> str:
    if len(set(counts)) == 1:
        return f"{counts[0]} {what.removesuffix('s') if counts[0] == 1 else what} each"
    shown = ", ".join(map(str, counts[:_MOST_COUNTS]))
    return shown + ", ..." * (len(counts) > _MOST_COUNTS) + f" {what}"
