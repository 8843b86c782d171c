"""Which GPUs the running ranks' variables really show: looked up once more, by UUID, when they have been started."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.errors import AllocationError
from rankmap.verification import planned_uuids
from rankmap.visible_gpus import with_visible_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rankmap.node_plan import NodePlan
    from rankmap.placement import Plan
    from rankmap.runtime.rank_process import RankProcess
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["note_uuids", "shown_uuids"]


def note_uuids(plan: Plan | NodePlan, ranks: Iterable[RankProcess], all_gpus: Callable[[str], tuple[Gpu, ...]]) -> None:
    """Note for each rank that was started, and has GPUs whose UUIDs the plan knows, those that it really sees.

    Args:
        plan: What the ranks should see.
        ranks: What is known of them.
        all_gpus: Returns a vendor's GPUs as they are now; called once for each vendor.
    """
    now: dict[str, tuple[Gpu, ...]] = {}
    for rank in ranks:
        if rank.seen is None or rank.seen.variables is None or rank.seen.gpu_uuids is not None:
            continue
        placement = plan.rank(rank.number)
        if planned_uuids(placement, plan.allocation):
            topology = plan.allocation.topology(placement.node_index)
            vendor = topology.gpus[0].vendor
            if vendor not in now:
                now[vendor] = all_gpus(vendor)
            rank.seen = replace(rank.seen, gpu_uuids=shown_uuids(topology, now[vendor], rank.seen.variables))


def shown_uuids(topology: NodeTopology, gpus: Sequence[Gpu], variables: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the UUIDs of those GPUs that the variables show; None where nobody can tell.

    Variables that name what is not there show nothing: that is what the vendors' libraries make of them too.

    Args:
        topology: The node.
        gpus: All its GPUs as they are now; empty where nobody knows.
        variables: A rank's.
    """
    if not gpus:
        return None
    try:
        uuids = tuple(gpu.uuid for gpu in with_visible_gpus(replace(topology, gpus=tuple(gpus)), variables).gpus)
    except AllocationError:
        return ()
    return uuids if all(uuids) else None
