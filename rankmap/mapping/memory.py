"""Which NUMA domains a rank's memory comes from, once it is known where its cores are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import PlacementError
from rankmap.layout_memory import MemBind, MemRule

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology, NumaDomain

__all__ = ["memory_policy"]

_FAST = frozenset({"HBM", "MCDRAM", "GPUMemory"})
"""Subtypes of memory of a wider bus beside a CPU's DDR. Source: hwloc 2.x manual, "Object attributes"."""


def memory_policy(topology: NodeTopology, bind: MemBind | None, cpus: CpuSet | None, host: str) -> str | None:
    """Return the policy of a rank as ``MODE:DOMAINS`` (``bind:2``), "local", or None for the kernel's default.

    Args:
        topology: The node.
        bind: What was asked for.
        cpus: Where the rank's cores are; None is anywhere.
        host: The node's name, for messages.

    Raises:
        PlacementError: The node has no such memory, or a domain without memory is named.
    """
    if bind is None or bind.rule is MemRule.NONE:
        return None
    if bind.rule is MemRule.LOCAL:
        return "local"
    if bind.domains:
        _require_memory(topology, bind, host)
        return str(bind)
    own = topology.present if cpus is None else cpus
    fast = bind.rule is MemRule.HBM
    near = [d for d in _with_memory(topology) if _is_fast(d) == fast and not d.cpus.isdisjoint(own)]
    if not near:
        kinds = ", ".join(f"{d.os_index} ({d.subtype or 'DRAM'})" for d in topology.numa_domains)
        lacks = f"{host} has no {str(bind.rule).upper()} beside CPUs {own}"
        msg = f"--mem-bind {bind}: {lacks}; its NUMA domains are {kinds}"
        raise PlacementError(msg, hint="leave it out, or name domains: --mem-bind bind:LIST")
    return f"bind:{CpuSet.of(domain.os_index for domain in near)}"


def _is_fast(domain: NumaDomain) -> bool:
    return domain.subtype in _FAST


def _with_memory(topology: NodeTopology) -> list[NumaDomain]:
    """Return the domains that have memory: all, where nobody has published how much there is."""
    return [domain for domain in topology.numa_domains if domain.memory_bytes or not topology.memory_bytes]


def _require_memory(topology: NodeTopology, bind: MemBind, host: str) -> None:
    with_memory = CpuSet.of(domain.os_index for domain in _with_memory(topology))
    if absent := bind.domains - with_memory:
        msg = f"--mem-bind {bind}: {host} has no memory in NUMA domain {absent}; it has in {with_memory}"
        raise PlacementError(msg)
