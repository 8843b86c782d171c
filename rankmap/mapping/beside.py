"""Cores next to the devices of a node, for ranks that are placed by their GPUs or NICs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rankmap.devices import gpu_ids, near_cpus
from rankmap.layout_devices import GpuBind, GpuRule
from rankmap.layout_parts import Pattern
from rankmap.mapping.apportion import proportional
from rankmap.mapping.default import arrange, capacity
from rankmap.nics import high_speed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.processors import Domain, Ground, Processor
    from rankmap.topology import Gpu, Nic, NodeTopology

__all__ = ["beside", "placed_by"]


def placed_by(spec: LayoutSpec) -> str:
    """Return which devices the default layout puts ranks next to: "GPU" where they have some, else "NIC", else ""."""
    if spec.n_gpus:
        return "GPU"
    return "NIC" if spec.map_by.pattern is Pattern.NIC else ""


def beside(ground: Ground, topology: NodeTopology, spec: LayoutSpec, count: int) -> list[tuple[Processor, ...]] | None:
    """Return the processors of each rank of a node, all near the node's devices; None where that does not work out.

    The ranks go to the homes of the devices (the processors that a device is close to) in proportion to their devices,
    and have processors of one home only; where the request says which rank has which GPU, to the home of that. Devices
    that are close to no processor that ranks may have, or to nobody knows which, are at home on what the others leave.
    It does not work out where that is nothing, where the processors of a home are all those of others too, or where
    they are too few. GPUs are shared as far as was asked for, NICs by all.
    """
    by_gpu = placed_by(spec) == "GPU"
    devices: Sequence[Gpu | Nic] = [topology.gpus[i] for i in ground.gpus]
    if not by_gpu:
        devices = [topology.nics[i] for i in high_speed(topology)]
    homes = _homes(ground, topology, devices)
    if homes is None:
        return None
    size = spec.processors_per_rank
    room = [capacity(_domains(ground, home.processors), cpus_per_rank=size) for home in homes]
    wanted = _fixed(ground, topology, spec, count) if by_gpu else None
    if wanted is not None:
        of_rank = [next((i for i, home in enumerate(homes) if device in home.devices), -1) for device in wanted]
        counts: Sequence[int] = [of_rank.count(i) for i in range(len(homes))]
        if -1 in of_rank or any(n > held for n, held in zip(counts, room, strict=True)):
            return None
        blocks = _arranged(ground, homes, counts, size)
        return [blocks[i].pop(0) for i in of_rank]
    weights = [len(home.devices) for home in homes]
    if by_gpu and not spec.share_gpus:
        sharing = spec.ranks_per_gpu or 1
        room = [min(held, n * sharing // spec.n_gpus) for held, n in zip(room, weights, strict=True)]
    if sum(room) < count:
        return None
    counts = proportional(count, weights=weights, low=[0] * len(room), high=room)
    return [block for of_home in _arranged(ground, homes, counts, size) for block in of_home]


class _Home(NamedTuple):
    """Processors, as positions in the ground, and the devices that are at home there, as positions in their list.

    ``known`` is False for what the homes of other devices leave.
    """

    processors: frozenset[int]
    devices: frozenset[int]
    known: bool = True


def _homes(ground: Ground, topology: NodeTopology, devices: Sequence[Gpu | Nic]) -> list[_Home] | None:
    """Return the homes in the order of their first processor, that of devices without one of their own last."""
    there = ground.cpus(range(len(ground.processors)))
    members: dict[tuple[int, ...], list[int]] = {}
    for i, device in enumerate(devices):
        cpus = near_cpus(topology, device, among=there)
        near = tuple(p for p, one in enumerate(ground.processors) if not one.cpus.isdisjoint(cpus))
        members.setdefault(near, []).append(i)
    homeless = members.pop((), [])
    taken: set[int] = set()
    homes = []
    for near, own_devices in sorted(members.items(), key=lambda item: len(item[0])):
        own = frozenset(near) - taken
        if not own:
            return None
        taken |= own
        homes.append(_Home(own, frozenset(own_devices)))
    homes.sort(key=lambda home: min(home.processors))
    if homeless:
        rest = frozenset(range(len(ground.processors))) - taken
        if not rest or not homes:
            return None
        homes.append(_Home(rest, frozenset(homeless), known=False))
    return homes


def _fixed(ground: Ground, topology: NodeTopology, spec: LayoutSpec, count: int) -> list[int] | None:
    """Return the first GPU of each rank, as positions in the ground's, where the request fixes that; else None."""
    bind = spec.gpu_bind or GpuBind()
    if bind.rule is GpuRule.ROUND_ROBIN:
        return [rank * spec.n_gpus % len(ground.gpus) for rank in range(count)]
    if bind.rule is not GpuRule.LIST or len(bind.lists) < count:
        return None
    position = {gpu_ids(topology)[gpu]: i for i, gpu in enumerate(ground.gpus)}
    return [position.get(names[0], -1) for names in bind.lists[:count]]


def _arranged(
    ground: Ground, homes: Sequence[_Home], counts: Sequence[int], size: int | None
) -> list[list[tuple[Processor, ...]]]:
    """Return the processors of so many ranks of each home; who is nowhere at home gets no more than the others."""
    found: list[list[tuple[Processor, ...]]] = []
    for home, n in zip(homes, counts, strict=True):
        widths = [len(block) for blocks in found for block in blocks]
        width = size if home.known or not widths else min(widths)
        domains = _domains(ground, home.processors)
        if width and capacity(domains, cpus_per_rank=width) < n:
            width = size
        found.append(list(arrange(domains, n_ranks=n, cpus_per_rank=width)) if n else [])
    return found


def _domains(ground: Ground, home: Collection[int]) -> list[Domain]:
    """Return the ground's domains without the processors that are not in this home."""
    wanted = {id(ground.processors[position]) for position in home}
    parts = [tuple(one for one in domain if id(one) in wanted) for domain in ground.domains]
    return [part for part in parts if part]
