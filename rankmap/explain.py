"""Why a rank is where it is: the decisions of the planner in words, and why it has not the places beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.layout_devices import GpuRule
from rankmap.layout_parts import Level, Order, Pattern
from rankmap.nics import high_speed
from rankmap.runs import length, locate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rankmap.decisions import Decisions, NodeDecisions, PartDecisions
    from rankmap.layout import LayoutSpec
    from rankmap.placement import RankPlacement
    from rankmap.topology import NodeTopology

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
        *_object(made.allocation.topology(placement.node_index), part.spec, node, local),
        *_processors(decisions, part, node, local),
        *_reserved(decisions, part, node),
        _binding(part.spec, node, local, placement.cpus),
        _number(part, placement),
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


def _object(topology: NodeTopology, spec: LayoutSpec, node: NodeDecisions, local: int) -> Iterator[str]:
    """Say which object the rank was mapped to, and why that one."""
    kind = node.kind
    item = kind.objects[local]
    if spec.map_by.pattern in {Pattern.AUTO, Pattern.GPU, Pattern.NIC, Pattern.RS}:
        yield from _domain(topology, spec, node)
        if spec.map_by.pattern is Pattern.RS:
            yield f"resource set: number {item} of the node, with {spec.map_by.pe} cores for {spec.map_by.count} ranks"
        return
    n_objects = len(kind.ground.objects(spec.map_by.level)) if spec.map_by.level is not None else 1
    if n_objects > 1:
        counts = [kind.objects.count(one) for one in range(n_objects)]
        turn = kind.objects[:local].count(item)
        taking = (
            "are filled one after the other" if spec.map_by.pattern is Pattern.PPR else "take one rank each in turn"
        )
        rule = f"{n_objects} {_name(kind.object_name)}s {taking}; they have {_row(counts, 'ranks')}"
        yield f"{_name(kind.object_name)}: number {item}, as its rank number {turn} there: {rule}"


def _domain(topology: NodeTopology, spec: LayoutSpec, node: NodeDecisions) -> Iterator[str]:
    """Say how the default deals to NUMA domains, and to kinds of cores."""
    ground = node.kind.ground
    domains = ground.domains
    n_taken, what = len(node.kind.ranks), "rank"
    if spec.map_by.pattern is Pattern.RS:
        n_taken, what = n_taken // (spec.map_by.count or 1), "resource set"
    if beside := node.kind.beside:
        n_devices = len(ground.gpus) if beside == "GPU" else len(high_speed(topology))
        who = f"{n_taken} {what}{'s' * (n_taken != 1)} go{'es' * (n_taken == 1)}"
        yield f"place: {who} where the {n_devices} {beside}s are, in proportion, each near one of them"
    elif len(domains) > 1:
        rule = "in proportion to their free processors"
        if n_taken < len(domains):
            rule = (
                "neighbours that have so many together" if spec.processors_per_rank else "whole neighbouring ones each"
            )
        sizes = [len(domain) for domain in domains]
        there = f"{len(domains)} NUMA domains with {_row(sizes, f'free {_unit(node)}s')}"
        yield f"domain: {n_taken} {what}{'s' * (n_taken != 1)} go{'es' * (n_taken == 1)} to {there}, {rule}"
    kinds = [one.kind for one in ground.processors]
    if len(set(kinds)) > 1:
        used = {ground.processors[position].kind for positions in node.kind.chosen for position in positions}
        shown = ", ".join(f"{kinds.count(kind)} of kind {kind}" for kind in sorted(set(kinds)))
        enough = "the fastest have room for all" if len(used) == 1 else "the fastest have no room for all"
        yield f"kinds of {_unit(node)}: {shown}, 0 the fastest; no rank is on two kinds, and {enough}"


def _processors(decisions: Decisions, part: PartDecisions, node: NodeDecisions, local: int) -> Iterator[str]:
    """Say which processors the rank took, and who has those beside them."""
    kind = node.kind
    chosen = kind.chosen[local]
    unit = _unit(node)
    count = f"{len(chosen)} {unit}{'s' * (len(chosen) != 1)}"
    yield f"{unit}s: {count}, CPUs {kind.ground.cpus(chosen)}: {_choice(part.spec, node, local)}"
    own, owners = _owners(decisions, part, node, local)
    for where, position, beside in (("before", min(chosen) - 1, min(chosen)), ("after", max(chosen) + 1, max(chosen))):
        if 0 <= position < len(kind.ground.processors):
            cpus = kind.ground.processors[position].cpus
            yield f"  the one {where} (CPUs {cpus}) {_use(decisions, node, position, beside, owners)}"
    if shared := CpuSet.of(other for cpu in kind.ground.cpus(chosen) for other in owners[cpu]) - CpuSet.of([own]):
        why_shared = "overload-allowed" if part.spec.binding.overload else f"there are more ranks than {unit}s"
        yield f"  shared with local rank {shared}: {why_shared}"
    if gpus := kind.ranks[local].gpus:
        yield f"GPUs: {','.join(gpus)}: {_gpu_choice(part.spec)}"
    if nics := kind.ranks[local].nics:
        yield f"NICs: {','.join(nics)}: {_nic_choice(decisions, node, local)}"
    if mem := kind.ranks[local].mem:
        yield f"memory: {mem}, by --mem-bind {part.spec.mem_bind}"
    if (n_threads := part.spec.threads_per_rank) is not None:
        places = dict(kind.ranks[local].env).get("OMP_PLACES", "anywhere: the rank is not bound")
        yield f"threads: {n_threads} on {places}"


def _gpu_choice(spec: LayoutSpec) -> str:
    """Say why these GPUs."""
    rule = GpuRule.CLOSEST if spec.gpu_bind is None else spec.gpu_bind.rule
    if rule is not GpuRule.CLOSEST:
        return f"by --gpu-bind {spec.gpu_bind}"
    whose = "the cores of its resource set" if spec.map_by.gpus else "its cores"
    shared = ""
    if spec.share_gpus or (spec.ranks_per_gpu or 1) > 1:
        shared = ", shared evenly" if spec.share_gpus else f", {spec.ranks_per_gpu} ranks on one at most"
    return f"near {whose}, so that the distances of all ranks of the node add up to the least{shared}"


def _nic_choice(decisions: Decisions, node: NodeDecisions, local: int) -> str:
    """Say why these NICs, and how many ranks share the first of them."""
    topology, ranks = decisions.plan.allocation.topology(node.site.node_index), node.kind.ranks
    mine = ranks[local]
    close = "the CPUs beside its GPUs" if mine.gpus else "its cores"
    near = f"near {close}, so that the distances of all ranks of the node add up to the least"
    n_nics = len(high_speed(topology))
    n_most = -(-len(ranks) * len(mine.nics) // n_nics)
    n_users = sum(mine.nics[0] in rank.nics for rank in ranks)
    return f"{near}; {n_users} of {len(ranks)} ranks use {mine.nics[0]}, no NIC of {n_nics} has more than {n_most}"


def _owners(
    decisions: Decisions, part: PartDecisions, node: NodeDecisions, local: int
) -> tuple[int, dict[int, list[int]]]:
    """Return the rank's own local rank, and by PU the local ranks of the node that were mapped to it."""
    owners: dict[int, list[int]] = {}
    before, own = 0, 0
    for other_part in decisions.parts:
        for other in other_part.nodes:
            if other.site.node_index != node.site.node_index:
                continue
            for at, position in enumerate(other.order):
                if other_part is part and position == local:
                    own = before + at
                for cpu in other.kind.ground.cpus(other.kind.chosen[position]):
                    owners.setdefault(cpu, []).append(before + at)
            before += len(other.order)
    return own, owners


