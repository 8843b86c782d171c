"""plan(): a pure function of an allocation and a request. Same input, same plan, to the byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, PlacementError, RankmapError
from rankmap.hostlist import fold
from rankmap.layout_parts import BindTo, Order, Pattern
from rankmap.mapping.automatic import automatic
from rankmap.mapping.by_pattern import by_pattern
from rankmap.mapping.dealing import Site
from rankmap.mapping.listed import manual, rankfile, sequence
from rankmap.mapping.notes import layout_notes, unused_note
from rankmap.placement import NodeLayout, Part, Plan, PlannedNode
from rankmap.processors import ground
from rankmap.ranking import local_order, number_nodes, places_in_order
from rankmap.runs import expand, joined, shifted
from rankmap.soundness import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.kinds import Mapped, NodeKind
    from rankmap.processors import Ground
    from rankmap.runs import Run
    from rankmap.topology import Allocation

__all__ = ["Decisions", "PartDecisions", "decide", "plan"]

_RULES: Mapping[Pattern, Callable[[Allocation, LayoutSpec, Sequence[Site]], Mapped]] = {
    Pattern.AUTO: automatic,
    Pattern.RS: automatic,
    Pattern.SLOT: by_pattern,
    Pattern.NODE: by_pattern,
    Pattern.OBJECT: by_pattern,
    Pattern.PPR: by_pattern,
    Pattern.PLANE: by_pattern,
    Pattern.MANUAL: manual,
    Pattern.SEQ: sequence,
    Pattern.RANKFILE: rankfile,
}
"""Which module makes the layouts of a pattern."""

_LISTS_PUS = frozenset({Pattern.MANUAL})


class NodeDecisions(NamedTuple):
    """What was decided for a node: its kind, and which rank each of the kind's local ranks became, in their order."""

    site: Site
    kind: NodeKind
    order: tuple[int, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDecisions:
    """What was decided for one part of a job: its request, its nodes, and those that it did not use."""

    spec: LayoutSpec
    first_rank: int
    n_ranks: int
    nodes: tuple[NodeDecisions, ...]
    unused: tuple[Site, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """A plan, and how it came about (``explain.py`` puts it into words)."""

    plan: Plan
    parts: tuple[PartDecisions, ...]


def plan(allocation: Allocation, *specs: LayoutSpec) -> Plan:
    """Return where every rank goes.

    Args:
        allocation: The nodes.
        specs: The request; of a job of several parts (MPMD) one for each. Parts share no processor, and their ranks
            are numbered one part after the other.

    Raises:
        AllocationError: A host that is named is not in the allocation, or no host is left.
        PlacementError: The ranks do not fit, or no node has one of the reserved CPUs. The message has the numbers,
            the hint the nearest requests that fit.
        UsageError: A file that the request refers to cannot be understood.
    """
    return decide(allocation, *specs).plan


def decide(allocation: Allocation, *specs: LayoutSpec) -> Decisions:
    """Return the plan and how it came about; see ``plan``.

    In a job of several parts those that name neither places nor a number of cores get as many cores for each rank as
    leave room for all parts.
    """
    error: PlacementError | None = None
    for width in _widths(allocation, specs):
        try:
            return _decide(allocation, specs, width)
        except PlacementError as refused:
            error = refused
    assert error is not None  # noqa: S101 - the last width was refused
    raise error


def _widths(allocation: Allocation, specs: Sequence[LayoutSpec]) -> Iterable[int | None]:
    """Return the numbers of cores to try for ranks that leave it open; None is as many as their part has room for."""
    n_open = sum(spec.n_ranks or 0 for spec in specs if _is_open(spec))
    if len(specs) == 1 or not n_open:
        return (None,)
    of_shape = [len(shape.usable_cores()) for shape in allocation.shapes]
    n_cores = sum(of_shape[node.shape_index] for node in allocation.nodes)
    n_cores -= sum((spec.n_ranks or 0) * (spec.processors_per_rank or 1) for spec in specs if not _is_open(spec))
    widest = max(of_shape, default=1)  # no rank is wider than its node
    return range(max(1, min(widest, n_cores // n_open)), 0, -1)


def _is_open(spec: LayoutSpec) -> bool:
    return spec.map_by.pattern is Pattern.AUTO and spec.processors_per_rank is None and spec.n_ranks is not None


def _decide(allocation: Allocation, specs: Sequence[LayoutSpec], width: int | None) -> Decisions:
    taken: dict[int, CpuSet] = {}
    parts: list[PartDecisions] = []
    for number, spec in enumerate(specs):
        wide = replace(spec, cpus_per_rank=width) if width and _is_open(spec) else spec
        try:
            part = _part(allocation, wide, taken, first_rank=sum(part.n_ranks for part in parts))
        except RankmapError as refused:
            if len(specs) == 1:
                raise
            error = refused if wide is spec else _as_written(allocation, spec, taken, refused)
            after = f", after {'those' if number > 1 else 'that'} before it" * (number > 0)
            msg = f"part {number + 1} of the job{after}: {error.message}"
            raise type(error)(msg, hint=error.hint) from refused
        parts.append(replace(part, spec=spec))
        if number + 1 < len(specs):
            for node in part.nodes:
                index = node.site.node_index
                taken[index] = taken.get(index, CpuSet()) | node.kind.taken
    made = _assembled(allocation, parts)
    check(made)
    return Decisions(plan=made, parts=tuple(parts))


def _as_written(
    allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, CpuSet], refused: RankmapError
) -> RankmapError:
    """Return the refusal of a part in the words that were typed, where it would be refused with these too."""
    try:
        _part(allocation, spec, taken, first_rank=0)
    except RankmapError as error:
        return error
    return refused


def _part(allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, CpuSet], *, first_rank: int) -> PartDecisions:
    rule = _RULES[spec.map_by.pattern]
    sites = _sites(allocation, spec, taken)
    try:
        mapped = rule(allocation, spec, sites)
    except PlacementError:
        if not (spec.oversubscribe and taken):
            raise
        sites = _sites(allocation, spec, {})  # what is left is not enough: it shares with the parts before
        mapped = rule(allocation, spec, sites)
    _refuse_overload(spec, mapped)
    nodes = _numbered(spec, mapped, first_rank)
    with_ranks = {node.site.node_index for node in nodes}
    return PartDecisions(
        spec=spec,
        first_rank=first_rank,
        n_ranks=sum(len(node.order) for node in nodes),
        nodes=tuple(nodes),
        unused=tuple(site for site in sites if site.node_index not in with_ranks),
    )


def _refuse_overload(spec: LayoutSpec, mapped: Mapped) -> None:
    """Raise where ranks share processors and are bound to them, and that was not asked for.

    Raises:
        PlacementError: So it is.
    """
    if spec.may_share or spec.binding == BindTo():
        return
    for kind in mapped.kinds:
        n_asked = sum(map(len, kind.chosen))
        n_taken = len({position for positions in kind.chosen for position in positions})
        if n_asked > n_taken:
            what = "hardware threads" if kind.ground.threads else "cores"
            asked = f"--oversubscribe and --bind-to {spec.bind_to} without overload-allowed"
            msg = f"{asked}: {len(kind.ranks)} ranks of a node share {n_taken} {what}"
            hint = f"--bind-to {spec.bind_to}:overload-allowed binds them all the same; without --bind-to they share"
            raise PlacementError(msg, hint=hint)


def _numbered(spec: LayoutSpec, mapped: Mapped, first_rank: int) -> list[NodeDecisions]:
    """Return the nodes with their rank numbers."""
    rank_by = spec.rank_by or mapped.natural_order
    from_file = rank_by.order is Order.FILE
    base = mapped.natural_order if from_file else rank_by
    ordered = [local_order(kind.objects, base) for kind in mapped.kinds]
    runs: Sequence[tuple[Run, ...]] | None = mapped.numbers
    if runs is None:
        runs = number_nodes([index for _, index in mapped.used], [rounds for _, rounds in ordered])
    orders = [ordered[index][0] for _, index in mapped.used]
    if from_file:
        assert rank_by.file is not None  # noqa: S101 - so parsed
        orders, runs = places_in_order(rank_by.file, orders, runs)
    if first_rank:
        runs = [shifted(numbers, first_rank) for numbers in runs]
    kinds = mapped.kinds
    return [
        NodeDecisions(site, kinds[index], order, numbers)
        for (site, index), order, numbers in zip(mapped.used, orders, runs, strict=True)
    ]


def _assembled(allocation: Allocation, parts: Sequence[PartDecisions]) -> Plan:
    """Return the plan that the parts make together."""
    of_node: dict[int, tuple[NodeDecisions, ...]] = {node.site.node_index: (node,) for node in parts[0].nodes}
    for part in parts[1:]:
        for node in part.nodes:
            index = node.site.node_index
            of_node[index] = (*of_node[index], node) if index in of_node else (node,)
    layouts: dict[tuple[int, ...], int] = {}
    made: list[NodeLayout] = []
    nodes = []
    for index, here in sorted(of_node.items()):
        key: tuple[int, ...] = (id(here[0].kind), id(here[0].order))  # alike nodes share both
        for node in here[1:]:
            key += id(node.kind), id(node.order)
        layout_index = layouts.get(key)
        if layout_index is None:
            layout_index = layouts[key] = len(made)
            ranks = tuple(node.kind.ranks[i] for node in here for i in node.order)
            made.append(NodeLayout(shape_index=allocation.nodes[index].shape_index, ranks=ranks))
        runs = here[0].runs if len(here) == 1 else joined(run for node in here for run in node.runs)
        nodes.append(PlannedNode(node_index=index, layout_index=layout_index, runs=runs))
    return Plan(
        allocation=allocation,
        parts=tuple(Part(spec=part.spec, n_ranks=part.n_ranks) for part in parts),
        layouts=tuple(made),
        nodes=tuple(nodes),
        notes=tuple(_notes(parts, set(of_node))),
    )


def _notes(parts: Sequence[PartDecisions], used: set[int]) -> list[str]:
    notes: list[str] = []
    for number, part in enumerate(parts, start=1):
        alike: dict[tuple[int, int], list[NodeDecisions]] = {}
        for node in part.nodes:
            key = id(node.kind), id(node.order)
            if key in alike:
                alike[key].append(node)
            else:
                alike[key] = [node]
        for nodes in alike.values():
            first = nodes[0]
            found = layout_notes(
                part.spec,
                first.kind,
                hosts=[node.site.host for node in nodes],
                numbers=tuple(expand(first.runs)),
                ranks=[first.kind.ranks[i] for i in first.order],
                idle=number == len(parts),  # what a part leaves idle is for the next one
            )
            notes += [f"part {number}: {note}" for note in found] if len(parts) > 1 else found
    unused = [site.host for site in parts[0].unused if site.node_index not in used]
    return [*notes, *unused_note(unused)]


def _sites(allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, CpuSet]) -> list[Site]:
    """Return the nodes that the request may use, in the allocation's order.

    Raises:
        AllocationError: A named host does not exist, or none is left.
        PlacementError: No node has a CPU that is named.
    """
    used = _used(allocation, spec)
    slots = dict(spec.slots)
    grounds: dict[tuple[int, CpuSet | None], Ground] = {}
    sites = []
    for i in used:
        node = allocation.nodes[i]
        key = node.shape_index, taken.get(i)
        here = grounds.get(key)
        if here is None:
            here = grounds[key] = _ground(allocation, spec, *key)
        sites.append(Site(i, node.host, here, slots.get(node.host)))
    return sites


def _used(allocation: Allocation, spec: LayoutSpec) -> list[int]:
    """Return the positions of the nodes that the request may use; errors as ``_sites``."""
    problems: list[RankmapError] = []
    used = list(range(len(allocation.nodes)))
    if spec.hosts or spec.exclude_hosts:
        known = dict.fromkeys(node.host for node in allocation.nodes)
        for option, hosts in (("--hosts", spec.hosts), ("--exclude-hosts", spec.exclude_hosts)):
            if strange := [host for host in dict.fromkeys(hosts) if host not in known]:
                there = fold(known) if known else "no hosts"
                problems.append(AllocationError(f"{option} {fold(strange)}: not in the allocation, which has {there}"))
        wanted = set(spec.hosts or known).difference(spec.exclude_hosts)
        used = [i for i in used if allocation.nodes[i].host in wanted]
    if not used and not problems:
        problems.append(AllocationError(_nothing_left(allocation, spec)))
    present = CpuSet()
    for shape in {allocation.nodes[i].shape_index for i in used}:
        present |= allocation.shapes[shape].present
    for option, cpus in (("--reserve", spec.reserve), ("pe-list", spec.map_by.pe_list)):
        if used and (absent := cpus - present):
            problems.append(PlacementError(f"{option}: no node has CPU {absent}; the CPUs are {present}"))
    if problems:
        raise _together(problems)
    return used


def _ground(allocation: Allocation, spec: LayoutSpec, shape_index: int, taken: CpuSet | None) -> Ground:
    return ground(
        allocation.shapes[shape_index],
        shape_index=shape_index,
        reserve=spec.reserve,
        taken=taken or CpuSet(),
        reserve_per=spec.reserve_per,
        only=spec.map_by.pe_list,
        threads=spec.threads or spec.map_by.pattern in _LISTS_PUS,
        smt=spec.smt,
    )


def _nothing_left(allocation: Allocation, spec: LayoutSpec) -> str:
    if not allocation.nodes:
        return "the allocation has no hosts"
    limits = " and ".join(
        f"{option} {fold(hosts)}"
        for option, hosts in (("--hosts", spec.hosts), ("--exclude-hosts", spec.exclude_hosts))
        if hosts
    )
    there = fold([node.host for node in allocation.nodes])
    return f"{limits} leave{'s' * (not (spec.hosts and spec.exclude_hosts))} no host of the allocation's {there}"


def _together(problems: Sequence[RankmapError]) -> RankmapError:
    """Return one error with every problem; its kind is that of the first."""
    if len(problems) == 1:
        return problems[0]
    hint = " ".join(problem.hint for problem in problems if problem.hint)
    return type(problems[0])("\n".join(problem.message for problem in problems), hint=hint)
