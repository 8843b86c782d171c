"""The laws of the default layout, whatever the machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from random import Random  # noqa: TC003 - hypothesis reads the type hints

from hypothesis import assume, given
from hypothesis import strategies as st

from rankmap.cpuset import CpuSet
from rankmap.errors import PlacementError, RankmapError
from rankmap.layout import LayoutSpec
from rankmap.placement import Plan
from rankmap.planner import plan
from rankmap.processors import Domain, ground
from rankmap.topology import Allocation, Node, NodeTopology
from tests.property.strategies import allocations, relabelled, spec_of, specs, topologies
from tests.property.strategies import planned as _planned


def _domains(made: Plan, node_index: int) -> tuple[Domain, ...]:
    return ground(made.allocation.topology(node_index), reserve=made.reserve).domains


def _core_positions(domains: tuple[Domain, ...]) -> dict[CpuSet, int]:
    return {core.cpus: i for i, core in enumerate(core for domain in domains for core in domain)}


def _positions(cpus: CpuSet | None, cores: dict[CpuSet, int]) -> list[int]:
    assert cpus
    return sorted(position for core, position in cores.items() if not core.isdisjoint(cpus))


@given(allocations(), specs())
def test_universal_invariants(nodes: Allocation, spec: LayoutSpec) -> None:
    """Ranks are 0 to n-1, local ranks dense, CPUs free whole cores, and no core has two ranks unasked."""
    made = _planned(nodes, spec)

    assert list(range(made.n_ranks)) == [rank.rank for rank in made.ranks]
    assert spec.n_ranks in (None, made.n_ranks)
    for node_index in range(len(nodes.nodes)):
        local = made.ranks_on(node_index)
        cores = _core_positions(_domains(made, node_index))
        assert list(range(len(local))) == [rank.local_rank for rank in local]
        taken: Counter[int] = Counter()
        for rank in local:
            positions = _positions(rank.cpus, cores)
            assert rank.cpus == CpuSet.of(cpu for core, at in cores.items() if at in positions for cpu in core)
            assert spec.cpus_per_rank in (None, len(positions))
            taken.update(positions)
        assert spec.oversubscribe or not taken or max(taken.values()) == 1


@given(allocations(), specs())
def test_cores_of_a_rank_are_neighbours(nodes: Allocation, spec: LayoutSpec) -> None:
    """A rank's cores follow each other among the free cores."""
    made = _planned(nodes, replace(spec, oversubscribe=False))

    for rank in made.ranks:
        positions = _positions(rank.cpus, _core_positions(_domains(made, rank.node_index)))
        assert list(range(positions[0], positions[-1] + 1)) == positions


@given(allocations())
def test_nothing_asked_is_one_rank_per_core(nodes: Allocation) -> None:
    """Every free core of every node gets a rank."""
    made = _planned(nodes, LayoutSpec())

    assert sum(len(d) for i in range(len(nodes.nodes)) for d in _domains(made, i)) == made.n_ranks


