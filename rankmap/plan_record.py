"""The JSON form of a plan (``rankmap.plan/1``).

It holds all that a replay needs: the request, the nodes, the layouts and the shapes with their digests. Nodes in a
row that are alike are one entry, so its size follows nodes and shapes, not ranks. Equal plans give equal bytes, and
what is read back is checked like a new plan.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from rankmap.codec import Json, decode, encode
from rankmap.errors import UsageError
from rankmap.placement import NodeLayout, Part, Plan, PlannedNode
from rankmap.runs import Run, shifted
from rankmap.soundness import violations
from rankmap.topology import Allocation, Node, NodeTopology

__all__ = ["PLAN_SCHEMA", "from_json", "to_json", "topology_digest"]

PLAN_SCHEMA = "rankmap.plan/1"


def to_json(plan: Plan) -> str:
    """Return the plan as one line of JSON, schema ``rankmap.plan/1``; equal plans give equal text."""
    shapes: list[Json] = [{"digest": topology_digest(s), "topology": encode(s)} for s in plan.allocation.shapes]
    data: dict[str, Json] = {
        "schema": PLAN_SCHEMA,
        "n_ranks": plan.n_ranks,
        "parts": encode(plan.parts),
        "notes": encode(plan.notes),
        "nodes": encode(_node_rows(plan)),
        "layouts": encode(plan.layouts),
        "shapes": shapes,
    }
    return json.dumps(data, separators=(",", ":"))


def from_json(text: str) -> Plan:
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
class _NodeRow:
    """Nodes in a row that are alike.

    ``ranks`` are those of the first, ``step`` is what those of each next one are larger by. ``layout`` is None for
    nodes without ranks.
    """

    hosts: tuple[str, ...]
    shape: int
    gpu_ids: tuple[str, ...] | None
    gpu_uuids: tuple[str, ...]
    layout: int | None
    ranks: tuple[Run, ...]
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    digest: str
    topology: NodeTopology


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanRecord:
    """The JSON form, field by field."""

    schema: str
    n_ranks: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    nodes: tuple[_NodeRow, ...]
    layouts: tuple[NodeLayout, ...]
    shapes: tuple[_Shape, ...]


def _node_rows(plan: Plan) -> tuple[_NodeRow, ...]:
    planned = {node.node_index: node for node in plan.nodes}
    rows: list[tuple[_NodeRow, list[str]]] = []
    before: tuple[Run, ...] = ()
    for i, node in enumerate(plan.allocation.nodes):
        here = planned.get(i)
        runs = here.runs if here else ()
        row = _NodeRow(
            hosts=(),
            shape=node.shape_index,
            gpu_ids=node.gpu_ids,
            gpu_uuids=node.gpu_uuids,
            layout=here.layout_index if here else None,
            ranks=runs,
            step=0,
        )
        if rows and (step := _follows(rows[-1], row, before)) is not None:
            rows[-1][1].append(node.host)
            if len(rows[-1][1]) == 2:  # noqa: PLR2004 - the second one says how far apart they are
                rows[-1] = (replace(rows[-1][0], step=step), rows[-1][1])
        else:
            rows.append((row, [node.host]))
        before = runs
    return tuple(replace(row, hosts=tuple(hosts)) for row, hosts in rows)


def _follows(last: tuple[_NodeRow, list[str]], row: _NodeRow, before: tuple[Run, ...]) -> int | None:
    """Return how much larger the ranks of this row's node are than those before it, None when it is not alike."""
    first, hosts = last
    if row.shape != first.shape or row.layout != first.layout:
        return None
    if (row.gpu_ids, row.gpu_uuids) != (first.gpu_ids, first.gpu_uuids):
        return None
    if not row.ranks:
        return 0
    step = row.ranks[0].first - before[0].first
    alike = len(hosts) == 1 or step == first.step
    return step if alike and row.ranks == shifted(before, step) else None


def _read(data: Json) -> Plan:
    record = decode(_PlanRecord, data, where="plan")
    for i, shape in enumerate(record.shapes):
        if shape.digest != topology_digest(shape.topology):
            msg = f"plan.shapes[{i}].digest does not belong to its topology: the plan was changed by hand"
            raise UsageError(msg, hint=_HINT)
    nodes: list[Node] = []
    planned: list[PlannedNode] = []
    for i, row in enumerate(record.nodes):
        if row.layout not in (None, *range(len(record.layouts))) or (row.layout is None) != (not row.ranks):
            msg = f"plan.nodes[{i}] has layout {row.layout} and {len(row.ranks)} runs of ranks: no such layout"
            raise UsageError(msg, hint=_HINT)
        for k, host in enumerate(row.hosts):
            if row.layout is not None:
                runs = shifted(row.ranks, k * row.step)
                planned.append(PlannedNode(node_index=len(nodes), layout_index=row.layout, runs=runs))
            nodes.append(Node(host=host, shape_index=row.shape, gpu_ids=row.gpu_ids, gpu_uuids=row.gpu_uuids))
    plan = Plan(
        allocation=Allocation(shapes=tuple(shape.topology for shape in record.shapes), nodes=tuple(nodes)),
        parts=record.parts,
        layouts=record.layouts,
        nodes=tuple(planned),
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
