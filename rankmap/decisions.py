"""What the planner decided, kept with the plan: ``explain.py`` puts it into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rankmap.layout import LayoutSpec
    from rankmap.layout_parts import RankBy
    from rankmap.mapping.dealing import Site
    from rankmap.mapping.kinds import NodeKind
    from rankmap.placement import Plan
    from rankmap.runs import Run

__all__ = ["Decisions", "NodeDecisions", "PartDecisions"]


class NodeDecisions(NamedTuple):
    """What was decided for a node: its kind, and which rank each of the kind's local ranks became, in their order."""

    site: Site
    kind: NodeKind
    order: tuple[int, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDecisions:
    """What was decided for one part of a job: its request, its nodes, and those that it did not use.

    ``rank_by`` is how its ranks are numbered, asked for or natural to the mapping.
    """

    spec: LayoutSpec
    first_rank: int
    n_ranks: int
    rank_by: RankBy
    nodes: tuple[NodeDecisions, ...]
    unused: tuple[Site, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """A plan, and how it came about (``explain.py`` puts it into words)."""

    plan: Plan
    parts: tuple[PartDecisions, ...]
