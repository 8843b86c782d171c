"""The processors of a node that ranks may have, and the objects that they lie in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.layout_parts import Level
from rankmap.topology import OsIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

    from rankmap.layout_parts import ReservePer
    from rankmap.topology import NodeTopology

__all__ = ["Domain", "Ground", "Processor", "by_level", "ground", "grouped", "objects_of"]

_PLACE = {level: position for position, level in enumerate(Level)}
_CACHES = {Level.L1CACHE: 1, Level.L2CACHE: 2, Level.L3CACHE: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What one rank is given at least: a core with its usable PUs, or one PU.

    Args:
        cpus: Its PU os indices.
        places: For each Level in order, which of the node's objects of that level it lies in; -1 for none.
        kind: How many kinds of core are faster than its own; 0 where all are alike.
    """

    cpus: CpuSet
    places: tuple[int, ...]
    kind: int = 0

    def place(self, level: Level) -> int:
        """Return which object of this level it lies in; -1 for none."""
        return self.places[_PLACE[level]]

    @property
    def first_pu(self) -> int:
        """Return the os index of its first PU in hwloc's order."""
        return self.place(Level.HWTHREAD)

    @property
    def package(self) -> int:
        """Return its package; -1 for none."""
        return self.place(Level.PACKAGE)


Domain = tuple[Processor, ...]
"""The free processors of one NUMA domain, in logical order; never empty."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """What nodes of one shape have for a request; nodes that are alike share it.

    Args:
        shape_index: The shape.
        processors: What ranks may have, in hwloc's logical order.
        threads: Whether these are PUs, not cores.
        reserved: The PU os indices that were kept free.
        gpus: The GPUs that ranks may have, as positions in the topology's.
    """

    shape_index: int
    processors: tuple[Processor, ...]
    threads: bool = False
    reserved: CpuSet = CpuSet()
    gpus: tuple[int, ...] = ()

    @cached_property
    def domains(self) -> tuple[Domain, ...]:
        """Return the processors by NUMA domain, domains and processors in topology order.

        Processors without a NUMA domain are grouped by package.
        """
        homes = [(one.place(Level.NUMA), one.package if one.place(Level.NUMA) < 0 else 0) for one in self.processors]
        return grouped(self.processors, homes)

    def objects(self, level: Level) -> tuple[tuple[int, ...], ...]:
        """Return the positions of the processors of each object of this level that has any, in logical order."""
        groups: dict[int, list[int]] = {}
        for position, processor in enumerate(self.processors):
            if (place := processor.place(level)) >= 0:
                groups.setdefault(place, []).append(position)
        return tuple(tuple(group) for group in groups.values())

    def within(self, chosen: Iterable[int], level: Level) -> CpuSet:
        """Return all PUs of the processors that lie in the same objects of this level as the chosen ones.

        A chosen one that lies in no such object stands for itself.
        """
        masks = self._masks.get(level)
        if masks is None:
            masks = self._masks[level] = {}
            for one in self.processors:
                place = one.place(level)
                masks[place] = masks.get(place, 0) | one.cpus.mask
        mask = 0
        for position in chosen:
            one = self.processors[position]
            place = one.place(level)
            mask |= masks[place] if place >= 0 else one.cpus.mask
        return CpuSet(mask)

    @cached_property
    def _masks(self) -> dict[Level, dict[int, int]]:
        """By level and object, the PUs of its processors, as far as they were asked for."""
        return {}

    def cpus(self, chosen: Iterable[int]) -> CpuSet:
        """Return the PUs of these processors."""
        mask = 0
        for position in chosen:
            mask |= self.processors[position].cpus.mask
        return CpuSet(mask)


def grouped(processors: Sequence[Processor], keys: Sequence[Hashable]) -> tuple[Domain, ...]:
    """Return the processors with equal keys together, groups in the order of their first member."""
    if len(set(keys)) == 1:
        return (tuple(processors),)
    groups: dict[Hashable, list[Processor]] = {}
    for processor, key in zip(processors, keys, strict=True):
        if key in groups:
            groups[key].append(processor)
        else:
            groups[key] = [processor]
    return tuple(map(tuple, groups.values()))


def by_level(processors: Sequence[Processor], level: Level) -> tuple[Domain, ...]:
    """Return the processors of each object of this level; those that lie in none are one group."""
    position = _PLACE[level]
    return grouped(processors, [processor.places[position] for processor in processors])


def ground(  # noqa: PLR0913 - the words of a request
    topology: NodeTopology,
    *,
    shape_index: int = 0,
    reserve: CpuSet = CpuSet(),
    reserve_per: ReservePer | None = None,
    taken: CpuSet = CpuSet(),
    taken_gpus: Collection[int] = (),
    only: CpuSet = CpuSet(),
    threads: bool = False,
    smt: int | None = None,
) -> Ground:
    """Return what ranks may have of a node.

    A reserved PU takes its whole core out. A usable PU without a core counts as a core. Of several memories of the
    same PUs (HBM beside DDR) the one that is local counts, of nested objects the smallest.

    Args:
        topology: The node.
        shape_index: Its position in the allocation's shapes.
        reserve: PU os indices that no rank gets.
        reserve_per: Keep the first so many free cores of each object of this level out.
        taken: PU os indices that the parts before have; where cores are dealt, their whole cores.
        taken_gpus: The GPUs that the parts before have, as positions.
        only: The only PU os indices to use; empty is all.
        threads: Whether each PU is a processor, not each core.
        smt: How many PUs of each core to use, the first ones; None is all.
    """
    free = topology.usable & only if only else topology.usable
    homes = {level: _homes(topology, level) for level in Level}
    kinds = topology.core_classes()
    known = CpuSet()
    cores: list[_Core] = []
    for core in topology.cores:
        known |= core.cpus
        if core.cpus.isdisjoint(reserve) and (pus := [pu.os_index for pu in core.pus if free.mask >> pu.os_index & 1]):
            cores.append((core.logical_index, pus, kinds.get(core.kind, 0)))
    first_bare = len(topology.cores)
    cores += [(first_bare + i, [OsIndex(cpu)], 0) for i, cpu in enumerate(free - known - reserve)]
    if reserve_per is not None:
        cores, kept = _without_first(cores, homes[reserve_per.level], reserve_per.count)
        reserve |= kept
    if taken:
        cores = list(_without(cores, taken, whole=not threads))
    return Ground(
        shape_index=shape_index,
        processors=tuple(_processors(cores, homes, threads=threads, smt=smt)),
        threads=threads,
        reserved=reserve | taken,
        gpus=tuple(i for i in range(len(topology.gpus)) if i not in taken_gpus),
    )


_Core = tuple[int, list[OsIndex], int]
"""A core's logical index, its free PUs, and its kind."""


