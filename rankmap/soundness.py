"""Whether a plan can hold at all, whatever the layout rule that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.runs import length

if TYPE_CHECKING:
    from rankmap.layout import LayoutSpec
    from rankmap.placement import NodeLayout, Plan
    from rankmap.topology import NodeTopology

__all__ = ["check", "violations"]

_MAX_RANKS = 2**31 - 1


def violations(plan: Plan) -> list[str]:
    """Return what is wrong with the plan, whatever the layout rule; empty for every plan that may be used.

    Ranks are 0 to n-1; every node index, layout and shape exists and belongs together; CPUs are usable, not reserved
    and not an empty set; no two ranks of a node share a core unless the request allows it.
    """
    if problems := _dangling(plan):
        return problems
    seen: set[int] = set()
    for planned in plan.nodes:
        layout = plan.layouts[planned.layout_index]
        node = plan.allocation.nodes[planned.node_index]
        if length(planned.runs) != len(layout.ranks):
            problems.append(f"{node.host} has {length(planned.runs)} ranks and a layout for {len(layout.ranks)}")
        if planned.node_index in seen:
            problems.append(f"{node.host} is planned twice")
        if node.shape_index != layout.shape_index:
            problems.append(f"{node.host} has a layout for another shape")
        seen.add(planned.node_index)
        if any(run.size < 1 or run.blocks < 1 for run in planned.runs):
            problems.append(f"{node.host} has an empty run of ranks")
    if problems:
        return problems
    problems = _numbering(plan)
    for layout in plan.layouts:
        problems += _layout_violations(layout, plan.allocation.shapes[layout.shape_index], plan.spec)
    return problems


def _numbering(plan: Plan) -> list[str]:
    """Return what is wrong with the rank numbers, which have to be 0 to n-1, each once."""
    n_ranks = plan.n_ranks
    if not n_ranks:
        return ["it has no ranks"]
    if n_ranks > _MAX_RANKS:
        return [f"it has {n_ranks} ranks, more than MPI counts"]
    taken = bytearray(n_ranks)
    for planned in plan.nodes:
        host = plan.allocation.nodes[planned.node_index].host
        for run in planned.runs:
            last = run.first + run.stride * (run.blocks - 1) + run.size - 1
            if run.first < 0 or last >= n_ranks or (run.blocks > 1 and run.stride < run.size):
                return [f"{host} has ranks {run.first} to {last}, the job 0 to {n_ranks - 1}"]
            stride = run.stride or 1
            for i in range(run.size if run.blocks > 1 else 1):
                # the i-th number of every block at once; a single block is one slice
                first = run.first + i
                part = slice(first, first + stride * (run.blocks - 1) + 1, stride)
                if run.blocks == 1:
                    part = slice(first, first + run.size, 1)
                before = taken[part]
                if any(before):
                    rank = part.start + part.step * before.index(1)
                    return [f"{host} has rank {rank}, which another node or run has too"]
                taken[part] = b"\1" * len(before)
    return []


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
