"""The live allocation: what Dragon says of its nodes and what hwloc says of this host, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.devices import gpu_ids, is_instance
from rankmap.errors import AllocationError
from rankmap.hostlist import fold
from rankmap.runtime.live_gpus import agreed_gpus, dragon_ids, gpu_remark
from rankmap.topology import Allocation, Node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.job import JobRequest
    from rankmap.topology import NodeTopology

__all__ = ["live_allocation", "live_plan", "rank_places"]


def live_allocation(
    nodes: Sequence[Mapping[str, Any]], hosts: Sequence[HostFacts], *, environ: Mapping[str, str]
) -> tuple[Allocation, dict[str, str]]:
    """Return the allocation of a runtime on these hosts, in their order, and Dragon's own name of each host by ours.

    Only the PUs that both Dragon and hwloc offer are usable, and the GPUs that both know (live_gpus.py). On one node
    Dragon calls the host "localhost"; the plan and the report say what it is really called.

    Args:
        nodes: As Dragon reports them (runtime/dragon.py, LiveNode).
        hosts: Those of the job.
        environ: The environment that the runtime was started in, or of a program in it.

    Raises:
        AllocationError: The runtime lacks one of these hosts, or a CPU that both offer.
    """
    of_host = _nodes_of(nodes, hosts)
    shapes: dict[NodeTopology, int] = {}
    known: dict[tuple[Any, ...], tuple[NodeTopology, tuple[str, ...]]] = {}
    live = []
    for host in hosts:
        node = of_host[host.name]
        key = (host.topology, tuple(node["cpus"]), tuple(map(str, node["gpus"])), node["gpu_variable"])
        if key not in known:
            known[key] = _usable(host, node, environ)
        shape, uuids = known[key]
        index = shapes.setdefault(shape, len(shapes))
        live.append(Node(host=host.name, shape_index=index, gpu_ids=dragon_ids(shape, node), gpu_uuids=uuids))
    names = {name: node["name"] for name, node in of_host.items()}
    return Allocation(shapes=tuple(shapes), nodes=tuple(live)), names


def _nodes_of(nodes: Sequence[Mapping[str, Any]], hosts: Sequence[HostFacts]) -> dict[str, Mapping[str, Any]]:
    """Return Dragon's node of each host, by our name of it."""
    if len(nodes) == len(hosts) == 1:
        return {hosts[0].name: nodes[0]}
    by_name = {node["name"]: node for node in nodes}
    found = {host.name: by_name.get(host.own_name, by_name.get(host.name)) for host in hosts}
    missing = [name for name, node in found.items() if node is None]
    if missing:
        there, wanted = f"{len(nodes)} nodes ({fold(by_name)})", f"{len(hosts)} hosts"
        msg = f"the Dragon runtime has {there}, the job {wanted}: none for {fold(missing)}"
        raise AllocationError(msg, hint="-v shows what Dragon says while it starts")
    return {name: node for name, node in found.items() if node is not None}


def _usable(
    host: HostFacts, node: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[NodeTopology, tuple[str, ...]]:
    both = host.topology.restricted(CpuSet.of(node["cpus"]))
    if not both.usable:
        usable = host.topology.usable
        msg = f"{host.name}: Dragon may use CPUs {CpuSet.of(node['cpus'])}, hwloc allows {usable}: none in common"
        raise AllocationError(msg, hint="check the cpuset of this job (taskset -p $$, /proc/self/status)")
    return agreed_gpus(both, node, environ).without_uuids()


def live_plan(
    request: JobRequest, hosts: Sequence[HostFacts], nodes: Sequence[Mapping[str, Any]]
) -> tuple[Plan, list[tuple[str, list[int], list[str]]], list[str]]:
    """Return the plan for the nodes that Dragon has, where it starts each rank, and what the user has to know of GPUs.

    Raises:
        RankmapError: The request does not fit them.
    """
    allocation, names = live_allocation(nodes, hosts, environ=request.gpu_variables)
    plan = request.plan_for(allocation)
    of_host = _nodes_of(nodes, hosts)
    remarks: dict[str, list[str]] = {}
    for index, host in enumerate(hosts):
        if remark := gpu_remark(plan, index, host.topology, of_host[host.name]):
            remarks.setdefault(remark, []).append(host.name)
    said = [remark if len(hosts) == 1 else f"{fold(where)}: {remark}" for remark, where in remarks.items()]
    return plan, rank_places(plan, names), said


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
