"""The laws of verification by node: the sum of the nodes is the whole, however it is gathered."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from rankmap.cpuset import CpuSet
from rankmap.gathering import Alike, Gathered, Services, merged
from rankmap.layout import LayoutSpec
from rankmap.node_plan import NodePlan, node_plans
from rankmap.observe import Observation, Pages, ThreadObservation
from rankmap.report import Counts, NodeReport
from rankmap.runs import expand, shifted
from rankmap.topology import Allocation  # noqa: TC001 - hypothesis reads the type hints
from rankmap.verification import report_of_nodes, verify, verify_node
from tests.property.strategies import allocations, planned, rank_bys, rich_topologies

if TYPE_CHECKING:
    from random import Random

    from rankmap.placement import Plan, RankPlacement

NODES = allocations(rich_topologies())
SPECS = st.builds(
    LayoutSpec,
    ranks_per_node=st.integers(1, 3),
    oversubscribe=st.just(value=True),
    rank_by=st.none() | rank_bys().filter(lambda one: one.file is None),
)
FOLDED = 5000
"""More ranks than are reported one by one."""


def seen_at_random(plan: Plan, random: Random) -> dict[int, Observation]:
    """Return what is seen of most ranks, mostly as planned."""
    return {rank.rank: _seen(rank, random) for rank in plan.iter_ranks() if random.random() < 0.95}


def _seen(rank: RankPlacement, random: Random) -> Observation:
    cpus = rank.cpus if rank.cpus is not None and random.random() < 0.9 else CpuSet.of([random.randrange(4)])
    threads = tuple(
        ThreadObservation(tid=random.randrange(10**6), cpus=random.choice((cpus, cpus, CpuSet(1))), ticks=99)
        for _ in range(random.randrange(3))
    )
    pages = Pages(resident={0: random.randrange(1 << 30), 1: 1 << 26}, chosen={}) if random.random() < 0.5 else None
    return Observation(
        rank=rank.rank,
        host=rank.host if random.random() < 0.95 else "elsewhere",
        pid=random.randrange(10**6),
        cpus=cpus,
        variables=dict(rank.env) if random.random() < 0.9 else {"CUDA_VISIBLE_DEVICES": "1"},
        threads=threads,
        pages=pages,
    )


@given(NODES, st.data(), st.randoms(use_true_random=False))
def test_a_node_is_told_all_it_needs(nodes: Allocation, data: st.DataObject, random: Random) -> None:
    """What it is told survives the wire, and its ranks are found to be what they are in the whole plan's report."""
    plan = planned(nodes, data.draw(SPECS))
    seen = seen_at_random(plan, random)
    whole = {rank.rank: rank for rank in verify(plan, seen).ranks}
    told = [NodePlan.from_values(marshal.loads(marshal.dumps(node.to_values()))) for node in node_plans(plan)]  # noqa: S302 - ours

    assert told == list(node_plans(plan)) == [NodePlan.of(plan, node.node_index) for node in plan.nodes]
    assert (
        sorted(whole) == sorted(rank.rank for node in told for rank in node.iter_ranks()) == list(range(plan.n_ranks))
    )
    for node in told:
        own = {rank.rank: seen[rank.rank] for rank in node.iter_ranks() if rank.rank in seen}
        report = verify_node(node, own)
        assert report.ranks == tuple(whole[rank.rank] for rank in node.iter_ranks())
        assert report == NodeReport.from_values(marshal.loads(marshal.dumps(report.to_values())))  # noqa: S302 - ours
        for rank in node.iter_ranks():
            there = plan.rank(rank.rank)
            assert (there.host, there.local_rank, there.cpus) == (rank.host, rank.local_rank, rank.cpus)
            assert plan.part_of(rank.rank) == node.part_of(rank.rank)


def in_any_tree(parts: list[Gathered], random: Random) -> Gathered:
    """Return these merged in any order, as any tree, over the wire."""
    left = random.sample(parts, len(parts))
    while len(left) > 1:
        n = random.randint(2, len(left))
        left = [*left[n:], merged(left[:n])]
    return Gathered.from_values(marshal.loads(marshal.dumps(left[0].to_values())))  # noqa: S302 - ours


@given(NODES, st.data(), st.randoms(use_true_random=False))
def test_the_whole_is_the_sum_of_the_nodes(nodes: Allocation, data: st.DataObject, random: Random) -> None:
    """A report that lists every rank is the one of the whole plan; a folded one has its counts and its findings."""
    plan = planned(nodes, data.draw(SPECS))
    seen = seen_at_random(plan, random)
    whole = verify(plan, seen)
    for n_job_ranks in (plan.n_ranks, FOLDED):
        parts = [Gathered.of(verify_node(node, seen), n_job_ranks=n_job_ranks) for node in node_plans(plan)]
        gathered = in_any_tree(parts, random)
        assert gathered == merged(parts)
        report = report_of_nodes(plan, [gathered])

        assert (whole.counts, whole.verdict, whole.summary()) == (report.counts, report.verdict, report.summary())
        assert plan.n_ranks == report.counts.ranks
        if n_job_ranks == FOLDED:
            listed = {rank.rank: rank for rank in report.ranks}
            assert all(whole.ranks[number] == rank for number, rank in listed.items())
        else:
            assert whole.ranks == report.ranks
        positions = sorted(position for row in report.nodes for position in row.nodes)
        indices = [node.node_index for node in plan.nodes]
        alone = len(indices) == 1 and gathered.full  # it is the job itself
        assert positions == ([] if alone else indices)
        for row in report.nodes:
            runs = [shifted(row.runs, i * row.step) for i in range(len(row.nodes))]
            on_nodes = [[rank.rank for rank in plan.ranks_on(position)] for position in row.nodes]
            assert on_nodes == [list(expand(one)) for one in runs]
            assert [plan.allocation.nodes[position].host for position in row.nodes] == list(row.hosts)


@given(st.data(), st.randoms(use_true_random=False))
def test_merging_has_no_order(data: st.DataObject, random: Random) -> None:
    """Not even where there are more kinds of node than are listed."""
    n_kinds = data.draw(st.integers(1, 12))
    weights = [(random.choice((1, 300, 700, 2000)), random.random() < 0.5) for _ in range(n_kinds)]
    kinds = [random.randrange(n_kinds) for _ in range(data.draw(st.integers(1, 40)))]
    parts = []
    for position, kind in enumerate(kinds):
        weight, flagged = weights[kind]
        nodes, host = CpuSet.of([position]), f"n{position}"
        alike = Alike(
            likeness=str(kind),
            nodes=nodes,
            counts=Counts(ranks=weight, flagged=weight if flagged else 0),
            reports=(NodeReport(position=position, host=host, ranks=()),),
        )
        services = Services(nodes=nodes, host=host, services=({"pid": position, "name": f"s{kind % 2}"},))
        parts.append(Gathered(full=False, alike=(alike,), services=(services,)))
    gathered = merged(parts)
    assert gathered == in_any_tree(parts, random)
    assert len(kinds) == sum(len(one.nodes) for one in gathered.alike)
    for one in gathered.alike:
        assert all(report.position == one.first for report in one.reports)
    listed = [
        sum(one.counts.ranks for one in gathered.alike if one.reports and bool(one.counts.flagged) is f)
        for f in (True, False)
    ]
    assert max(listed) < 1024 + 2000
    assert gathered.alike[0].reports
