"""Layouts that name their objects (``--map-by`` with slot, node, an object, ppr, plane): counts become ranks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rankmap.binding import bound, places
from rankmap.errors import PlacementError
from rankmap.hostlist import fold
from rankmap.layout_parts import Level, Order, Pattern, RankBy, wider
from rankmap.mapping.apportion import proportional
from rankmap.mapping.dealing import MAX_ON_NODE, enough_devices
from rankmap.mapping.kinds import Kinds, NodeKind, placements
from rankmap.mapping.patterns import Room, share
from rankmap.mapping.refusal import counted, unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.layout_parts import MapBy
    from rankmap.mapping.dealing import Site
    from rankmap.mapping.kinds import Mapped
    from rankmap.mapping.patterns import Counts
    from rankmap.processors import Ground
    from rankmap.topology import Allocation

__all__ = ["by_pattern"]

Objects = tuple[tuple[int, ...], ...]
"""The objects that ranks are dealt to, each the positions of its processors."""


def by_pattern(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return the layout of any pattern that deals ranks to objects.

    Raises:
        PlacementError: It does not fit, or a node has no object of the kind that is asked for.
    """
    level = spec.map_by.level or Level.NODE
    objects = {ground: ground.objects(level) for ground in dict.fromkeys(site.ground for site in sites)}
    there = _rooms(spec, sites, objects)
    shared = _counts(spec, there)
    if shared is None or not enough_devices([sum(counts) for counts in shared], sites):
        raise _refusal(spec, sites, objects, there)
    kinds = Kinds(partial(_kind, allocation, spec, objects))
    for site, counts in zip(sites, shared, strict=True):
        if any(counts):
            kinds.add(site, counts)
    return kinds.mapped(_default_order(spec.map_by))


def _kind(
    allocation: Allocation, spec: LayoutSpec, objects: Mapping[Ground, Objects], site: Site, counts: tuple[int, ...]
) -> NodeKind:
    here = objects[site.ground]
    size, scatter = spec.processors_per_rank or 1, spec.map_by.scatter
    by_object = [
        iter(places(group, count=count, size=size, scatter=scatter)) for group, count in zip(here, counts, strict=True)
    ]
    order = _object_order(spec.map_by, counts)
    chosen = tuple(next(by_object[item]) for item in order)
    binding = spec.binding
    sets = [bound(site.ground, positions, binding) for positions in chosen]
    return NodeKind(
        ground=site.ground,
        chosen=chosen,
        objects=tuple(order),
        ranks=placements(allocation.shapes[site.ground.shape_index], sets),
        object_name=str(spec.map_by.level or Level.NODE),
    )


