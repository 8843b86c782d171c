"""Unit tests of rankmap.alternatives and rankmap.comparison: what else there is, and what differs."""

from __future__ import annotations

import pytest

from rankmap.alternatives import alternatives
from rankmap.comparison import compare
from rankmap.errors import PlacementError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.topology import Allocation
from tests.topologies_made import made, with_caches

NODES = Allocation.of((("n0", with_caches(made([[8, 8]]), 3, [4] * 4)), ("n1", made([[4], [4]]))))


def test_equal_plans_are_one_and_the_best_is_first() -> None:
    """No two have every rank in the same place; each but the best says where a better one is better."""
    found = alternatives(NODES, request(n_ranks=6))
    assert "-n 6 -c 4" == str(found[0].spec)
    assert sorted(one.score.key() for one in found) == [one.score.key() for one in found]
    for i, one in enumerate(found):
        assert all(compare(one.plan, other.plan).places for other in found[i + 1 :])
        assert bool(one.reason) == (one.score.key() != found[0].score.key())
        for equal in one.equals:
            assert [rank.cpus for rank in one.plan.iter_ranks()] == [r.cpus for r in plan(NODES, equal).iter_ranks()]


def test_what_the_user_fixed_stays() -> None:
    """Only map-by is tried."""
    for one in alternatives(NODES, request(n_ranks=4, cpus_per_rank=2, reserve="0", hosts=["n0"])):
        assert (2, "0", ("n0",)) == (one.spec.cpus_per_rank, str(one.spec.reserve), one.spec.hosts)


def test_when_nothing_fits_the_default_says_why() -> None:
    """The refusal is that of plan."""
    with pytest.raises(PlacementError, match="-n 99: 99 ranks do not fit on 2 nodes with room for 24"):
        alternatives(NODES, request(n_ranks=99))


def test_equal_plans_do_not_differ() -> None:
    """Also when they were asked for in other words: then only that is said."""
    one, other = plan(NODES, request(n_ranks=24)), plan(NODES, request())
    found = compare(one, other)
    assert (("asked: -n 24, and nothing in the other",), (), ()) == (found.requests, found.places, found.scores)


def test_the_same_place_on_another_kind_of_node_is_another_place() -> None:
    """CPU 0 of a node with two threads a core is not CPU 0 of one with one."""
    one, other = (
        plan(Allocation.of((("n0", made([[2]], smt=smt)),)), request(n_ranks=1, bind_to="core")) for smt in (1, 2)
    )
    assert "another kind of node in the other: n0" == compare(one, other).places[0]


def test_differences_are_said_in_words() -> None:
    """Requests, hosts, CPUs, then what is better."""
    one, other = (plan(NODES, request(n_ranks=4, map_by=words)) for words in ("core", "node"))
    found = compare(one, other)
    assert ("asked: -n 4 --map-by core, and -n 4 --map-by node in the other",) == found.requests
    assert found.places[:4] == (
        "2 ranks are on another host: 1,3",
        "3 ranks have other CPUs: 1-3",
        "  rank 1: n0 CPUs 1, and n1 CPUs 0",
        "  rank 2: n0 CPUs 2, and n0 CPUs 1",
    )
    assert "worse: 1 node that the request may use, without ranks; 0 in the other" == found.scores[0]


def test_jobs_of_other_sizes_differ_in_their_number_of_ranks() -> None:
    """And are compared as far as both go."""
    one, other = plan(NODES, request(n_ranks=2)), plan(NODES, request(n_ranks=3), request(n_ranks=1))
    found = compare(one, other)
    assert ("2 ranks, and 4 in the other", "1 parts, and 2 in the other") == (found.places[0], found.requests[0])


def test_long_lists_are_cut_short() -> None:
    """Sixteen ranks are shown."""
    one, other = (plan(NODES, request(n_ranks=24, map_by="core", rank_by=order)) for order in ("slot", "node"))
    assert any(line.startswith("  and ") and line.endswith(" more") for line in compare(one, other).places)
