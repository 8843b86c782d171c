from __future__ import annotations

import pytest

from rankmap.errors import UsageError
from rankmap.layout_parts import RankBy, TextFile
from rankmap.ranking import local_order, number_nodes, places_in_order
from rankmap.runs import Run, compress, expand


def _read(name: str) -> TextFile:
    return TextFile(name=name, lines=())


@pytest.mark.parametrize(
    ("rank_by", "order", "rounds"),
    [
        ("slot", (0, 1, 2, 3, 4), (5,)),
        ("file:x", (0, 1, 2, 3, 4), (5,)),
        ("fill", (1, 4, 0, 2, 3), (5,)),
        ("object", (1, 0, 4, 2, 3), (5,)),
        ("span", (1, 0, 4, 2, 3), (2, 2, 1)),
        ("node", (0, 1, 2, 3, 4), (1, 1, 1, 1, 1)),
        ("plane:2", (0, 1, 2, 3, 4), (2, 2, 1)),
        ("plane:9", (0, 1, 2, 3, 4), (5,)),
    ],
)
def test_each_order_of_a_node(rank_by: str, order: tuple[int, ...], rounds: tuple[int, ...]) -> None:
    """Ranks 0, 2 and 3 are mapped to object 1, ranks 1 and 4 to object 0."""
    assert (order, rounds) == local_order([1, 0, 1, 1, 0], RankBy.parse(rank_by, _read))


@pytest.mark.parametrize(
    ("kinds", "widths", "expected"),
    [
        ([0, 1], [(2,), (3,)], [[0, 1], [2, 3, 4]]),
        ([0, 0], [(1, 1)], [[0, 2], [1, 3]]),
        ([0, 1], [(1, 1, 1), (1,)], [[0, 2, 3], [1]]),
        ([1, 0], [(2, 1), (1, 1)], [[0, 3], [1, 2, 4]]),
        ([], [], []),
    ],
)
def test_nodes_are_numbered_in_rounds(
    kinds: list[int], widths: list[tuple[int, ...]], expected: list[list[int]]
) -> None:
    """In each round each node gets a block of numbers in turn."""
    assert expected == [list(expand(runs)) for runs in number_nodes(kinds, widths)]


ORDERS = [(0, 1), (1, 0)]
RUNS = [(Run(first=0, size=2),), (Run(first=2, size=2),)]


def _placed(*lines: str) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    orders, runs = places_in_order(TextFile(name="F", lines=lines), ORDERS, RUNS)
    return orders, [list(expand(here)) for here in runs]


@pytest.mark.parametrize(
    ("lines", "orders", "numbers"),
    [
        (("0-3",), [(0, 1), (1, 0)], [[0, 1], [2, 3]]),
        (("3,2,1,0",), [(1, 0), (0, 1)], [[2, 3], [0, 1]]),
        (("0,2", "1,3"), [(0, 1), (1, 0)], [[0, 2], [1, 3]]),
        (("# order", "2 0", " 1-1\t3 # end"), [(1, 0), (1, 0)], [[0, 2], [1, 3]]),
        (("1,,0,2-3,",), [(1, 0), (1, 0)], [[0, 1], [2, 3]]),
    ],
)
def test_a_file_says_which_rank_has_each_place(
    lines: tuple[str, ...], orders: list[tuple[int, ...]], numbers: list[list[int]]
) -> None:
    """The first number is the rank of the first place; local ranks follow the ranks."""
    assert (orders, numbers) == _placed(*lines)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "F lists 0 ranks, and the job has 4"),
        (("0-2",), "F lists 3 ranks, and the job has 4"),
        (("0-4",), "F lists 5 ranks, and the job has 4"),
        (("0-2,4",), "F lists rank 4 and the job has ranks 0 to 3"),
        (("0,1", "2,1"), "F lists rank 1 twice"),
        (("0", "x"), "F:2: 'x' is no rank and no range of ranks"),
        (("-1",), "F:1: '-1' is no rank and no range of ranks"),
        (("0-",), "F:1: '0-' is no rank and no range of ranks"),
        (("0-1-2",), "F:1: '0-1-2' is no rank and no range of ranks"),
        (("", "3-0"), "F:2: '3-0' is no range"),
        (("0-99999999",), "F:1: '0-99999999' is no range"),
        (("9" * 22,), f"F:1: '{'9' * 22}' is no rank and no range of ranks"),
    ],
)
def test_a_file_that_does_not_name_each_rank_once_is_refused(lines: tuple[str, ...], message: str) -> None:
    """With its line, or with what is too much or missing."""
    with pytest.raises(UsageError) as refused:
        _placed(*lines)
    assert message == refused.value.message


def test_places_of_dealt_numbers_are_counted_by_number() -> None:
    """Place i is the rank that had number i before, whichever node it is on."""
    orders, runs = places_in_order(
        TextFile(name="F", lines=("3,2,1,0",)), [(0, 1), (0, 1)], [compress([0, 2]), compress([1, 3])]
    )
    assert ([(1, 0), (1, 0)], [[1, 3], [0, 2]]) == (orders, [list(expand(here)) for here in runs])
