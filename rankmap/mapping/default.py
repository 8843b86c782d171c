"""The layout that users get without asking: ranks spread over NUMA domains, each on its own neighbouring cores.

1. At least as many ranks as domains: the ranks go to the domains in proportion to their cores, and each has cores of
   one domain only, as many as divide evenly.
2. Fewer ranks than domains: each rank has whole neighbouring domains, of one package wherever that can be.
3. Cores asked for (``-c``): exactly that many. More than any domain nearby has: neighbouring domains, of one package
   wherever that can be.
4. More ranks than room (``--oversubscribe``): as 1, going round the cores of each domain as often as it takes.
"""

from __future__ import annotations

from itertools import accumulate, chain, groupby
from typing import TYPE_CHECKING

from rankmap.mapping.apportion import neighbours, proportional

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rankmap.mapping.cores import Domain, FreeCore

__all__ = ["arrange", "capacity"]

Place = tuple["FreeCore", ...]
"""Neighbouring cores that a rank's cores are taken from: one domain, or several that are each too small."""


def capacity(domains: Sequence[Domain], *, cpus_per_rank: int | None) -> int:
    """Return how many ranks of that many cores (of one, when None) the domains hold without sharing a core."""
    return sum(len(place) // (cpus_per_rank or 1) for place in _places(domains, cpus_per_rank or 1))


def arrange(domains: Sequence[Domain], *, n_ranks: int, cpus_per_rank: int | None) -> tuple[tuple[FreeCore, ...], ...]:
    """Return the cores of every local rank, in local-rank order.

    No core is in two ranks unless there are more ranks than ``capacity``.

    Raises:
        ValueError: Not even one rank has room.
    """
    wanted = cpus_per_rank or 1
    places = _places(domains, wanted)
    if n_ranks > sum(len(place) // wanted for place in places):
        return _go_round(places, n_ranks, wanted)
    if n_ranks < len(domains):
        groups = [tuple(domains[i] for i in group) for group in _domain_groups(domains, n_ranks)]
        if cpus_per_rank is None:
            return tuple(_flat(group) for group in groups)
        if all(sum(map(len, group)) >= wanted for group in groups):
            return tuple(_narrowest(group, wanted) for group in groups)
    return _side_by_side(places, n_ranks, cpus_per_rank)


def _flat(domains: Iterable[Domain]) -> Place:
    return tuple(chain.from_iterable(domains))


def _places(domains: Sequence[Domain], wanted: int) -> list[Place]:
    """Return the places that have at least the wanted number of cores: no wider than they must be."""
    by_package = [
        _merge_narrow(list(group), wanted) for _, group in groupby(domains, key=lambda domain: domain[0].package)
    ]
    whole = _merge_narrow(list(chain.from_iterable(by_package)), wanted)
    return [place for place in whole if len(place) >= wanted]


def _merge_narrow(places: Sequence[Place], wanted: int) -> list[Place]:
    """Return the places, each run of neighbours that are too small joined into one."""
    merged: list[Place] = []
    for narrow, group in groupby(places, key=lambda place: len(place) < wanted):
        run = list(group)
        merged += [_flat(run)] if narrow else run
    return merged


def _domain_groups(domains: Sequence[Domain], n_ranks: int) -> list[range]:
    """Return the positions of every rank's domains: no domain is left out, and packages stay whole if they can."""
    packages = [list(group) for _, group in groupby(range(len(domains)), key=lambda i: domains[i][0].package)]
    weights = [sum(len(domains[i]) for i in package) for package in packages]
    if n_ranks < len(packages):
        runs = neighbours(weights, n_groups=n_ranks)
        return [range(packages[run[0]][0], packages[run[-1]][-1] + 1) for run in runs]
    sizes = [len(package) for package in packages]
    counts = proportional(n_ranks, weights=weights, low=[1] * len(packages), high=sizes)
    groups: list[range] = []
    for package, count in zip(packages, counts, strict=True):
        runs = neighbours([len(domains[i]) for i in package], n_groups=count)
        groups += [range(package[run[0]], package[run[-1]] + 1) for run in runs]
    return groups


def _narrowest(domains: Sequence[Domain], wanted: int) -> Place:
    """Return the wanted number of cores from as few neighbouring domains as can be, of one package if one has them."""
    ends = [0, *accumulate(map(len, domains))]
    windows = (
        (domains[start][0].package != domains[start + width - 1][0].package, width, start)
        for width in range(1, len(domains) + 1)
        for start in range(len(domains) - width + 1)
        if ends[start + width] - ends[start] >= wanted
    )
    _, width, start = min(windows)
    return _flat(domains[start : start + width])[:wanted]


def _side_by_side(places: Sequence[Place], n_ranks: int, cpus_per_rank: int | None) -> tuple[Place, ...]:
    wanted = cpus_per_rank or 1
    sizes = [len(place) for place in places]
    room = [size // wanted for size in sizes]
    counts = proportional(n_ranks, weights=sizes, low=[0] * len(places), high=room)
    ranks: list[Place] = []
    for place, count in zip(places, counts, strict=True):
        if count:
            ranks += _blocks(place, count, cpus_per_rank or len(place) // count)
    return tuple(ranks)


def _blocks(place: Place, count: int, width: int) -> list[Place]:
    """Return ``count`` blocks of ``width`` neighbouring cores; none crosses packages where there is room for that."""
    within = [
        block for _, group in groupby(place, key=lambda core: core.package) for block in _cut(tuple(group), width)
    ]
    return (within if len(within) >= count else _cut(place, width))[:count]


def _cut(place: Place, width: int) -> list[Place]:
    return [place[i : i + width] for i in range(0, len(place) - width + 1, width)]


def _go_round(places: Sequence[Place], n_ranks: int, width: int) -> tuple[Place, ...]:
    """Return blocks that share cores: places get ranks in proportion, a place's core loads differ by one at most."""
    sizes = [len(place) for place in places]
    counts = proportional(n_ranks, weights=sizes, low=[0] * len(places), high=[n_ranks] * len(places))
    return tuple(
        tuple(place[(i * width + j) % len(place)] for j in range(width))
        for place, count in zip(places, counts, strict=True)
        for i in range(count)
    )
