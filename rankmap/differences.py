"""What differs between a node as it was planned for or published, and a node at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.devices import gpu_ids
from rankmap.layout_parts import Level
from rankmap.processors import objects_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.topology import NodeTopology

__all__ = ["differences", "structural"]

_ABOUT = 0.1
"""How much of its memory a node may lack: its kernel and firmware keep some of what is sold."""


def differences(there: NodeTopology, here: NodeTopology, how: str) -> Iterator[str]:
    """Yield what differs.

    What the first node does not say (caches, memory, GPUs, what is close to one) is not compared.

    Args:
        there: The node that was planned for, or of a preset.
        here: The node at hand.
        how: What the first is: "planned", "published".
    """
    yield from structural(there, here, how)
    if there.present == here.present and (missing := there.usable - there.reserved - here.usable):
        yield f"CPUs {missing}: free for ranks as {how}, not usable here"
    gib_there, gib_here = there.memory_bytes >> 30, here.memory_bytes >> 30
    if gib_there and abs(gib_here - gib_there) > _ABOUT * gib_there:
        yield f"memory: {gib_there} GiB {how}, {gib_here} GiB here"
    nics = {nic.name: nic for nic in here.nics}
    for nic in there.nics:
        mine = nics.get(nic.name)
        if mine is None:
            yield f"NIC {nic.name}: {how}, not here"
        elif nic.cpus and mine.cpus and nic.cpus != mine.cpus:
            yield f"NIC {nic.name}: close to CPUs {nic.cpus} as {how}, to {mine.cpus} here"


def structural(there: NodeTopology, here: NodeTopology, how: str) -> Iterator[str]:
    """Yield what differs of that which gives CPU numbers and GPU ids their meaning; as ``differences``."""
    for name, before, now in (
        ("packages", len(there.packages), len(here.packages)),
        ("cores", _n_cores(there, like=here), len(here.cores)),
        ("CPUs", str(there.present), str(here.present)),
    ):
        if before != now:
            yield f"{name}: {before} {how}, {now} here"
    if there.present == here.present:
        yield from _cores(there, here, how)
        yield from _domains(there, here, how)
        caches, mine = ({*objects_of(node, Level.L3CACHE)} for node in (there, here))
        if caches and caches != mine:
            yield f"L3 caches: {len(caches)} {how}, {len(mine)} here" + " of other CPUs" * (len(caches) == len(mine))
    yield from _gpus(there, here, how)


def _n_cores(there: NodeTopology, *, like: NodeTopology) -> int:
    """Return how many cores the other node may have: those that the site keeps may not even be shown."""
    for_ranks = sum(not core.cpus.issubset(there.reserved) for core in there.cores)
    return for_ranks if for_ranks == len(like.cores) else len(there.cores)


def _cores(there: NodeTopology, here: NodeTopology, how: str) -> Iterator[str]:
    mine = {core.cpus for core in here.cores}
    expected = [core.cpus for core in there.cores if not core.cpus.issubset(there.reserved)]
    if strange := [cpus for cpus in expected if cpus not in mine]:
        found = next((core.cpus for core in here.cores if not core.cpus.isdisjoint(strange[0])), CpuSet())
        yield f"hardware threads: a core has CPUs {strange[0]} as {how}, {found} here"


def _domains(there: NodeTopology, here: NodeTopology, how: str) -> Iterator[str]:
    if len(there.numa_domains) == 1 and len(there.packages) == 1:
        return  # a preset of one domain may not know of more
    domains = {domain.os_index: domain for domain in here.numa_domains}
    for domain in there.numa_domains:
        mine = domains.get(domain.os_index)
        kind = f"{domain.subtype} " if domain.subtype else ""
        if mine is None:
            yield f"{kind}NUMA domain {domain.os_index}: {how}, not here"
        elif domain.local != mine.local or (domain.local and domain.cpus != mine.cpus):
            found = f"CPUs {mine.cpus}" if mine.local else "no CPUs"
            yield f"NUMA domain {domain.os_index}: CPUs {domain.cpus} {how}, {found} here"


def _gpus(there: NodeTopology, here: NodeTopology, how: str) -> Iterator[str]:
    if not there.gpus:
        return
    if len(there.gpus) != len(here.gpus):
        yield f"GPUs: {len(there.gpus)} {how}, {len(here.gpus)} visible here"
        return
    for name, gpu, mine in zip(gpu_ids(there), there.gpus, here.gpus, strict=True):
        if mine.vendor and gpu.vendor != mine.vendor:
            yield f"GPU {name}: one of {gpu.vendor} {how}, of {mine.vendor} here"
        elif gpu.cpus and mine.cpus and gpu.cpus != mine.cpus:
            yield f"GPU {name}: close to CPUs {gpu.cpus} as {how}, to {mine.cpus} here"
