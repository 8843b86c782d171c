"""Which GPUs and NICs go with which cores, and what GPUs are called."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from rankmap.assignment import assign
from rankmap.cpuset import CpuSet
from rankmap.layout_parts import Level
from rankmap.processors import objects_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.topology import Gpu, Nic, NodeTopology

__all__ = [
    "GPU_MASKS",
    "GPU_VARIABLES",
    "distance",
    "gpu_environment",
    "gpu_ids",
    "is_instance",
    "near_cpus",
    "nearest",
]

GPU_MASKS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""The variables that say which GPUs a process sees."""

GPU_VARIABLES = (*GPU_MASKS, "CUDA_DEVICE_ORDER", "ZE_ENABLE_PCI_ID_DEVICE_ORDER", "ZE_FLAT_DEVICE_HIERARCHY")
"""These, and those that say what they mean: all that ``gpu_environment`` may set."""

_SAME_DOMAIN, _SAME_PACKAGE, _ELSEWHERE = 10, 20, 40
"""NUMA distances (ACPI SLIT) where a node does not say its own: of one domain, in one package, anywhere."""


def gpu_ids(topology: NodeTopology) -> tuple[str, ...]:
    """Return what each GPU of the node is called, as Dragon and the vendor's variables name it: 0, 1, ...

    Tiles of an Intel GPU that are given one by one are ROOT.TILE (ZE_AFFINITY_MASK; DRAGON.md, section 1).
    """
    of_card = Counter(gpu.pci_address for gpu in topology.gpus)
    tiles = any(n > 1 for address, n in of_card.items() if address)  # without one nobody knows which are of one card
    if tiles and all(gpu.vendor == "Intel" for gpu in topology.gpus):
        roots = {address: root for root, address in enumerate(of_card)}
        return tuple(f"{roots[gpu.pci_address]}.{gpu.partition}" for gpu in topology.gpus)
    return tuple(map(str, range(len(topology.gpus))))


def is_instance(gpu: Gpu) -> bool:
    """Return whether this is an instance of a divided NVIDIA GPU (MIG), of which a process can use one only.

    Source: NVIDIA MIG User Guide, "CUDA Device Enumeration".
    """
    return gpu.token.startswith("MIG-")


def gpu_environment(topology: NodeTopology, gpus: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Return the variables with which a rank sees only these GPUs, given as positions in ``topology.gpus``.

    NVIDIA's and Intel's indices are to count in PCI order, so that order is asked for too. HIP counts what ROCr has
    left: all of it. ROOT.TILE means a tile in one of Level Zero's hierarchies only, so that one is asked for.

    Source: as visible_gpus.py; oneAPI Level Zero specification, "Environment Variables",
    ZE_ENABLE_PCI_ID_DEVICE_ORDER.
    """
    if not gpus:
        return ()
    names = gpu_ids(topology)
    tokens = [topology.gpus[i].token or names[i] for i in gpus]
    shown = ",".join(tokens)
    match topology.gpus[gpus[0]].vendor:
        case "NVIDIA":
            order = (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),) if all(token.isdecimal() for token in tokens) else ()
            return (*order, ("CUDA_VISIBLE_DEVICES", shown))
        case "AMD":
            return (("ROCR_VISIBLE_DEVICES", shown), ("HIP_VISIBLE_DEVICES", ",".join(map(str, range(len(gpus))))))
        case "Intel":
            hierarchy = (("ZE_FLAT_DEVICE_HIERARCHY", "COMPOSITE"),) if "." in shown else ()
            return (("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1"), *hierarchy, ("ZE_AFFINITY_MASK", shown))
        case _:
            return ()


def nearest(
    topology: NodeTopology,
    devices: Sequence[Gpu | Nic],
    blocks: Sequence[CpuSet],
    *,
    each: int,
    free: Sequence[int],
    sharing: int = 1,
) -> tuple[tuple[int, ...], ...] | None:
    """Return the devices of each block of CPUs, as positions in ``devices``; None where there are too few.

    The sum of all distances is the smallest there is; of equals the one in which the first blocks have the first ones.

    Args:
        topology: The node.
        devices: Its GPUs, or its NICs.
        blocks: The CPUs of each taker.
        each: How many devices each gets, none of them twice.
        free: Which devices there are to get.
        sharing: How many takers a device can have.
    """
    distances = [[distance(topology, devices[i], block) for i in free] for block in blocks]
    given = assign(distances, each=each, capacities=[sharing] * len(free))
    return None if given is None else tuple(tuple(free[i] for i in things) for things in given)


def distance(topology: NodeTopology, device: Gpu | Nic, cpus: CpuSet) -> int:
    """Return how far these CPUs are from a device: 0 in its L3, 1 else close to it or in its domain, else NUMA's.

    0 too where nobody knows what the device is close to.
    """
    if not device.cpus and not device.numa:
        return 0
    near = near_cpus(topology, device)
    if not near.isdisjoint(cpus):
        return int(not any(near.issubset(cache) for cache in objects_of(topology, Level.L3CACHE)))
    own = {i: d for i, d in enumerate(topology.numa_domains) if d.local and not d.cpus.isdisjoint(cpus)}
    if any(domain.os_index in device.numa for domain in own.values()):
        return 1
    theirs = [i for i, domain in enumerate(topology.numa_domains) if domain.os_index in device.numa]
    if topology.distances and own and theirs:
        return max(min(topology.distances[a][b] for a in own for b in theirs), _SAME_DOMAIN + 1)
    homes = [package.cpus for package in topology.packages if not package.cpus.isdisjoint(near)]
    return _SAME_PACKAGE if any(not package.isdisjoint(cpus) for package in homes) else _ELSEWHERE


def near_cpus(topology: NodeTopology, device: Gpu | Nic, *, among: CpuSet | None = None) -> CpuSet:
    """Return the CPUs that a device is close to: its own, else those of its NUMA domains; empty where nobody knows.

    Args:
        topology: The node.
        device: One of its GPUs or NICs.
        among: Where none of the device's own is one of these, its domains count too; None: all CPUs are.
    """
    if device.cpus and (among is None or not device.cpus.isdisjoint(among)):
        return device.cpus
    domains = (domain for domain in topology.numa_domains if domain.local and domain.os_index in device.numa)
    return reduce(or_, (domain.cpus for domain in domains), CpuSet())
