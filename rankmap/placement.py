"""Plan: where every rank goes. Kept per node layout and stamped on nodes, so it costs what nodes and shapes cost."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import reduce
from itertools import repeat
from operator import or_
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet  # noqa: TC001 - the codec reads the type hints at run time
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec  # noqa: TC001 - as above
from rankmap.runs import Run, expand, length, locate
from rankmap.topology import OsIndex  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.topology import Allocation

__all__ = ["LocalPlacement", "NodeLayout", "Part", "Plan", "PlannedNode", "RankPlacement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlacement:
    """What one local rank of a layout gets, on whichever node the layout is used.

    Args:
        cpus: PU os indices it is bound to; None is unbound, never empty.
        numa: Os indices of the NUMA domains that ``cpus`` lie in, ascending.
        gpus: GPU ids as Dragon shows them.
        nics: Names of NICs as Linux shows them; the first is for what uses one NIC only.
        mem: The memory policy, None for the kernel's default.
        env: Environment variables (name, value) that it gets; names are unique.
    """

    cpus: CpuSet | None
    numa: tuple[OsIndex, ...] = ()
    gpus: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    mem: str | None = None
    env: tuple[tuple[str, str], ...] = ()

    def at(self, *, rank: int, node_index: int, host: str, local_rank: int) -> RankPlacement:
        """Return what this rank of a job gets as this local rank of this node."""
        return RankPlacement(
            rank=rank,
            node_index=node_index,
            host=host,
            local_rank=local_rank,
            cpus=self.cpus,
            numa=self.numa,
            gpus=self.gpus,
            nics=self.nics,
            mem=self.mem,
            env=self.env,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout:
    """The local ranks of a node of one shape: ``ranks[i]`` is local rank i."""

    shape_index: int
    ranks: tuple[LocalPlacement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    """A node that has ranks: ``runs`` are the ranks, ascending, that are its local ranks 0, 1, ...

    ``node_index`` is the position in the allocation, ``layout_index`` the one in ``Plan.layouts``.
    """

    node_index: int
    layout_index: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlacement:
    """Where one rank goes; the fields after ``local_rank`` are those of LocalPlacement."""

    rank: int
    node_index: int
    host: str
    local_rank: int
    cpus: CpuSet | None
    numa: tuple[OsIndex, ...]
    gpus: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    mem: str | None = None
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a job: what was asked for it, and how many ranks it has; they follow those of the part before."""

    spec: LayoutSpec
    n_ranks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole job: which ranks are where, and why it looks as it does.

    Args:
        allocation: The nodes and shapes it was made for, those without ranks included.
        parts: The job's parts, in the order of their ranks; most jobs have one.
        layouts: Every distinct node layout that is in use.
        nodes: The nodes that have ranks, in the allocation's order.
        notes: Sentences that the user should read.
    """

    allocation: Allocation
    parts: tuple[Part, ...]
    layouts: tuple[NodeLayout, ...]
    nodes: tuple[PlannedNode, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_ranks(self) -> int:
        """Return how many ranks the job has."""
        return sum(length(node.runs) for node in self.nodes)

    @property
    def reserve(self) -> CpuSet:
        """Return the PU os indices that the job keeps free, as asked with ``--reserve`` in any of its parts."""
        return reduce(or_, (part.spec.reserve for part in self.parts))

    def part_of(self, rank: int) -> int:
        """Return which part a rank belongs to.

        Raises:
            UsageError: The job has no such rank.
        """
        before = 0
        for number, part in enumerate(self.parts):
            before += part.n_ranks
            if 0 <= rank < before:
                return number
        msg = f"rank {rank}: the job has ranks 0 to {self.n_ranks - 1}"
        raise UsageError(msg)

    @property
    def ranks(self) -> tuple[RankPlacement, ...]:
        """Return all ranks in rank order, made anew at every call: keep it, or use ``iter_ranks``."""
        return tuple(self.iter_ranks())

    def iter_ranks(self) -> Iterator[RankPlacement]:
        """Yield all ranks in rank order, without holding them."""
        return (self._at(node, local_rank, rank) for rank, (node, local_rank) in enumerate(self.iter_places()))

    def iter_places(self) -> Iterator[tuple[PlannedNode, int]]:
        """Yield node and local rank of every rank, in rank order."""
        if all(len(node.runs) == 1 and node.runs[0].blocks == 1 for node in self.nodes):
            for node in sorted(self.nodes, key=lambda node: node.runs[0].first):
                yield from zip(repeat(node), range(node.runs[0].size))
            return
        home = array("L", bytes(array("L").itemsize * self.n_ranks))
        for position, node in enumerate(self.nodes):
            for run in node.runs:
                for i in range(run.size):
                    first = run.first + i
                    stop = first + max(run.stride, 1) * (run.blocks - 1) + 1
                    home[first : stop : max(run.stride, 1)] = array("L", [position]) * run.blocks
        next_local = [0] * len(self.nodes)
        for position in home:
            yield self.nodes[position], next_local[position]
            next_local[position] += 1

    def ranks_on(self, node_index: int) -> tuple[RankPlacement, ...]:
        """Return the ranks on the node at this position of the allocation; empty when it has none."""
        return tuple(rank for node in self.nodes if node.node_index == node_index for rank in self._ranks_on(node))

    def rank(self, rank: int) -> RankPlacement:
        """Return one rank's placement.

        Raises:
            UsageError: The job has no such rank.
        """
        for node in self.nodes:
            local_rank = locate(node.runs, rank)
            if local_rank is not None:
                return self._at(node, local_rank, rank)
        msg = f"rank {rank}: the job has ranks 0 to {self.n_ranks - 1}"
        raise UsageError(msg)

    def _ranks_on(self, node: PlannedNode) -> Iterator[RankPlacement]:
        return (self._at(node, local_rank, rank) for local_rank, rank in enumerate(expand(node.runs)))

    def _at(self, node: PlannedNode, local_rank: int, rank: int) -> RankPlacement:
        local = self.layouts[node.layout_index].ranks[local_rank]
        host = self.allocation.nodes[node.node_index].host
        return local.at(rank=rank, node_index=node.node_index, host=host, local_rank=local_rank)

    def policies(self) -> list[Any]:
        """Return one explicit Dragon Policy per rank (``rankmap.runtime.policies.policies``)."""
        from rankmap.runtime.policies import policies  # noqa: PLC0415 - a door to the edge, opened only on request

        return policies(self)

    def process_template(self, rank: int) -> dict[str, Any]:
        """Return the keywords that place one rank's Dragon process (``rankmap.runtime.policies.process_template``)."""
        from rankmap.runtime.policies import process_template  # noqa: PLC0415 - as above

        return process_template(self, rank)

    def process_templates(self) -> list[tuple[int, dict[str, Any]]]:
        """Return how many processes with which keywords (``rankmap.runtime.policies.process_templates``)."""
        from rankmap.runtime.policies import process_templates  # noqa: PLC0415 - as above

        return process_templates(self)

    def to_json(self) -> str:
        """Return the plan as one line of JSON (``rankmap.plan_record.to_json``)."""
        from rankmap.plan_record import to_json  # noqa: PLC0415 - it knows this class

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that ``to_json`` wrote (``rankmap.plan_record.from_json``)."""
        from rankmap.plan_record import from_json  # noqa: PLC0415 - as above

        return from_json(text)
