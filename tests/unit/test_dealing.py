from __future__ import annotations

import pytest

from rankmap.layout import LayoutSpec
from rankmap.mapping.dealing import deal


@pytest.mark.parametrize(
    ("spec", "room", "expected"),
    [
        (LayoutSpec(), [4, 2], (4, 2)),
        (LayoutSpec(n_ranks=5), [4, 4], (3, 2)),
        (LayoutSpec(n_ranks=1), [4, 4], (1, 0)),
        (LayoutSpec(n_ranks=9), [2, 8, 8], (2, 4, 3)),
        (LayoutSpec(ranks_per_node=3), [4, 4], (3, 3)),
        (LayoutSpec(n_ranks=5, ranks_per_node=2), [4, 4, 4, 4], (2, 2, 1, 0)),
        (LayoutSpec(n_ranks=4, ranks_per_node=2), [4, 4], (2, 2)),
        (LayoutSpec(n_ranks=2, ranks_per_node=3), [2, 0], (2, 0)),
        (LayoutSpec(n_ranks=12, oversubscribe=True), [4, 2], (8, 4)),
        (LayoutSpec(n_ranks=4, oversubscribe=True), [4, 4], (2, 2)),
        (LayoutSpec(n_ranks=5, oversubscribe=True), [2, 0], (5, 0)),
        (LayoutSpec(ranks_per_node=5, oversubscribe=True), [4, 2], (5, 5)),
    ],
)
def test_ranks_are_dealt_in_blocks(spec: LayoutSpec, room: list[int], expected: tuple[int, ...]) -> None:
    """Nodes get even blocks within their room, full nodes with -N, and shares of the room when there is too little."""
    assert expected == deal(spec, room)


@pytest.mark.parametrize(
    ("spec", "room"),
    [
        (LayoutSpec(), [0, 0]),
        (LayoutSpec(n_ranks=7), [4, 2]),
        (LayoutSpec(ranks_per_node=3), [4, 2]),
        (LayoutSpec(n_ranks=5, ranks_per_node=2), [4, 4]),
        (LayoutSpec(n_ranks=10**9, ranks_per_node=1), [4, 4]),
        (LayoutSpec(n_ranks=3, oversubscribe=True), [0]),
        (LayoutSpec(ranks_per_node=3, oversubscribe=True), [4, 0]),
        (LayoutSpec(n_ranks=10**9, oversubscribe=True), [4, 4]),
        (LayoutSpec(ranks_per_node=10**9, oversubscribe=True), [4, 4]),
    ],
)
def test_what_does_not_fit_is_not_dealt(spec: LayoutSpec, room: list[int]) -> None:
    """Too many ranks, too few nodes, a node that is too small or without room, more processes than Linux has: None."""
    assert deal(spec, room) is None