@given(topologies(), st.integers(1, 100))
def test_domains_share_ranks_in_proportion(topology: NodeTopology, n_ranks: int) -> None:
    """With a rank for every domain, each rank is in one domain, as wide as all others there, and shares are fair."""
    made = _planned(Allocation.of((("n0", topology),)), LayoutSpec(n_ranks=n_ranks, oversubscribe=True))
    domains = _domains(made, 0)
    assume(n_ranks >= len(domains))

    n_cores = sum(map(len, domains))
    for domain in domains:
        cpus = CpuSet.of(cpu for core in domain for cpu in core.cpus)
        inside = [rank for rank in made.ranks if rank.cpus and rank.cpus.issubset(cpus)]
        assert len(inside) == sum(1 for rank in made.ranks if rank.cpus and not rank.cpus.isdisjoint(cpus))
        assert abs(len(inside) - Fraction(n_ranks * len(domain), n_cores)) < 1
        width = max(1, len(domain) // len(inside)) if inside else 0
        assert {width} >= {len(_positions(rank.cpus, _core_positions(domains))) for rank in inside}


@given(topologies(), st.integers(1, 15))
def test_fewer_ranks_than_domains_leave_none_idle(topology: NodeTopology, n_ranks: int) -> None:
    """Every domain belongs to one rank, which has all of it; ranks split no package that they need not split."""
    made = _planned(Allocation.of((("n0", topology),)), LayoutSpec(n_ranks=n_ranks))
    domains = _domains(made, 0)
    assume(n_ranks < len(domains))

    packages = {domain[0].package for domain in domains}
    for domain in domains:
        cpus = CpuSet.of(cpu for core in domain for cpu in core.cpus)
        assert [cpus] == [rank.cpus & cpus for rank in made.ranks if rank.cpus and not rank.cpus.isdisjoint(cpus)]
    for rank in made.ranks:
        mine = [d for d in domains if rank.cpus and not d[0].cpus.isdisjoint(rank.cpus)]
        touched = {domain[0].package for domain in mine}
        whole = sum(domain[0].package in touched for domain in domains) == len(mine)
        assert len(touched) == 1 or (whole and n_ranks < len(packages))


@given(allocations(), st.integers(1, 60))
def test_nodes_get_even_blocks(nodes: Allocation, n_ranks: int) -> None:
    """A node has two ranks less than another only where it is full; ranks follow the nodes' order."""
    made = _planned(nodes, LayoutSpec(n_ranks=n_ranks))
    counts = [len(made.ranks_on(i)) for i in range(len(nodes.nodes))]
    room = [sum(map(len, _domains(made, i))) for i in range(len(nodes.nodes))]

    assert sorted(rank.node_index for rank in made.ranks) == [rank.node_index for rank in made.ranks]
    assert all(count >= max(counts) - 1 or count == free for count, free in zip(counts, room, strict=True))
    assert all(count <= free for count, free in zip(counts, room, strict=True))


@given(allocations(), st.integers(1, 12), st.none() | st.integers(1, 60))
def test_ranks_per_node_fill_in_order(nodes: Allocation, per_node: int, n_ranks: int | None) -> None:
    """Every node has N ranks until the job is complete; the last one has the rest."""
    made = _planned(nodes, LayoutSpec(n_ranks=n_ranks, ranks_per_node=per_node, oversubscribe=True))
    counts = [len(made.ranks_on(i)) for i in range(len(nodes.nodes))]

    total = n_ranks or per_node * len(counts)
    assert [min(per_node, max(0, total - i * per_node)) for i in range(len(counts))] == counts


@given(topologies(), st.integers(1, 120))
def test_shared_cores_have_even_loads(topology: NodeTopology, n_ranks: int) -> None:
    """More ranks than cores: no core has two ranks more than another."""
    made = _planned(Allocation.of((("n0", topology),)), LayoutSpec(n_ranks=n_ranks, oversubscribe=True))
    cores = _core_positions(_domains(made, 0))
    assume(n_ranks > len(cores))

    loads = Counter(position for rank in made.ranks for position in _positions(rank.cpus, cores))
    assert len(cores) == len(loads)
    assert max(loads.values()) - min(loads.values()) <= 1


@given(allocations(), specs())
def test_json_round_trip_and_equal_bytes(nodes: Allocation, spec: LayoutSpec) -> None:
    """A plan read back is equal, and planning twice writes the same bytes."""
    made = _planned(nodes, spec)

    assert made == Plan.from_json(made.to_json())
    assert made.to_json() == plan(nodes, spec).to_json()


@given(allocations(), specs())
def test_host_names_do_not_matter(nodes: Allocation, spec: LayoutSpec) -> None:
    """Renaming the hosts renames them in the plan and changes nothing else."""
    made = _planned(nodes, spec)
    names = {node.host: f"x{len(nodes.nodes) - i}y" for i, node in enumerate(nodes.nodes)}
    renamed = replace(nodes, nodes=tuple(replace(node, host=names[node.host]) for node in nodes.nodes))
    asked = replace(
        spec,
        hosts=tuple(names[host] for host in spec.hosts),
        exclude_hosts=tuple(names[host] for host in spec.exclude_hosts),
    )

    assert [replace(rank, host=names[rank.host]) for rank in made.ranks] == list(plan(renamed, asked).ranks)


@given(topologies(), specs(), st.randoms(use_true_random=False))
def test_cpu_numbers_do_not_matter(topology: NodeTopology, spec: LayoutSpec, random: Random) -> None:
    """Relabelling the PUs relabels them in the plan and changes nothing else."""
    spec = replace(spec, hosts=(), exclude_hosts=())
    made = _planned(Allocation.of((("n0", topology),)), spec)
    assume(topology.cores)  # bare PUs have no order but their numbers
    numbers = list(topology.present)
    shuffled = numbers[:]
    random.shuffle(shuffled)
    names = dict(zip(numbers, shuffled, strict=True))
    asked = replace(spec, reserve=CpuSet.of(names[cpu] for cpu in spec.reserve))

    other = plan(Allocation.of((("n0", relabelled(topology, names)),)), asked)

    assert [CpuSet.of(names[cpu] for cpu in rank.cpus or ()) for rank in made.ranks] == [r.cpus for r in other.ranks]
    assert [rank.numa for rank in made.ranks] == [rank.numa for rank in other.ranks]


@given(allocations(), specs())
def test_refusals_are_ours_and_their_suggestions_fit(nodes: Allocation, spec: LayoutSpec) -> None:
    """A request is planned or refused with a RankmapError, and every layout that a refusal names can be planned."""
    try:
        plan(nodes, spec)
    except PlacementError as refused:
        if refused.hint.startswith("these fit: "):
            for text in refused.hint.removeprefix("these fit: ").split(" | "):
                plan(nodes, spec_of(text))
    except RankmapError:
        pass


@given(allocations())
def test_nodes_without_a_rank_keep_their_place(nodes: Allocation) -> None:
    """Node indices are positions in the whole allocation, whichever hosts are used."""
    last = nodes.nodes[-1].host
    made = _planned(nodes, LayoutSpec(hosts=(last,)))

    assert {Node(host=last, shape_index=nodes.nodes[-1].shape_index)} == {
        made.allocation.nodes[rank.node_index] for rank in made.ranks
    }
