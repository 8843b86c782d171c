"""Who gets which of several things that are more or less far: the smallest total distance, exactly.

Whoever has the same distances is one party, so the problem is as large as the number of kinds of distances, not of
ranks. It is a transportation problem, solved by successive shortest paths.

Source: R. K. Ahuja, T. L. Magnanti, J. B. Orlin, Network Flows (1993), section 9.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from math import inf
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
    for (row, takers), counts in zip(parties.items(), flows, strict=True):
        for taker, things in zip(takers, _dealt(row, counts, len(takers), each), strict=True):
            given[taker] = things
    return given


def _in_order(row: Sequence[int], party: int, n_parties: int, *, n_units: int) -> list[int]:
    """Return the distances, made unequal the more out of order they are, all together by less than one."""
    n_things = len(row)
    one = n_units * n_parties * n_things + 1
    return [distance * one + abs(party * n_things - thing * n_parties) for thing, distance in enumerate(row)]


def _dealt(row: Sequence[int], counts: Sequence[int], n_takers: int, each: int) -> Iterator[tuple[int, ...]]:
    """Yield what each taker of a party gets of its things, none of them twice, near ones for the first."""
    near_first = sorted(range(len(counts)), key=lambda thing: (row[thing], thing))
    units = [thing for thing in near_first for _ in range(counts[thing])]
    if max(counts) <= 1:  # neighbours belong together
        rest = iter(units)
        for _ in range(n_takers):
            yield tuple(sorted(islice(rest, each)))
    else:
        for taker in range(n_takers):
            yield tuple(sorted(units[taker::n_takers]))


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
    network = _Network(
        costs=costs, most=most, flows=[[0] * len(capacities) for _ in supplies], users=[set() for _ in capacities]
    )
    for source in range(len(supplies)):
        while supplies[source]:
            path = network.cheapest_path(source, capacities)
            if path is None:
                return None
            sink = path[-1][1]
            amount = network.push(path, min(supplies[source], capacities[sink]))
            supplies[source] -= amount
            capacities[sink] -= amount
    return network.flows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """Sources and sinks, what goes from each to each, what one unit of it costs, and how much of it there may be.

    ``users`` are the sources that a sink has something from.
    """

    costs: Sequence[Sequence[int]]
    most: Sequence[int]
    flows: list[list[int]]
    users: list[set[int]]

    def cheapest_path(self, source: int, room: Sequence[int]) -> list[tuple[int, int]] | None:
        """Return (source, sink) steps to a sink with room; from the second on, a source gives up the sink before.

        Bellman-Ford: what is given up saves its cost, so that there are negative ones. From any sink on the way a path
        goes on to one with room for 0 or more, as the flow so far is the cheapest: a sink that is farther than
        the nearest with room is on no cheaper path.
        """
        at = {source: 0}
        to: dict[int, int] = {}
        reached_by: dict[int, int] = {}  # the source that a sink is reached from
        gives_up: dict[int, int] = {}  # the sink that a source is asked to give up
        enough = min((self.costs[source][j] for j in self._open(source) if room[j]), default=inf)
        active = [source]
        while active:
            reached: dict[int, None] = {}
            for i in active:
                for j in self._open(i):
                    far = at[i] + self.costs[i][j]
                    if far <= enough and (j not in to or far < to[j]):
                        to[j], reached_by[j] = far, i
                        reached[j] = None
            asked: dict[int, None] = {}
            for j in reached:
                for i in self.users[j]:
                    if i not in at or to[j] - self.costs[i][j] < at[i]:
                        at[i], gives_up[i] = to[j] - self.costs[i][j], j
                        asked[i] = None
            active = list(asked)
        ends = [j for j in to if room[j]]
        if not ends:
            return None
        path = [(reached_by[j := min(ends, key=lambda sink: (to[sink], sink))], j)]
        while path[-1][0] != source:
            j = gives_up[path[-1][0]]
            path.append((reached_by[j], j))
        return path[::-1]

    def push(self, path: Sequence[tuple[int, int]], amount: int) -> int:
        """Send so much, or as much as the path takes, along it; return how much that is."""
        for i, j in path:
            amount = min(amount, self.most[i] - self.flows[i][j])
        given_up = [(i, before) for (_, before), (i, _) in pairwise(path)]
        for i, j in given_up:
            amount = min(amount, self.flows[i][j])
        for i, j in path:
            self.flows[i][j] += amount
            self.users[j].add(i)
        for i, j in given_up:
            self.flows[i][j] -= amount
            if not self.flows[i][j]:
                self.users[j].discard(i)
        return amount

    def _open(self, i: int) -> list[int]:
        return [j for j, flow in enumerate(self.flows[i]) if flow < self.most[i]]
