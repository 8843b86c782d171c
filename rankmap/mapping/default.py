"""The layout that users get without asking: ranks spread over a node, each on its own neighbouring processors.

1. At least as many ranks as NUMA domains: the ranks go to the domains in proportion to their processors, and each has
   processors of one domain only, as many as divide evenly.
2. Fewer ranks than domains: each rank has whole neighbouring domains, of one package wherever that can be.
3. Processors asked for (``-c``): exactly that many. More than any domain nearby has: neighbouring domains, of one
   package wherever that can be.
4. Inside a domain the ranks go to its caches in proportion, and no cache is split between two ranks that do not both
   lie in it, while that leaves each at least half of an even share (or all that was asked for).
5. Cores of several kinds: the fast ones first, and no rank on two kinds.
6. More ranks than room (``--oversubscribe``): as 1, going round the processors of each domain as often as it takes.
"""

from __future__ import annotations

from itertools import accumulate, chain, groupby
from typing import TYPE_CHECKING

from rankmap.layout_parts import Level
from rankmap.mapping.apportion import neighbours, proportional
from rankmap.processors import by_level

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rankmap.processors import Domain, Processor

__all__ = ["arrange", "capacity"]

Place = tuple["Processor", ...]
"""Neighbouring processors that a rank's are taken from: one domain, or several that are each too small."""

_INNER = (Level.PACKAGE, Level.DIE, Level.L3CACHE, Level.L2CACHE)
"""What a rank should not straddle inside a place, the widest first."""


