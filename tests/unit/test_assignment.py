"""Unit tests of rankmap.assignment: who gets what, by hand and against every possibility."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankmap.assignment import assign


@pytest.mark.parametrize(
    ("distances", "each", "capacities", "given"),
    [
        ([[0, 5], [5, 0]], 1, [1, 1], [(0,), (1,)]),
        ([[5, 0], [0, 5]], 1, [1, 1], [(1,), (0,)]),
        ([[0, 0], [0, 0]], 1, [1, 1], [(0,), (1,)]),
        ([[0, 1], [0, 9]], 1, [1, 1], [(1,), (0,)]),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], 2, [1] * 4, [(0, 1), (2, 3)]),
        ([[0, 0, 9, 9], [9, 9, 0, 0]], 2, [1] * 4, [(0, 1), (2, 3)]),
        ([[0, 9]] * 4, 1, [2, 2], [(0,), (0,), (1,), (1,)]),
        ([[0, 0]] * 4, 1, [2, 2], [(0,), (0,), (1,), (1,)]),
        ([[0, 0]] * 2, 2, [2, 2], [(0, 1), (0, 1)]),
        ([[3]], 1, [1], [(0,)]),
        ([], 1, [1], []),
        ([[0]], 1, [0], None),
        ([[0, 0]], 3, [1, 1], None),
        ([[0, 0]] * 3, 1, [1, 1], None),
    ],
)
def test_who_gets_what(
    distances: list[list[int]], each: int, capacities: list[int], given: list[tuple[int, ...]] | None
) -> None:
    """The smallest sum; of equals the first get the first; None where there are too few."""
    assert given == assign(distances, each=each, capacities=capacities)


@given(st.data())
def test_the_sum_is_the_smallest(data: st.DataObject) -> None:
    """As small as the best of all possibilities, nobody has one twice, and no capacity is exceeded."""
    n_things = data.draw(st.integers(1, 5))
    row = st.lists(st.sampled_from((0, 1, 3, 7)), min_size=n_things, max_size=n_things)
    distances = data.draw(st.lists(row, min_size=1, max_size=6))
    capacities = data.draw(st.lists(st.integers(0, 3), min_size=n_things, max_size=n_things))
    each = data.draw(st.integers(1, 2))

    given = assign(distances, each=each, capacities=capacities)

    best = _best(distances, each, capacities)
    if given is None:
        assert best is None
        return
    assert best == sum(distances[i][thing] for i, things in enumerate(given) for thing in things)
    assert {each} == {len(set(things)) for things in given}
    for thing, most in enumerate(capacities):
        assert sum(thing in things for things in given) <= most


def _best(distances: list[list[int]], each: int, left: list[int]) -> int | None:
    if not distances:
        return 0
    found = []
    for things in combinations([i for i, n in enumerate(left) if n], each):
        rest = _best(distances[1:], each, [n - (i in things) for i, n in enumerate(left)])
        if rest is not None:
            found.append(rest + sum(distances[0][i] for i in things))
    return min(found, default=None)
