"""The GPUs that rankmap plans with on a live node: those that hwloc and Dragon agree on, and what to say where not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rankmap.devices import GPU_MASKS, GPU_VARIABLES, is_instance
from rankmap.errors import AllocationError
from rankmap.gpu_makers import integrated, of_one_maker
from rankmap.visible_gpus import counted_gpus, vendor_of, without_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["agreed_gpus", "dragon_ids", "gpu_remark", "gpu_variables", "understood"]


def gpu_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this environment that say which GPUs a process sees."""
    return {name: environ[name] for name in GPU_VARIABLES if name in environ}


def understood(environ: Mapping[str, str], topology: NodeTopology) -> dict[str, str]:
    """Return the environment without masks that make no sense: on some of them Dragon ends its runtime.

    Args:
        environ: The caller's; the ranks get its variables of GPUs in any case.
        topology: This host as it is in this environment.
    """
    senseless = bool(topology.gpu_remark) and not topology.gpus
    return {name: value for name, value in environ.items() if not (senseless and name in GPU_MASKS)}


def agreed_gpus(topology: NodeTopology, node: Mapping[str, Any], environ: Mapping[str, str]) -> NodeTopology:
    """Return the node with the GPUs that both know.

    They are of one maker (gpu_makers.py): where there are several, of that whose GPUs Dragon knows. Where only Dragon
    knows of any, they are at no place that anybody knows, and none where the masks cannot be meant for them. Where
    Dragon knows of none it has found no library of the vendor's; it is not needed, because the ranks get their
    variables from rankmap. An instance of a divided GPU (MIG) is one that Dragon cannot see: CUDA shows it the first.

    Args:
        topology: As hwloc and the vendors' libraries have it, after the environment's masks.
        node: As Dragon reports it (runtime/dragon.py, LiveNode).
        environ: The environment that the runtime was started in.
    """
    ids = [str(gpu) for gpu in node["gpus"]]
    vendor = vendor_of(node["gpu_variable"])
    mine = of_one_maker(topology, vendor)
    if mine.gpu_remark and not mine.gpus:
        return mine
    if ids and all(vendor and gpu.vendor and gpu.vendor != vendor and integrated(gpu) for gpu in mine.gpus):
        try:
            return replace(mine, gpus=counted_gpus(vendor, ids, environ))
        except AllocationError as error:
            return without_gpus(mine, error)
    known = len(dragon_ids(mine, node))
    if known and known < len(mine.gpus) and not any(is_instance(gpu) for gpu in mine.gpus):
        return replace(mine, gpus=mine.gpus[:known])
    return mine


def dragon_ids(topology: NodeTopology, node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what Dragon calls the GPUs of a node that it knows; none where those that it knows are another maker's."""
    vendor = vendor_of(node["gpu_variable"])
    if any(vendor and gpu.vendor and gpu.vendor != vendor for gpu in topology.gpus):
        return ()
    return tuple(str(gpu) for gpu in node["gpus"])


def gpu_remark(plan: Plan, node_index: int, known: NodeTopology, node: Mapping[str, Any]) -> str:
    """Return what the user has to know of a plan's GPUs, "" for nothing: not all agree, or nobody knows where they are.

    Args:
        plan: The plan for the live nodes.
        node_index: The node's position in its allocation.
        known: The node as hwloc and the vendors' libraries have it.
        node: As Dragon reports it.
    """
    if not any(rank.gpus for layout in plan.layouts for rank in layout.ranks):
        return ""
    planned = plan.allocation.topology(node_index)
    mine = of_one_maker(known, vendor_of(node["gpu_variable"])).gpus
    return "; ".join(text for text in (planned.gpu_remark, _disagreement(planned, mine, node)) if text)


def _disagreement(planned: NodeTopology, known: Sequence[Gpu], node: Mapping[str, Any]) -> str:
    n_dragon = len(dragon_ids(planned, node))
    if all(not gpu.pci_address for gpu in planned.gpus):
        n_known = n_dragon or len(known)
        return (
            f"{n_known} GPUs here are known by their run-time library only: nobody knows which cores they are close to"
        )
    if n_dragon and n_dragon != len(known) and not any(is_instance(gpu) for gpu in known):
        both = min(n_dragon, len(known))
        return f"GPUs here: Dragon knows {n_dragon}, hwloc {len(known)}; the first {both} are used, which both know"
    return ""
