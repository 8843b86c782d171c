"""hwloc 2 XML into a NodeTopology: the one parser that every topology comes through.

Three facts that hwloc may leave open are settled here, so that nobody after has to ask: a PU outside any core is a
core of its own, a machine without a NUMA domain is one domain, and a CPU is local to one domain at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet
from rankmap.discovery.hwloc_devices import gpus_of, nics_of
from rankmap.discovery.hwloc_objects import Found, Tree, cpus_of, infos, read
from rankmap.errors import AllocationError
from rankmap.topology import (
    Cache,
    Core,
    CpuKind,
    Die,
    Group,
    LogicalIndex,
    NodeTopology,
    NumaDomain,
    OsIndex,
    Package,
    Pu,
    about_bytes,
)

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

__all__ = ["parse"]

_CACHE_LEVELS: Final = (1, 2, 3, 4, 5)  # "L1Cache" to "L5Cache" are data or unified; "L1iCache" is not looked at

_SPECIAL_MEMORY: Final = frozenset({"HBM", "MCDRAM", "GPUMemory", "NVM", "SPM", "CXL-DRAM", "CXL-NVM"})
"""Subtypes of memory that hangs beside a CPU's ordinary memory. Source: hwloc 2.x manual, "Object attributes"."""

_LATENCY: Final = 1 << 2  # hwloc/distances.h, HWLOC_DISTANCES_KIND_MEANS_LATENCY

_CORE_TYPES: Final = {"IntelAtom": ("E-core", 0), "IntelCore": ("P-core", 1)}  # hwloc 2.x, cpukinds, info CoreType


def parse(xml: str, *, source: str) -> NodeTopology:
    """Return what an hwloc 2 XML text describes.

    ``usable`` are the PUs that are online and allowed; ``present`` also the offline and the disallowed ones. A NUMA
    domain that is not allowed stays in its place too (``NumaDomain.allowed``).
    Domains' memory sizes are those of ``about_bytes`` and serial numbers are left out (``Gpu.uuid`` is empty), so
    that equal nodes compare equal.

    Args:
        xml: What libhwloc exported.
        source: What the text is of, for messages: a file name, "this host".

    Raises:
        AllocationError: The text is not an hwloc topology, or describes no PU.
    """
    tree = read(xml, source=source)
    try:
        return _topology(tree, source)
    except (KeyError, ValueError) as error:  # ValueError: a number or CPU set that is none; KeyError: one is missing
        msg = f"the topology of {source} is not what hwloc writes: {error!r}"
        raise AllocationError(msg, hint="record the node again with `lstopo --of xml`") from error


def _topology(tree: Tree, source: str) -> NodeTopology:
    pus = tree.all("PU")
    if not pus:
        msg = f"{source} describes no PU (processing unit), so no rank can be placed on it"
        raise AllocationError(msg, hint="record the node again with `lstopo --of xml`")
    online = CpuSet.of(int(pu.element.attrib["os_index"]) for pu in pus)
    allowed, allowed_domains = tree.machine.get("allowed_cpuset"), tree.machine.get("allowed_nodeset")
    domains = _numa_domains(tree, online)
    kinds = _cpu_kinds(tree)
    topology = NodeTopology(
        packages=tuple(_package(index, found) for index, found in enumerate(tree.all("Package"))),
        dies=tuple(Die(logical_index=LogicalIndex(index), cpus=d.cpus()) for index, d in enumerate(tree.all("Die"))),
        groups=tuple(
            Group(logical_index=LogicalIndex(index), cpus=group.cpus()) for index, group in enumerate(tree.all("Group"))
        ),
        numa_domains=domains,
        caches=tuple(
            _cache(index, level, found)
            for level in _CACHE_LEVELS
            for index, found in enumerate(tree.all(f"L{level}Cache"))
        ),
        cores=_cores(tree, kinds),
        cpu_kinds=kinds,
        distances=_distances(tree, domains),
        gpus=gpus_of(tree, domains),
        nics=nics_of(tree, domains),
        present=cpus_of(tree.machine) | online,
        usable=online if allowed is None else online & CpuSet.from_hex(allowed),
        memory_bytes=sum(domain.memory_bytes for domain in domains),
    )
    if allowed_domains is None or not tree.all("NUMANode"):
        return topology
    return topology.restricted_memory(CpuSet.from_hex(allowed_domains))


def _package(index: int, found: Found) -> Package:
    os_index = found.os_index()
    return Package(
        logical_index=LogicalIndex(index),
        os_index=None if os_index is None else OsIndex(os_index),
        cpus=found.cpus(),
        model=infos(found.element).get("CPUModel", ""),
    )


def _cache(index: int, level: int, found: Found) -> Cache:
    size_bytes = int(found.element.get("cache_size", "0"))
    return Cache(logical_index=LogicalIndex(index), level=level, size_bytes=size_bytes, cpus=found.cpus())


