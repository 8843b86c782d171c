"""Plan: where every rank goes. Kept per node layout and stamped on nodes: it costs what the shapes cost, not the ranks.

The JSON form (``rankmap.plan/1``) holds all that a replay needs: the request, the nodes, the layouts and the shapes
with their digests. Equal plans give equal bytes, and what is read back is checked like a new plan.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rankmap.codec import Json, decode, encode
from rankmap.cpuset import CpuSet  # noqa: TC001 - the codec reads the type hints at run time
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec  # noqa: TC001 - the codec reads the type hints at run time
from rankmap.topology import Allocation, Node, NodeTopology, OsIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PLAN_SCHEMA",
    "LocalPlacement",
    "NodeLayout",
    "Plan",
    "PlannedNode",
    "RankPlacement",
    "check",
    "topology_digest",
    "violations",
]

PLAN_SCHEMA = "rankmap.plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlacement:
    """What one local rank of a layout gets, on whichever node the layout is used.

    Args:
        cpus: PU os indices it is bound to; None is unbound, never empty.
        numa: Os indices of the NUMA domains that ``cpus`` lie in, ascending.
        gpus: GPU ids as Dragon shows them.
        mem: The memory policy, None for the kernel's default.
        env: Environment variables (name, value) that it gets; names are unique.
    """

    cpus: CpuSet | None
    numa: tuple[OsIndex, ...] = ()
    gpus: tuple[str, ...] = ()
    mem: str | None = None
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout:
    """The local ranks of a node of one shape: ``ranks[i]`` is local rank i."""

    shape_index: int
    ranks: tuple[LocalPlacement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    """A node that has ranks: ``first_rank`` and those after it are its local ranks 0, 1, ...

    ``node_index`` is the position in the allocation, ``layout_index`` the one in ``Plan.layouts``.
    """

    node_index: int
    layout_index: int
    first_rank: int


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
    mem: str | None = None
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole job: which ranks are where, and why it looks as it does.

    Args:
        allocation: The nodes and shapes it was made for, those without ranks included.
        spec: What was asked.
        layouts: Every distinct node layout that is in use.
        nodes: The nodes that have ranks, by first rank.
        notes: Sentences that the user should read.
    """

    allocation: Allocation
    spec: LayoutSpec
    layouts: tuple[NodeLayout, ...]
    nodes: tuple[PlannedNode, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_ranks(self) -> int:
        """Return how many ranks the job has."""
        return sum(len(self.layouts[node.layout_index].ranks) for node in self.nodes)

    @property
    def ranks(self) -> tuple[RankPlacement, ...]:
        """Return all ranks in rank order, made anew at every call: keep it, or use ``iter_ranks``."""
        return tuple(self.iter_ranks())

    def iter_ranks(self) -> Iterator[RankPlacement]:
        """Yield all ranks in rank order, without holding them."""
        for node in self.nodes:
            yield from self._ranks_on(node)

    def ranks_on(self, node_index: int) -> tuple[RankPlacement, ...]:
        """Return the ranks on the node at this position of the allocation; empty when it has none."""
        return tuple(rank for node in self.nodes if node.node_index == node_index for rank in self._ranks_on(node))

    def rank(self, rank: int) -> RankPlacement:
        """Return one rank's placement.

        Raises:
            UsageError: The job has no such rank.
        """
        if not 0 <= rank < self.n_ranks:
            msg = f"rank {rank}: the job has ranks 0 to {self.n_ranks - 1}"
            raise UsageError(msg)
        node = self.nodes[bisect_right(self.nodes, rank, key=lambda node: node.first_rank) - 1]
        return self._at(node, rank - node.first_rank)

    def _ranks_on(self, node: PlannedNode) -> Iterator[RankPlacement]:
        return (self._at(node, i) for i in range(len(self.layouts[node.layout_index].ranks)))

    def _at(self, node: PlannedNode, local_rank: int) -> RankPlacement:
        local = self.layouts[node.layout_index].ranks[local_rank]
        return RankPlacement(
            rank=node.first_rank + local_rank,
            node_index=node.node_index,
            host=self.allocation.nodes[node.node_index].host,
            local_rank=local_rank,
            cpus=local.cpus,
            numa=local.numa,
            gpus=local.gpus,
            mem=local.mem,
            env=local.env,
        )

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
        """Return the plan as one line of JSON, schema ``rankmap.plan/1``; equal plans give equal text."""
        shapes: list[Json] = [{"digest": topology_digest(s), "topology": encode(s)} for s in self.allocation.shapes]
        data: dict[str, Json] = {
            "schema": PLAN_SCHEMA,
            "n_ranks": self.n_ranks,
            "request": self.spec.to_dict(),
            "notes": encode(self.notes),
            "nodes": encode(_node_runs(self)),
            "layouts": encode(self.layouts),
            "shapes": shapes,
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that ``to_json`` wrote.

        Raises:
            UsageError: The text is no such plan, of another schema, or was changed so that it cannot hold.
        """
        try:
            data: Json = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"the plan is not JSON: {error}"
            raise UsageError(msg, hint=_HINT) from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != PLAN_SCHEMA:
            msg = f"not a plan: schema is {schema!r}, this rankmap reads {PLAN_SCHEMA!r}"
            raise UsageError(msg, hint=_HINT)
        return _read(data)


_HINT = "`rankmap plan --format json -o FILE` writes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeRun:
    """Nodes in a row that are alike: the ranks of the first begin at ``first_rank``, those of each next one follow.

    ``layout`` and ``first_rank`` are None for nodes without ranks.
    """

    hosts: tuple[str, ...]
    shape: int
    gpu_ids: tuple[str, ...] | None
    layout: int | None
    first_rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    digest: str
    topology: NodeTopology


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanRecord:
    """The JSON form, field by field."""

    schema: str
    n_ranks: int
    request: LayoutSpec
    notes: tuple[str, ...]
    nodes: tuple[_NodeRun, ...]
    layouts: tuple[NodeLayout, ...]
    shapes: tuple[_Shape, ...]


def _node_runs(plan: Plan) -> tuple[_NodeRun, ...]:
    planned = {node.node_index: node for node in plan.nodes}
    runs: list[tuple[_NodeRun, list[str]]] = []
    next_rank: int | None = None
    for i, node in enumerate(plan.allocation.nodes):
        here = planned.get(i)
        run = _NodeRun(
            hosts=(),
            shape=node.shape_index,
            gpu_ids=node.gpu_ids,
            layout=here.layout_index if here else None,
            first_rank=here.first_rank if here else None,
        )
        follows = bool(runs) and run.first_rank == next_rank
        if follows and run == replace(runs[-1][0], first_rank=run.first_rank):
            runs[-1][1].append(node.host)
        else:
            runs.append((run, [node.host]))
        next_rank = here.first_rank + len(plan.layouts[here.layout_index].ranks) if here else None
    return tuple(replace(run, hosts=tuple(hosts)) for run, hosts in runs)


def _read(data: Json) -> Plan:
    record = decode(_PlanRecord, data, where="plan")
    for i, shape in enumerate(record.shapes):
        if shape.digest != topology_digest(shape.topology):
            msg = f"plan.shapes[{i}].digest does not belong to its topology: the plan was changed by hand"
            raise UsageError(msg, hint=_HINT)
    nodes: list[Node] = []
    planned: list[PlannedNode] = []
    for i, run in enumerate(record.nodes):
        if run.layout not in (None, *range(len(record.layouts))) or (run.layout is None) != (run.first_rank is None):
            msg = f"plan.nodes[{i}] has layout {run.layout} and first_rank {run.first_rank}: no such layout"
            raise UsageError(msg, hint=_HINT)
        rank = run.first_rank
        for host in run.hosts:
            if run.layout is not None and rank is not None:
                planned.append(PlannedNode(node_index=len(nodes), layout_index=run.layout, first_rank=rank))
                rank += len(record.layouts[run.layout].ranks)
            nodes.append(Node(host=host, shape_index=run.shape, gpu_ids=run.gpu_ids))
    plan = Plan(
        allocation=Allocation(shapes=tuple(shape.topology for shape in record.shapes), nodes=tuple(nodes)),
        spec=record.request,
        layouts=record.layouts,
        nodes=tuple(sorted(planned, key=lambda node: node.first_rank)),
        notes=record.notes,
    )
    problems = violations(plan)
    if record.n_ranks != plan.n_ranks:
        problems.append(f"n_ranks is {record.n_ranks}, the nodes have {plan.n_ranks}")
    if problems:
        msg = f"the plan cannot hold: {problems[0]}"
        raise UsageError(msg, hint=_HINT)
    return plan


def topology_digest(topology: NodeTopology) -> str:
    """Return ``sha256:`` and the digest of the topology's JSON form: equal for equal topologies only."""
    canonical = json.dumps(encode(topology), separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def violations(plan: Plan) -> list[str]:
    """Return what is wrong with the plan, whatever the layout rule; empty for every plan that may be used.

    Ranks are 0 to n-1; every node index, layout and shape exists and belongs together; CPUs are usable, not reserved
    and not an empty set; no two ranks of a node share a core unless the request allows it.
    """
    if problems := _dangling(plan):
        return problems
    next_rank = 0
    seen: set[int] = set()
    for planned in plan.nodes:
        layout = plan.layouts[planned.layout_index]
        node = plan.allocation.nodes[planned.node_index]
        if planned.first_rank != next_rank:
            problems.append(f"{node.host} begins with rank {planned.first_rank}, not {next_rank}")
        if planned.node_index in seen:
            problems.append(f"{node.host} is planned twice")
        if node.shape_index != layout.shape_index:
            problems.append(f"{node.host} has a layout for another shape")
        seen.add(planned.node_index)
        next_rank += len(layout.ranks)
    if not next_rank:
        problems.append("it has no ranks")
    for layout in plan.layouts:
        problems += _layout_violations(layout, plan.allocation.shapes[layout.shape_index], plan.spec)
    return problems


def _dangling(plan: Plan) -> list[str]:
    """Return which indices of the plan lead nowhere."""
    shapes, nodes, layouts = range(len(plan.allocation.shapes)), range(len(plan.allocation.nodes)), plan.layouts
    return [
        *(
            f"{n.host} has shape {n.shape_index}, which is not there"
            for n in plan.allocation.nodes
            if n.shape_index not in shapes
        ),
        *(
            f"layout {i} is for shape {x.shape_index}, which is not there"
            for i, x in enumerate(layouts)
            if x.shape_index not in shapes
        ),
        *(f"layout {i} has no ranks" for i, x in enumerate(layouts) if not x.ranks),
        *(f"node {n.node_index} is planned, and is not there" for n in plan.nodes if n.node_index not in nodes),
        *(
            f"layout {n.layout_index} is used, and is not there"
            for n in plan.nodes
            if n.layout_index not in range(len(layouts))
        ),
    ]


def _layout_violations(layout: NodeLayout, topology: NodeTopology, spec: LayoutSpec) -> list[str]:
    problems: list[str] = []
    free = topology.usable - spec.reserve
    owner: dict[int, int] = {}
    core_of = {cpu: core.logical_index for core in topology.cores for cpu in core.cpus}
    for i, local in enumerate(layout.ranks):
        if local.cpus is None:
            continue
        if not local.cpus:
            problems.append(f"local rank {i} is bound to no CPU")
        if not local.cpus.issubset(free):
            problems.append(f"local rank {i} is bound to CPUs {local.cpus - free}, which are not free for ranks")
        if spec.oversubscribe:
            continue
        for core in {core_of.get(cpu, ~cpu) for cpu in local.cpus}:
            if owner.setdefault(core, i) != i:
                problems.append(f"local ranks {owner[core]} and {i} share a core")
                break
    return problems


def check(plan: Plan) -> None:
    """Return if the plan holds.

    Raises:
        AssertionError: It does not: a mistake in rankmap, not in the request.
    """
    if problems := violations(plan):
        msg = "the planner made a plan that cannot hold: " + "; ".join(problems)
        raise AssertionError(msg)
