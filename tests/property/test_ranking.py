"""The numbers of the nodes are those that dealing them out one by one gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rankmap.ranking import number_nodes
from rankmap.runs import compress, expand, length, locate

WIDTHS = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=4)


@given(WIDTHS, st.data())
def test_rounds_number_the_nodes_in_turn(widths: list[list[int]], data: st.DataObject) -> None:
    """In each round each node gets as many numbers as its kind has there."""
    kinds = data.draw(st.lists(st.sampled_from(range(len(widths))), max_size=8))
    expected: list[list[int]] = [[] for _ in kinds]
    number = 0
    for i in range(8):
        for numbers, kind in zip(expected, kinds, strict=True):
            width = widths[kind][i] if i < len(widths[kind]) else 0
            numbers.extend(range(number, number + width))
            number += width
    assert expected == [list(expand(runs)) for runs in number_nodes(kinds, widths)]


@given(st.frozensets(st.integers(0, 200)))
def test_compressed_numbers_are_the_same_numbers(numbers: frozenset[int]) -> None:
    """And every one of them is found at its place."""
    runs = compress(sorted(numbers))
    assert sorted(numbers) == list(expand(runs))
    assert len(numbers) == length(runs)
    assert list(range(len(numbers))) == [locate(runs, number) for number in sorted(numbers)]
