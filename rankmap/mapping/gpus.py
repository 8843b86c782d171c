"""Ranks with GPUs: how many a node holds, and which rank gets which GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.devices import GPU_VARIABLES, gpu_environment, gpu_ids, is_instance, nearest
from rankmap.errors import AllocationError, PlacementError, RankmapError
from rankmap.layout_devices import GpuBind, GpuRule
from rankmap.layout_parts import Pattern
from rankmap.mapping.refusal import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.dealing import Site
    from rankmap.mapping.kinds import NodeKind
    from rankmap.placement import LocalPlacement
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["gpu_room", "having", "too_few_gpus", "with_gpus"]


def gpu_room(spec: LayoutSpec, n_gpus: int) -> int | None:
    """Return how many ranks so many GPUs are enough for; None is any number."""
    if not spec.n_gpus:
        return None
    if spec.n_gpus > n_gpus:
        return 0
    bind = spec.gpu_bind or GpuBind()
    if spec.share_gpus or bind.rule in {GpuRule.NONE, GpuRule.LIST}:
        if not _is_open(spec):
            return None
        return len(bind.lists) or n_gpus // spec.n_gpus
    return n_gpus * (spec.ranks_per_gpu or 1) // spec.n_gpus


def _is_open(spec: LayoutSpec) -> bool:
    """Return whether nothing says how many ranks there are: then there is one for each GPU, or list of GPUs."""
    in_turn = {Pattern.AUTO, Pattern.GPU, Pattern.NIC, Pattern.SLOT, Pattern.NODE, Pattern.OBJECT}
    return spec.n_ranks is None and spec.ranks_per_node is None and spec.map_by.pattern in in_turn


def too_few_gpus(spec: LayoutSpec, sites: Sequence[Site], allocation: Allocation) -> RankmapError:
    """Return the error for ranks that want more GPUs than any node has."""
    most = max(len(site.ground.gpus) for site in sites)
    shapes = [allocation.topology(site.node_index) for site in sites]
    if remarks := [shape.gpu_remark for shape in shapes if shape.gpu_remark and not shape.gpus]:
        return AllocationError(f"{spec}: {remarks[0]}", hint="or leave out what asks for GPUs")
    has = "no node has a free GPU"
    if most:
        has = f"no node has more than {counted(most, 'free GPU')}"
    hint = f"ask for {counted(most, 'GPU')} at most" if most else "see `rankmap topo`; leave out what asks for GPUs"
    return PlacementError(f"{spec}: {counted(spec.n_gpus, 'GPU')} for each rank, and {has}", hint=hint)


def with_gpus(kind: NodeKind, topology: NodeTopology, spec: LayoutSpec, host: str) -> NodeKind:
    """Return the kind with the GPUs of each rank; mapped by GPU, the ranks are then in the order of their GPUs.

    Raises:
        PlacementError: There are too few, a GPU that is listed is not there or not free, or a rank cannot use its own.
    """
    bind = spec.gpu_bind or GpuBind()
    in_order, hidden = spec.map_by.pattern is Pattern.GPU, bind.rule is not GpuRule.NONE
    if not spec.n_gpus or not (hidden or in_order):
        return kind
    ids = gpu_ids(topology)
    given = _listed(kind, ids, bind, spec, host) if bind.rule is GpuRule.LIST else _dealt(kind, topology, spec, bind)
    if given is None:
        n_ranks = counted(len(kind.ranks), "rank")
        asked = f"{n_ranks} with {counted(spec.n_gpus, 'GPU')} each"
        msg = f"{asked} on {host}, which has {counted(len(kind.ground.gpus), 'free GPU')}"
        raise PlacementError(msg, hint="ask for fewer ranks or GPUs, or --share-gpus")
    ranks = having(kind.ranks, topology, given, host) if hidden else kind.ranks
    order = list(range(len(ranks)))
    if in_order:
        order.sort(key=lambda i: min(given[i]))
    return kind.with_ranks(ranks, order)


def having(
    ranks: Sequence[LocalPlacement], topology: NodeTopology, given: Sequence[tuple[int, ...]], host: str
) -> tuple[LocalPlacement, ...]:
    """Return these ranks of a node with the GPUs that each is given, and the variables that show it those only.

    Args:
        ranks: The ranks.
        topology: The node.
        given: The GPUs of each, as positions in ``topology.gpus``.
        host: The node's name.

    Raises:
        PlacementError: There is an instance of a divided GPU (MIG) among several: CUDA shows a process one only.
    """
    for gpus in given:
        if len(gpus) > 1 and any(is_instance(topology.gpus[gpu]) for gpu in gpus):
            names = ",".join(gpu_ids(topology)[gpu] for gpu in gpus)
            msg = f"GPUs {names} of {host} for one rank: MIG instances, of which a CUDA process can use one only"
            raise PlacementError(msg, hint="--gpus-per-rank 1; or have MIG switched off (nvidia-smi -mig 0)")
    ids = gpu_ids(topology)
    return tuple(
        replace(
            rank,
            gpus=tuple(ids[gpu] for gpu in gpus),
            env=(
                *gpu_environment(topology, gpus),
                *((name, value) for name, value in rank.env if name not in GPU_VARIABLES),
            ),
        )
        for rank, gpus in zip(ranks, given, strict=True)
    )


def _dealt(kind: NodeKind, topology: NodeTopology, spec: LayoutSpec, bind: GpuBind) -> Sequence[tuple[int, ...]] | None:
    free, each, n_ranks = kind.ground.gpus, spec.n_gpus, len(kind.ranks)
    any_number = spec.share_gpus or bind.rule is GpuRule.NONE
    sharing = -(-n_ranks * each // max(len(free), 1)) if any_number else spec.ranks_per_gpu or 1
    if bind.rule in {GpuRule.CLOSEST, GpuRule.NONE}:
        blocks = [kind.ground.cpus(positions) for positions in kind.chosen]
        return nearest(topology, topology.gpus, blocks, each=each, free=free, sharing=sharing)
    if each > len(free) or n_ranks * each > sharing * len(free):
        return None
    return [tuple(free[(rank * each + i) % len(free)] for i in range(each)) for rank in range(n_ranks)]


def _listed(kind: NodeKind, ids: Sequence[str], bind: GpuBind, spec: LayoutSpec, host: str) -> list[tuple[int, ...]]:
    if len(bind.lists) < len(kind.ranks):
        msg = f"--gpu-bind {bind}: {counted(len(bind.lists), 'list')} for {counted(len(kind.ranks), 'rank')} on {host}"
        raise PlacementError(msg, hint="write the GPUs of each local rank, with colons between")
    free = {ids[gpu]: gpu for gpu in kind.ground.gpus}
    users: dict[str, int] = {}
    for rank, names in enumerate(bind.lists[: len(kind.ranks)]):
        for name in names:
            if name not in free:
                there = ",".join(free) or "none"
                msg = f"--gpu-bind {bind}: {host} has no free GPU {name}; it has {there}"
                raise PlacementError(msg)
            users[name] = users.get(name, 0) + 1
            if users[name] > (spec.ranks_per_gpu or 1) and not spec.share_gpus:
                msg = f"--gpu-bind {bind}: local rank {rank} shares GPU {name} with another"
                raise PlacementError(msg, hint="add --share-gpus if that is meant")
    return [tuple(free[name] for name in names) for names in bind.lists[: len(kind.ranks)]]