def _use(decisions: Decisions, node: NodeDecisions, position: int, beside: int, owners: Mapping[int, list[int]]) -> str:
    """Say who has the processor at this position, or may use it, or why it was not given to the rank beside it."""
    one, other = node.kind.ground.processors[position], node.kind.ground.processors[beside]
    if mapped := CpuSet.of(rank for cpu in one.cpus for rank in owners.get(cpu, ())):
        return f"has local rank {mapped}"
    ranks = decisions.plan.ranks_on(node.site.node_index)
    users = CpuSet.of(rank.local_rank for rank in ranks if rank.cpus is not None and not rank.cpus.isdisjoint(one.cpus))
    if users:
        return f"is mapped to no rank; local rank {users} may use it"
    if one.kind != other.kind:
        return "is idle: another kind"
    apart = [level for level in (Level.PACKAGE, Level.NUMA, Level.L3CACHE) if one.place(level) != other.place(level)]
    return f"is idle: in another {_name(apart[0])}" if apart else "is idle"


def _choice(spec: LayoutSpec, node: NodeDecisions, local: int) -> str:
    pattern, n_chosen = spec.map_by.pattern, len(node.kind.chosen[local])
    listed = {
        Pattern.MANUAL: f"list {local} of --map-by manual",
        Pattern.RANKFILE: "the rankfile's slots",
        Pattern.RS: f"its share of the resource set{_in_caches(node, local)}",
        Pattern.AUTO: f"as many as divide evenly{_in_caches(node, local)}",
    }
    if pattern is Pattern.AUTO and spec.processors_per_rank:
        return f"as many as asked for, next to each other{_in_caches(node, local)}"
    if pattern in listed:
        return listed[pattern]
    asked = "as many as asked for, " * bool(spec.processors_per_rank)
    return f"{asked}the next free one{'s' * (n_chosen != 1)} of its place"


