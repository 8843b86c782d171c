"""Whether a plan can hold at all, whatever the layout rule that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.runs import expand, length

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.placement import NodeLayout, Plan, PlannedNode
    from rankmap.runs import Run
    from rankmap.topology import NodeTopology

__all__ = ["check", "violations"]

_MAX_RANKS = 2**31 - 1


def violations(plan: Plan) -> list[str]:
    """Return what is wrong with the plan, whatever the layout rule; empty for every plan that may be used.

    Ranks are 0 to n-1; every node index, layout and shape exists and belongs together; CPUs are usable, not reserved
    and not an empty set; every rank of a node can have a core of its own, unless the request allows less.
    """
    if problems := _dangling(plan):
        return problems
    seen: set[int] = set()
    n_ranks = 0
    for planned in plan.nodes:
        layout = plan.layouts[planned.layout_index]
        node = plan.allocation.nodes[planned.node_index]
        n_here = length(planned.runs)
        n_ranks += n_here
        if n_here != len(layout.ranks):
            problems.append(f"{node.host} has {n_here} ranks and a layout for {len(layout.ranks)}")
        if planned.node_index in seen:
            problems.append(f"{node.host} is planned twice")
        if node.shape_index != layout.shape_index:
            problems.append(f"{node.host} has a layout for another shape")
        seen.add(planned.node_index)
        for run in planned.runs:
            if run.size < 1 or run.blocks < 1:
                problems.append(f"{node.host} has an empty run of ranks")
    if problems:
        return problems
    return _numbering(plan, n_ranks) or _part_sizes(plan, n_ranks) or _bindings(plan)


def _bindings(plan: Plan) -> list[str]:
    problems: list[str] = []
    done: set[int] = set()
    for planned in plan.nodes:
        if planned.layout_index not in done:
            done.add(planned.layout_index)
            layout = plan.layouts[planned.layout_index]
            specs = _specs(plan, planned, len(layout.ranks))
            problems += _layout_violations(layout, plan.allocation.shapes[layout.shape_index], specs)
    return problems


def _specs(plan: Plan, planned: PlannedNode, n_ranks: int) -> list[LayoutSpec]:
    """Return the request that each local rank of a node belongs to."""
    if len(plan.parts) == 1:
        return [plan.parts[0].spec] * n_ranks
    return [plan.parts[plan.part_of(rank)].spec for rank in expand(planned.runs)]


def _numbering(plan: Plan, n_ranks: int) -> list[str]:
    """Return what is wrong with the rank numbers, which have to be 0 to n-1, each once."""
    if not n_ranks:
        return ["it has no ranks"]
    if n_ranks > _MAX_RANKS:
        return [f"it has {n_ranks} ranks, more than MPI counts"]
    taken = bytearray(n_ranks)
    for planned in plan.nodes:
        for run in planned.runs:
            last = run.first + run.stride * (run.blocks - 1) + run.size - 1
            if run.first < 0 or last >= n_ranks or (run.blocks > 1 and run.stride < run.size):
                host = plan.allocation.nodes[planned.node_index].host
                return [f"{host} has ranks {run.first} to {last}, the job 0 to {n_ranks - 1}"]
            for part in _slices(run):
                before = taken[part]
                if 1 in before:
                    host = plan.allocation.nodes[planned.node_index].host
                    rank = part.start + part.step * before.index(1)
                    return [f"{host} has rank {rank}, which another node or run has too"]
                taken[part] = b"\1" * len(before)
    return []


def _slices(run: Run) -> Iterable[slice]:
    """Return slices that hold the run's numbers: its one block, or the i-th number of every block at once."""
    if run.blocks == 1:
        return (slice(run.first, run.first + run.size, 1),)
    stop = run.first + run.stride * (run.blocks - 1) + 1
    return (slice(run.first + i, stop + i, run.stride) for i in range(run.size))


def _dangling(plan: Plan) -> list[str]:
    """Return which indices of the plan lead nowhere."""
    n_shapes, n_nodes, n_layouts = len(plan.allocation.shapes), len(plan.allocation.nodes), len(plan.layouts)
    problems = [
        f"{node.host} has shape {node.shape_index}, which is not there"
        for node in plan.allocation.nodes
        if not 0 <= node.shape_index < n_shapes
    ]
    problems += [
        f"{node.host} has {len(node.gpu_uuids)} UUIDs for {len(plan.allocation.shapes[node.shape_index].gpus)} GPUs"
        for node in plan.allocation.nodes
        if node.gpu_uuids
        and 0 <= node.shape_index < n_shapes
        and len(node.gpu_uuids) != len(plan.allocation.shapes[node.shape_index].gpus)
    ]
    for i, layout in enumerate(plan.layouts):
        if not 0 <= layout.shape_index < n_shapes:
            problems.append(f"layout {i} is for shape {layout.shape_index}, which is not there")
        if not layout.ranks:
            problems.append(f"layout {i} has no ranks")
    for planned in plan.nodes:
        if not 0 <= planned.node_index < n_nodes:
            problems.append(f"node {planned.node_index} is planned, and is not there")
        if not 0 <= planned.layout_index < n_layouts:
            problems.append(f"layout {planned.layout_index} is used, and is not there")
    return problems


