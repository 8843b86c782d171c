"""A saved plan on the nodes that there are now: the same, on hosts of other names, or refused with what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.devices import GPU_VARIABLES, gpu_ids
from rankmap.differences import differences, structural
from rankmap.errors import PlacementError
from rankmap.hostlist import fold
from rankmap.layout_memory import named_domains
from rankmap.mapping.gpus import having
from rankmap.nics import NIC_VARIABLES, high_speed, nic_environment, with_nic_mapping
from rankmap.placement import Plan
from rankmap.soundness import violations

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rankmap.placement import LocalPlacement, NodeLayout
    from rankmap.topology import Allocation, Node, NodeTopology

__all__ = ["replay"]

_MOST_LINES = 12


def replay(plan: Plan, live: Allocation) -> Plan:
    """Return the plan for the live nodes: every rank has the CPUs, GPUs and NICs that it was planned on.

    Where the live nodes have the plan's host names, each host keeps its ranks. Where they have none of them, the
    hosts that have ranks are matched with the live ones in order, which must be of the same shapes; a note says so.

    Raises:
        PlacementError: Something no longer fits; the message has every difference.
    """
    position = {node.host: i for i, node in enumerate(live.nodes)}
    planned = [plan.allocation.nodes[node.node_index] for node in plan.nodes]
    renamed = not any(node.host in position for node in planned)
    targets = list(range(len(live.nodes))) if renamed else [position.get(node.host, -1) for node in planned]
    problems = list(_missing(planned, targets, live))
    notes = list(plan.notes)
    if not problems:
        found: dict[tuple[int, int, int], list[str]] = {}
        for node, here, target in zip(plan.nodes, planned, targets, strict=False):
            key = here.shape_index, live.nodes[target].shape_index, node.layout_index
            if key not in found:
                found[key] = list(
                    _differences(
                        plan.allocation.shapes[here.shape_index],
                        live.topology(target),
                        plan.layouts[node.layout_index],
                        same_shape=renamed,
                    )
                )
            problems += [f"{live.nodes[target].host}: {what}" for what in found[key]]
    if problems:
        raise _does_not_fit(problems)
    if renamed:
        names = [live.nodes[target].host for target, _ in zip(targets, planned, strict=False)]
        notes.append(f"the plan's {fold([node.host for node in planned])} are {fold(names)} here")
    layouts: dict[tuple[int, int], int] = {}
    nodes = []
    for node, target in zip(plan.nodes, targets, strict=False):
        layout = node.layout_index, live.nodes[target].shape_index
        nodes.append(replace(node, node_index=target, layout_index=layouts.setdefault(layout, len(layouts))))
    made = Plan(
        allocation=live,
        parts=plan.parts,
        layouts=tuple(_on_shape(plan.layouts[index], shape, live) for index, shape in layouts),
        nodes=tuple(sorted(nodes, key=lambda node: node.node_index)),
        notes=tuple(notes),
    )
    if wrong := violations(made):
        raise _does_not_fit(wrong)
    return made


def _on_shape(layout: NodeLayout, shape_index: int, live: Allocation) -> NodeLayout:
    """Return the layout for a live node, each rank with the variables that show it its GPUs and NICs there.

    What GPUs are called follows from the mask in the environment, and it may be another one than planned in. NICs are
    counted among those of the node, which may have others beside them.

    Raises:
        PlacementError: A rank cannot use its GPUs together there.
    """
    topology = live.shapes[shape_index]
    host = next(node.host for node in live.nodes if node.shape_index == shape_index)
    ids = gpu_ids(topology)
    given = [tuple(ids.index(gpu) for gpu in rank.gpus) for rank in layout.ranks]
    ranks = [_with_nics(rank, topology) for rank in having(layout.ranks, topology, given, host)]
    return replace(layout, shape_index=shape_index, ranks=with_nic_mapping(topology, ranks))


def _with_nics(rank: LocalPlacement, topology: NodeTopology) -> LocalPlacement:
    """Return a rank with the variables that its NICs have on this node, after those of its GPUs as in a new plan."""
    names = [nic.name for nic in topology.nics]
    others = [(name, value) for name, value in rank.env if name not in NIC_VARIABLES]
    n_of_gpus = sum(name in GPU_VARIABLES for name, _ in others)
    nics = nic_environment(topology, [names.index(name) for name in rank.nics])
    return replace(rank, env=(*others[:n_of_gpus], *nics, *others[n_of_gpus:]))


def _does_not_fit(problems: Sequence[str]) -> PlacementError:
    left_out = len(problems) - _MOST_LINES
    lines = [*problems[:_MOST_LINES], *([f"and {left_out} more"] * (left_out > 0))]
    msg = "the plan does not fit the nodes that there are:\n  " + "\n  ".join(lines)
    return PlacementError(msg, hint="make it anew: rankmap plan ... --format json -o FILE")


def _missing(planned: Sequence[Node], targets: Sequence[int], live: Allocation) -> Iterable[str]:
    if len(targets) < len(planned):
        yield f"it needs {len(planned)} nodes, and there {'is' if len(targets) == 1 else 'are'} {len(targets)}"
    lacking = [node.host for node, target in zip(planned, targets, strict=False) if target < 0]
    if lacking:
        there = fold([node.host for node in live.nodes])
        yield f"{fold(lacking)} {'are' if len(lacking) > 1 else 'is'} not there; there is {there}"


def _differences(planned: NodeTopology, live: NodeTopology, layout: NodeLayout, *, same_shape: bool) -> Iterable[str]:
    """Yield what a node has not that ranks were planned on.

    Under its own name a node may have other NICs and another amount of memory, but no other cores or domains.
    """
    given = replace(planned, usable=CpuSet(), gpus=planned.gpus if any(rank.gpus for rank in layout.ranks) else ())
    unlike = list(differences(given, live, "planned") if same_shape else structural(given, live, "planned"))
    if unlike:
        yield f"another kind of node than planned for: {'; '.join(unlike)}"
        return
    allowed = CpuSet.of(domain.os_index for domain in live.numa_domains if domain.allowed)
    nics = [live.nics[i].name for i in high_speed(live)]
    for i, local in enumerate(layout.ranks):
        if taken := named_domains(local.mem or "") - allowed:
            yield f"local rank {i} was planned with memory {local.mem}; NUMA domain {taken} is not allowed here"
        if local.cpus is not None and (absent := local.cpus - live.usable):
            yield f"local rank {i} was planned on CPUs {local.cpus}; {absent} are not usable"
        if absent_gpus := [gpu for gpu in local.gpus if gpu not in gpu_ids(live)]:
            yield f"local rank {i} was planned with GPU {','.join(absent_gpus)}; there are {len(live.gpus)} GPUs"
        if absent_nics := [name for name in local.nics if name not in nics]:
            names = ", ".join(nics) or "none"
            what = f"NIC {','.join(absent_nics)}; the high-speed NICs with a link are {names}"
            yield f"local rank {i} was planned with {what}"
