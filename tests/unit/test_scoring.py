"""Unit tests of rankmap.scoring: each number, on the smallest plan that has it."""

from __future__ import annotations

import pytest

from rankmap.planner import plan
from rankmap.requests import request
from rankmap.scoring import score
from rankmap.topology import Allocation, NodeTopology
from tests.topologies_made import made, with_caches, with_kinds

NODE = made([[4, 4], [4, 4]])
CACHES = with_caches(made([[8]]), 3, [4, 4])
KINDS = with_kinds(made([[6]]), ("2-5", 600, "slow"), ("0-1", 1000, "fast"))


def nodes(*shapes: NodeTopology) -> Allocation:
    """Return an allocation of these, n0, n1, ..."""
    return Allocation.of(tuple((f"n{i}", shape) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize(
    ("allocation", "words", "slug", "value"),
    [
        (nodes(NODE), {"n_ranks": 3, "bind_to": "none"}, "unbound", 3),
        (nodes(NODE), {"n_ranks": 17, "oversubscribe": True}, "sharing", 17),
        (nodes(NODE, NODE), {"n_ranks": 4, "map_by": "slot"}, "idle_nodes", 1),
        (nodes(NODE), {"n_ranks": 4, "map_by": "slot"}, "idle_domains", 3),
        (nodes(NODE), {"n_ranks": 1}, "spanning_packages", 1),
        (nodes(NODE), {"n_ranks": 2}, "spanning_numa", 2),
        (nodes(NODE), {"n_ranks": 4, "cpus_per_rank": 1}, "half_idle", 1),
        (nodes(NODE), {"n_ranks": 6}, "core_imbalance", 2),
        (nodes(KINDS), {"n_ranks": 1, "map_by": "package"}, "mixed_kinds", 1),
        (nodes(NODE), {"n_ranks": 8, "map_by": "numa"}, "overlapping", 8),
        (nodes(CACHES), {"n_ranks": 2, "cpus_per_rank": 3, "map_by": "slot"}, "spanning_l3", 1),
        (nodes(NODE), {"n_ranks": 5}, "numa_imbalance", 1),
        (nodes(CACHES), {"n_ranks": 3, "cpus_per_rank": 2}, "l3_imbalance", 1),
        (nodes(NODE), {"n_ranks": 3, "cpus_per_rank": 4}, "idle_cores", 4),
    ],
)
def test_each_number_counts_what_it_says(
    allocation: Allocation, words: dict[str, object], slug: str, value: int
) -> None:
    """And is 0 in a plan that has nothing of it."""
    assert value == getattr(score(plan(allocation, request(**words))), slug)  # type: ignore[arg-type]


def test_the_best_of_plans_has_zeros_only() -> None:
    """A rank for each core."""
    assert {0} == {number.cost for number in score(plan(nodes(NODE), request(n_ranks=16))).numbers()}


def test_reserved_cores_are_not_idle() -> None:
    """They were meant to be free."""
    assert 0 == score(plan(nodes(NODE), request(reserve="0,4,8,12"))).idle_cores


def test_numbers_read_well() -> None:
    """One of something is singular."""
    said = {number.slug: str(number) for number in score(plan(nodes(NODE), request(n_ranks=1))).numbers()}
    assert said["spanning_packages"].startswith("1 rank with CPUs of several packages")
    assert said["idle_cores"].startswith("0 cores of nodes")


def test_what_was_left_out_on_purpose_is_not_idle() -> None:
    """Neither nodes that were not to be used, nor the cores of --reserve-per, nor those beside a pe-list."""
    two = Allocation.of((("n0", NODE), ("n1", NODE)))
    assert 0 == score(plan(two, request(n_ranks=4, hosts=["n0"]))).idle_nodes
    assert 1 == score(plan(two, request(n_ranks=1, map_by="core"))).idle_nodes
    kept = score(plan(nodes(NODE), request(map_by="core", reserve_per="package:1")))
    assert 0 == kept.idle_cores
    assert 0 == score(plan(nodes(NODE), request(map_by="core:pe-list=0-1"))).idle_cores


def test_ranks_on_slower_cores_are_counted() -> None:
    """Not where all ranks have slow ones."""
    mixed = with_kinds(made([[8]]), ("4-7", 1000, "slow"), ("0-3", 3000, "fast"))
    assert 2 == score(plan(nodes(mixed), request(n_ranks=6, map_by="core"))).slow
    assert 0 == score(plan(nodes(mixed), request(n_ranks=4))).slow
    assert 0 == score(plan(nodes(mixed), request(n_ranks=2, map_by="core:pe-list=4-7"))).slow
