"""The layout that users get without asking (default.py), and jsrun's resource sets, as mapping rules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from rankmap.binding import bound
from rankmap.devices import nearest_gpus
from rankmap.errors import PlacementError
from rankmap.layout_parts import MapBy, Order, Pattern, RankBy
from rankmap.mapping.dealing import deal, rooms
from rankmap.mapping.default import arrange
from rankmap.mapping.kinds import Kinds, NodeKind, placements
from rankmap.mapping.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.dealing import Site
    from rankmap.mapping.kinds import Mapped
    from rankmap.processors import Ground
    from rankmap.topology import Allocation

__all__ = ["automatic"]


def automatic(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return the default layout.

    Raises:
        PlacementError: It does not fit.
    """
    if spec.map_by.pattern is Pattern.RS:
        return _resource_sets(allocation, spec, sites)
    counts = deal(spec, rooms(sites, cpus_per_rank=spec.processors_per_rank))
    if counts is None:
        raise refusal(spec, sites)
    kinds = Kinds(partial(_kind, allocation, spec))
    for site, count in zip(sites, counts, strict=True):
        if count:
            kinds.add(site, count)
    return kinds.mapped(RankBy(order=Order.SLOT))


def _resource_sets(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return jsrun's layout: sets of cores, placed as ranks with so many cores are, and shared out among their ranks.

    Source: IBM Job Step Manager, jsrun(1), -a, -c and -g.
    """
    each = spec.map_by.count or 1
    sets = replace(
        spec,
        map_by=MapBy(),
        cpus_per_rank=spec.map_by.pe,
        n_ranks=spec.n_ranks and spec.n_ranks // each,
        ranks_per_node=spec.ranks_per_node and spec.ranks_per_node // each,
    )
    in_sets = [site._replace(slots=None if site.slots is None else site.slots // each) for site in sites]
    room = rooms(in_sets, cpus_per_rank=sets.cpus_per_rank)
    counts = deal(sets, room)
    if counts is None:
        asked = f"{spec.counts() or 'a job'} (--map-by {spec.map_by})"
        held = sum(room)
        msg = f"{asked}: there is room for {held} resource sets of {spec.map_by.pe} cores, {held * each} ranks"
        fits = f"-n {held * each}" * bool(held)
        if spec.ranks_per_node is not None:
            fits = f"-N {min(room) * each}" * bool(min(room))
        raise PlacementError(msg, hint=f"these fit: {fits}" if fits else "see `rankmap topo`")
    kinds = Kinds(partial(_set_kind, allocation, spec))
    for site, count in zip(sites, counts, strict=True):
        if count:
            kinds.add(site, count)
    return kinds.mapped(RankBy(order=Order.SLOT))


def _set_kind(allocation: Allocation, spec: LayoutSpec, site: Site, count: int) -> NodeKind:
    each, size = spec.map_by.count or 1, spec.map_by.pe or 1
    whole = _blocks(site.ground, count, size)
    chosen: list[tuple[int, ...]] = []
    for block in whole:
        ends = [-(-size * i // each) for i in range(each + 1)]  # the first get one more
        chosen += [block[start:stop] for start, stop in pairwise(ends)]
    topology = allocation.shapes[site.ground.shape_index]
    ranks = placements(topology, [bound(site.ground, c, spec.binding) for c in chosen])
    if spec.map_by.gpus:
        gpus = nearest_gpus(topology, [site.ground.cpus(block) for block in whole], each=spec.map_by.gpus)
        if gpus is None:
            msg = (
                f"--map-by {spec.map_by}: {count} resource sets on {site.host} want {count * spec.map_by.gpus} GPUs,"
                f" and it has {len(topology.gpus)}"
            )
            raise PlacementError(msg, hint="fewer ranks on each node (-N), or g=0")
        ranks = tuple(replace(rank, gpus=gpus[i // each]) for i, rank in enumerate(ranks))
    return NodeKind(
        ground=site.ground,
        chosen=tuple(chosen),
        objects=tuple(i // each for i in range(len(chosen))),
        ranks=ranks,
        rule="rs",
        object_name="resource set",
    )


def _blocks(ground: Ground, count: int, size: int | None) -> list[tuple[int, ...]]:
    position = {id(processor): i for i, processor in enumerate(ground.processors)}
    blocks = arrange(ground.domains, n_ranks=count, cpus_per_rank=size)
    return [tuple(position[id(processor)] for processor in block) for block in blocks]


def _kind(allocation: Allocation, spec: LayoutSpec, site: Site, count: int) -> NodeKind:
    ground = site.ground
    chosen, binding = _blocks(ground, count, spec.processors_per_rank), spec.binding
    domain_of = {id(one): i for i, domain in enumerate(ground.domains) for one in domain}
    return NodeKind(
        ground=ground,
        chosen=tuple(chosen),
        objects=tuple(domain_of[id(ground.processors[block[0]])] for block in chosen),
        ranks=placements(allocation.shapes[ground.shape_index], [bound(ground, c, binding) for c in chosen]),
        rule="auto",
        object_name="NUMA domain",
    )
