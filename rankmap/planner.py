"""plan(): a pure function of an allocation and a request. Same input, same plan, to the byte."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from rankmap.assembly import assembled
from rankmap.cpuset import CpuSet
from rankmap.decisions import Decisions, NodeDecisions, PartDecisions
from rankmap.devices import gpu_ids
from rankmap.errors import AllocationError, PlacementError, RankmapError, UsageError
from rankmap.hostlist import fold
from rankmap.layout_parts import Level, Order, Pattern
from rankmap.mapping.automatic import automatic
from rankmap.mapping.by_pattern import by_pattern
from rankmap.mapping.dealing import Site
from rankmap.mapping.extras import with_memory_and_threads
from rankmap.mapping.gpus import gpu_room, too_few_gpus, with_gpus
from rankmap.mapping.listed import manual, rankfile, sequence
from rankmap.mapping.nics import nic_room, too_few_nics, with_nics
from rankmap.mapping.refusal import counted
from rankmap.processors import ground, objects_of
from rankmap.ranking import local_order, number_nodes, places_in_order
from rankmap.runs import shifted
from rankmap.soundness import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.kinds import Mapped
    from rankmap.placement import Plan
    from rankmap.processors import Ground
    from rankmap.runs import Run
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["at_home", "decide", "decide_again", "plan"]

_RULES: Mapping[Pattern, Callable[[Allocation, LayoutSpec, Sequence[Site]], Mapped]] = {
    Pattern.AUTO: automatic,
    Pattern.RS: automatic,
    Pattern.GPU: automatic,
    Pattern.NIC: automatic,
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

_Taken = tuple[CpuSet, frozenset[int]]
"""What the parts before have of a node: PU os indices, and GPUs by their position."""

_LOCALHOST = "localhost"

_NOTHING: _Taken = (CpuSet(), frozenset())


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
    specs = tuple(at_home(allocation, spec) for spec in specs)
    widest = _widest(allocation, specs)
    if widest is None:
        return _decide(allocation, specs, None)
    with suppress(PlacementError):
        return _decide(allocation, specs, widest)
    made, fits, too_wide = _decide(allocation, specs, 1), 1, widest
    while too_wide - fits > 1:
        width = (fits + too_wide) // 2
        try:
            made, fits = _decide(allocation, specs, width), width
        except PlacementError:
            too_wide = width
    return made


def _widest(allocation: Allocation, specs: Sequence[LayoutSpec]) -> int | None:
    """Return how many cores a rank of a part that leaves it open has at most; None where its part has room for all."""
    n_open = sum(spec.n_ranks or 0 for spec in specs if _is_open(spec))
    if len(specs) == 1 or not n_open:
        return None
    common = _in_job(specs[0], specs)
    of_shape = [len(_ground(allocation, common, i, _NOTHING).processors) for i in range(len(allocation.shapes))]
    n_cores = sum(of_shape[node.shape_index] for node in allocation.nodes)
    n_cores -= sum((spec.n_ranks or 0) * (spec.processors_per_rank or 1) for spec in specs if not _is_open(spec))
    return max(1, min(max(of_shape, default=1), n_cores // n_open))


def _is_open(spec: LayoutSpec) -> bool:
    return (
        spec.map_by.pattern in {Pattern.AUTO, Pattern.GPU, Pattern.NIC}
        and spec.processors_per_rank is None
        and spec.n_ranks is not None
    )


def _decide(allocation: Allocation, specs: Sequence[LayoutSpec], width: int | None) -> Decisions:
    taken: dict[int, _Taken] = {}
    parts: list[PartDecisions] = []
    for number, spec in enumerate(specs):
        wide = _in_job(spec, specs)
        if width and _is_open(spec):
            wide = replace(wide, cpus_per_rank=width)
        try:
            part = _part(allocation, wide, taken, first_rank=sum(part.n_ranks for part in parts))
        except RankmapError as refused:
            if len(specs) == 1:
                raise
            error = refused
            if width and _is_open(spec):
                error = _as_written(allocation, _in_job(spec, specs), taken, refused)
            after = f", after {'those' if number > 1 else 'that'} before it" * (number > 0)
            msg = f"part {number + 1} of the job{after}: {error.message}"
            raise type(error)(msg, hint=error.hint) from refused
        parts.append(replace(part, spec=spec))
        if number + 1 < len(specs):
            for node in part.nodes:
                index = node.site.node_index
                cpus, gpus = taken.get(index, _NOTHING)
                ids = gpu_ids(allocation.topology(index))
                given = {ids.index(gpu) for rank in node.kind.ranks for gpu in rank.gpus}
                taken[index] = cpus | node.kind.taken, gpus | given
    made = assembled(allocation, parts)
    check(made)
    return Decisions(plan=made, parts=tuple(parts))


def decide_again(plan: Plan) -> Decisions:
    """Return how a saved plan came about.

    Raises:
        UsageError: It is not what its request leads to: another version made it, or somebody has edited it.
    """
    decisions = decide(plan.allocation, *(part.spec for part in plan.parts))
    if (decisions.plan.layouts, decisions.plan.nodes) != (plan.layouts, plan.nodes):
        msg = "the saved plan is not what this rankmap makes of its request: made by another version, or edited"
        raise UsageError(msg, hint="`rankmap plan --plan FILE` shows it; `rankmap compare` shows what differs")
    return decisions


def at_home(allocation: Allocation, spec: LayoutSpec) -> LayoutSpec:
    """Return the request with the name of the only node there is for ``localhost``."""
    if len(allocation.nodes) != 1 or _LOCALHOST not in (*spec.hosts, *spec.exclude_hosts):
        return spec
    names = {_LOCALHOST: allocation.nodes[0].host}
    return replace(
        spec,
        hosts=tuple(names.get(host, host) for host in spec.hosts),
        exclude_hosts=tuple(names.get(host, host) for host in spec.exclude_hosts),
        slots=tuple((names.get(host, host), count) for host, count in spec.slots),
    )


def _in_job(spec: LayoutSpec, specs: Sequence[LayoutSpec]) -> LayoutSpec:
    """Return the request of a part with what all parts together keep free."""
    if len(specs) == 1:
        return spec
    reserve = reduce(or_, (each.reserve for each in specs))
    per_object = [each.reserve_per for each in (spec, *specs) if each.reserve_per is not None]
    return replace(spec, reserve=reserve, reserve_per=per_object[0] if per_object else None)


def _as_written(
    allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, _Taken], refused: RankmapError
) -> RankmapError:
    """Return the refusal of a part in the words that were typed, where it would be refused with these too."""
    try:
        _part(allocation, spec, taken, first_rank=0)
    except RankmapError as error:
        return error
    return refused


def _part(allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, _Taken], *, first_rank: int) -> PartDecisions:
    try:
        sites, mapped = _mapped(allocation, spec, taken)
    except PlacementError:  # what is left is not enough: it shares with the parts before, if that is allowed
        shared = {
            i: (CpuSet() if spec.oversubscribe else cpus, frozenset[int]() if spec.share_gpus else gpus)
            for i, (cpus, gpus) in taken.items()
        }
        if shared == taken:
            raise
        sites, mapped = _mapped(allocation, spec, shared)
    _refuse_overload(spec, mapped)
    if spec.n_gpus or spec.n_nics or spec.mem_bind is not None or spec.threads_per_rank is not None:
        mapped = _completed(allocation, spec, mapped)
    nodes = _numbered(spec, mapped, first_rank)
    with_ranks = {node.site.node_index for node in nodes}
    return PartDecisions(
        spec=spec,
        first_rank=first_rank,
        n_ranks=sum(len(node.order) for node in nodes),
        rank_by=spec.rank_by or mapped.natural_order,
        nodes=tuple(nodes),
        unused=tuple(site for site in sites if site.node_index not in with_ranks),
    )


def _mapped(allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, _Taken]) -> tuple[list[Site], Mapped]:
    """Return the nodes that the request may use, and where its ranks go on them."""
    sites = _sites(allocation, spec, taken)
    if spec.n_gpus > max(len(site.ground.gpus) for site in sites):
        raise too_few_gpus(spec, sites, allocation)
    if all(nic_room(spec, allocation.topology(site.node_index)) == 0 for site in sites):
        raise too_few_nics(spec, allocation.topology(sites[0].node_index), sites[0].host)
    return sites, _RULES[spec.map_by.pattern](allocation, spec, sites)


def _completed(allocation: Allocation, spec: LayoutSpec, mapped: Mapped) -> Mapped:
    """Return the kinds with the GPUs, the NICs, the memory policy and the threads of their ranks."""
    hosts = {index: site.host for site, index in reversed(mapped.used)}
    kinds = []
    for index, kind in enumerate(mapped.kinds):
        topology, host, made = allocation.shapes[kind.ground.shape_index], hosts[index], kind
        for completed in (with_gpus, with_nics, with_memory_and_threads):
            made = completed(made, topology, spec, host)
        kinds.append(made)
    return replace(mapped, kinds=tuple(kinds))


def _refuse_overload(spec: LayoutSpec, mapped: Mapped) -> None:
    """Raise where ranks share processors and are bound to them, and that was not asked for.

    Raises:
        PlacementError: So it is.
    """
    if spec.may_overload:
        return
    for kind in mapped.kinds:
        n_asked = sum(map(len, kind.chosen))
        n_taken = len({position for positions in kind.chosen for position in positions})
        if n_asked > n_taken:
            what = counted(n_taken, "hardware thread" if kind.ground.threads else "core")
            asked = f"--oversubscribe and --bind-to {spec.bind_to} without overload-allowed"
            msg = f"{asked}: {len(kind.ranks)} ranks of a node share {what}"
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


def _sites(allocation: Allocation, spec: LayoutSpec, taken: Mapping[int, _Taken]) -> list[Site]:
    """Return the nodes that the request may use, in the allocation's order.

    Raises:
        AllocationError: A named host does not exist, or none is left.
        PlacementError: No node has a CPU that is named.
    """
    used = _used(allocation, spec)
    slots = dict(spec.slots)
    grounds: dict[tuple[int, _Taken], tuple[Ground, int | None]] = {}
    sites = []
    for i in used:
        node = allocation.nodes[i]
        key = node.shape_index, taken.get(i, _NOTHING)
        found = grounds.get(key)
        if found is None:
            here = _ground(allocation, spec, *key)
            rooms = (gpu_room(spec, len(here.gpus)), nic_room(spec, allocation.shapes[node.shape_index]))
            found = grounds[key] = here, min((one for one in rooms if one is not None), default=None)
        here, room = found
        most = slots.get(node.host)
        by_devices = room is not None and (most is None or room < most)
        sites.append(Site(i, node.host, here, room if by_devices else most, by_devices))
    return sites


def _used(allocation: Allocation, spec: LayoutSpec) -> list[int]:
    """Return the positions of the nodes that the request may use; errors as ``_sites``."""
    problems: list[RankmapError] = []
    used = list(range(len(allocation.nodes)))
    if spec.hosts or spec.exclude_hosts:
        known = dict.fromkeys(node.host for node in allocation.nodes)
        for strange in spec.strangers(known):
            msg = f"{strange}: not in the allocation, which has {fold(known) if known else 'no hosts'}"
            problems.append(AllocationError(msg, hint="choose among these hosts, by these names"))
        wanted = spec.allowed(known)
        used = [i for i in used if allocation.nodes[i].host in wanted]
    if not used and not problems:
        problems.append(AllocationError(_nothing_left(allocation, spec)))
    if used:
        shapes = {allocation.nodes[i].shape_index: allocation.nodes[i].host for i in reversed(used)}
        problems += _not_there(spec, {host: allocation.shapes[shape] for shape, host in shapes.items()})
    if problems:
        raise _together(problems)
    return used


def _not_there(spec: LayoutSpec, nodes: Mapping[str, NodeTopology]) -> Iterator[RankmapError]:
    """Yield an error for each thing that the request names and the nodes do not have; one node of each shape."""
    present = reduce(or_, (shape.present for shape in nodes.values()))
    for option, cpus in (("--reserve", spec.reserve), ("pe-list", spec.map_by.pe_list)):
        if absent := cpus - present:
            yield PlacementError(f"{option}: no node has CPU {absent}; the CPUs are {present}")
    if spec.smt is not None:
        most = max((len(core.pus) for shape in nodes.values() for core in shape.cores), default=1)
        if spec.smt > most:
            msg = f"--smt {spec.smt}: no core has more than {counted(most, 'hardware thread')}"
            yield PlacementError(msg, hint=f"leave it out, or write --smt {most}")
    for option, value in (("--bind-to", spec.bind_to), ("--reserve-per", spec.reserve_per)):
        level = None if value is None else value.level
        lacking = [host for host, shape in nodes.items() if level and not any(objects_of(shape, level))]
        if lacking:
            there = [str(one) for one in Level if all(any(objects_of(shape, one)) for shape in nodes.values())]
            msg = f"{option} {value}: {fold(lacking)} {'have' if len(lacking) > 1 else 'has'} no {level}"
            yield PlacementError(msg, hint=f"there is: {', '.join(there)}")


def _ground(allocation: Allocation, spec: LayoutSpec, shape_index: int, taken: _Taken) -> Ground:
    return ground(
        allocation.shapes[shape_index],
        shape_index=shape_index,
        reserve=spec.kept_free(allocation.shapes[shape_index]),
        taken=taken[0],
        taken_gpus=taken[1],
        reserve_per=spec.reserve_per,
        only=spec.map_by.pe_list,
        threads=spec.threads,
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
    hint = " ".join(dict.fromkeys(problem.hint for problem in problems if problem.hint))
    return type(problems[0])("\n".join(problem.message for problem in problems), hint=hint)
