"""How many ranks each object of each node gets, pattern by pattern.

A node's objects are in logical order; a pattern that knows no objects (slot, node, plane) sees one, the node. Counts
are decided here, which processors they become is in binding.py, and which numbers in ranking.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from rankmap.layout_parts import MapBy, Pattern
from rankmap.mapping.apportion import level, proportional

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["PATTERNS", "Room", "share"]

Counts = list[tuple[int, ...]]
"""Ranks per object, one tuple per node."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Room:
    """What one node has for ranks; nodes that are alike share one.

    Args:
        objects: How many ranks each object holds without sharing processors.
        slots: How many ranks the node takes at most, whatever its objects hold.
        most: How many it takes even when slots do not count (``-N``); None is any number.
    """

    objects: tuple[int, ...]
    slots: int
    most: int | None = None

    @cached_property
    def ranks(self) -> int:
        """Return how many ranks fit."""
        return min(self.slots, sum(self.objects))

    @cached_property
    def _evenly(self) -> dict[int, tuple[int, ...]]:
        return {}

    def evenly(self, count: int) -> tuple[int, ...]:
        """Return how many of ``count`` ranks each object gets: a ring over them, each once a turn while it has room."""
        if count not in self._evenly:
            if count <= sum(self.objects):
                self._evenly[count] = level(count, capacities=self.objects)
            else:
                high = [count if objects else 0 for objects in self.objects]
                self._evenly[count] = proportional(count, weights=self.objects, low=[0] * len(high), high=high)
        return self._evenly[count]


def share(map_by: MapBy, rooms: Sequence[Room], *, n_ranks: int | None, oversubscribe: bool) -> Counts | None:
    """Return how many ranks each object of each node gets, None when they do not fit.

    Args:
        map_by: The pattern.
        rooms: What each node has.
        n_ranks: Ranks of the job; None is as many as fit.
        oversubscribe: Whether more ranks than room are dealt in proportion to it.
    """
    if map_by.pattern is Pattern.PPR:
        return _per_resource(map_by, rooms, n_ranks=n_ranks, oversubscribe=oversubscribe)
    total = sum(room.ranks for room in rooms)
    n_ranks = n_ranks or total
    if not total or (n_ranks > total and not oversubscribe):
        return None
    if n_ranks > total and any(room.most for room in rooms):
        return None
    if n_ranks > total:
        weights = [room.ranks for room in rooms]
        high = [n_ranks if weight else 0 for weight in weights]
        counts = proportional(n_ranks, weights=weights, low=[0] * len(rooms), high=high)
        return [room.evenly(count) for room, count in zip(rooms, counts, strict=True)]
    deal = _ring_of_objects if map_by.span else PATTERNS[map_by.pattern]
    return deal(map_by, rooms, n_ranks)


def _fill(map_by: MapBy, rooms: Sequence[Room], n_ranks: int) -> Counts:
    """Fill each node before the next one."""
    del map_by
    before = [0, *accumulate(room.ranks for room in rooms)]
    return [room.evenly(min(room.ranks, max(0, n_ranks - start))) for room, start in zip(rooms, before, strict=False)]


def _ring_of_nodes(map_by: MapBy, rooms: Sequence[Room], n_ranks: int) -> Counts:
    """Give each node one rank a turn."""
    del map_by
    counts = level(n_ranks, capacities=[room.ranks for room in rooms])
    return [room.evenly(count) for room, count in zip(rooms, counts, strict=True)]


def _ring_of_objects(map_by: MapBy, rooms: Sequence[Room], n_ranks: int) -> Counts:
    """Give each object of all nodes one rank a turn."""
    del map_by
    if all(room.ranks == sum(room.objects) for room in rooms):
        flat = level(n_ranks, capacities=[objects for room in rooms for objects in room.objects])
        ends = [0, *accumulate(len(room.objects) for room in rooms)]
        return [flat[start:stop] for start, stop in pairwise(ends)]
    counts = [[0] * len(room.objects) for room in rooms]
    while n_ranks:
        for room, node in zip(rooms, counts, strict=True):
            for i, objects in enumerate(room.objects):
                if n_ranks and node[i] < objects and sum(node) < room.ranks:
                    node[i] += 1
                    n_ranks -= 1
    return [tuple(node) for node in counts]


def _planes(map_by: MapBy, rooms: Sequence[Room], n_ranks: int) -> Counts:
    """Give each node K ranks a turn; one that has less room takes what it has."""
    size = map_by.count or 1
    counts = [0] * len(rooms)
    while n_ranks:
        for i, room in enumerate(rooms):
            taken = min(size, room.ranks - counts[i], n_ranks)
            counts[i] += taken
            n_ranks -= taken
    return [room.evenly(count) for room, count in zip(rooms, counts, strict=True)]


def _per_resource(map_by: MapBy, rooms: Sequence[Room], *, n_ranks: int | None, oversubscribe: bool) -> Counts | None:
    """Give each object N ranks, object after object, node after node."""
    each = map_by.count or 1
    limits = [room.slots if not oversubscribe else room.most or each * len(room.objects) for room in rooms]
    left = n_ranks
    if left is None:
        left = sum(min(each * len(room.objects), slots) for room, slots in zip(rooms, limits, strict=True))
    counts: Counts = []
    for room, most in zip(rooms, limits, strict=True):
        node: list[int] = []
        slots = most
        for objects in room.objects:
            count = min(each, left, slots)
            if count > objects and not (oversubscribe and objects):
                return None
            node.append(count)
            left -= count
            slots -= count
        counts.append(tuple(node))
    return counts if not left and any(map(any, counts)) else None


PATTERNS: Mapping[Pattern, Callable[[MapBy, Sequence[Room], int], Counts]] = {
    Pattern.SLOT: _fill,
    Pattern.OBJECT: _fill,
    Pattern.NODE: _ring_of_nodes,
    Pattern.PLANE: _planes,
}
"""By pattern; ppr, and objects with SPAN, are dealt by rules of their own."""