def _without(cores: Iterable[_Core], taken: CpuSet, *, whole: bool) -> Iterator[_Core]:
    """Yield the cores without these PUs; ``whole`` leaves out every core that has one of them."""
    for index, pus, kind in cores:
        left = [pu for pu in pus if pu not in taken]
        if left and not (whole and len(left) < len(pus)):
            yield index, left, kind


def _without_first(cores: Iterable[_Core], home: Mapping[int, int], count: int) -> tuple[list[_Core], CpuSet]:
    """Return the cores but the first so many of each object, and the PUs of these."""
    n_kept: dict[int, int] = {}
    left: list[_Core] = []
    kept = CpuSet()
    for one in cores:
        place = home.get(one[1][0], -1)
        n_kept[place] = n_kept.get(place, 0) + 1
        if place < 0 or n_kept[place] > count:
            left.append(one)
        else:
            kept |= CpuSet.of(one[1])
    return left, kept


def _processors(
    cores: Iterable[_Core],
    homes: Mapping[Level, Mapping[int, int]],
    *,
    threads: bool,
    smt: int | None,
) -> Iterator[Processor]:
    of_level = [homes[level] for level in Level]
    for core_index, pus, kind in cores:
        used = pus[:smt]
        for part in [[pu] for pu in used] if threads else [used]:
            places = [home.get(part[0], -1) for home in of_level]
            places[_PLACE[Level.CORE]] = core_index
            places[_PLACE[Level.HWTHREAD]] = part[0]
            yield Processor(cpus=CpuSet.of(part), places=tuple(places), kind=kind)


def objects_of(topology: NodeTopology, level: Level) -> tuple[CpuSet, ...]:
    """Return the PUs of each object of this level, in logical order; those of memory that is no PU's own are empty."""
    sets: list[CpuSet] = []
    match level:
        case Level.NODE:
            sets = [topology.present]
        case Level.PACKAGE:
            sets = [package.cpus for package in topology.packages]
        case Level.DIE:
            sets = [die.cpus for die in topology.dies]
        case Level.NUMA:
            sets = [domain.cpus if domain.local else CpuSet() for domain in topology.numa_domains]
        case Level.L1CACHE | Level.L2CACHE | Level.L3CACHE:
            sets = [cache.cpus for cache in topology.caches if cache.level == _CACHES[level]]
        case Level.CORE:
            sets = [core.cpus for core in topology.cores]
        case Level.HWTHREAD:
            sets = [CpuSet.of([pu.os_index]) for core in topology.cores for pu in core.pus]
    return tuple(sets)


def _homes(topology: NodeTopology, level: Level) -> dict[int, int]:
    """Return which object of the level each PU lies in, by their position in logical order."""
    if level in {Level.CORE, Level.HWTHREAD}:
        return {}  # a processor knows these
    sets = objects_of(topology, level)
    order = sorted(range(len(sets)), key=lambda i: -len(sets[i]))
    return {cpu: i for i in order for cpu in sets[i]}
