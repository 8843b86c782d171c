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

_ORDINARY = frozenset({"", "DRAM"})
"""Subtypes of a CPU's DDR, where CPUs have it as their own; without CPUs "" may be anything."""


def memory_policy(topology: NodeTopology, bind: MemBind | None, cpus: CpuSet | None, host: str) -> str | None:
    """Return the policy of a rank as ``MODE:DOMAINS`` (``bind:2``), "local", or None for the kernel's default.

    ``local`` names no domain: where that of the CPUs is not allowed or full, the kernel takes the nearest one that is
    (set_mempolicy(2), MPOL_LOCAL).

    Args:
        topology: The node.
        bind: What was asked for.
        cpus: Where the rank's cores are; None is anywhere.
        host: The node's name, for messages.

    Raises:
        PlacementError: The node has no such memory, a domain without memory is named, or the job may not use it.
    """
    if bind is None or bind.rule is MemRule.NONE:
        return None
    if bind.rule is MemRule.LOCAL:
        return "local"
    if bind.domains:
        _require_memory(topology, bind, host)
        return str(bind)
    own = topology.present if cpus is None else cpus
    fits = _is_fast if bind.rule is MemRule.HBM else _is_ordinary
    beside = [domain for domain in _with_memory(topology) if fits(domain) and not domain.cpus.isdisjoint(own)]
    near = CpuSet.of(domain.os_index for domain in beside if domain.allowed)
    if not near:
        raise _nothing_near(topology, bind, own, CpuSet.of(domain.os_index for domain in beside), host)
    return f"bind:{near}"


def _is_fast(domain: NumaDomain) -> bool:
    return domain.subtype in _FAST


def _is_ordinary(domain: NumaDomain) -> bool:
    return domain.local and domain.subtype in _ORDINARY


def _with_memory(topology: NodeTopology) -> list[NumaDomain]:
    """Return the domains that have memory: all, where nobody has published how much there is."""
    return [domain for domain in topology.numa_domains if domain.memory_bytes or not topology.memory_bytes]


def _require_memory(topology: NodeTopology, bind: MemBind, host: str) -> None:
    with_memory = CpuSet.of(domain.os_index for domain in _with_memory(topology))
    if absent := bind.domains - with_memory:
        msg = f"--mem-bind {bind}: {host} has no memory in NUMA domain {absent}; it has in {with_memory}"
        raise PlacementError(msg)
    allowed = CpuSet.of(domain.os_index for domain in _with_memory(topology) if domain.allowed)
    if taken := bind.domains - allowed:
        msg = f"--mem-bind {bind}: {_not_allowed(taken, host)}; allowed are {allowed}"
        raise PlacementError(msg, hint=_ASK)


def _nothing_near(topology: NodeTopology, bind: MemBind, own: CpuSet, taken: CpuSet, host: str) -> PlacementError:
    """Return why there is no such memory beside these CPUs; ``taken`` is what there would be, were it allowed."""
    if taken:
        return PlacementError(f"--mem-bind {bind}: beside CPUs {own} {_not_allowed(taken, host)}", hint=_ASK)
    kinds = ", ".join(f"{domain.os_index} ({domain.subtype or '?'})" for domain in topology.numa_domains)
    msg = f"--mem-bind {bind}: {host} has no {str(bind.rule).upper()} beside CPUs {own}; its NUMA domains are {kinds}"
    unnamed = CpuSet.of(one.os_index for one in _with_memory(topology) if not one.local and not one.subtype)
    if bind.rule is MemRule.HBM and unnamed:
        hint = f"of which kind {unnamed} without CPUs is, hwloc does not say: if it is HBM, --mem-bind bind:LIST"
        return PlacementError(msg, hint=hint)
    return PlacementError(msg, hint="leave it out, or name domains: --mem-bind bind:LIST")


def _not_allowed(domains: CpuSet, host: str) -> str:
    return f"NUMA domain {domains} of {host} is not allowed (cpuset.mems)"


_ASK = "the scheduler or a container keeps it from this job: ask it for more, or choose other memory"
