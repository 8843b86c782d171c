"""Layouts that are written down: CPUs per local rank (manual), a host per rank (seq), both per rank (rankfile)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rankmap.binding import bound
from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, PlacementError, UsageError
from rankmap.hostlist import fold
from rankmap.layout_parts import Order, RankBy
from rankmap.mapping.dealing import deal
from rankmap.mapping.kinds import Kinds, NodeKind, placements
from rankmap.mapping.refusal import counted
from rankmap.runs import compress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.layout_parts import TextFile
    from rankmap.mapping.dealing import Site
    from rankmap.mapping.kinds import Mapped
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["manual", "rankfile", "sequence"]

_LINE = re.compile(r"rank\s+(\d{1,9})\s*=\s*(\S+)\s+slots?\s*=\s*(\S+)", re.ASCII | re.IGNORECASE)
_RELATIVE = re.compile(r"\+n(\d{1,9})", re.ASCII | re.IGNORECASE)
_ITEM = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_Row = TypeVar("_Row")
_WIDEST = 1 << 16
"""No node has so many cores; a longer range is a slip of the pen."""


def manual(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return the layout in which local rank i of every node has the i-th list of CPUs.

    Raises:
        PlacementError: There are more ranks than lists, a CPU is not free, or two ranks share one.
    """
    lists, option = spec.map_by.lists, f"--map-by {spec.map_by}"
    room = [len(lists) if site.slots is None else min(len(lists), site.slots) for site in sites]
    counts = deal(spec, room)
    if counts is None or max(counts) > len(lists):
        there = f"{option} has {counted(len(lists), 'CPU list')}, one for each rank of a node"
        nodes = counted(len(sites), "node")
        msg = f"{spec.counts() or option}: {there}: on {nodes} there is room for {counted(sum(room), 'rank')}"
        if spec.ranks_per_node is not None and spec.ranks_per_node <= min(room):
            msg = f"{spec.counts()}: -N {spec.ranks_per_node} on {nodes} is room for {spec.ranks_per_node * len(sites)}"
            raise PlacementError(msg, hint=f"these fit: -n {sum(room)} | -N {min(room)}")
        more = "write a list for each rank of a node, with colons between: manual:0:1:2-3"
        raise PlacementError(msg, hint=f"these fit: -n {sum(room)}; or {more}")
    kinds = Kinds(partial(_manual_kind, allocation, spec))
    kinds.add_all(sites, counts)
    return kinds.mapped(RankBy(order=Order.SLOT))


def _manual_kind(allocation: Allocation, spec: LayoutSpec, site: Site, count: int) -> NodeKind:
    position = {processor.first_pu: i for i, processor in enumerate(site.ground.processors)}
    chosen = []
    for i, cpus in enumerate(spec.map_by.lists[:count]):
        if absent := [cpu for cpu in cpus if cpu not in position]:
            free = CpuSet.of(position)
            msg = f"--map-by {spec.map_by}: CPU {CpuSet.of(absent)} of local rank {i} is not free on {site.host}"
            raise PlacementError(msg, hint=f"its free CPUs are {free}")
        chosen.append(tuple(position[cpu] for cpu in cpus))
    _refuse_overlap(spec, site, chosen, [f"local rank {i}" for i in range(count)])
    return _listed_kind(allocation, spec, site, tuple(chosen))


