"""Who gets which of several things that are more or less far: the smallest total distance, exactly.

Whoever has the same distances is one party, so the problem is as large as the number of kinds of distances, not of
ranks. It is a transportation problem, solved by successive shortest paths.

Source: R. K. Ahuja, T. L. Magnanti, J. B. Orlin, Network Flows (1993), section 9.7.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["assign"]


def assign(distances: Sequence[Sequence[int]], *, each: int, capacities: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Return for each taker the positions of the things that it gets, ascending; None where there are too few.

    The sum of all distances is the smallest there is. Of equal sums the one is taken that keeps the order: the first
    takers get the first things.

    Args:
        distances: Per taker, how far each thing is; 0 and more.
        each: How many different things each taker gets.
        capacities: How many takers each thing can have.
    """
    n_things = len(capacities)
    if each > sum(map(bool, capacities)) or len(distances) * each > sum(capacities):
        return None
    parties: dict[tuple[int, ...], list[int]] = {}
    for taker, row in enumerate(distances):
        parties.setdefault(tuple(row), []).append(taker)
    flows = _flows(
        [_in_order(row, party, len(parties), n_units=len(distances) * each) for party, row in enumerate(parties)],
        supplies=[len(takers) * each for takers in parties.values()],
        most=[len(takers) for takers in parties.values()],
        capacities=list(capacities),
    )
    if flows is None:
        return None
    given: list[tuple[int, ...]] = [()] * len(distances)
    for takers, counts in zip(parties.values(), flows, strict=True):
        for taker, things in zip(takers, _dealt(counts, len(takers), each), strict=True):
            given[taker] = things
    return given


def _in_order(row: Sequence[int], party: int, n_parties: int, *, n_units: int) -> list[int]:
    """Return the distances, made unequal the more out of order they are, all together by less than one."""
    n_things = len(row)
    one = n_units * n_parties * n_things + 1
    return [distance * one + abs(party * n_things - thing * n_parties) for thing, distance in enumerate(row)]


def _dealt(counts: Sequence[int], n_takers: int, each: int) -> Iterator[tuple[int, ...]]:
    """Yield what each taker of a party gets of its things, none of them twice."""
    units = [thing for thing, count in enumerate(counts) for _ in range(count)]
    if max(counts) <= 1:  # neighbours belong together
        rest = iter(units)
        for _ in range(n_takers):
            yield tuple(islice(rest, each))
    else:
        for taker in range(n_takers):
            yield tuple(units[taker::n_takers])


def _flows(
    costs: Sequence[Sequence[int]], *, supplies: list[int], most: Sequence[int], capacities: list[int]
) -> list[list[int]] | None:
    """Return how much goes from each source to each sink at the smallest cost; None when not everything can go.

    Args:
        costs: Per source and sink, what one unit costs.
        supplies: How much each source has to send.
        most: How much a source may send to one sink.
        capacities: How much each sink can take.
    """
    flows = [[0] * len(capacities) for _ in supplies]
    for source in range(len(supplies)):
        while supplies[source]:
            path = _cheapest_path(source, costs, flows, most, capacities)
            if path is None:
                return None
            amount = min(supplies[source], capacities[path[-1][1]])
            for step, (i, j) in enumerate(path):
                amount = min(amount, most[i] - flows[i][j])
                if step:
                    amount = min(amount, flows[i][path[step - 1][1]])
            for step, (i, j) in enumerate(path):
                flows[i][j] += amount
                if step:
                    flows[i][path[step - 1][1]] -= amount
            supplies[source] -= amount
            capacities[path[-1][1]] -= amount
    return flows


def _cheapest_path(
    source: int,
    costs: Sequence[Sequence[int]],
    flows: Sequence[Sequence[int]],
    most: Sequence[int],
    room: Sequence[int],
) -> list[tuple[int, int]] | None:
    """Return (source, sink) steps to a sink with room; between two steps the later source gives up the former sink.

    Bellman-Ford: what is given up saves its cost, so that there are negative ones.
    """
    best: dict[int, int] = {}
    reached_by: dict[int, int] = {}  # the source that a sink is reached from
    at: dict[int, int] = {source: 0}
    through: dict[int, int] = {}  # the sink that a source was asked to give up
    active = [source]
    while active:
        changed: dict[int, None] = {}
        for i in active:
            for j, cost in enumerate(costs[i]):
                if flows[i][j] < most[i] and at[i] + cost < best.get(j, at[i] + cost + 1):
                    best[j], reached_by[j] = at[i] + cost, i
                    changed[j] = None
        following: dict[int, None] = {}
        for j in changed:
            for i in range(len(costs)):
                if i != source and flows[i][j] and best[j] - costs[i][j] < at.get(i, best[j] - costs[i][j] + 1):
                    at[i], through[i] = best[j] - costs[i][j], j
                    following[i] = None
        active = list(following)
    open_ = [j for j in best if room[j]]
    if not open_:
        return None
    j = min(open_, key=lambda sink: (best[sink], sink))
    path: list[tuple[int, int]] = []
    while True:
        i = reached_by[j]
        path.append((i, j))
        if i == source:
            return path[::-1]
        j = through[i]
