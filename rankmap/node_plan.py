"""One node's part of a plan: all that its host needs to know to verify its ranks, and no other node's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from rankmap.codec import Json, decode, encode
from rankmap.errors import UsageError
from rankmap.placement import NodeLayout, Plan, PlannedNode, RankPlacement
from rankmap.runs import Run, expand, length, locate
from rankmap.topology import Allocation  # noqa: TC001 - the codec reads the type hints at run time

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NodePlan", "node_plans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """The ranks of one node, by their numbers in the job.

    It answers what verification asks of a plan, as a plan would whose allocation is this node alone: the
    ``node_index`` of its ranks is 0.

    Args:
        position: Where the node is in the allocation of the whole plan.
        allocation: The node alone.
        layout: What its local ranks get; of the only shape there is.
        runs: Their ranks, ascending.
        part_ends: For each part of the job, how many ranks it and those before it have.
    """

    position: int
    allocation: Allocation
    layout: NodeLayout
    runs: tuple[Run, ...]
    part_ends: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, position: int) -> NodePlan:
        """Return the part of the node at this position of the allocation.

        Raises:
            UsageError: It has no ranks.
        """
        for node in plan.nodes:
            if node.node_index == position:
                return _part(plan, node, tuple(accumulate(part.n_ranks for part in plan.parts)))
        msg = f"node {position} has no ranks"
        raise UsageError(msg)

    @property
    def host(self) -> str:
        """Return the node's name."""
        return self.allocation.nodes[0].host

    @property
    def n_ranks(self) -> int:
        """Return how many ranks the node has."""
        return length(self.runs)

    @property
    def n_job_ranks(self) -> int:
        """Return how many ranks the whole job has."""
        return self.part_ends[-1]

    @property
    def nodes(self) -> tuple[PlannedNode, ...]:
        """Return the node, as the only one of a plan."""
        return (PlannedNode(node_index=0, layout_index=0, runs=self.runs),)

    def part_of(self, rank: int) -> int:
        """Return which part of the job a rank of this node belongs to.

        Raises:
            UsageError: The node has no such rank.
        """
        self._local_rank(rank)
        return next(part for part, end in enumerate(self.part_ends) if rank < end)

    def iter_ranks(self) -> Iterator[RankPlacement]:
        """Yield the node's ranks, ascending."""
        return (self._at(local_rank, rank) for local_rank, rank in enumerate(expand(self.runs)))

    def ranks_on(self, node_index: int) -> tuple[RankPlacement, ...]:
        """Return the ranks on the node at this position of its own allocation: all for 0."""
        return () if node_index else tuple(self.iter_ranks())

    def rank(self, rank: int) -> RankPlacement:
        """Return the placement of this rank of the job.

        Raises:
            UsageError: The node has no such rank.
        """
        return self._at(self._local_rank(rank), rank)

    def _local_rank(self, rank: int) -> int:
        local_rank = locate(self.runs, rank)
        if local_rank is None:
            msg = f"rank {rank} is not one of the {self.n_ranks} ranks of node {self.position} ({self.host})"
            raise UsageError(msg)
        return local_rank

    def _at(self, local_rank: int, rank: int) -> RankPlacement:
        local = self.layout.ranks[local_rank]
        return local.at(rank=rank, node_index=0, host=self.host, local_rank=local_rank)

    def to_values(self) -> Json:
        """Return it as dicts, lists, text, numbers and None, which JSON and marshal take.

        ``layout`` and ``allocation.shapes`` are the same for nodes that are alike; the rest is a line of text.
        """
        return encode(self)

    @classmethod
    def from_values(cls, values: Json) -> NodePlan:
        """Return the part that ``to_values`` made these of.

        Raises:
            UsageError: They are of another form.
        """
        return decode(cls, values, where="node plan")


def node_plans(plan: Plan | NodePlan) -> Iterator[NodePlan]:
    """Yield the part of every node that has ranks, in the order of nodes; a node's own is its only one."""
    if isinstance(plan, NodePlan):
        yield plan
        return
    part_ends = tuple(accumulate(part.n_ranks for part in plan.parts))
    for node in plan.nodes:
        yield _part(plan, node, part_ends)


def _part(plan: Plan, planned: PlannedNode, part_ends: tuple[int, ...]) -> NodePlan:
    layout = plan.layouts[planned.layout_index]
    return NodePlan(
        position=planned.node_index,
        allocation=plan.allocation.only([planned.node_index]),
        layout=layout if layout.shape_index == 0 else NodeLayout(shape_index=0, ranks=layout.ranks),
        runs=planned.runs,
        part_ends=part_ends,
    )
