"""What else could be asked for: the sensible layouts of so many ranks, equals dropped, the best first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rankmap.errors import PlacementError, RankmapError
from rankmap.layout_parts import BindTo, Level, MapBy, Pattern
from rankmap.planner import at_home, plan
from rankmap.processors import objects_of
from rankmap.scoring import score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan
    from rankmap.scoring import Score
    from rankmap.topology import Allocation

__all__ = ["Alternative", "alternatives"]

_OBJECTS = (Level.PACKAGE, Level.NUMA, Level.L3CACHE, Level.L2CACHE, Level.CORE)
_PER_OBJECT = (Level.PACKAGE, Level.NUMA, Level.L3CACHE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One layout: the request, its plan and score, other requests that give the same, and where the best is better."""

    spec: LayoutSpec
    plan: Plan
    score: Score
    equals: tuple[LayoutSpec, ...] = ()
    reason: str = ""


def alternatives(allocation: Allocation, spec: LayoutSpec) -> tuple[Alternative, ...]:
    """Return the sensible layouts for a request that leaves map-by open, the best first; equal plans are one.

    Raises:
        RankmapError: None fits; the error is that of the default layout.
    """
    found: dict[object, Alternative] = {}
    first_error: RankmapError | None = None
    for candidate in dict.fromkeys(_candidates(allocation, spec)):
        try:
            made = plan(allocation, candidate)
        except RankmapError as error:
            first_error = first_error or error
            continue
        key = _places(made)
        if key in found:
            found[key] = replace(found[key], equals=(*found[key].equals, candidate))
        else:
            found[key] = Alternative(spec=candidate, plan=made, score=score(made))
    if not found:
        raise first_error or PlacementError("there is no layout")
    ranked = sorted(found.values(), key=lambda one: one.score.key())
    best = ranked[0].score
    return tuple(replace(one, reason=_reason(one.score, best)) for one in ranked)


def _places(made: Plan) -> object:
    """Return what two plans have in common when every rank is in the same place."""
    return tuple((node.node_index, node.runs, made.layouts[node.layout_index].ranks) for node in made.nodes)


def _candidates(allocation: Allocation, spec: LayoutSpec) -> Iterator[LayoutSpec]:
    """Yield the requests to try: the default first, then objects, their spans, counts per object, all that divides."""
    yield spec
    widths = [spec.processors_per_rank]
    allowed = at_home(allocation, spec).allowed(node.host for node in allocation.nodes)
    shapes = [allocation.shapes[node.shape_index] for node in allocation.nodes if node.host in allowed]
    n_cores = sum(len(shape.usable_cores()) for shape in shapes)
    if spec.processors_per_rank is None and spec.n_ranks and n_cores // spec.n_ranks > 1:
        widths.append(n_cores // spec.n_ranks)
    for width in widths:
        wide = replace(spec, cpus_per_rank=width)
        yield wide
        for level in _OBJECTS:
            yield replace(wide, map_by=MapBy(pattern=Pattern.OBJECT, level=level))
            if len(shapes) > 1:
                yield replace(wide, map_by=MapBy(pattern=Pattern.OBJECT, level=level, span=True))
        yield replace(wide, map_by=MapBy(pattern=Pattern.SLOT))
        if len(shapes) > 1:
            yield replace(wide, map_by=MapBy(pattern=Pattern.NODE))
    for level in _PER_OBJECT:
        yield replace(spec, map_by=MapBy(pattern=Pattern.OBJECT, level=level), bind_to=BindTo(level=Level.CORE))
        n_objects = sum(not one.isdisjoint(shape.usable) for shape in shapes for one in objects_of(shape, level))
        if spec.n_ranks and n_objects and spec.n_ranks % n_objects == 0:
            yield replace(spec, map_by=MapBy(pattern=Pattern.PPR, level=level, count=spec.n_ranks // n_objects))


def _reason(own: Score, best: Score) -> str:
    """Return the first number in which a layout is worse than the best one, in words; "" for the best."""
    for mine, theirs in zip(own.numbers(), best.numbers(), strict=True):
        if mine.cost > theirs.cost:
            return str(mine) + f" (best: {theirs.cost})" * bool(theirs.cost)
    return ""
