"""The laws of every layout, whatever the machine: PRRTE's test/offline/SPEC.rst has the idea."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random  # noqa: TC003 - hypothesis reads the type hints
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from rankmap.cpuset import CpuSet
from rankmap.errors import RankmapError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import Level, Pattern, TextFile, wider
from rankmap.placement import Plan, RankPlacement
from rankmap.planner import plan
from rankmap.topology import Allocation, NodeTopology
from tests.property.strategies import (
    BINDINGS,
    allocations,
    layouts,
    planned,
    rank_bys,
    relabelled,
    rich_topologies,
    spec_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


NODES = allocations(rich_topologies())
LISTED = {Pattern.MANUAL, Pattern.SEQ, Pattern.RANKFILE}
EVERY = pytest.mark.parametrize("pattern", list(Pattern))
FEWER = settings(
    max_examples=max(10, settings().max_examples // 3), suppress_health_check=[HealthCheck.filter_too_much]
)
"""For laws that are tried for every pattern, most requests of which are refused on most small nodes."""


def _refused(nodes: Allocation, *specs: LayoutSpec) -> RankmapError | None:
    """Return how the request is refused, None when it is planned."""
    try:
        plan(nodes, *specs)
    except RankmapError as refused:
        return refused
    return None


def _cores(topology: NodeTopology) -> list[CpuSet]:
    """Return the PUs of each core; a PU without a core is one."""
    known = CpuSet.of(cpu for core in topology.cores for cpu in core.cpus)
    return [core.cpus for core in topology.cores] + [CpuSet.of([cpu]) for cpu in topology.present - known]


def _units(topology: NodeTopology, spec: LayoutSpec) -> list[CpuSet]:
    """Return what the request counts: cores or PUs."""
    if spec.threads or spec.map_by.pattern is Pattern.MANUAL:
        return [CpuSet.of([cpu]) for cpu in topology.present]
    return _cores(topology)


def _free(topology: NodeTopology, spec: LayoutSpec) -> CpuSet:
    """Return the PUs that ranks may have: a reserved one takes its core out."""
    free = topology.usable & spec.map_by.pe_list if spec.map_by.pe_list else topology.usable
    for core in _cores(topology):
        if not core.isdisjoint(spec.reserve):
            free -= core
    return free - spec.reserve


def _sets(topology: NodeTopology, level: Level) -> list[CpuSet]:  # noqa: PLR0911 - one for each level
    """Return the PUs of every object of a level."""
    match level:
        case Level.HWTHREAD:
            return [CpuSet.of([cpu]) for cpu in topology.present]
        case Level.CORE:
            return _cores(topology)
        case Level.L1CACHE | Level.L2CACHE | Level.L3CACHE:
            return [cache.cpus for cache in topology.caches if f"l{cache.level}cache" == level]
        case Level.NUMA:
            return [domain.cpus for domain in topology.numa_domains if domain.local]
        case Level.DIE:
            return [die.cpus for die in topology.dies]
        case Level.PACKAGE:
            return [package.cpus for package in topology.packages]
        case Level.NODE:
            return [topology.present]


def _each_has_its_own(ranks: Sequence[RankPlacement], units: list[CpuSet]) -> bool:
    """Return whether every bound rank can be given a unit of its own (a bipartite matching)."""
    choices = [[i for i, unit in enumerate(units) if not unit.isdisjoint(rank.cpus)] for rank in ranks if rank.cpus]
    given: dict[int, int] = {}

    def find(rank: int, tried: set[int]) -> bool:
        for unit in choices[rank]:
            if unit not in tried:
                tried.add(unit)
                if unit not in given or find(given[unit], tried):
                    given[unit] = rank
                    return True
        return False

    return all(find(rank, set()) for rank in range(len(choices)))


@EVERY
@FEWER
@given(st.data())
def test_the_laws_of_every_plan(pattern: Pattern, data: st.DataObject) -> None:
    """Numbers without gaps, free CPUs, a processor for each, as many as asked, in the object, saved and read back."""
    nodes, spec = data.draw(NODES), data.draw(layouts(pattern))
    made = planned(nodes, spec)

    _check_numbers(made, spec)
    for i in range(len(nodes.nodes)):
        topology, here = nodes.topology(i), made.ranks_on(i)
        _check_cpus(here, topology, spec)
        _check_objects(here, topology, spec)
        assert spec.may_share or _each_has_its_own(here, _units(topology, spec))
    assert made == Plan.from_json(made.to_json())
    assert made.to_json() == plan(nodes, spec).to_json()


def _check_numbers(made: Plan, spec: LayoutSpec) -> None:
    """Ranks are 0 to n-1, as many as asked; local ranks are dense and ascend; no more on a node than it may have."""
    assert list(range(made.n_ranks)) == [rank.rank for rank in made.ranks]
    assert spec.n_ranks in (None, made.n_ranks)
    assert made.n_ranks == sum(part.n_ranks for part in made.parts)
    slots = dict(spec.slots)
    for i, node in enumerate(made.allocation.nodes):
        here = made.ranks_on(i)
        assert list(range(len(here))) == [rank.local_rank for rank in here]
        assert sorted(rank.rank for rank in here) == [rank.rank for rank in here]
        assert not here or (node.host in (spec.hosts or {node.host}) and node.host not in spec.exclude_hosts)
        assert len(here) <= (spec.ranks_per_node or len(here)), "more than -N on a node"
        assert len(here) <= slots.get(node.host, len(here)) or spec.oversubscribe, "more than the slots of a node"


def _check_cpus(here: Sequence[RankPlacement], topology: NodeTopology, spec: LayoutSpec) -> None:
    """CPUs are usable, not reserved, listed where a list is given, no more of a core than --smt, as many as asked."""
    free = _free(topology, spec)
    used = CpuSet()
    for rank in here:
        assert rank.cpus is None or rank.cpus
        used |= rank.cpus or CpuSet()
        assert rank.numa == (() if rank.cpus is None else topology.numa_of(rank.cpus))
        if spec.bind_to is None:
            _check_width(rank, topology, spec)
    assert used.issubset(free)
    if spec.smt:
        assert all(len(core & used) <= spec.smt for core in _cores(topology))
    if spec.reserve_per:
        for cpus in _sets(topology, spec.reserve_per.level):
            mine = [core & free for core in _cores(topology) if not (core & free).isdisjoint(cpus)]
            kept = sum(core.isdisjoint(used) for core in mine)
            assert kept >= min(spec.reserve_per.count, len(mine))


def _check_width(rank: RankPlacement, topology: NodeTopology, spec: LayoutSpec) -> None:
    """-c and PE give exactly so many, a resource set is shared out evenly, and a list is what is written."""
    assert rank.cpus is not None
    count = sum(not unit.isdisjoint(rank.cpus) for unit in _units(topology, spec))
    if spec.map_by.pattern is Pattern.RS:
        each, size = spec.map_by.count or 1, spec.map_by.pe or 1
        assert size // each <= count <= -(-size // each)
    elif spec.map_by.pattern is Pattern.MANUAL:
        assert rank.cpus == spec.map_by.lists[rank.local_rank]
    elif spec.map_by.pattern is not Pattern.RANKFILE:
        assert (spec.processors_per_rank or count) == count


def _check_objects(here: Sequence[RankPlacement], topology: NodeTopology, spec: LayoutSpec) -> None:
    """A rank lies in one object of those it is mapped to, unless bound wider; of ppr:N no object has more than N.

    The caches of made nodes are not always nested: an L2 may be wider than an L3.
    """
    level, bound = spec.map_by.level, spec.binding.level
    if level is None or (bound is not None and wider(bound, level)):
        return
    objects = _sets(topology, level)
    if bound is not None and not all(any(own.issubset(cpus) for cpus in objects) for own in _sets(topology, bound)):
        return
    homes: Counter[int] = Counter()
    for rank in here:
        if rank.cpus is not None:
            mine = [k for k, cpus in enumerate(objects) if rank.cpus.issubset(cpus)]
            assert mine, "it lies in no such object"
            homes.update(mine)
    if spec.map_by.pattern is Pattern.PPR:
        assert max(homes.values(), default=0) <= (spec.map_by.count or 0)


@pytest.mark.parametrize("pattern", [pattern for pattern in Pattern if pattern not in {Pattern.SEQ, Pattern.RANKFILE}])
@FEWER
@given(st.data())
def test_numbering_changes_no_place(pattern: Pattern, data: st.DataObject) -> None:
    """Whatever --rank-by says, ranks are at the same places; the i-th number of a file is the rank of place i."""
    nodes, spec = data.draw(NODES), replace(data.draw(layouts(pattern)), rank_by=None)
    made = planned(nodes, spec)
    rank_by = data.draw(rank_bys(n_ranks=made.n_ranks))
    other = plan(nodes, replace(spec, rank_by=rank_by))

    places = [Counter((rank.host, rank.cpus, rank.gpus) for rank in one.ranks) for one in (made, other)]
    assert places[0] == places[1]
    if rank_by.file is not None:
        numbers = [int(number) for number in rank_by.file.lines[0].split(",")]
        again = [other.rank(number) for number in numbers]
        assert [(rank.host, rank.cpus) for rank in made.ranks] == [(rank.host, rank.cpus) for rank in again]


@EVERY
@FEWER
@given(st.data())
def test_binding_moves_no_rank(pattern: Pattern, data: st.DataObject) -> None:
    """Whatever --bind-to says, every rank is on the same node, and what it may use overlaps with what it had."""
    nodes, spec = data.draw(NODES), replace(data.draw(layouts(pattern)), bind_to=None, oversubscribe=False)
    made = planned(nodes, spec)
    binding = data.draw(BINDINGS)
    refused = _refused(nodes, replace(spec, bind_to=binding))
    if refused is not None:  # the only reason there may be
        assert f"has no {binding.level}" in refused.message or f"have no {binding.level}" in refused.message
        return
    other = plan(nodes, replace(spec, bind_to=binding))

    for rank, again in zip(made.ranks, other.ranks, strict=True):
        assert rank.host == again.host
        assert rank.cpus is not None
        assert again.cpus is None or not again.cpus.isdisjoint(rank.cpus)


@EVERY
@FEWER
@given(st.data())
def test_host_names_do_not_matter(pattern: Pattern, data: st.DataObject) -> None:
    """Renaming the hosts renames them in the plan and changes nothing else."""
    nodes, spec = data.draw(NODES), data.draw(layouts(pattern))
    made = planned(nodes, spec)
    names = {node.host: f"x{len(nodes.nodes) - i}y" for i, node in enumerate(nodes.nodes)}
    renamed = replace(nodes, nodes=tuple(replace(node, host=names[node.host]) for node in nodes.nodes))

    other = plan(renamed, _renamed(spec, names))

    assert [replace(rank, host=names[rank.host]) for rank in made.ranks] == list(other.ranks)


def _renamed(spec: LayoutSpec, names: dict[str, str]) -> LayoutSpec:
    file = spec.map_by.file
    if file is not None:
        lines = list(file.lines)
        for old, new in names.items():
            lines = [line if "+" in line else line.replace(old, new) for line in lines]
        file = TextFile(name=file.name, lines=tuple(lines))
    return replace(
        spec,
        map_by=replace(spec.map_by, file=file),
        hosts=tuple(names[host] for host in spec.hosts),
        slots=tuple((names[host], count) for host, count in spec.slots),
        exclude_hosts=tuple(names[host] for host in spec.exclude_hosts),
    )


@EVERY
@FEWER
@given(st.data(), st.randoms(use_true_random=False))
def test_cpu_numbers_do_not_matter(pattern: Pattern, data: st.DataObject, random: Random) -> None:
    """Relabelling the PUs relabels them in the plan and changes nothing else."""
    topology = data.draw(rich_topologies())
    spec = replace(data.draw(layouts(pattern)), hosts=(), slots=(), exclude_hosts=())
    made = planned(Allocation.of((("n0", topology),)), spec)
    assume(topology.cores)  # bare PUs have no order but their numbers
    numbers = list(topology.present)
    shuffled = numbers[:]
    random.shuffle(shuffled)
    names = dict(zip(numbers, shuffled, strict=True))

    def swap(cpus: CpuSet) -> CpuSet:
        return CpuSet.of(names.get(cpu, cpu + 1000) for cpu in cpus)  # one that is not there stays so

    lists = tuple(swap(cpus) for cpus in spec.map_by.lists)
    map_by = replace(spec.map_by, lists=lists, pe_list=swap(spec.map_by.pe_list))
    asked = replace(spec, reserve=swap(spec.reserve), map_by=map_by)

    other = plan(Allocation.of((("n0", relabelled(topology, names)),)), asked)

    assert [None if rank.cpus is None else swap(rank.cpus) for rank in made.ranks] == [r.cpus for r in other.ranks]
    assert [(rank.numa, rank.gpus) for rank in made.ranks] == [(rank.numa, rank.gpus) for rank in other.ranks]


@EVERY
@FEWER
@given(st.data())
def test_refusals_are_ours(pattern: Pattern, data: st.DataObject) -> None:
    """A request is planned or refused with a RankmapError that says something, never with another error."""
    nodes, spec = data.draw(NODES), data.draw(layouts(pattern))
    refused = _refused(nodes, spec)

    assert refused is None or (refused.message and "None" not in refused.message)


@pytest.mark.parametrize("pattern", [pattern for pattern in Pattern if pattern not in LISTED])
@FEWER
@given(st.data())
def test_what_is_said_to_fit_does(pattern: Pattern, data: st.DataObject) -> None:
    """Every suggestion of a refusal can be planned: it is a whole request, or what to change in this one."""
    nodes = data.draw(NODES)
    spec = replace(data.draw(layouts(pattern)), rank_by=None)
    refused = _refused(nodes, spec)
    hint = (refused.hint if refused else "").partition(";")[0]
    event(f"{bool(refused)} {hint.partition(':')[0]}")
    for text in hint.removeprefix("these fit: ").split(" | ") if hint.startswith("these fit: ") else ():
        near = spec_of(text.removesuffix(", without -N"))
        if pattern is not Pattern.AUTO:
            near = replace(
                spec,
                n_ranks=near.n_ranks or spec.n_ranks,
                ranks_per_node=None if "without" in text else near.ranks_per_node or spec.ranks_per_node,
                oversubscribe=spec.oversubscribe or near.oversubscribe,
                bind_to=near.bind_to or spec.bind_to,
            )
        assert plan(nodes, near).n_ranks, text


@given(NODES, st.data())
def test_parts_are_disjoint_and_numbered_one_after_the_other(nodes: Allocation, data: st.DataObject) -> None:
    """Parts have ranks in a row, share no processor, and each keeps the laws of its own request."""
    dealt = [Pattern.AUTO, Pattern.SLOT, Pattern.OBJECT, Pattern.NODE, Pattern.PLANE]
    drawn = [data.draw(layouts(data.draw(st.sampled_from(dealt)))) for _ in range(data.draw(st.integers(2, 3)))]
    specs = tuple(
        LayoutSpec(n_ranks=data.draw(st.integers(1, 3)), map_by=replace(spec.map_by, pe=None, pe_list=CpuSet()))
        for spec in drawn
    )
    made = planned(nodes, *specs)

    for spec, part in zip(specs, made.parts, strict=True):
        assert spec.n_ranks in (None, part.n_ranks)
    assert sorted(made.part_of(rank.rank) for rank in made.ranks) == [made.part_of(r.rank) for r in made.ranks]
    assert made == Plan.from_json(made.to_json())
    for i in range(len(nodes.nodes)):
        here = made.ranks_on(i)
        for rank in here:
            assert rank.cpus is not None
            assert rank.cpus.issubset(_free(nodes.topology(i), specs[made.part_of(rank.rank)]))
            others = [one for one in here if made.part_of(one.rank) != made.part_of(rank.rank)]
            assert all(one.cpus and one.cpus.isdisjoint(rank.cpus) for one in others)


@given(NODES, st.data())
def test_parts_are_refused_as_ours(nodes: Allocation, data: st.DataObject) -> None:
    """Whatever the parts: a plan that holds, or a RankmapError that names the part."""
    specs = [data.draw(layouts(data.draw(st.sampled_from(list(Pattern))))) for _ in range(2)]
    refused = _refused(nodes, *specs)

    assert refused is None or refused.message.startswith("part ")
