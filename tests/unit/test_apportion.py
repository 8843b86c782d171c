from __future__ import annotations

import pytest

from rankmap.mapping.apportion import level, neighbours, proportional


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (4, [8, 8], (2, 2)),
        (5, [8, 8], (3, 2)),
        (7, [6, 2], (5, 2)),
        (2, [1, 15], (0, 2)),
        (0, [4, 4], (0, 0)),
        (3, [0, 5], (0, 3)),
    ],
)
def test_proportional_is_floor_then_largest_remainder(
    total: int, weights: list[int], expected: tuple[int, ...]
) -> None:
    """Shares are rounded down, and what is left goes to the largest remainders, the first of equal ones first."""
    unbounded = [total] * len(weights)

    assert expected == proportional(total, weights=weights, low=[0] * len(weights), high=unbounded)


def test_proportional_settles_an_upper_bound_among_the_others() -> None:
    """What does not fit into one goes to the next by remainder."""
    assert proportional(9, weights=[8, 4, 4], low=[0] * 3, high=[2, 9, 9]) == (2, 4, 3)


def test_proportional_takes_a_lower_bound_from_the_best_served() -> None:
    """A guaranteed share is taken from those that are furthest above theirs."""
    assert proportional(4, weights=[15, 1], low=[1, 1], high=[4, 4]) == (3, 1)
    assert proportional(4, weights=[1, 1, 14], low=[1, 1, 1], high=[4, 4, 4]) == (1, 1, 2)


def test_proportional_refuses_impossible_bounds() -> None:
    """Bounds that leave no solution are an error, not a wrong split."""
    with pytest.raises(ValueError, match="cannot split 5 between 0 and 4"):
        proportional(5, weights=[1, 1], low=[0, 0], high=[2, 2])


@pytest.mark.parametrize(
    ("total", "capacities", "expected"),
    [
        (3, [8, 8], (2, 1)),
        (1, [8, 8, 8], (1, 0, 0)),
        (10, [2, 16, 16], (2, 4, 4)),
        (11, [2, 16, 16], (2, 5, 4)),
        (12, [0, 4, 4, 4], (0, 4, 4, 4)),
        (0, [3], (0,)),
    ],
)
def test_level_is_even_up_to_the_capacities(total: int, capacities: list[int], expected: tuple[int, ...]) -> None:
    """Nobody has two more than another that still has room, and the first have one more."""
    assert expected == level(total, capacities=capacities)


def test_level_refuses_more_than_there_is() -> None:
    """More than the capacities hold is an error."""
    with pytest.raises(ValueError, match="5 do not fit into 4"):
        level(5, capacities=[2, 2])


@pytest.mark.parametrize(
    ("weights", "n_groups", "expected"),
    [
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
        ([1, 1, 1], 2, [[0, 1], [2]]),
        ([1] * 8, 3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        ([9, 1, 1, 1], 2, [[0], [1, 2, 3]]),
        ([1, 1, 1, 9], 3, [[0, 1], [2], [3]]),
        ([5], 1, [[0]]),
    ],
)
def test_neighbours_are_nearly_equal_runs(weights: list[int], n_groups: int, expected: list[list[int]]) -> None:
    """Every group is a run of neighbours, none is empty, and their weights are close."""
    assert expected == [list(group) for group in neighbours(weights, n_groups=n_groups)]


def test_neighbours_refuses_more_groups_than_members() -> None:
    """A group cannot be empty."""
    with pytest.raises(ValueError, match="1 do not make 2 groups"):
        neighbours([3], n_groups=2)
