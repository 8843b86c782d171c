from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec
from rankmap.placement import RankPlacement
from rankmap.planner import plan
from rankmap.runs import Run
from rankmap.topology import OsIndex
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
SMALL = made([[2]])
PLAN = plan(allocation(NODE, SMALL, NODE, NODE), LayoutSpec(n_ranks=8, hosts=("n0", "n2", "n3")))


def test_ranks_are_stamped_from_layouts() -> None:
    """Equal nodes share a layout, and every rank is found by number, by node and in order."""
    assert len(PLAN.layouts) == 2
    assert list(range(8)) == [rank.rank for rank in PLAN.ranks]
    assert PLAN.ranks == tuple(PLAN.rank(i) for i in range(8))
    assert PLAN.ranks[3:6] == PLAN.ranks_on(2)
    assert PLAN.ranks_on(1) == ()
    expected = RankPlacement(
        rank=4, node_index=2, host="n2", local_rank=1, cpus=CpuSet.parse("1,5"), numa=(OsIndex(0),)
    )
    assert expected == PLAN.rank(4)


@pytest.mark.parametrize("rank", [-1, 8])
def test_a_rank_that_is_not_there_is_refused(rank: int) -> None:
    """Only ranks of the job can be asked for."""
    with pytest.raises(UsageError, match=f"rank {rank}: the job has ranks 0 to 7"):
        PLAN.rank(rank)


def test_ranks_that_are_dealt_over_nodes_come_in_order() -> None:
    """Each node has every third rank: rank order goes round the nodes, local ranks count on each."""
    dealt = replace(
        PLAN,
        nodes=tuple(
            replace(node, runs=(Run(first=i, size=1, blocks=len(PLAN.layouts[node.layout_index].ranks), stride=3),))
            for i, node in enumerate(PLAN.nodes)
        ),
    )
    hosts = ["n0", "n2", "n3"] * 3
    assert [(i, hosts[i], i // 3) for i in range(8)] == [(r.rank, r.host, r.local_rank) for r in dealt.iter_ranks()]
    assert dealt.ranks == tuple(dealt.rank(i) for i in range(8))
    assert [1, 4, 7] == [rank.rank for rank in dealt.ranks_on(2)]


def test_a_job_of_one_part_is_that_part() -> None:
    """Every rank belongs to it, and what it reserves the job does."""
    assert [0] * 8 == [PLAN.part_of(rank.rank) for rank in PLAN.ranks]
    assert str(PLAN.reserve) == ""
    (part,) = PLAN.parts
    reserving = replace(PLAN, parts=(replace(part, spec=LayoutSpec(reserve=CpuSet.parse("7"))),))
    assert str(reserving.reserve) == "7"
    for rank in (-1, 8):
        with pytest.raises(UsageError, match=f"rank {rank}: the job has ranks 0 to 7"):
            PLAN.part_of(rank)
