"""Cores next to the devices of a node, for ranks that are placed by their GPUs or NICs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.devices import near_cpus
from rankmap.layout_parts import Pattern
from rankmap.mapping.apportion import proportional
from rankmap.mapping.default import arrange, capacity
from rankmap.nics import high_speed

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    and have processors of one home only. It does not work out where nobody knows what a device is close to, where the
    processors of a home are all those of others too, or where they are too few. GPUs are shared as far as was asked
    for, NICs by all.
    """
    devices: Sequence[Gpu] | Sequence[Nic] = [topology.gpus[i] for i in ground.gpus]
    if placed_by(spec) == "NIC":
        devices = [topology.nics[i] for i in high_speed(topology)]
    homes = _homes(ground, topology, devices)
    if homes is None:
        return None
    size = spec.processors_per_rank
    weights = [n_devices for _, n_devices in homes]
    room = [capacity(_domains(ground, home), cpus_per_rank=size) for home, _ in homes]
    if placed_by(spec) == "GPU" and not spec.share_gpus:
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


def _homes(
    ground: Ground, topology: NodeTopology, devices: Sequence[Gpu] | Sequence[Nic]
) -> list[tuple[set[int], int]] | None:
    """Return the homes in the order of their first processor, as positions, each with its number of devices."""
    there = ground.cpus(range(len(ground.processors)))
    members: dict[tuple[int, ...], int] = {}
    for device in devices:
        cpus = near_cpus(topology, device, among=there)
        near = tuple(p for p, one in enumerate(ground.processors) if not one.cpus.isdisjoint(cpus))
        if not near:
            return None
        members[near] = members.get(near, 0) + 1
    taken: set[int] = set()
    homes = []
    for near, n_devices in sorted(members.items(), key=lambda item: len(item[0])):
        own = set(near) - taken
        if not own:
            return None
        taken |= own
        homes.append((own, n_devices))
    return sorted(homes, key=lambda home: min(home[0]))


def _domains(ground: Ground, home: set[int]) -> list[Domain]:
    """Return the ground's domains without the processors that are not in this home."""
    wanted = {id(ground.processors[position]) for position in home}
    parts = [tuple(one for one in domain if id(one) in wanted) for domain in ground.domains]
    return [part for part in parts if part]