def _rooms(spec: LayoutSpec, sites: Sequence[Site], objects: dict[Ground, Objects]) -> list[Room]:
    """Return what each node has room for; nodes that are alike share it."""
    size = spec.processors_per_rank or 1
    rooms: dict[tuple[Ground, int | None], Room] = {}
    result = []
    for site in sites:
        key = site.ground, site.slots
        room = rooms.get(key)
        if room is None:
            held = tuple(len(group) // size for group in objects[site.ground])
            n_free, most = len(site.ground.processors), spec.ranks_per_node
            if spec.oversubscribe and most and 0 < sum(held) < most:  # so many on each node is what was asked
                high = [most if one else 0 for one in held]
                held = proportional(most, weights=held, low=held, high=high)
            slots = n_free if site.slots is None else site.slots
            if most:
                slots = most if spec.oversubscribe else min(slots, most)
            room = rooms[key] = Room(objects=held, slots=slots, most=most)
        result.append(room)
    return result


def _counts(spec: LayoutSpec, there: Sequence[Room]) -> Counts | None:
    """Return how many ranks each object of each node gets, None when they do not fit."""
    n_ranks = spec.n_ranks
    if n_ranks is None and spec.ranks_per_node is not None and spec.map_by.pattern is not Pattern.PPR:
        if not spec.oversubscribe and any(room.ranks < spec.ranks_per_node for room in there):
            return None  # so many on each node is what was asked
        n_ranks = spec.ranks_per_node * len(there)
    if n_ranks is not None and n_ranks > MAX_ON_NODE * len(there):
        return None
    return share(spec.map_by, there, n_ranks=n_ranks, oversubscribe=spec.oversubscribe)


def _object_order(map_by: MapBy, counts: Sequence[int]) -> list[int]:
    """Return the object of each rank of a node, in the order in which they are mapped.

    Args:
        map_by: The pattern: ppr fills an object before the next, all others go round them.
        counts: Ranks per object.
    """
    if map_by.pattern is Pattern.PPR:
        return [item for item, count in enumerate(counts) for _ in range(count)]
    return [item for turn in range(max(counts, default=0)) for item, count in enumerate(counts) if count > turn]


def _default_order(map_by: MapBy) -> RankBy:
    """Return how ranks are numbered when nothing is said. Source: PRRTE, ``prterun --help rank-by``."""
    match map_by.pattern:
        case Pattern.NODE:
            return RankBy(order=Order.NODE)
        case Pattern.PLANE:
            return RankBy(order=Order.PLANE, count=map_by.count)
        case Pattern.OBJECT:
            return RankBy(order=Order.SPAN if map_by.span else Order.FILL)
        case _:
            return RankBy(order=Order.SLOT)


def _most_per_resource(there: Sequence[Room], each: int) -> int:
    """Return how many ranks fit, so many for each object: up to the first object or node that has room for fewer."""
    total = 0
    for room in there:
        here = 0
        for held in room.objects:
            count = min(each, room.slots - here)
            here += min(count, held)
            if held < count:
                return total + here
        total += here
    return total


def _refusal(
    spec: LayoutSpec, sites: Sequence[Site], objects: dict[Ground, Objects], there: Sequence[Room]
) -> PlacementError:
    """Return the error for a request that does not fit: what was asked, what there is, what would fit."""
    map_by = f"--map-by {spec.map_by}"
    level = spec.map_by.level
    lacking = [site.host for site in sites if not objects[site.ground]]
    if lacking:
        have = [str(other) for other in Level if all(ground.objects(other) for ground in objects)]
        what = f"{level} with free processors" if level else f"free {unit(spec)}"
        msg = f"{map_by}: {fold(lacking)} {'have' if len(lacking) > 1 else 'has'} no {what}"
        return PlacementError(msg, hint=f"there is: {', '.join(have)}" if have else "see `rankmap topo`")
    each = spec.map_by.count if spec.map_by.pattern is Pattern.PPR else None
    widest = max((len(group) for here in objects.values() for group in here), default=0)
    size = spec.processors_per_rank or 1
    if (each or 1) * size > widest:
        shared = [words for words, near in _nearby(spec, 0) if _holds(near, sites, objects)]
        return _too_narrow(spec, each or 1, widest, shared)
    room = sum(min(one.slots, sum(min(n, each or n) for n in one.objects)) for one in there)
    fits = room if each is None else _most_per_resource(there, each)
    wide = counted(size, unit(spec))
    lines = [f"{spec.counts() or map_by} ({map_by}): there is room for {counted(room, 'rank')} of {wide}"]
    for ground, here in objects.items():
        hosts = [site.host for site in sites if site.ground is ground]
        sizes = sorted({len(group) for group in here})
        wide = counted(sizes[-1], f"free {unit(spec)}")
        if len(sizes) > 1:
            wide = f"{sizes[0]} to {wide}"
        gpus = f", {counted(len(ground.gpus), 'free GPU')}" if spec.n_gpus else ""
        lines.append(f"  {fold(hosts)}: {len(here)} x {level or 'node'} with {wide}{gpus}")
    fitting = [words for words, near in _nearby(spec, fits) if _holds(near, sites, objects)]
    return PlacementError(
        "\n".join(lines), hint=f"these fit: {' | '.join(fitting)}" if fitting else "see `rankmap topo`"
    )


def _nearby(spec: LayoutSpec, fits: int) -> Iterator[tuple[str, LayoutSpec]]:
    """Yield what could be changed in the request, in words, and the changed request."""
    if spec.n_ranks is not None and fits:
        yield f"-n {fits}", replace(spec, n_ranks=fits)
    if not spec.oversubscribe:
        yield "--oversubscribe", replace(spec, oversubscribe=True)
        if spec.bind_to is not None and not spec.bind_to.overload:
            overload = replace(spec.bind_to, overload=True)
            yield f"--oversubscribe --bind-to {overload}", replace(spec, oversubscribe=True, bind_to=overload)


def _holds(spec: LayoutSpec, sites: Sequence[Site], objects: dict[Ground, Objects]) -> bool:
    """Return whether the nodes have room for this request."""
    if spec.oversubscribe and not spec.may_overload:
        return False
    counts = _counts(spec, _rooms(spec, sites, objects))
    return counts is not None and enough_devices([sum(count) for count in counts], sites)


def _too_narrow(spec: LayoutSpec, each: int, widest: int, shared: Sequence[str]) -> PlacementError:
    """Return the error for objects that are all narrower than what one of them is asked to hold.

    Args:
        spec: The request.
        each: How many ranks an object is asked to hold.
        widest: How many processors the largest has.
        shared: The options with which ranks share processors, where that is enough.
    """
    size = spec.processors_per_rank or 1
    name = spec.map_by.level or Level.NODE
    ranks = f"{counted(each, 'rank')} of {counted(size, unit(spec))}"
    msg = f"--map-by {spec.map_by}: no {name} holds {ranks}; the largest has {counted(widest, f'free {unit(spec)}')}"
    other = [f"--map-by ppr:{widest // size}:{name}"] * (each > 1 and widest >= size)
    if each == 1:
        other = [f"--map-by {level}" for level in Level if wider(level, name) and level is not Level.NODE]
    options = [*shared, *other]
    hint = f"try {' | '.join(options)}" if options else "ask for fewer cores for each rank"
    if not spec.threads:
        hint += "; with HWTCPUS hardware threads count, not cores"
    return PlacementError(msg, hint=hint)
