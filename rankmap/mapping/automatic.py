"""The layout that users get without asking (default.py), and jsrun's resource sets, as mapping rules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from rankmap.binding import bound
from rankmap.devices import nearest
from rankmap.errors import PlacementError
from rankmap.hostlist import fold
from rankmap.layout_parts import MapBy, Order, Pattern, RankBy
from rankmap.mapping.beside import beside, placed_by
from rankmap.mapping.dealing import alike, deal, enough_devices, rooms
from rankmap.mapping.default import arrange
from rankmap.mapping.gpus import having
from rankmap.mapping.kinds import Kinds, NodeKind, placements
from rankmap.mapping.refusal import counted, refusal, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.dealing import Site
    from rankmap.mapping.kinds import Mapped
    from rankmap.processors import Ground, Processor
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["automatic"]


def automatic(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return the default layout.

    Raises:
        PlacementError: It does not fit.
    """
    if spec.map_by.pattern is Pattern.RS:
        return _resource_sets(allocation, spec, sites)
    counts = deal(spec, rooms(sites, cpus_per_rank=spec.processors_per_rank))
    if counts is None or not enough_devices(counts, sites):
        raise refusal(spec, sites)
    kinds = Kinds(partial(_kind, allocation, spec))
    kinds.add_all(sites, counts)
    return kinds.mapped(RankBy(order=Order.SLOT))


def _resource_sets(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return jsrun's layout: sets of cores, placed as ranks with so many cores are, and shared out among their ranks.

    Source: IBM Job Step Manager, jsrun(1), -a, -c and -g.
    """
    each = spec.map_by.count or 1
    sets = replace(
        spec,
        map_by=MapBy(),
        cpus_per_rank=spec.map_by.pe or 1,
        gpus_per_rank=spec.map_by.gpus or None,
        n_ranks=spec.n_ranks and spec.n_ranks // each,
        ranks_per_node=spec.ranks_per_node and spec.ranks_per_node // each,
    )
    in_sets = [site._replace(slots=_set_slots(spec, site)) for site in sites]
    room = rooms(in_sets, cpus_per_rank=sets.cpus_per_rank)
    counts = deal(sets, room)
    if counts is not None and spec.map_by.gpus:  # GPUs are not shared, whatever cores are
        pairs = zip(counts, sites, strict=True)
        counts = counts if all(n * spec.map_by.gpus <= len(site.ground.gpus) for n, site in pairs) else None
    if counts is None:
        raise _no_sets(spec, sites, room)
    kinds = Kinds(partial(_set_kind, allocation, spec, sets))
    kinds.add_all(sites, counts)
    return kinds.mapped(RankBy(order=Order.SLOT))


def _set_slots(spec: LayoutSpec, site: Site) -> int | None:
    """Return how many resource sets the site takes at most, whatever its cores; None is any number."""
    limits = [] if site.slots is None else [site.slots // (spec.map_by.count or 1)]
    if spec.map_by.gpus:
        limits.append(len(site.ground.gpus) // spec.map_by.gpus)
    return min(limits, default=None)


def _no_sets(spec: LayoutSpec, sites: Sequence[Site], room: Sequence[int]) -> PlacementError:
    """Return the error for resource sets that do not fit."""
    each, n_gpus, per_node = spec.map_by.count or 1, spec.map_by.gpus, spec.ranks_per_node
    wide = counted(spec.map_by.pe or 1, unit(spec)) + (f" and {counted(n_gpus, 'GPU')}" if n_gpus else "")
    held = f"{counted(sum(room), 'resource set')} of {wide}, {counted(sum(room) * each, 'rank')}"
    lines = [f"{spec.counts() or 'a job'} (--map-by {spec.map_by}): there is room for {held}"]
    for same in alike(sites):
        ground, slots = sites[same[0]].ground, sites[same[0]].slots
        has = counted(len(ground.processors), f"free {unit(spec)}")
        has += f", {counted(len(ground.gpus), 'free GPU')}" if n_gpus else ""
        has += "" if slots is None else f", {counted(slots, 'slot')}"
        fits = f"room for {counted(room[same[0]] * each, 'rank')}{' on each' * (len(same) > 1)}"
        lines.append(f"  {fold([sites[i].host for i in same])}: {has}: {fits}")
    candidates = [f"-n {sum(room) * each}"] * (per_node is None and any(room))
    if per_node is not None and min(room, default=0):
        most = min(room) * each
        least = -(-(spec.n_ranks or 0) // len(room))
        fitting = [n for n in range(each, most + 1, each) if n >= least]
        candidates += [f"-N {fitting[-1]}"] if fitting else [f"-n {sum(room) * each}, without -N"]
    return PlacementError(
        "\n".join(lines), hint=f"these fit: {' | '.join(candidates)}" if candidates else "see `rankmap topo`"
    )


def _set_kind(allocation: Allocation, spec: LayoutSpec, sets: LayoutSpec, site: Site, count: int) -> NodeKind:
    each, size = spec.map_by.count or 1, spec.map_by.pe or 1
    topology = allocation.shapes[site.ground.shape_index]
    whole, by = _blocks(site.ground, topology, sets, count)
    chosen: list[tuple[int, ...]] = []
    for block in whole:
        ends = [-(-size * i // each) for i in range(each + 1)]  # the first get one more
        chosen += [block[start:stop] for start, stop in pairwise(ends)]
    ranks = placements(topology, [bound(site.ground, c, spec.binding) for c in chosen])
    if spec.map_by.gpus:
        blocks = [site.ground.cpus(block) for block in whole]
        given = nearest(topology, topology.gpus, blocks, each=spec.map_by.gpus, free=site.ground.gpus)
        assert given is not None  # noqa: S101 - there was room
        ranks = having(ranks, topology, [given[i // each] for i in range(len(ranks))], site.host)
    return NodeKind(
        ground=site.ground,
        chosen=tuple(chosen),
        objects=tuple(i // each for i in range(len(chosen))),
        ranks=ranks,
        object_name="resource set",
        beside=by,
    )


def _blocks(ground: Ground, topology: NodeTopology, spec: LayoutSpec, count: int) -> tuple[list[tuple[int, ...]], str]:
    """Return the processors of each rank, or set, as positions, and the devices that they were chosen for."""
    near = beside(ground, topology, spec, count) if placed_by(spec) else None
    if near is not None:
        return _positions(ground, near), placed_by(spec)
    return _positions(ground, arrange(ground.domains, n_ranks=count, cpus_per_rank=spec.processors_per_rank)), ""


def _positions(ground: Ground, blocks: Sequence[Sequence[Processor]]) -> list[tuple[int, ...]]:
    position = {id(processor): i for i, processor in enumerate(ground.processors)}
    return [tuple(position[id(processor)] for processor in block) for block in blocks]


def _kind(allocation: Allocation, spec: LayoutSpec, site: Site, count: int) -> NodeKind:
    ground = site.ground
    topology, binding = allocation.shapes[ground.shape_index], spec.binding
    chosen, by = _blocks(ground, topology, spec, count)
    domain_of = {id(one): i for i, domain in enumerate(ground.domains) for one in domain}
    return NodeKind(
        ground=ground,
        chosen=tuple(chosen),
        objects=tuple(domain_of[id(ground.processors[block[0]])] for block in chosen),
        ranks=placements(topology, [bound(ground, c, binding) for c in chosen]),
        object_name="NUMA domain",
        beside=by,
    )
