"""Ranks with GPUs: how many a node holds, cores next to the GPUs, and which rank gets which GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.devices import gpu_environment, gpu_ids, is_instance, nearest_gpus
from rankmap.errors import PlacementError
from rankmap.layout_devices import GpuBind, GpuRule
from rankmap.layout_parts import Pattern
from rankmap.mapping.apportion import proportional
from rankmap.mapping.default import arrange, capacity
from rankmap.mapping.refusal import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.kinds import NodeKind
    from rankmap.processors import Domain, Ground, Processor
    from rankmap.topology import NodeTopology

__all__ = ["beside_gpus", "gpu_room", "require_usable_together", "with_gpus"]


def gpu_room(spec: LayoutSpec, n_gpus: int) -> int | None:
    """Return how many ranks so many GPUs are enough for; None is any number."""
    if not spec.n_gpus:
        return None
    if spec.n_gpus > n_gpus:
        return 0
    if spec.share_gpus or (spec.gpu_bind is not None and spec.gpu_bind.rule in {GpuRule.NONE, GpuRule.LIST}):
        return None
    return n_gpus * (spec.ranks_per_gpu or 1) // spec.n_gpus


def beside_gpus(
    ground: Ground, topology: NodeTopology, spec: LayoutSpec, count: int
) -> list[tuple[Processor, ...]] | None:
    """Return the processors of each rank of a node, all near the GPUs of the node; None where that does not work out.

    The ranks go to the homes of the GPUs (the processors that a GPU is close to) in proportion to their GPUs, and have
    processors of one home only. It does not work out where nobody knows what a GPU is close to, where the processors
    of a home are all those of others too, or where they are too few.
    """
    homes = _homes(ground, topology)
    if homes is None:
        return None
    size = spec.processors_per_rank
    weights = [n_gpus for _, n_gpus in homes]
    room = [capacity(_domains(ground, home), cpus_per_rank=size) for home, _ in homes]
    if not spec.share_gpus:
        sharing = spec.ranks_per_gpu or 1
        room = [min(held, n * sharing // spec.n_gpus) for held, n in zip(room, weights, strict=True)]
    if sum(room) < count:
        return None
    counts = proportional(count, weights=weights, low=[0] * len(room), high=room)
    blocks: list[tuple[Processor, ...]] = []
    for (home, _), n in zip(homes, counts, strict=True):
        if n:
            blocks += arrange(_domains(ground, home), n_ranks=n, cpus_per_rank=size)
    return blocks


def _homes(ground: Ground, topology: NodeTopology) -> list[tuple[set[int], int]] | None:
    """Return the homes in the order of their first processor, as positions, each with its number of GPUs."""
    members: dict[tuple[int, ...], int] = {}
    for i in ground.gpus:
        gpu = topology.gpus[i]
        near = tuple(p for p, one in enumerate(ground.processors) if not one.cpus.isdisjoint(gpu.cpus))
        if not near:
            sets = [d.cpus for d in topology.numa_domains if d.local and d.os_index in gpu.numa]
            near = tuple(
                p for p, one in enumerate(ground.processors) if any(not one.cpus.isdisjoint(cpus) for cpus in sets)
            )
        if not near:
            return None
        members[near] = members.get(near, 0) + 1
    taken: set[int] = set()
    homes = []
    for near, n_gpus in sorted(members.items(), key=lambda item: len(item[0])):
        own = set(near) - taken
        if not own:
            return None
        taken |= own
        homes.append((own, n_gpus))
    return sorted(homes, key=lambda home: min(home[0]))


def _domains(ground: Ground, home: set[int]) -> list[Domain]:
    """Return the ground's domains without the processors that are not in this home."""
    wanted = {id(ground.processors[position]) for position in home}
    parts = [tuple(one for one in domain if id(one) in wanted) for domain in ground.domains]
    return [part for part in parts if part]


def with_gpus(kind: NodeKind, topology: NodeTopology, spec: LayoutSpec, host: str) -> NodeKind:
    """Return the kind with the GPUs of each rank; mapped by GPU, the ranks are then in the order of their GPUs.

    Raises:
        PlacementError: There are too few, a GPU that is listed is not there or not free, or a rank cannot use its own.
    """
    bind = spec.gpu_bind or GpuBind()
    if not spec.n_gpus or bind.rule is GpuRule.NONE:
        return kind
    ids = gpu_ids(topology)
    given = _listed(kind, ids, bind, spec, host) if bind.rule is GpuRule.LIST else _dealt(kind, topology, spec, bind)
    if given is None:
        n_ranks = counted(len(kind.ranks), "rank")
        asked = f"{n_ranks} with {counted(spec.n_gpus, 'GPU')} each"
        msg = f"{asked} on {host}, which has {counted(len(kind.ground.gpus), 'free GPU')}"
        raise PlacementError(msg, hint="ask for fewer ranks or GPUs, or --share-gpus")
    require_usable_together(topology, given, host)
    ranks = [
        replace(rank, gpus=tuple(ids[gpu] for gpu in gpus), env=gpu_environment(topology, gpus))
        for rank, gpus in zip(kind.ranks, given, strict=True)
    ]
    order = list(range(len(ranks)))
    if spec.map_by.pattern is Pattern.GPU:
        order.sort(key=lambda i: min(given[i]))
    return replace(
        kind,
        chosen=tuple(kind.chosen[i] for i in order),
        objects=tuple(kind.objects[i] for i in order),
        ranks=tuple(ranks[i] for i in order),
    )


def require_usable_together(topology: NodeTopology, given: Sequence[tuple[int, ...]], host: str) -> None:
    """Raise unless one process can use all the GPUs that it is given, as positions in ``topology.gpus``.

    Raises:
        PlacementError: There is an instance of a divided GPU (MIG) among several: CUDA shows a process one only.
    """
    for gpus in given:
        if len(gpus) > 1 and any(is_instance(topology.gpus[gpu]) for gpu in gpus):
            names = ",".join(gpu_ids(topology)[gpu] for gpu in gpus)
            msg = f"GPUs {names} of {host} for one rank: MIG instances, of which a CUDA process can use one only"
            raise PlacementError(msg, hint="--gpus-per-rank 1; or have MIG switched off (nvidia-smi -mig 0)")


def _dealt(kind: NodeKind, topology: NodeTopology, spec: LayoutSpec, bind: GpuBind) -> Sequence[tuple[int, ...]] | None:
    free, each, n_ranks = kind.ground.gpus, spec.n_gpus, len(kind.ranks)
    sharing = -(-n_ranks * each // max(len(free), 1)) if spec.share_gpus else spec.ranks_per_gpu or 1
    if bind.rule is GpuRule.CLOSEST:
        blocks = [kind.ground.cpus(positions) for positions in kind.chosen]
        return nearest_gpus(topology, blocks, each=each, free=free, sharing=sharing)
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