def _cores(tree: Tree, kinds: tuple[CpuKind, ...]) -> tuple[Core, ...]:
    """Return the cores in topology order, each with its PUs."""
    of_core: dict[tuple[str, int], list[Pu]] = {}
    for index, found in enumerate(tree.all("PU")):
        pu = Pu(os_index=OsIndex(int(found.element.attrib["os_index"])), logical_index=LogicalIndex(index))
        key = ("PU", index) if found.core is None else ("Core", found.core)
        of_core.setdefault(key, []).append(pu)
    cores = tree.all("Core")
    result: list[Core] = []
    for (kind, position), pus in of_core.items():
        cpus = CpuSet.of(pu.os_index for pu in pus)
        if kind == "Core":
            cpus |= cores[position].cpus()
        of_kind = next((number for number, each in enumerate(kinds) if pus[0].os_index in each.cpus), None)
        result.append(Core(logical_index=LogicalIndex(len(result)), cpus=cpus, pus=tuple(pus), kind=of_kind))
    return tuple(result)


def _numa_domains(tree: Tree, online: CpuSet) -> tuple[NumaDomain, ...]:
    """Return the memory domains in topology order; of those with a CPU at most one is local.

    None has a CPU whose memory the machine lacks, or was left out of the record because a cgroup does not allow it.

    hwloc gives the memory beside a CPU's ordinary memory (HBM, CXL) the same CPUs as that, while Linux gives each
    CPU to one domain: the one of ordinary memory, and where that does not tell them apart the lowest numbered.
    """
    found = tree.all("NUMANode")
    if not found:
        everything = cpus_of(tree.machine) | online
        return (NumaDomain(os_index=OsIndex(0), logical_index=LogicalIndex(0), cpus=everything, memory_bytes=0),)
    local: set[int] = set()
    claimed = CpuSet()
    for node in sorted(found, key=lambda node: (node.element.get("subtype") in _SPECIAL_MEMORY, _numa_index(node))):
        cpus = node.cpus()
        # Memory far from every CPU has those of the machine, also the offline ones, which no other domain has.
        if (cpus - claimed) & online or (cpus and cpus.isdisjoint(claimed)):
            local.add(_numa_index(node))
            claimed |= cpus
    return tuple(
        NumaDomain(
            os_index=_numa_index(node),
            logical_index=LogicalIndex(index),
            cpus=node.cpus() or (CpuSet() if node.place is tree.machine else cpus_of(node.place)),
            memory_bytes=about_bytes(int(node.element.get("local_memory", "0"))),
            local=_numa_index(node) in local,
            subtype=node.element.get("subtype", ""),
        )
        for index, node in enumerate(found)
    )


def _numa_index(found: Found) -> OsIndex:
    return OsIndex(int(found.element.attrib["os_index"]))


def _distances(tree: Tree, domains: tuple[NumaDomain, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the latency matrix of the NUMA domains, in their order; empty where hwloc has none for all of them."""
    gp_to_os = {node.element.get("gp_index"): _numa_index(node) for node in tree.all("NUMANode")}
    for matrix in tree.document.iterfind("distances2"):
        if matrix.get("type") != "NUMANode" or not int(matrix.get("kind", "0")) & _LATENCY:
            continue
        names = _words(matrix, "indexes")
        order = [gp_to_os.get(name) if matrix.get("indexing") == "gp" else OsIndex(int(name)) for name in names]
        values = [int(value) for value in _words(matrix, "u64values")]
        if len(values) != len(order) ** 2 or not {domain.os_index for domain in domains} <= set(order):
            continue
        rows = [order.index(domain.os_index) for domain in domains]
        return tuple(tuple(values[row * len(order) + column] for column in rows) for row in rows)
    return ()


def _words(matrix: ET.Element, tag: str) -> list[str]:
    return [word for part in matrix.iterfind(tag) for word in (part.text or "").split()]


@dataclass(frozen=True, slots=True, order=True)
class _Speed:
    """What tells one kind of core from another, the most telling fact first; -1 where unknown."""

    efficiency: int
    core_type: int
    capacity: int
    max_mhz: int
    base_mhz: int

    def known(self) -> bool:
        return self != _Speed(-1, -1, -1, -1, -1)


def _cpu_kinds(tree: Tree) -> tuple[CpuKind, ...]:
    """Return the kinds of cores, the slowest first.

    Source: hwloc 2.x manual, "CPU Kinds": the order by what the OS forces, core type, capacity, frequencies.
    """
    kinds: list[tuple[_Speed, CpuSet, str]] = []
    for element in tree.document.iterfind("cpukind"):
        facts = infos(element)
        name, core_type = _CORE_TYPES.get(facts.get("CoreType", ""), ("", -1))
        mhz = int(facts.get("FrequencyMaxMHz", "-1"))
        speed = _Speed(
            efficiency=int(element.get("forced_efficiency", "-1")),
            core_type=core_type,
            capacity=int(facts.get("LinuxCapacity", "-1")),
            max_mhz=mhz,
            base_mhz=int(facts.get("FrequencyBaseMHz", "-1")),
        )
        kinds.append((speed, cpus_of(element), name or facts.get("CoreType") or (f"{mhz} MHz" if mhz > 0 else "")))
    ranks = sorted({speed for speed, _, _ in kinds})
    return tuple(
        CpuKind(
            cpus=cpus,
            efficiency=ranks.index(speed) if speed.known() else -1,
            name=name,
            speed=speed.capacity if speed.capacity >= 0 else speed.max_mhz,
        )
        for speed, cpus, name in sorted(kinds, key=lambda kind: (kind[0], kind[1]))
    )
