"""Splitting a number of ranks, or a row of neighbours, evenly. Whole numbers only, and always the same result."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["level", "neighbours", "proportional"]


def proportional(total: int, *, weights: Sequence[int], low: Sequence[int], high: Sequence[int]) -> tuple[int, ...]:
    """Return how many of ``total`` each weight gets: the floor of its share, then by largest remainder.

    Equal remainders favour the first. Every count lies within its ``low`` and ``high``; what a bound takes away or
    adds is settled among the others, again by remainder.

    Raises:
        ValueError: The bounds leave no solution.
    """
    if not sum(low) <= total <= sum(high):
        msg = f"cannot split {total} between {sum(low)} and {sum(high)}"
        raise ValueError(msg)
    whole = sum(weights) or 1
    counts = [min(max(total * w // whole, lo), hi) for w, lo, hi in zip(weights, low, high, strict=True)]

    def still_due(i: int) -> int:
        return total * weights[i] - whole * counts[i]

    while (missing := total - sum(counts)) > 0:
        open_ = [i for i, count in enumerate(counts) if count < high[i]]
        for i in sorted(open_, key=still_due, reverse=True)[:missing]:
            counts[i] += 1
    while (surplus := sum(counts) - total) > 0:
        open_ = [i for i, count in enumerate(counts) if count > low[i]]
        for i in sorted(open_, key=lambda i: (still_due(i), -i))[:surplus]:
            counts[i] -= 1
    return tuple(counts)


def level(total: int, *, capacities: Sequence[int]) -> tuple[int, ...]:
    """Return how many of ``total`` each capacity gets, as even as the capacities let it be.

    No count is over its capacity; two counts differ by more than one only where the smaller is at its capacity.
    The first get one more.

    Raises:
        ValueError: The capacities hold fewer than ``total``.
    """
    if total > sum(capacities):
        msg = f"{total} do not fit into {sum(capacities)}"
        raise ValueError(msg)
    filled, n_open = 0, len(capacities)
    left = total
    for before, capacity in pairwise([0, *sorted(capacities)]):
        step = (capacity - before) * n_open
        if step > left:
            filled += left // n_open
            left %= n_open
            break
        left -= step
        filled = capacity
        n_open -= 1
    counts: list[int] = []
    for capacity in capacities:
        extra = left > 0 and capacity > filled
        left -= extra
        counts.append(min(capacity, filled) + extra)
    return tuple(counts)


def neighbours(weights: Sequence[int], *, n_groups: int) -> tuple[range, ...]:
    """Return the positions of each of ``n_groups`` runs of neighbours, of nearly equal weight and none empty.

    Runs of equal weights differ by one in length at most.

    Raises:
        ValueError: There are fewer weights than groups.
    """
    if len(weights) < n_groups:
        msg = f"{len(weights)} do not make {n_groups} groups"
        raise ValueError(msg)
    groups: list[range] = []
    start, left = 0, sum(weights)
    for n_left in range(n_groups, 0, -1):
        stop, weight = start + 1, weights[start]
        last = len(weights) - (n_left - 1)
        # one more neighbour while that does not lead further away from an even share of what is left
        while stop < last and (n_left == 1 or _nearer(weight, weights[stop], left, n_left)):
            weight += weights[stop]
            stop += 1
        groups.append(range(start, stop))
        start, left = stop, left - weight
    return tuple(groups)


def _nearer(weight: int, more: int, left: int, n_left: int) -> bool:
    return abs(n_left * (weight + more) - left) <= abs(n_left * weight - left)
