from __future__ import annotations

import pytest

from rankmap.binding import bound, places
from rankmap.layout_parts import BindTo, Level
from rankmap.processors import ground
from tests.topologies_made import interleaved, made, with_caches

GROUND = ground(with_caches(made([[2], [2]], smt=2, number=interleaved(4)), 3, [2]))
"""Cores 0-1 in package 0 and under a cache, 2-3 in package 1; core i has the PUs i and i + 4."""


@pytest.mark.parametrize(
    ("count", "size", "scatter", "expected"),
    [
        (2, 1, False, [(4,), (5,)]),
        (2, 2, False, [(4, 5), (6, 7)]),
        (2, 1, True, [(4,), (7,)]),
        (3, 1, True, [(4,), (6,), (8,)]),
        (2, 2, True, [(4, 5), (7, 8)]),
        (3, 2, True, [(4, 5), (6, 7), (8, 9)]),
        (6, 1, False, [(4,), (5,), (6,), (7,), (8,), (9,)]),
        (7, 1, False, [(4,), (5,), (6,), (7,), (8,), (9,), (4,)]),
        (2, 4, True, [(4, 5, 6, 7), (8, 9, 4, 5)]),
        (0, 1, False, []),
    ],
)
def test_ranks_of_an_object_are_packed_or_spread(
    count: int,
    size: int,
    scatter: bool,  # noqa: FBT001 - a table
    expected: list[tuple[int, ...]],
) -> None:
    """Neighbours, none twice while there is room; SCATTER begins them at even distances; then they go round."""
    assert expected == places(range(4, 10), count=count, size=size, scatter=scatter)


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("none", None),
        ("explicit", "1,5"),
        ("core", "1,5"),
        ("hwthread", "1"),
        ("l3cache", "0-1,4-5"),
        ("numa", "0-1,4-5"),
        ("package", "0-1,4-5"),
        ("l2cache", "1,5"),
    ],
)
def test_a_rank_is_bound_to_the_objects_of_its_processors(binding: str, expected: str | None) -> None:
    """All of the object, just its own, the first PU of each core, or nothing; where no such object is, its own."""
    cpus = bound(GROUND, [1], BindTo.parse(binding))
    assert expected == (None if cpus is None else str(cpus))


def test_processors_in_several_objects_have_them_all() -> None:
    """Whatever lies under a cache is widened to it, whatever does not is not."""
    assert str(bound(GROUND, [1, 2], BindTo(level=Level.L3CACHE))) == "0-2,4-6"
    assert str(bound(GROUND, [1, 2], BindTo(level=Level.HWTHREAD))) == "1-2"


def test_the_first_pu_of_a_core_is_the_first_in_logical_order() -> None:
    """As for --smt 1: numbers of PUs are labels."""
    crossed = ground(made([[2]], smt=2, number=lambda core, thread: 2 * core + 1 - thread))
    first = ground(made([[2]], smt=2, number=lambda core, thread: 2 * core + 1 - thread), smt=1)
    assert [str(one.cpus) for one in first.processors] == ["1", "3"]
    assert str(bound(crossed, [0, 1], BindTo(level=Level.HWTHREAD))) == "1,3"
