"""The GPUs that rankmap plans with on a live node: those that hwloc and Dragon agree on, and what to say where not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rankmap.devices import GPU_VARIABLES, is_instance
from rankmap.visible_gpus import counted_gpus, vendor_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["agreed_gpus", "gpu_remark", "gpu_variables"]


def gpu_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this environment that say which GPUs a process sees."""
    return {name: environ[name] for name in GPU_VARIABLES if name in environ}


def agreed_gpus(topology: NodeTopology, node: Mapping[str, Any], environ: Mapping[str, str]) -> NodeTopology:
    """Return the node with the GPUs that both know.

    Where only Dragon knows of any, they are at no place that anybody knows. Where Dragon knows of none it has found no
    library of the vendor's; it is not needed, because the ranks get their variables from rankmap. An instance of a
    divided GPU (MIG) is one that Dragon cannot see: CUDA shows it the first.

    Args:
        topology: As hwloc and the vendors' libraries have it, after the environment's masks.
        node: As Dragon reports it (runtime/dragon.py, LiveNode).
        environ: The environment that the runtime was started in.

    Raises:
        AllocationError: Only Dragon knows of GPUs, and the masks in the environment cannot be meant for them.
    """
    ids = [str(gpu) for gpu in node["gpus"]]
    if not topology.gpus and ids:
        return replace(topology, gpus=counted_gpus(vendor_of(node["gpu_variable"]), ids, environ))
    if ids and len(ids) < len(topology.gpus) and not any(is_instance(gpu) for gpu in topology.gpus):
        return replace(topology, gpus=topology.gpus[: len(ids)])
    return topology


def gpu_remark(plan: Plan, known: Sequence[Gpu], node: Mapping[str, Any]) -> str:
    """Return what the user has to know of a plan's GPUs, "" for nothing: not all agree, or nobody knows where they are.

    Args:
        plan: The plan for the live node.
        known: Its GPUs as hwloc and the vendors' libraries have them.
        node: As Dragon reports it.
    """
    if not any(rank.gpus for layout in plan.layouts for rank in layout.ranks):
        return ""
    n_dragon = len(node["gpus"])
    if all(not gpu.pci_address for gpu in plan.allocation.topology(0).gpus):
        n_known = n_dragon or len(known)
        return (
            f"{n_known} GPUs here are known by their run-time library only: nobody knows which cores they are close to"
        )
    if n_dragon and n_dragon != len(known) and not any(is_instance(gpu) for gpu in known):
        both = min(n_dragon, len(known))
        return f"GPUs here: Dragon knows {n_dragon}, hwloc {len(known)}; the first {both} are used, which both know"
    return ""
