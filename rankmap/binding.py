"""What each rank of a node may use, once it is known how many ranks each object has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.layout_parts import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout_parts import BindTo
    from rankmap.processors import Ground

__all__ = ["bound", "places"]


def places(group: Sequence[int], *, count: int, size: int, scatter: bool) -> list[tuple[int, ...]]:
    """Return the processors of each rank of an object, as positions: neighbours, no two alike while there is room.

    Args:
        group: The object's processors.
        count: Its ranks.
        size: Processors of each rank.
        scatter: Whether the ranks are spread over the object, not packed at its start.
    """
    if count * size > len(group):
        return [tuple(group[(i * size + j) % len(group)] for j in range(size)) for i in range(count)]
    starts = [i * len(group) // count if scatter else i * size for i in range(count)]
    return [tuple(group[start : start + size]) for start in starts]


def bound(ground: Ground, chosen: Sequence[int], binding: BindTo) -> CpuSet | None:
    """Return the PUs that a rank with these processors may use; None is unbound.

    A level wider than the processors is all of the objects that they lie in; hwthread is the first PU of each.
    """
    if binding.level is None:
        return ground.cpus(chosen) if binding.explicit else None
    if binding.level is Level.HWTHREAD:
        return CpuSet.of(ground.processors[position].first_pu for position in chosen)
    return ground.within(chosen, binding.level)