def _in_caches(node: NodeDecisions, local: int) -> str:
    """Say how the rank lies to the L3 caches, where that is worth a word."""
    ground, chosen = node.kind.ground, set(node.kind.chosen[local])
    caches = ground.objects(Level.L3CACHE)
    touched = [cache for cache in caches if not chosen.isdisjoint(cache)]
    if len(caches) <= 1 or not touched:
        return ""
    if len(touched) == 1:
        return ", in one L3 cache"
    whole = all(chosen.issuperset(cache) for cache in touched)
    return f", {len(touched)} whole L3 caches" if whole else f", in {len(touched)} L3 caches"


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
    sites = CpuSet() if part.spec.use_reserved else topology.reserved - part.spec.reserve
    if kept := (reserved - taken - sites) & topology.usable:
        yield f"kept free: CPUs {kept} (--reserve, --reserve-per)"
    if kept := sites & topology.usable:
        yield f"kept free: CPUs {kept} (the site keeps them for itself; --reserve none uses them)"
    if taken & reserved:
        yield f"taken: CPUs {taken & reserved}, by the parts before"
    if barred := topology.present - topology.usable:
        yield f"not usable on {node.site.host}: CPUs {barred} (offline, cgroup, or not Dragon's)"


def _binding(spec: LayoutSpec, node: NodeDecisions, local: int, cpus: CpuSet | None) -> str:
    binding = spec.binding
    if cpus is None:
        return "bound: to nothing (--bind-to none)"
    if binding.level is None:
        return f"bound: to CPUs {cpus}, what it was mapped to"
    asked = f"--bind-to {spec.bind_to}" if spec.bind_to is not None else f"what --map-by {spec.map_by} makes of it"
    if binding.level is Level.HWTHREAD:
        return f"bound: to CPUs {cpus}, the first hardware thread of each core ({asked})"
    left = " that other parts do not have" * (cpus != node.kind.ranks[local].cpus)
    return f"bound: to CPUs {cpus}, all of its {_name(binding.level)}{left} ({asked})"


def _number(part: PartDecisions, placement: RankPlacement) -> str:
    spec = part.spec
    asked = f"--rank-by {part.rank_by}" if spec.rank_by is not None else f"as with --rank-by {part.rank_by}"
    if spec.map_by.pattern in {Pattern.SEQ, Pattern.RANKFILE}:
        return f"number: local rank {placement.local_rank} of {placement.host} is rank {placement.rank} (the file's)"
    words = {
        Order.SLOT: "node after node, on each in the order of mapping",
        Order.NODE: "one rank of each node in turn",
        Order.FILL: "object after object",
        Order.SPAN: "one rank of each object of all nodes in turn",
        Order.OBJECT: "one rank of each object of a node in turn, node after node",
        Order.PLANE: "some ranks of each node in turn",
        Order.FILE: "as the file lists them",
    }
    how = words[part.rank_by.order]
    return f"number: local rank {placement.local_rank} of {placement.host} is rank {placement.rank} ({asked}: {how})"


def _name(object_name: str | None) -> str:
    return _NAMES.get(str(object_name), str(object_name))


def _unit(node: NodeDecisions) -> str:
    return "hardware thread" if node.kind.ground.threads else "core"


def _row(counts: Sequence[int], what: str) -> str:
    if len(set(counts)) == 1:
        return f"{counts[0]} {what.removesuffix('s') if counts[0] == 1 else what} each"
    shown = ", ".join(map(str, counts[:_MOST_COUNTS]))
    return shown + ", ..." * (len(counts) > _MOST_COUNTS) + f" {what}"