def capacity(domains: Sequence[Domain], *, cpus_per_rank: int | None) -> int:
    """Return how many ranks of that many processors (of one, when None) fit without sharing one."""
    wanted = cpus_per_rank or 1
    return sum(len(place) // wanted for part in _by_kind(domains) for place in _places(part, wanted))


def arrange(domains: Sequence[Domain], *, n_ranks: int, cpus_per_rank: int | None) -> tuple[Place, ...]:
    """Return the processors of every local rank, in local-rank order.

    No processor is in two ranks unless there are more ranks than ``capacity``.

    Raises:
        ValueError: Not even one rank has room.
    """
    wanted = cpus_per_rank or 1
    if n_ranks > capacity(domains, cpus_per_rank=cpus_per_rank):
        return _go_round(_places(domains, wanted), n_ranks, wanted)
    kinds = _by_kind(domains)
    for n_kinds in range(1, len(kinds)):  # the fast ones alone while they do
        if n_ranks <= sum(_room(part, wanted) for part in kinds[:n_kinds]):
            kinds = kinds[:n_kinds]
            break
    if len(kinds) == 1:
        return _on_one_kind(kinds[0], n_ranks, cpus_per_rank)
    width = cpus_per_rank or _widest(kinds, n_ranks)
    arranged: list[Place] = []
    for part in kinds:
        count = min(n_ranks - len(arranged), _room(part, width))
        if count:
            arranged += _on_one_kind(part, count, width)
    return tuple(arranged)


def _by_kind(domains: Sequence[Domain]) -> list[tuple[Domain, ...]]:
    """Return the domains of each kind of core, the fastest kind first."""
    kinds = sorted({processor.kind for domain in domains for processor in domain})
    if len(kinds) <= 1:
        return [tuple(domains)]
    return [
        tuple(part for domain in domains if (part := tuple(one for one in domain if one.kind == kind)))
        for kind in kinds
    ]


def _room(domains: Sequence[Domain], wanted: int) -> int:
    return sum(len(place) // wanted for place in _places(domains, wanted))


def _widest(kinds: Sequence[Sequence[Domain]], n_ranks: int) -> int:
    """Return the most processors that each of so many ranks can have on one kind of core."""
    width = sum(len(domain) for part in kinds for domain in part) // n_ranks
    while sum(_room(part, width) for part in kinds) < n_ranks:
        width -= 1
    return width


def _on_one_kind(domains: Sequence[Domain], n_ranks: int, cpus_per_rank: int | None) -> tuple[Place, ...]:
    wanted = cpus_per_rank or 1
    if n_ranks < len(domains):
        groups = [tuple(domains[i] for i in group) for group in _domain_groups(domains, n_ranks)]
        if cpus_per_rank is None:
            return tuple(_flat(group) for group in groups)
        if all(sum(map(len, group)) >= wanted for group in groups):
            return tuple(_narrowest(group, wanted) for group in groups)
    return _side_by_side(_places(domains, wanted), n_ranks, cpus_per_rank)


def _flat(domains: Iterable[Domain]) -> Place:
    return tuple(chain.from_iterable(domains))


def _places(domains: Sequence[Domain], wanted: int) -> list[Place]:
    """Return the places that have at least the wanted number of processors: no wider than they must be."""
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
    """Return the wanted number of processors from as few neighbouring domains, and caches, as can be."""
    ends = [0, *accumulate(map(len, domains))]
    windows = (
        (domains[start][0].package != domains[start + width - 1][0].package, width, start)
        for width in range(1, len(domains) + 1)
        for start in range(len(domains) - width + 1)
        if ends[start + width] - ends[start] >= wanted
    )
    _, width, start = min(windows)
    return _blocks(_flat(domains[start : start + width]), 1, wanted)[0]


def _side_by_side(places: Sequence[Place], n_ranks: int, cpus_per_rank: int | None) -> tuple[Place, ...]:
    wanted = cpus_per_rank or 1
    sizes = [len(place) for place in places]
    room = [size // wanted for size in sizes]
    counts = proportional(n_ranks, weights=sizes, low=[0] * len(places), high=room)
    ranks: list[Place] = []
    for place, count in zip(places, counts, strict=True):
        if count:
            ranks += _blocks(place, count, cpus_per_rank or _share(place, count))
    return tuple(ranks)


def _share(place: Place, count: int) -> int:
    """Return how many processors each of ``count`` ranks gets: an even share, less where that keeps caches whole."""
    even = len(place) // count
    return next((width for width in range(even, (even - 1) // 2, -1) if _whole(place, count, width, _INNER)), even)


def _whole(place: Place, count: int, width: int, levels: Sequence[Level]) -> bool:
    """Return whether so many blocks fit without an object of these levels that is split between two of them."""
    for i, level in enumerate(levels):
        dealt = _dealt(place, count, width, level)
        if dealt is None:
            return False
        if dealt[0][0] != place:
            return all(_whole(part, n, width, levels[i + 1 :]) for part, n in dealt)
    return True


def _blocks(place: Place, count: int, width: int, levels: Sequence[Level] = _INNER) -> list[Place]:
    """Return ``count`` blocks of ``width`` neighbouring processors, spread over what the place is made of.

    No object of a level is split between two of them where there is room without that.
    """
    for i, level in enumerate(levels):
        dealt = _dealt(place, count, width, level)
        if dealt is not None and dealt[0][0] != place:
            return [block for part, n in dealt for block in _blocks(part, n, width, levels[i + 1 :])]
    return [place[i * width : (i + 1) * width] for i in range(count)]


def _dealt(place: Place, count: int, width: int, level: Level) -> list[tuple[Place, int]] | None:
    """Return how many blocks each object of this level gets; None where they hold too few.

    Objects that are too small for a block are joined with their neighbours until they hold one.
    """
    holders: list[Place] = []
    joined: Place = ()
    for part in by_level(place, level):
        if len(part) >= width:
            holders.append(part)
            joined = ()
        elif len(joined := joined + part) >= width:
            holders.append(joined)
            joined = ()
    room = [len(holder) // width for holder in holders]
    if sum(room) < count:
        return None
    counts = proportional(count, weights=list(map(len, holders)), low=[0] * len(room), high=room)
    return [(holder, n) for holder, n in zip(holders, counts, strict=True) if n]


def _go_round(places: Sequence[Place], n_ranks: int, width: int) -> tuple[Place, ...]:
    """Return blocks that share processors: places get ranks in proportion, loads in a place differ by one at most."""
    sizes = [len(place) for place in places]
    counts = proportional(n_ranks, weights=sizes, low=[0] * len(places), high=[n_ranks] * len(places))
    return tuple(
        tuple(place[(i * width + j) % len(place)] for j in range(width))
        for place, count in zip(places, counts, strict=True)
        for i in range(count)
    )
