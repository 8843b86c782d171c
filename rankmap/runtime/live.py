"""The live allocation: what Dragon says of its nodes and what hwloc says of this host, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.devices import gpu_ids, is_instance
from rankmap.errors import AllocationError
from rankmap.runtime.live_gpus import agreed_gpus, dragon_ids, gpu_remark
from rankmap.topology import Allocation, Node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.job import JobRequest
    from rankmap.topology import NodeTopology

__all__ = ["live_allocation", "live_plan", "rank_places"]


def live_allocation(
    nodes: Sequence[Mapping[str, Any]], *, host: str, topology: NodeTopology, environ: Mapping[str, str]
) -> tuple[Allocation, dict[str, str]]:
    """Return the allocation of a runtime on this host, and Dragon's own name of each host by ours.

    Only the PUs that both Dragon and hwloc offer are usable, and the GPUs that both know (live_gpus.py). On one node
    Dragon calls the host "localhost"; the plan and the report say what it is really called.

    Args:
        nodes: As Dragon reports them (runtime/dragon.py, LiveNode).
        host: This host's name.
        topology: This host's topology.
        environ: The environment that the runtime was started in, or of a program in it.

    Raises:
        AllocationError: The runtime has other hosts than this one, or no CPU that both offer.
    """
    if len(nodes) != 1:
        names = ", ".join(node["name"] for node in nodes)
        msg = f"this Dragon runtime has {len(nodes)} nodes ({names}); rankmap launches on one so far"
        raise AllocationError(msg, hint="start the runtime with dragon -s, or leave starting it to rankmap launch")
    (node,) = nodes
    both = topology.restricted(CpuSet.of(node["cpus"]))
    if not both.usable:
        msg = f"{host}: Dragon may use CPUs {CpuSet.of(node['cpus'])}, hwloc allows {topology.usable}: none in common"
        raise AllocationError(msg, hint="check the cpuset of this job (taskset -p $$, /proc/self/status)")
    shape, uuids = agreed_gpus(both, node, environ).without_uuids()
    live = Node(host=host, shape_index=0, gpu_ids=dragon_ids(shape, node), gpu_uuids=uuids)
    return Allocation(shapes=(shape,), nodes=(live,)), {host: node["name"]}


def live_plan(
    request: JobRequest, nodes: Sequence[Mapping[str, Any]]
) -> tuple[Plan, list[tuple[str, list[int], list[str]]], str]:
    """Return the plan for the nodes that Dragon has, where it starts each rank, and what the user has to know of GPUs.

    Raises:
        RankmapError: The request does not fit them.
    """
    allocation, names = live_allocation(
        nodes, host=request.host, topology=request.topology, environ=request.gpu_variables
    )
    plan = request.plan_for(allocation)
    return plan, rank_places(plan, names), gpu_remark(plan, request.topology, nodes[0])


def rank_places(plan: Plan, names: Mapping[str, str]) -> list[tuple[str, list[int], list[str]]]:
    """Return Dragon's name of the node, the PU os indices and Dragon's ids of the GPUs of each rank, in rank order.

    A rank that the plan does not bind gets all that its node lets us use: Dragon reads no CPUs as all there are. GPUs
    that Dragon does not know (it has found no library of the vendor's, or they are instances of a divided one) are left
    to the variables that the rank gets.

    Args:
        plan: Where the ranks go.
        names: Dragon's names of hosts, where they differ from ours.
    """
    nodes = plan.allocation.nodes
    ids = [_dragon_ids(plan.allocation.topology(i), node.gpu_ids) for i, node in enumerate(nodes)]
    return [
        (
            names.get(placement.host, placement.host),
            list(placement.cpus or plan.allocation.topology(placement.node_index).usable),
            [of[gpu] for gpu in placement.gpus] if {*placement.gpus} <= {*(of := ids[placement.node_index])} else [],
        )
        for placement in plan.iter_ranks()
    ]


def _dragon_ids(topology: NodeTopology, dragon: Sequence[str] | None) -> dict[str, str]:
    """Return what Dragon calls each GPU of a node that it knows, by our id; the two count in the same order."""
    if any(is_instance(gpu) for gpu in topology.gpus):
        return {}
    return dict(zip(gpu_ids(topology), dragon or (), strict=False))
