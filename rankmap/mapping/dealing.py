"""How many ranks each node gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rankmap.mapping.apportion import level, proportional
from rankmap.mapping.default import capacity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.processors import Ground

__all__ = ["MAX_ON_NODE", "Site", "alike", "deal", "enough_devices", "nodes_taken", "rooms"]

MAX_ON_NODE = 4 * 1024 * 1024
"""No Linux host has more processes. Source: linux, include/linux/threads.h, PID_MAX_LIMIT."""


class Site(NamedTuple):
    """A node that the request may use: its position in the allocation, what it has, and its slots if it has any.

    ``by_devices`` says that ``slots`` are as many as its GPUs and NICs are enough for.
    """

    node_index: int
    host: str
    ground: Ground
    slots: int | None = None
    by_devices: bool = False


def alike(sites: Sequence[Site]) -> list[list[int]]:
    """Return the positions of the sites that have the same, together, in the order of the first of them."""
    found: dict[tuple[Ground, int | None], list[int]] = {}
    for i, site in enumerate(sites):
        found.setdefault((site.ground, site.slots), []).append(i)
    return list(found.values())


def rooms(sites: Sequence[Site], *, cpus_per_rank: int | None) -> tuple[int, ...]:
    """Return how many ranks of that many cores (of one, when None) every site holds."""
    room = {
        ground: capacity(ground.domains, cpus_per_rank=cpus_per_rank)
        for ground in dict.fromkeys(site.ground for site in sites)
    }
    return tuple(room[site.ground] if site.slots is None else min(room[site.ground], site.slots) for site in sites)


def deal(spec: LayoutSpec, room: Sequence[int]) -> tuple[int, ...] | None:
    """Return how many ranks every site gets, or None when the request does not fit.

    Ranks are dealt in blocks: with ``ranks_per_node`` full nodes first and the rest on the last one, otherwise as
    evenly as the room allows. More ranks than room (``oversubscribe``) are dealt in proportion to the room.

    Args:
        spec: The counts asked for.
        room: How many ranks each site holds without sharing cores.
    """
    if spec.ranks_per_node is None:
        total = sum(room)
        n_ranks = spec.n_ranks or total
        if 0 < n_ranks <= total:
            return level(n_ranks, capacities=room)
        if not (spec.oversubscribe and total):
            return None
        if n_ranks > MAX_ON_NODE * sum(map(bool, room)):
            return None
        return proportional(n_ranks, weights=room, low=[0] * len(room), high=[n_ranks if r else 0 for r in room])
    n_nodes = nodes_taken(spec.n_ranks, spec.ranks_per_node) if spec.n_ranks else len(room)
    if n_nodes > len(room) or spec.ranks_per_node > MAX_ON_NODE:
        return None
    left = spec.n_ranks or n_nodes * spec.ranks_per_node
    counts = [min(spec.ranks_per_node, max(0, left - i * spec.ranks_per_node)) for i in range(len(room))]
    fits = all(count <= r or (spec.oversubscribe and r) for count, r in zip(counts, room, strict=True))
    return tuple(counts) if fits else None


def enough_devices(counts: Sequence[int], sites: Sequence[Site]) -> bool:
    """Return whether no site has more ranks than GPUs and NICs are enough for, whether or not they share cores."""
    pairs = zip(counts, sites, strict=True)
    return all(not site.by_devices or site.slots is None or count <= site.slots for count, site in pairs)


def nodes_taken(n_ranks: int, ranks_per_node: int) -> int:
    """Return how many nodes that many ranks take, so many on each."""
    return -(-n_ranks // ranks_per_node)
