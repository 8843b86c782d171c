"""Unit tests of rankmap.node_plan: what one host is told of a plan."""

from __future__ import annotations

import json
import marshal

import pytest

from rankmap.errors import UsageError
from rankmap.node_plan import NodePlan, node_plans
from rankmap.planner import plan
from rankmap.requests import request
from tests.large_jobs import hosts
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
SMALL = made([[2]])
PLAN = plan(
    allocation(NODE, SMALL, NODE, SMALL), request(n_ranks=4, rank_by="node", hosts=["n1,n2"]), request(hosts=["n3"])
)


def test_a_node_knows_its_ranks_by_their_numbers_in_the_job() -> None:
    """Places and parts are those of the whole plan; its own allocation is the node alone."""
    of_n2 = NodePlan.of(PLAN, 2)
    assert (2, "n2", 2, 6) == (of_n2.position, of_n2.host, of_n2.n_ranks, of_n2.n_job_ranks)
    assert [1, 3] == [rank.rank for rank in of_n2.iter_ranks()]
    assert [PLAN.rank(i).cpus for i in (1, 3)] == [of_n2.rank(i).cpus for i in (1, 3)]
    assert of_n2.ranks_on(0) == tuple(of_n2.iter_ranks()) == (of_n2.rank(1), of_n2.rank(3))
    assert () == of_n2.ranks_on(1)
    assert NODE == of_n2.allocation.topology(of_n2.rank(1).node_index)
    assert [0, 1] == [of_n2.part_of(1), NodePlan.of(PLAN, 3).part_of(4)]


@pytest.mark.parametrize("rank", [-1, 0, 2, 6])
def test_ranks_of_other_nodes_are_refused(rank: int) -> None:
    """A node knows nothing of them."""
    of_n2 = NodePlan.of(PLAN, 2)
    for ask in (of_n2.rank, of_n2.part_of):
        with pytest.raises(UsageError, match=rf"rank {rank} is not one of the 2 ranks of node 2 \(n2\)"):
            ask(rank)


def test_a_node_without_ranks_has_no_part() -> None:
    """It is told nothing."""
    with pytest.raises(UsageError, match="node 0 has no ranks"):
        NodePlan.of(PLAN, 0)
    assert [1, 2, 3] == [node.position for node in node_plans(PLAN)]


def test_it_costs_what_the_node_costs() -> None:
    """However many other nodes there are."""
    few, many = (plan(hosts(n, NODE), request(ranks_per_node=4)) for n in (2, 2000))
    sizes = [len(marshal.dumps(NodePlan.of(one, 1).to_values())) for one in (few, many)]
    assert sizes[0] == sizes[1] < 4000


def test_values_that_are_no_node_plan_are_refused() -> None:
    """With the place that is wrong."""
    values = json.loads(json.dumps(NodePlan.of(PLAN, 2).to_values()))
    values["runs"] = "1,3"
    with pytest.raises(UsageError, match=r"node plan\.runs is not a list"):
        NodePlan.from_values(values)
