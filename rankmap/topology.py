"""What a node is made of, in hwloc's words, and what an allocation of nodes is.

Values only: nothing here reads a file or a machine. Every ``cpus`` field is a set of PU os indices and
holds all PUs of the object that hwloc knows, usable or not; ``NodeTopology.usable`` says which may be used.

Source of the vocabulary: hwloc 2.x, include/hwloc.h, enum hwloc_obj_type_t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NewType

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MADE_UP_PCI_DOMAIN",
    "Allocation",
    "Cache",
    "Core",
    "CpuKind",
    "Die",
    "Gpu",
    "Group",
    "LogicalIndex",
    "Nic",
    "Node",
    "NodeTopology",
    "NumaDomain",
    "OsIndex",
    "Package",
    "Pu",
    "about_bytes",
]

OsIndex = NewType("OsIndex", int)
"""The number that Linux gives an object; for a PU what sched_setaffinity(2) takes."""

LogicalIndex = NewType("LogicalIndex", int)
"""hwloc's logical index: the position among the objects of one kind, in topology order."""


MADE_UP_PCI_DOMAIN = "ffff:"
"""How the PCI addresses of devices begin whose own nobody has published; no machine has that PCI domain."""

_MEMORY_BITS = 9


def about_bytes(size_bytes: int) -> int:
    """Return a memory size rounded down to its first 9 binary digits (at most 1/256 less).

    Nodes of one make differ by a few pages of what their kernel keeps for itself, and must still compare equal.
    """
    drop = max(0, size_bytes.bit_length() - _MEMORY_BITS)
    return size_bytes >> drop << drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Pu:
    """A processing unit: one Linux CPU."""

    os_index: OsIndex
    logical_index: LogicalIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """A core and its PUs, in hwloc's order. ``kind`` is the index of its CpuKind, None where kinds are unknown."""

    logical_index: LogicalIndex
    cpus: CpuSet
    pus: tuple[Pu, ...]
    kind: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A data or unified cache of ``level`` 1 to 5, shared by ``cpus``."""

    logical_index: LogicalIndex
    level: int
    size_bytes: int
    cpus: CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Die:
    """A die of a package."""

    logical_index: LogicalIndex
    cpus: CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A set of objects that hwloc keeps together without a better name (sub-NUMA clusters, boards)."""

    logical_index: LogicalIndex
    cpus: CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What goes into one socket. ``model`` is the CPU's name, "" where unknown."""

    logical_index: LogicalIndex
    os_index: OsIndex | None
    cpus: CpuSet
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaDomain:
    """A memory domain (hwloc's NUMANode).

    ``cpus`` are the PUs whose local memory it is. ``local`` is False for a domain that has no CPUs of its own
    (GPU memory, CXL, HBM beside DDR): its ``cpus`` are then those that it is attached to, or empty.
    ``subtype`` is hwloc's word for the memory ("HBM", "DRAM", "GPUMemory", ...), "" where unknown. ``allowed`` is False
    where a cgroup or a scheduler keeps this job's pages out of it (cpuset.mems).
    """

    os_index: OsIndex
    logical_index: LogicalIndex
    cpus: CpuSet
    memory_bytes: int
    local: bool = True
    subtype: str = ""
    allowed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKind:
    """A kind of core (performance, efficiency). A larger ``efficiency`` is a faster kind; -1 is unknown.

    ``speed`` says how much faster: the scheduler's capacity of it, else its highest MHz; -1 where unknown.
    """

    cpus: CpuSet
    efficiency: int
    name: str = ""
    speed: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, tile or partition: what one rank can be given.

    Its identity is its UUID, or its PCI address plus partition (several MI300A partitions share one address).
    ``names`` are the device names that the APIs use for it (cuda0, nvml0, rsmi3, card1); ``cpus`` and ``numa``
    what it is close to (``cpus`` is empty where that is unknown). ``vendor`` is "NVIDIA", "AMD", "Intel" or "".
    ``token`` is what the vendor's variable calls it in the environment at hand; "" on recorded nodes, but for an
    instance of a divided GPU (MIG), which has no name but its UUID. ``peers`` are the PCI addresses of the GPUs that it
    has NVLinks to, itself or through switches. An allocation keeps the UUIDs with its nodes, not with their shapes.
    """

    pci_address: str
    partition: int = 0
    uuid: str = ""
    vendor: str = ""
    model: str = ""
    memory_bytes: int = 0
    names: tuple[str, ...] = ()
    cpus: CpuSet = CpuSet()
    numa: tuple[OsIndex, ...] = ()
    token: str = ""
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network interface: ``name`` as Linux shows it (hsi0, eth0), ``fabric`` its RDMA device name or "".

    ``port`` is its port of that device, and ``linked`` False where the device says that the port is not in use.
    """

    name: str
    pci_address: str = ""
    fabric: str = ""
    port: int = 1
    linked: bool = True
    cpus: CpuSet = CpuSet()
    numa: tuple[OsIndex, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTopology:
    """What one node is made of, without its name and serial numbers: equal nodes compare equal.

    Tuples are in logical order, GPUs in that of their API's device numbers. ``distances`` has one row per NUMA
    domain, in the order of ``numa_domains`` (ACPI SLIT values, 10 is local), or is empty where unknown.
    ``usable`` are the PUs that a rank may be bound to, ``present`` all that hwloc knows: offline, disallowed and
    taken ones are in the difference. ``reserved`` are those of the usable that the site keeps for itself, as a preset
    says: ranks get them only where they are asked for (``--reserve none``). ``gpu_remark`` says why GPUs that are there
    are not among ``gpus``: a mask that makes no sense, or other makers; "" where there is nothing to say.
    """

    packages: tuple[Package, ...]
    dies: tuple[Die, ...]
    groups: tuple[Group, ...]
    numa_domains: tuple[NumaDomain, ...]
    caches: tuple[Cache, ...]
    cores: tuple[Core, ...]
    cpu_kinds: tuple[CpuKind, ...]
    distances: tuple[tuple[int, ...], ...]
    gpus: tuple[Gpu, ...]
    nics: tuple[Nic, ...]
    present: CpuSet
    usable: CpuSet
    memory_bytes: int
    reserved: CpuSet = CpuSet()
    gpu_remark: str = ""

    def restricted(self, usable: CpuSet) -> NodeTopology:
        """Return the same node on which only the given PUs (of those usable before) may be used."""
        return replace(self, usable=self.usable & usable)

    def restricted_memory(self, allowed: CpuSet) -> NodeTopology:
        """Return the same node on which pages may only be in these NUMA domains (of those allowed before)."""
        domains = [replace(one, allowed=one.allowed and one.os_index in allowed) for one in self.numa_domains]
        return replace(self, numa_domains=tuple(domains))

    def without_uuids(self) -> tuple[NodeTopology, tuple[str, ...]]:
        """Return what other nodes of this make are too, and the UUIDs of its GPUs (``Node.gpu_uuids``)."""
        uuids = tuple(gpu.uuid for gpu in self.gpus)
        if not any(uuids):
            return self, ()
        return replace(self, gpus=tuple(replace(gpu, uuid="") for gpu in self.gpus)), uuids

    def with_uuids(self, uuids: tuple[str, ...]) -> NodeTopology:
        """Return the node of this make whose GPUs have these UUIDs: what ``without_uuids`` was asked of."""
        if not uuids:
            return self
        gpus = tuple(replace(gpu, uuid=uuid) for gpu, uuid in zip(self.gpus, uuids, strict=True))
        return replace(self, gpus=gpus)

    def numa_of(self, cpus: CpuSet) -> tuple[OsIndex, ...]:
        """Return the os indices of the NUMA domains that these PUs lie in, ascending."""
        return tuple(sorted([d.os_index for d in self.numa_domains if d.cpus.mask & cpus.mask and d.local]))

    def core_classes(self) -> dict[int | None, int]:
        """Return for each kind of core (``Core.kind``) how many classes of kinds are faster.

        Kinds are of one class while they have the same name or nearly the same speed: single cores that clock a
        little higher (Intel's favoured cores, each step of a big.LITTLE's capacities) are no reason to keep a rank
        off the rest.
        """
        classes: dict[int | None, int] = {}
        n_faster, first = -1, None
        for i in sorted(range(len(self.cpu_kinds)), key=lambda i: -self.cpu_kinds[i].efficiency):
            kind = self.cpu_kinds[i]
            if first is None or not _alike(first, kind):
                n_faster, first = n_faster + 1, kind
            classes[i] = n_faster
        return classes

    def usable_cores(self) -> tuple[Core, ...]:
        """Return the cores that have at least one usable PU."""
        return tuple(core for core in self.cores if not core.cpus.isdisjoint(self.usable))


_SAME_SPEED = 0.85
"""Of recorded machines: cores of a kind differ by 3 % at most (GB10), kinds by 22 % at least (Raptor Lake)."""


def _alike(fast: CpuKind, other: CpuKind) -> bool:
    if fast.efficiency == other.efficiency or (fast.name and fast.name == other.name):
        return True
    return min(fast.speed, other.speed) > 0 and other.speed >= _SAME_SPEED * fast.speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One host of an allocation: its name, and which of the allocation's shapes it has.

    ``gpu_ids`` are the GPUs' ids as Dragon shows them ("0", "0.1"); None where Dragon was not asked. ``gpu_uuids`` are
    the UUIDs of its shape's GPUs, "" each where unknown; empty where none is known.
    """

    host: str
    shape_index: int
    gpu_ids: tuple[str, ...] | None = None
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The hosts that a plan may use. Equal nodes share one shape; ``nodes`` keep the allocation's order."""

    shapes: tuple[NodeTopology, ...]
    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, hosts: tuple[tuple[str, NodeTopology], ...]) -> Allocation:
        """Return the allocation of these (host name, topology) pairs, equal topologies shared."""
        index: dict[NodeTopology, int] = {}
        nodes = []
        for host, topology in hosts:
            shape, uuids = topology.without_uuids()
            nodes.append(Node(host=host, shape_index=index.setdefault(shape, len(index)), gpu_uuids=uuids))
        return cls(shapes=tuple(index), nodes=tuple(nodes))

    def topology(self, node_index: int) -> NodeTopology:
        """Return the topology of the node at this position."""
        return self.shapes[self.nodes[node_index].shape_index]

    def only(self, node_indices: Iterable[int]) -> Allocation:
        """Return the nodes at these positions, in this order, and the shapes that they have, in theirs."""
        kept = [self.nodes[i] for i in node_indices]
        index = {old: new for new, old in enumerate(sorted({node.shape_index for node in kept}))}
        nodes = tuple(replace(node, shape_index=index[node.shape_index]) for node in kept)
        return Allocation(shapes=tuple(self.shapes[old] for old in index), nodes=nodes)