def sequence(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return the layout in which rank i is on the host of the i-th line, on its next free processors.

    Raises:
        UsageError: A line is no host, or there are none.
        AllocationError: A host is not there.
        PlacementError: A host has more ranks than room.
    """
    assert spec.map_by.file is not None  # noqa: S101 - so parsed
    file, size = spec.map_by.file, spec.processors_per_rank or 1
    at = {site.host: i for i, site in enumerate(sites)}
    lines = list(_lines(file))
    for number, text in lines:
        if len(text.split()) > 1:
            msg = f"{file.name}:{number}: not a line of a seq file: {text}"
            raise UsageError(msg, hint="write one host a line, the one of rank 0 first")
    wanted = [(number, _resolved(file, number, text, at)) for number, text in lines]
    of_site: dict[int, list[int]] = {}
    for rank, (number, position) in enumerate(_first(spec, file, wanted)):
        here, site = of_site.setdefault(position, []), sites[position]
        room = len(site.ground.processors) // size
        if site.slots is not None:
            room = min(room, site.slots)
        if len(here) >= room and not (spec.oversubscribe and room):
            msg = f"{file.name}:{number}: {site.host} has room for {room} ranks of {size}, and this is one more"
            raise PlacementError(msg, hint="use other hosts, or add --oversubscribe")
        here.append(rank)
    kinds = Kinds(partial(_listed_kind, allocation, spec))
    numbers = []
    for i in sorted(of_site):
        site, ranks = sites[i], of_site[i]
        total = len(site.ground.processors)
        kinds.add(site, tuple(tuple((k * size + j) % total for j in range(size)) for k in range(len(ranks))))
        numbers.append(compress(ranks))
    return kinds.mapped(RankBy(order=Order.SLOT), numbers)


def rankfile(allocation: Allocation, spec: LayoutSpec, sites: Sequence[Site]) -> Mapped:
    """Return the layout of an Open MPI rankfile.

    Slots are hwloc's logical indices of cores (PUs with HWTCPUS), those after ``p:`` are counted within package p.
    Source: PRRTE, ``prterun --help placement-rankfiles``; Open MPI, mpirun(1), "Rankfiles".

    Raises:
        UsageError: A line cannot be understood, a rank is missing or given twice.
        AllocationError: A host is not there.
        PlacementError: A slot is not there or not free, or two ranks share one.
    """
    assert spec.map_by.file is not None  # noqa: S101 - so parsed
    file = spec.map_by.file
    at = {site.host: i for i, site in enumerate(sites)}
    found: dict[int, tuple[int, int, str]] = {}
    for number, text in _lines(file):
        line = _LINE.fullmatch(text)
        if line is None:
            msg = f"{file.name}:{number}: not a line of a rankfile: {text}"
            raise UsageError(msg, hint="write: rank 0=host slot=0-3 (or slot=PACKAGE:CORES)")
        rank = int(line[1])
        if rank in found:
            msg = f"{file.name}:{number}: rank {rank} has line {found[rank][0]} already"
            raise UsageError(msg)
        found[rank] = number, _resolved(file, number, line[2], at), line[3]
    missing = sorted(set(range(len(found))) - set(found))
    if missing:
        msg = f"{file.name}: there is no line for rank {missing[0]}, and there are {len(found)} lines"
        raise UsageError(msg, hint="ranks are 0 to n-1, each on a line of its own")
    lines = _first(spec, file, [(found[rank][0], found[rank]) for rank in range(len(found))])
    of_site: dict[int, list[tuple[int, int, tuple[int, ...]]]] = {}
    slots = {site.ground: _Slots.of(allocation.shapes[site.ground.shape_index], site, spec) for site in sites}
    for rank, (number, (_, i, text)) in enumerate(lines):
        positions = slots[sites[i].ground].positions(f"{file.name}:{number}", text, sites[i].host)
        here, most = of_site.setdefault(i, []), sites[i].slots
        if most is not None and len(here) >= most and not spec.oversubscribe:
            msg = f"{file.name}:{number}: {sites[i].host} has {most} slots, and this is one rank more"
            raise PlacementError(msg, hint="use other hosts, or add --oversubscribe")
        here.append((rank, number, positions))
    kinds = Kinds(partial(_listed_kind, allocation, spec))
    numbers = []
    for i in sorted(of_site):
        site, rows = sites[i], of_site[i]
        chosen = [positions for _, _, positions in rows]
        _refuse_overlap(spec, site, chosen, [f"{file.name}:{number}: rank {rank}" for rank, number, _ in rows])
        kinds.add(site, tuple(chosen))
        numbers.append(compress([rank for rank, _, _ in rows]))
    return kinds.mapped(RankBy(order=Order.SLOT), numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slots:
    """The slots of a node: by number, and by package and number, as positions in its ground; None: not free."""

    unit: str
    all: tuple[int | None, ...]
    of_package: tuple[tuple[int | None, ...], ...]

    @classmethod
    def of(cls, topology: NodeTopology, site: Site, spec: LayoutSpec) -> _Slots:
        position = {cpu: i for i, processor in enumerate(site.ground.processors) for cpu in processor.cpus}
        units = [CpuSet.of([pu.os_index]) for core in topology.cores for pu in core.pus]
        if not spec.threads:
            units = [core.cpus for core in topology.cores]
        where = [next((position[cpu] for cpu in unit if cpu in position), None) for unit in units]
        return cls(
            unit="hardware thread" if spec.threads else "core",
            all=tuple(where),
            of_package=tuple(
                tuple(at for at, unit in zip(where, units, strict=True) if not unit.isdisjoint(package.cpus))
                for package in topology.packages
            ),
        )

    def positions(self, place: str, text: str, host: str) -> tuple[int, ...]:
        """Return the positions that the text of a line asks for."""
        found: dict[int, None] = {}
        for part in text.split(";"):
            package, colon, cpus = part.rpartition(":")
            there = self.all
            name = f"the {self.unit}s of {host}"
            if colon:
                if not _ITEM.fullmatch(package) or "-" in package:
                    raise _no_slots(place, text)
                if int(package) >= len(self.of_package):
                    msg = f"{place}: {host} has no package {package}; it has {len(self.of_package)}"
                    raise PlacementError(msg)
                there, name = self.of_package[int(package)], f"the {self.unit}s of package {package} of {host}"
            for number in range(len(there)) if cpus == "*" else _numbers(place, text, cpus):
                if number >= len(there):
                    msg = f"{place}: there is no {self.unit} {number}; {name} are 0 to {len(there) - 1}"
                    raise PlacementError(msg)
                at = there[number]
                if at is not None:
                    found[at] = None
                elif cpus != "*":
                    msg = f"{place}: {self.unit} {number} of {host} is not free for ranks"
                    raise PlacementError(
                        msg,
                        hint="see `rankmap topo`; --reserve, a preset's site (--reserve none) and cgroups keep cores"
                        " from ranks",
                    )
        if not found:
            msg = f"{place}: no {self.unit} of {host} in {text} is free for ranks"
            raise PlacementError(msg)
        return tuple(sorted(found))


def _numbers(place: str, text: str, cpus: str) -> Iterator[int]:
    for item in cpus.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise _no_slots(place, text)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > _WIDEST:
            raise _no_slots(place, text)
        yield from range(first, last + 1)


def _no_slots(place: str, text: str) -> UsageError:
    return UsageError(f"{place}: slot={text} cannot be understood", hint="write slot=0-3, slot=1:0,2 or slot=0:*")


def _lines(file: TextFile) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that says something; ``#`` starts a comment.

    Raises:
        UsageError: There is none.
    """
    empty = True
    for number, line in enumerate(file.lines, start=1):
        if text := line.partition("#")[0].strip():
            empty = False
            yield number, text
    if empty:
        msg = f"{file.name} says nothing"
        raise UsageError(msg)


def _first(spec: LayoutSpec, file: TextFile, rows: Sequence[_Row]) -> Sequence[_Row]:
    """Return the rows of the ranks that are asked for."""
    if spec.ranks_per_node is not None:
        msg = f"-N {spec.ranks_per_node} and --map-by {spec.map_by}: the file says how many ranks each node has"
        raise UsageError(msg)
    if spec.n_ranks is not None and spec.n_ranks > len(rows):
        msg = f"-n {spec.n_ranks}: {file.name} is for {len(rows)} ranks"
        raise PlacementError(msg, hint=f"these fit: -n {len(rows)}")
    return rows[: spec.n_ranks]


def _resolved(file: TextFile, number: int, host: str, at: Mapping[str, int]) -> int:
    """Return the position of the host; ``+n2`` is the third one."""
    relative = _RELATIVE.fullmatch(host)
    position = int(relative[1]) if relative else at.get(host, -1)
    if not 0 <= position < len(at):
        msg = f"{file.name}:{number}: {host} is none of the {len(at)} hosts {fold(at)}"
        raise AllocationError(msg)
    return position


def _refuse_overlap(spec: LayoutSpec, site: Site, chosen: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    if spec.may_share:
        return
    owner: dict[int, int] = {}
    for i, positions in enumerate(chosen):
        for position in positions:
            if owner.setdefault(position, i) != i:
                cpus = site.ground.processors[position].cpus
                msg = f"{names[i]} has CPU {cpus} of {site.host}, which {names[owner[position]]} has too"
                raise PlacementError(msg, hint="add --bind-to explicit:overload-allowed if that is meant")


def _listed_kind(allocation: Allocation, spec: LayoutSpec, site: Site, chosen: tuple[tuple[int, ...], ...]) -> NodeKind:
    binding = spec.binding
    sets = [bound(site.ground, positions, binding) for positions in chosen]
    return NodeKind(
        ground=site.ground,
        chosen=chosen,
        objects=(0,) * len(chosen),
        ranks=placements(allocation.shapes[site.ground.shape_index], sets),
        object_name="node",
    )
