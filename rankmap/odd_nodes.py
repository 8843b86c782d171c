"""Nodes of an allocation that are otherwise than most: which, what about them, and the allocation without them.

Compared is what placements depend on. Nodes of one make differ by some memory (5 %), and in where devices are plugged
in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.differences import structural
from rankmap.errors import AllocationError
from rankmap.hostlist import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rankmap.topology import Allocation, NodeTopology

__all__ = ["OddNodes", "drop_odd", "odd_nodes", "require_equal"]

_ABOUT = 0.05
"""How much more or less memory a node of one make may have: kernels and firmware keep different shares of it."""

_HINT = "--drop-odd leaves such nodes out, --exclude-hosts the ones that it names"


@dataclass(frozen=True, slots=True, kw_only=True)
class OddNodes:
    """Nodes that are otherwise than most, and equal to each other.

    Args:
        nodes: Their positions in the allocation.
        remark: Which they are and what is odd: ``node x4501: 62 usable cores, its 63 peers have 64``.
    """

    nodes: tuple[int, ...]
    remark: str


def odd_nodes(allocation: Allocation) -> tuple[OddNodes, ...]:
    """Return the nodes that are not as the most of one kind are, by the first of each kind.

    Where two kinds are equally many, the one that comes first is what the others are compared with.
    """
    usual, *others = _kinds(allocation)
    topology = allocation.topology(usual[0])
    return tuple(
        OddNodes(nodes=nodes, remark=_remark(allocation, nodes, facts, n_peers=len(usual)))
        for nodes in sorted(others)
        if (facts := _facts(topology, allocation.topology(nodes[0])))
    )


def require_equal(allocation: Allocation) -> None:
    """Return when no node is odd.

    Raises:
        AllocationError: Some are; it names them and says what is odd.
    """
    if odd := odd_nodes(allocation):
        n_odd = sum(len(one.nodes) for one in odd)
        verb = "is" if n_odd == 1 else "are"
        lines = "\n  ".join(one.remark for one in odd)
        others = "the other" if len(allocation.nodes) - n_odd == 1 else "the others"
        msg = f"--require-equal: {n_odd} of {len(allocation.nodes)} nodes {verb} not as {others}:\n  {lines}"
        raise AllocationError(msg, hint=_HINT)


def drop_odd(allocation: Allocation, n_nodes: int | None = None) -> Allocation:
    """Return the first so many nodes that are not odd, in their order; None: all that are not.

    Raises:
        AllocationError: There are fewer.
    """
    odd = odd_nodes(allocation)
    out = {node for one in odd for node in one.nodes}
    kept = [node for node in range(len(allocation.nodes)) if node not in out]
    if n_nodes is not None and len(kept) < n_nodes:
        lines = "".join(f"\n  {one.remark}" for one in odd)
        equal = f"{len(kept)} are equal" if len(kept) > 1 else "no two are equal"
        msg = f"{n_nodes} equal nodes are asked for: of {len(allocation.nodes)} nodes, {equal}{lines}"
        hint = "allocate more nodes as spares, ask for fewer with --nodes, or take the odd ones too: without --drop-odd"
        raise AllocationError(msg, hint=hint)
    return allocation.only(kept[:n_nodes])


def _kinds(allocation: Allocation) -> list[tuple[int, ...]]:
    """Return the nodes, cut into those among which nothing is odd, most first."""
    of_shape: dict[int, list[int]] = {}
    for position, node in enumerate(allocation.nodes):
        of_shape.setdefault(node.shape_index, []).append(position)
    kinds: list[list[int]] = []
    for nodes in of_shape.values():
        topology = allocation.topology(nodes[0])
        alike = next((kind for kind in kinds if not _facts(allocation.topology(kind[0]), topology)), None)
        if alike is None:
            kinds.append(nodes)
        else:
            alike += nodes
    return sorted((tuple(sorted(kind)) for kind in kinds), key=lambda nodes: -len(nodes))


def _remark(allocation: Allocation, nodes: Sequence[int], facts: Sequence[_Fact], *, n_peers: int) -> str:
    hosts = fold(allocation.nodes[node].host for node in nodes)
    named, whose = (f"node {hosts}", "its") if len(nodes) == 1 else (f"nodes {hosts}", "their")
    peers = f"{whose} {n_peers} peers have" if n_peers > 1 else f"{whose} peer has"
    (first, usual), *more = facts
    texts = [f"{first}, {peers} {usual}" if usual else first]
    texts += [f"{here}, not {there}" if there else here for here, there in more]
    return f"{named}: {'; '.join(texts)}"


_Fact = tuple[str, str]
"""What an odd node has, and what its peers have instead; "" where the first says both."""


def _facts(usual: NodeTopology, odd: NodeTopology) -> list[_Fact]:
    """Return what placements depend on and is otherwise: how much there is of what, else what exactly."""
    both = (odd, usual)
    facts = [
        *(
            _count("usable core", *(len(node.usable_cores()) for node in both))
            or _count("core", *(len(node.cores) for node in both))
            or _text("CPUs per core", *map(_smt, both))
        ),
        *_count("package", *(len(node.packages) for node in both)),
        *_count("NUMA domain", *(len(node.numa_domains) for node in both)),
        *(
            fact
            for level in (3, 2)
            for fact in _text(f"L{level} caches", *(_cache_sizes(node, level) for node in both))
        ),
        *_memory(*both),
        *(
            _count("GPU", *(len(node.gpus) for node in both))
            or _text("GPUs", *(_counted(gpu.model for gpu in node.gpus) for node in both))
        ),
        *_count("NIC", *(len(node.nics) for node in both)),
        *_text("processors", *(_counted(package.model for package in node.packages) for node in both)),
    ]
    return (
        facts
        or [
            *_text("numbers of usable CPUs", *(str(node.usable) for node in both)),
            *_text("memory allowed in NUMA domains", *map(_allowed, both)),
        ]
        or [(what, "") for what in structural(usual, odd, "on others")]
    )


def _count(what: str, here: int, there: int) -> list[_Fact]:
    return [(f"{here} {what}{'' if here == 1 else 's'}", str(there))] if here != there else []


def _text(what: str, here: str, there: str) -> list[_Fact]:
    return [(f"{what}: {here or 'none'}", there or "none")] if here != there else []


def _memory(odd: NodeTopology, usual: NodeTopology) -> list[_Fact]:
    here, there = odd.memory_bytes, usual.memory_bytes
    if not here or not there or abs(here - there) <= _ABOUT * max(here, there):  # a preset may not know
        return []
    return [(f"{_gib(here)} of memory", _gib(there))]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.3g} GiB"


def _smt(node: NodeTopology) -> str:
    return " or ".join(map(str, sorted({len(core.cpus & node.usable) for core in node.usable_cores()})))


def _cache_sizes(node: NodeTopology, level: int) -> str:
    return _counted(f"{cache.size_bytes >> 10} KiB" for cache in node.caches if cache.level == level)


def _allowed(node: NodeTopology) -> str:
    return str(CpuSet.of(domain.os_index for domain in node.numa_domains if domain.allowed))


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{n} x {name}" for name, n in sorted(Counter(names).items()) if name)
