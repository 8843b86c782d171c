from __future__ import annotations

import pytest

from rankmap.layout_parts import Level, MapBy, Pattern
from rankmap.mapping.patterns import PATTERNS, Room, share

NUMA = MapBy(pattern=Pattern.OBJECT, level=Level.NUMA)
SPAN = MapBy(pattern=Pattern.OBJECT, level=Level.NUMA, span=True)
SLOT, NODE = MapBy(pattern=Pattern.SLOT), MapBy(pattern=Pattern.NODE)


def _plane(size: int) -> MapBy:
    return MapBy(pattern=Pattern.PLANE, count=size)


def _ppr(count: int) -> MapBy:
    return MapBy(pattern=Pattern.PPR, count=count, level=Level.NUMA)


def _rooms(*objects: tuple[int, ...], slots: int = 99) -> list[Room]:
    return [Room(objects=here, slots=slots) for here in objects]


TWO = _rooms((4, 4), (4, 4))


def test_a_node_holds_what_its_objects_and_slots_hold() -> None:
    """The smaller of the two."""
    assert [8, 3] == [Room(objects=(4, 4), slots=9).ranks, Room(objects=(4, 4), slots=3).ranks]


@pytest.mark.parametrize(
    ("map_by", "rooms", "n_ranks", "expected"),
    [
        (SLOT, _rooms((8,), (8,)), None, [(8,), (8,)]),
        (SLOT, _rooms((8,), (8,)), 10, [(8,), (2,)]),
        (SLOT, _rooms((8,), (8,), slots=3), 4, [(3,), (1,)]),
        (NODE, _rooms((8,), (8,)), 5, [(3,), (2,)]),
        (NODE, _rooms((1,), (8,), (8,)), 6, [(1,), (3,), (2,)]),
        (NUMA, TWO, None, [(4, 4), (4, 4)]),
        (NUMA, TWO, 3, [(2, 1), (0, 0)]),
        (NUMA, TWO, 11, [(4, 4), (2, 1)]),
        (NUMA, _rooms((1, 6)), 5, [(1, 4)]),
        (NUMA, _rooms((4, 4), (4, 4), slots=3), 5, [(2, 1), (1, 1)]),
        (SPAN, TWO, 3, [(1, 1), (1, 0)]),
        (SPAN, TWO, 10, [(3, 3), (2, 2)]),
        (SPAN, _rooms((1, 4), (4, 4)), 9, [(1, 3), (3, 2)]),
        (SPAN, _rooms((4, 4), (4, 4), slots=3), 6, [(2, 1), (2, 1)]),
        (_plane(2), _rooms((8,), (8,)), 5, [(3,), (2,)]),
        (_plane(2), _rooms((3,), (8,)), 9, [(3,), (6,)]),
        (_plane(99), _rooms((8,), (8,)), 10, [(8,), (2,)]),
        (_ppr(2), TWO, None, [(2, 2), (2, 2)]),
        (_ppr(2), TWO, 5, [(2, 2), (1, 0)]),
        (_ppr(2), _rooms((4, 4), (4, 4), slots=3), 6, [(2, 1), (2, 1)]),
    ],
)
def test_each_pattern_gives_its_objects_their_counts(
    map_by: MapBy, rooms: list[Room], n_ranks: int | None, expected: list[tuple[int, ...]]
) -> None:
    """Fill the nodes, go round nodes or objects, give each node K, or each object N."""
    assert expected == share(map_by, rooms, n_ranks=n_ranks, oversubscribe=False)


@pytest.mark.parametrize(
    ("map_by", "rooms", "n_ranks"),
    [
        (SLOT, _rooms((8,), (8,)), 17),
        (NUMA, TWO, 17),
        (SPAN, _rooms((0, 0)), None),
        (NUMA, _rooms((4, 4), slots=7), 8),
        (_ppr(5), TWO, None),
        (_ppr(2), TWO, 9),
        (_ppr(2), _rooms((4, 1)), None),
        (_ppr(2), _rooms(()), None),
    ],
)
def test_what_does_not_fit_is_not_shared_out(map_by: MapBy, rooms: list[Room], n_ranks: int | None) -> None:
    """More ranks than the nodes or their objects hold: None."""
    assert share(map_by, rooms, n_ranks=n_ranks, oversubscribe=False) is None


@pytest.mark.parametrize(
    ("map_by", "rooms", "n_ranks", "expected"),
    [
        (NUMA, _rooms((4, 4), (2, 2)), 24, [(8, 8), (4, 4)]),
        (NUMA, _rooms((4, 0), (0, 0)), 9, [(9, 0), (0, 0)]),
        (NUMA, TWO, 3, [(2, 1), (0, 0)]),
        (_ppr(5), _rooms((4, 2)), None, [(5, 5)]),
        (NUMA, _rooms((0, 0)), 3, None),
        (_ppr(5), _rooms((4, 0)), None, None),
    ],
)
def test_more_ranks_than_room_are_shared_in_proportion(
    map_by: MapBy, rooms: list[Room], n_ranks: int | None, expected: list[tuple[int, ...]] | None
) -> None:
    """An object without room gets none."""
    assert expected == share(map_by, rooms, n_ranks=n_ranks, oversubscribe=True)


def test_every_pattern_that_deals_is_in_the_table() -> None:
    """Those with a rule of their own are not."""
    assert {Pattern.SLOT, Pattern.OBJECT, Pattern.NODE, Pattern.PLANE} == set(PATTERNS)
