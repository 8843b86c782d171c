"""Random nodes, allocations and requests: the shapes that real machines have, and those that break planners."""

from __future__ import annotations

import shlex
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from hypothesis import assume
from hypothesis import strategies as st

from rankmap.cpuset import CpuSet
from rankmap.errors import RankmapError, UsageError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Order, Pattern, RankBy, ReservePer, TextFile
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.topology import Allocation, Core, NodeTopology, OsIndex
from tests.topologies_made import made, with_caches, with_dies, with_gpus, with_kinds, with_nics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.placement import Plan

NASTY = (
    made([[1]]),
    made([[4] * 4] * 2),
    made([[1], [15]]),
    made([[2, 0, 2], [0]], extra_memory=2),
    made([[3, 5], [1, 7]], smt=2, usable=CpuSet.parse("1-8,12,17-31")),
    made([[4], [4]], numa=False),
    replace(made([[3], [2]]), cores=()),
)
"""Nodes that are hard for a reason, mixed into the random ones."""


@st.composite
def topologies(draw: st.DrawFn) -> NodeTopology:
    """Draw a node: SMT 1, 2 or 4, uneven and CPU-less domains, any numbering of its PUs, some PUs not usable."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(NASTY))
    domain = st.sampled_from((0, 1, 2, 3, 4, 4, 4, 8))
    cores = draw(st.lists(st.lists(domain, min_size=1, max_size=4), min_size=1, max_size=4))
    if not sum(map(sum, cores)):
        cores[0][0] = 2
    smt = draw(st.sampled_from((1, 2, 4)))
    n_pus = smt * sum(map(sum, cores))
    numbers = draw(st.permutations(range(n_pus))) if draw(st.booleans()) else range(n_pus)
    topology = made(
        cores,
        smt=smt,
        number=lambda core, thread: numbers[core * smt + thread],
        extra_memory=draw(st.integers(0, 2)),
        numa=draw(st.integers(0, 5)) > 0,
    )
    if draw(st.booleans()):
        out = draw(st.sets(st.integers(0, n_pus - 1), max_size=max(1, n_pus // 2)))
        return topology.restricted(topology.present - CpuSet.of(out))
    return topology


@st.composite
def rich_topologies(draw: st.DrawFn) -> NodeTopology:
    """Draw a small node with caches, dies, kinds of core and GPUs too, over all of its cores or not.

    Most of it comes from one seed: drawn piece by piece it takes ten times as long.
    """
    kind, seed = draw(st.integers(0, 9)), draw(st.integers(0, 1 << 16))
    if kind == 0:
        return draw(st.sampled_from(NASTY))
    random = Random(seed)  # noqa: S311 - a test
    cores = [
        [random.choice((0, 1, 2, 3, 4, 4)) for _ in range(random.randint(1, 3))] for _ in range(random.randint(1, 2))
    ]
    cores[0][0] = cores[0][0] or 2
    smt, n_cores = random.choice((1, 2, 4)), sum(map(sum, cores))
    numbers = random.sample(range(smt * n_cores), smt * n_cores) if random.random() < 0.5 else range(smt * n_cores)
    topology = made(
        cores,
        smt=smt,
        number=lambda core, thread: numbers[core * smt + thread],
        extra_memory=random.randint(0, 1),
        numa=random.random() > 0.2,
    )
    sizes = [_cut([random.choice((1, 2, 2, 3, 4, 8)) for _ in range(6)], n_cores) for _ in range(3)]
    if kind % 2:
        topology = with_caches(with_caches(topology, 3, sizes[0]), 2, sizes[1])
    if kind % 3 == 0:
        topology = with_dies(topology, sizes[2])
    if kind % 4 == 0 and n_cores > 1:
        n_fast, speed = random.randint(1, n_cores - 1), random.choice((500, 980))
        topology = with_kinds(topology, (f"{n_fast}-{n_cores - 1}", speed, "E"), (f"0-{n_fast - 1}", 1000, "P"))
    if topology.numa_domains and kind % 2:
        homes = (None, *range(len(topology.numa_domains)))
        topology = with_gpus(topology, *(random.choice(homes) for _ in range(random.randint(1, 6))))
        topology = with_nics(topology, *(random.choice(homes) for _ in range(random.randint(0, 4))))
    if random.random() < 0.4:
        return topology.restricted(
            topology.present - CpuSet.of(random.sample(sorted(topology.present), k=n_cores // 3))
        )
    return topology


def _cut(sizes: list[int], n_cores: int) -> list[int]:
    """Return as many of the sizes as there are cores for."""
    return [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= n_cores]


@st.composite
def allocations(draw: st.DrawFn, nodes: st.SearchStrategy[NodeTopology] | None = None) -> Allocation:
    """Draw one to five hosts, alike or not."""
    shapes = draw(st.lists(topologies() if nodes is None else nodes, min_size=1, max_size=3 if nodes is None else 2))
    order = draw(st.lists(st.sampled_from(range(len(shapes))), min_size=1, max_size=5))
    return Allocation.of(tuple((f"n{i}", shapes[shape]) for i, shape in enumerate(order)))


@st.composite
def specs(draw: st.DrawFn) -> LayoutSpec:
    """Draw a request, sometimes one that no allocation can honour."""
    count = st.none() | st.integers(1, 12) | st.integers(1, 80)
    return LayoutSpec(
        n_ranks=draw(count),
        ranks_per_node=draw(st.none() | st.none() | st.integers(1, 12)),
        cpus_per_rank=draw(st.none() | st.none() | st.integers(1, 12)),
        oversubscribe=draw(st.booleans()),
        reserve=CpuSet.of(draw(st.sets(st.integers(0, 12), max_size=2) if draw(st.booleans()) else st.just(set()))),
        hosts=tuple(draw(st.lists(st.sampled_from(("n0", "n1", "n2")), max_size=2) | st.just([]))),
        exclude_hosts=tuple(draw(st.just([]) | st.lists(st.sampled_from(("n0", "n3")), max_size=1))),
    )


OBJECTS = tuple(level for level in Level if level is not Level.NODE)
_CPUS = st.sets(st.integers(0, 15), min_size=1, max_size=3).map(CpuSet.of)
_NAMES = st.sampled_from(("F", "ranks.txt", "some where/x", "ü"))
_ORDERS = st.sampled_from([order for order in Order if order not in {Order.PLANE, Order.FILE}])
_COUNTS = st.integers(1, 3) | st.integers(1, 12)


@st.composite
def files(draw: st.DrawFn, lines: st.SearchStrategy[str]) -> TextFile:
    """Draw a file of such lines."""
    return TextFile(name=draw(_NAMES), lines=tuple(draw(st.lists(lines, min_size=1, max_size=6))))


@st.composite
def map_bys(draw: st.DrawFn, pattern: Pattern) -> MapBy:  # noqa: PLR0911 - one for each pattern
    """Draw a value of ``--map-by`` with this pattern."""
    base = MapBy(
        pe=draw(st.none() | st.none() | st.integers(1, 4)),
        threads=draw(st.integers(0, 3)) == 0,
        pe_list=draw(st.just(CpuSet()) | st.just(CpuSet()) | st.sets(st.integers(0, 31), min_size=4).map(CpuSet.of)),
    )
    host = st.sampled_from(("n0", "n0", "n1", "+n0", "+n1", "n0 # x", "", "nope"))
    slot = st.sampled_from(("0", "1", "2", "3", "0-1", "0:*", "1:0", "0:0;1:0", "*"))
    match pattern:
        case Pattern.AUTO | Pattern.SLOT | Pattern.NODE | Pattern.GPU | Pattern.NIC:
            return replace(base, pattern=pattern)
        case Pattern.OBJECT:
            level = draw(st.sampled_from(OBJECTS))
            return replace(
                base,
                pattern=pattern,
                level=level,
                span=draw(st.booleans()),
                scatter=draw(st.booleans()) and level not in OBJECTS[:2],
            )
        case Pattern.PPR:
            level = draw(st.sampled_from(list(Level)))
            return replace(
                base,
                pattern=pattern,
                level=level,
                count=draw(_COUNTS),
                scatter=draw(st.booleans()) and level not in OBJECTS[:2],
            )
        case Pattern.PLANE:
            return replace(base, pattern=pattern, count=draw(_COUNTS))
        case Pattern.RS:
            each = draw(st.integers(1, 3))
            return replace(
                base, pattern=pattern, count=each, pe=each + draw(st.integers(0, 3)), gpus=draw(st.integers(0, 2))
            )
        case Pattern.MANUAL:
            return replace(base, pattern=pattern, pe=None, lists=tuple(draw(st.lists(_CPUS, min_size=1, max_size=4))))
        case Pattern.SEQ:
            return replace(base, pattern=pattern, file=draw(files(host)))
        case Pattern.RANKFILE:
            hosts = draw(st.lists(st.sampled_from(("n0", "n0", "+n1")), min_size=1, max_size=4))
            lines = tuple(f"rank {i}={name} slot={draw(slot)}" for i, name in enumerate(hosts))
            return replace(base, pattern=pattern, pe=None, file=TextFile(name=draw(_NAMES), lines=lines))


@st.composite
def rank_bys(draw: st.DrawFn, *, n_ranks: int = 4) -> RankBy:
    """Draw a value of ``--rank-by``; a file has so many ranks, in any order."""
    order = draw(_ORDERS | st.sampled_from((Order.PLANE, Order.FILE)))
    if order is Order.PLANE:
        return RankBy(order=order, count=draw(_COUNTS))
    if order is Order.FILE:
        ranks = Random(draw(st.integers(0, 99))).sample(range(n_ranks), n_ranks)  # noqa: S311 - a test
        return RankBy(order=order, file=TextFile(name=draw(_NAMES), lines=(",".join(map(str, ranks)),)))
    return RankBy(order=order)


BINDINGS = st.builds(
    lambda level, overload: BindTo(
        level=None if isinstance(level, bool) else level, explicit=level is True, overload=overload
    ),
    st.sampled_from((*OBJECTS, True, False)),
    st.booleans(),
)
RESERVED = st.builds(
    ReservePer, level=st.sampled_from([level for level in OBJECTS if level not in OBJECTS[:2]]), count=st.integers(1, 2)
)


@st.composite
def layouts(draw: st.DrawFn, pattern: Pattern) -> LayoutSpec:
    """Draw a request of this pattern, sometimes one that no allocation can honour."""

    def rarely(strategy: st.SearchStrategy[object]) -> object:
        return draw(strategy) if draw(st.integers(0, 3)) == 0 else None

    listed = pattern in {Pattern.MANUAL, Pattern.SEQ, Pattern.RANKFILE}
    words = {
        "n_ranks": rarely(st.integers(1, 6)) if listed else draw(st.none() | st.integers(1, 8) | st.integers(1, 40)),
        "ranks_per_node": None if pattern in {Pattern.SEQ, Pattern.RANKFILE} else rarely(st.integers(1, 6)),
        "cpus_per_rank": rarely(st.integers(1, 5)),
        "oversubscribe": draw(st.integers(0, 2)) == 0,
        "reserve": rarely(_CPUS) or CpuSet(),
        "reserve_per": rarely(RESERVED),
        "map_by": draw(map_bys(pattern)),
        "rank_by": rarely(rank_bys()),
        "bind_to": draw(BINDINGS) if draw(st.booleans()) else None,
        "smt": rarely(st.integers(1, 2)),
        "nics_per_rank": rarely(st.integers(1, 2)),
        "exclude_hosts": ("n3",) if draw(st.integers(0, 9)) == 0 else (),
    }
    if draw(st.integers(0, 3)) == 0:
        hosts = draw(st.sampled_from((("n0",), ("n0", "n1"), ("n1", "n0"), ("n2",))))
        words["hosts"] = hosts
        words["slots"] = tuple((host, draw(_COUNTS)) for host in hosts if draw(st.integers(0, 3)))
    try:
        return LayoutSpec(**words)  # type: ignore[arg-type]
    except UsageError:
        assume(False)  # noqa: FBT003 - hypothesis' own signature
        raise


def planned(nodes: Allocation, *specs: LayoutSpec) -> Plan:
    """Return the plan, or give up this example when the request is refused."""
    try:
        return plan(nodes, *specs)
    except RankmapError:
        assume(False)  # noqa: FBT003 - hypothesis' own signature
        raise


def spec_of(text: str) -> LayoutSpec:
    """Return the request of an option string, read as the command line reads it."""
    names = {
        "-n": "n_ranks",
        "-N": "ranks_per_node",
        "-c": "cpus_per_rank",
        "--map-by": "map_by",
        "--rank-by": "rank_by",
        "--bind-to": "bind_to",
        "--smt": "smt",
        "--nics-per-rank": "nics_per_rank",
        "--reserve": "reserve",
        "--reserve-per": "reserve_per",
        "--hosts": "hosts",
        "--exclude-hosts": "exclude_hosts",
    }
    words: dict[str, object] = {}
    left = iter(shlex.split(text))
    for option in left:
        if option == "--oversubscribe":
            words["oversubscribe"] = True
        elif option in {"-n", "-N", "-c", "--smt", "--nics-per-rank"}:
            words[names[option]] = int(next(left))
        else:
            value = next(left)
            words[names[option]] = [value] if "hosts" in option else value
    return request(**words)  # type: ignore[arg-type]


def relabelled(topology: NodeTopology, names: Mapping[int, int]) -> NodeTopology:
    """Return the same node with other PU os indices."""

    def swap(cpus: CpuSet) -> CpuSet:
        return CpuSet.of(names[cpu] for cpu in cpus)

    def core(old: Core) -> Core:
        pus = tuple(replace(pu, os_index=OsIndex(names[pu.os_index])) for pu in old.pus)
        return replace(old, cpus=swap(old.cpus), pus=pus)

    return replace(
        topology,
        packages=tuple(replace(package, cpus=swap(package.cpus)) for package in topology.packages),
        dies=tuple(replace(die, cpus=swap(die.cpus)) for die in topology.dies),
        numa_domains=tuple(replace(domain, cpus=swap(domain.cpus)) for domain in topology.numa_domains),
        caches=tuple(replace(cache, cpus=swap(cache.cpus)) for cache in topology.caches),
        cpu_kinds=tuple(replace(kind, cpus=swap(kind.cpus)) for kind in topology.cpu_kinds),
        gpus=tuple(replace(gpu, cpus=swap(gpu.cpus)) for gpu in topology.gpus),
        nics=tuple(replace(nic, cpus=swap(nic.cpus)) for nic in topology.nics),
        cores=tuple(core(old) for old in topology.cores),
        present=swap(topology.present),
        usable=swap(topology.usable),
    )