def _part_sizes(plan: Plan, n_ranks: int) -> list[str]:
    asked = sum(part.n_ranks for part in plan.parts)
    if not plan.parts or any(part.n_ranks < 1 for part in plan.parts):
        return ["it has a part without ranks"] if plan.parts else ["it has no parts"]
    return [f"its parts have {asked} ranks, its nodes {n_ranks}"] if asked != n_ranks else []


def _layout_violations(layout: NodeLayout, topology: NodeTopology, specs: Sequence[LayoutSpec]) -> list[str]:
    """Return what is wrong with a layout of ranks, given the request of each."""
    problems: list[str] = []
    for i, (local, spec) in enumerate(zip(layout.ranks, specs, strict=True)):
        if local.cpus is None:
            continue
        if not local.cpus:
            problems.append(f"local rank {i} is bound to no CPU")
        kept = spec.kept_free(topology)
        if local.cpus.mask & kept.mask or not local.cpus.issubset(topology.usable):
            free = topology.usable - kept
            problems.append(f"local rank {i} is bound to CPUs {local.cpus - free}, which are not free for ranks")
    distinct = list({id(spec): spec for spec in specs}.values())
    if not any(spec.may_share for spec in distinct):
        problems += _overloads(layout, topology, distinct)
    return problems


def _overloads(layout: NodeLayout, topology: NodeTopology, specs: Sequence[LayoutSpec]) -> list[str]:
    """Return which ranks have too few cores (PUs, where a part asked for these) to each have one of its own.

    Ranks may be bound to the same CPUs, as when each may use all of the object that it was mapped to; but in no set
    of CPUs may there be more ranks that are bound within it than it has cores.
    """
    threads = any(spec.threads for spec in specs)
    core_of = {} if threads else {cpu: core.logical_index for core in topology.cores for cpu in core.cpus}
    ranks_in: dict[CpuSet, list[int]] = {}
    for i, local in enumerate(layout.ranks):
        if local.cpus:
            ranks_in.setdefault(local.cpus, []).append(i)
    owner: dict[int, CpuSet] = {}
    apart = True
    for cpus, ranks in ranks_in.items():
        in_set = {core_of.get(cpu, ~cpu) for cpu in cpus}
        if len(ranks) > len(in_set):
            return [f"local ranks {CpuSet.of(ranks)} share CPUs {cpus}, which are {len(in_set)} cores"]
        apart = apart and all(owner.setdefault(core, cpus) == cpus for core in in_set)
    if apart:
        return []
    # Sets that overlap: each rank needs a core of its own, one after the other; narrow sets have the least choice.
    given: dict[int, int] = {}
    for cpus in sorted(ranks_in, key=len):
        for rank in ranks_in[cpus]:
            cores = sorted({core_of.get(cpu, ~cpu) for cpu in cpus})
            if not _find_core(rank, cores, given, layout, core_of, set()):
                return [f"local rank {rank} has no core of its own in CPUs {cpus}"]
    return []


def _find_core(
    rank: int,
    cores: Sequence[int],
    given: dict[int, int],
    layout: NodeLayout,
    core_of: Mapping[int, int],
    tried: set[int],
) -> bool:
    """Give the rank a core, moving others to other cores of theirs where need be (Kuhn's bipartite matching)."""
    for core in cores:
        if core in tried:
            continue
        tried.add(core)
        other = given.get(core)
        if other is None:
            given[core] = rank
            return True
        others = layout.ranks[other].cpus
        assert others is not None  # noqa: S101 - only bound ranks are given cores
        if _find_core(other, sorted({core_of.get(c, ~c) for c in others}), given, layout, core_of, tried):
            given[core] = rank
            return True
    return False


def check(plan: Plan) -> None:
    """Return if the plan holds.

    Raises:
        AssertionError: It does not: a mistake in rankmap, not in the request.
    """
    if problems := violations(plan):
        msg = "the planner made a plan that cannot hold: " + "; ".join(problems)
        raise AssertionError(msg)
