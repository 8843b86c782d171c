"""Jobs of several parts (MPMD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rankmap import planner
from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, PlacementError, RankmapError, UsageError
from rankmap.layout import LayoutSpec
from rankmap.placement import Plan
from rankmap.planner import decide, plan
from rankmap.requests import request
from tests.topologies_made import allocation, interleaved, made, with_gpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.decisions import Decisions
    from rankmap.topology import Allocation

NODE = made([[2], [2]], smt=2, number=interleaved(4))
PAIR = allocation(NODE, NODE)


def _plan(*parts: dict[str, Any]) -> Plan:
    return plan(PAIR, *(request(**words) for words in parts))


def _shown(made_plan: Plan) -> list[tuple[int, str, str]]:
    return [(made_plan.part_of(rank.rank), rank.host, str(rank.cpus)) for rank in made_plan.ranks]


def test_parts_share_no_core_and_are_numbered_one_after_the_other() -> None:
    """A later part has what the parts before have left."""
    made_plan = _plan({"n_ranks": 2, "map_by": "core"}, {"n_ranks": 3, "map_by": "core"})
    assert _shown(made_plan) == [
        (0, "n0", "0,4"),
        (0, "n0", "1,5"),
        (1, "n0", "2,6"),
        (1, "n0", "3,7"),
        (1, "n1", "0,4"),
    ]
    assert [2, 3] == [part.n_ranks for part in made_plan.parts]


def test_local_ranks_follow_the_parts() -> None:
    """On a node that has ranks of both, those of the first come first."""
    made_plan = _plan({"n_ranks": 2, "map_by": "node:PE=1"}, {"n_ranks": 2, "map_by": "node:PE=1"})
    assert [[0, 2], [1, 3]] == [[rank.rank for rank in made_plan.ranks_on(i)] for i in (0, 1)]
    assert [[0, 1], [0, 1]] == [[rank.local_rank for rank in made_plan.ranks_on(i)] for i in (0, 1)]
    assert [["0,4", "1,5"]] * 2 == [[str(rank.cpus) for rank in made_plan.ranks_on(i)] for i in (0, 1)]


def test_the_last_part_may_take_what_is_left() -> None:
    """Nothing asked is one rank per free core."""
    made_plan = _plan({"n_ranks": 1, "cpus_per_rank": 3}, {})
    assert [1, 5] == [part.n_ranks for part in made_plan.parts]


def test_parts_may_use_hosts_of_their_own() -> None:
    """--hosts is an option of the part."""
    made_plan = _plan({"ranks_per_node": 1, "hosts": ["n1"]}, {"ranks_per_node": 1, "hosts": ["n0"]})
    assert _shown(made_plan) == [(0, "n1", "0-7"), (1, "n0", "0-7")]


def test_parts_that_leave_it_open_share_out_the_cores() -> None:
    """Ranks of parts that say nothing have as many cores each as leave room for all parts."""
    assert _shown(_plan({"n_ranks": 1, "hosts": ["n0"]}, {"n_ranks": 1, "hosts": ["n0"]})) == [
        (0, "n0", "0-1,4-5"),
        (1, "n0", "2-3,6-7"),
    ]


def test_a_refused_part_is_quoted_as_it_was_written() -> None:
    """The message has no option that the user did not write."""
    with pytest.raises(PlacementError) as refused:
        _plan({"n_ranks": 9}, {"n_ranks": 1})
    assert refused.value.message.startswith("part 1 of the job: -n 9: 9 ranks do not fit on 2 nodes with room for 8")


def test_an_unbound_part_keeps_its_cores_to_itself() -> None:
    """It was mapped to them, bound or not."""
    made_plan = _plan({"n_ranks": 2, "map_by": "core", "bind_to": "none"}, {"n_ranks": 1, "map_by": "core"})
    assert _shown(made_plan) == [(0, "n0", "None"), (0, "n0", "None"), (1, "n0", "2,6")]


def test_a_part_that_may_oversubscribe_shares_when_nothing_is_left() -> None:
    """It goes where it would have gone alone."""
    made_plan = _plan({"ranks_per_node": 4}, {"n_ranks": 1, "map_by": "core", "oversubscribe": True})
    assert _shown(made_plan)[-1] == (1, "n0", "0,4")


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        (
            [{"n_ranks": 9, "cpus_per_rank": 1}, {"n_ranks": 1, "cpus_per_rank": 1}],
            PlacementError,
            "part 1 of the job: -n 9 -c 1: 9 ranks of 1 core do not fit on 2 nodes with room for 8",
        ),
        (
            [{"n_ranks": 7, "map_by": "core"}, {"n_ranks": 2, "cpus_per_rank": 1}],
            PlacementError,
            "part 2 of the job, after that before it: -n 2 -c 1: 2 ranks of 1 core do not fit on 2 nodes with ",
        ),
        (
            [{"n_ranks": 7, "map_by": "core"}, {"n_ranks": 1}, {"n_ranks": 1, "map_by": "numa"}],
            PlacementError,
            "part 3 of the job, after those before it: --map-by numa",
        ),
        (
            [{"n_ranks": 1}, {"hosts": ["n7"]}],
            AllocationError,
            "part 2 of the job, after that before it: --hosts n7: not in the allocation",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_named(parts: list[dict[str, Any]], kind: type[RankmapError], message: str) -> None:
    """Which part, and what is wrong with it, in the words of a single one."""
    with pytest.raises(RankmapError) as refused:
        _plan(*parts)
    assert kind is type(refused.value)
    assert refused.value.message.startswith(message)


def test_notes_name_their_part() -> None:
    """A job of one part has notes as always; hosts that no part uses are named once."""
    made_plan = _plan({"n_ranks": 1, "cpus_per_rank": 3}, {"n_ranks": 1, "cpus_per_rank": 1})
    assert made_plan.notes == (
        "part 1: rank 0 spans NUMA domains 0,1 (asked: -c 3, a domain has 2 cores)",
        "n1 has no ranks",
    )


def test_a_plan_of_parts_is_saved_and_read_back() -> None:
    """With every part's request and number of ranks."""
    made_plan = _plan({"n_ranks": 2, "map_by": "core:PE=1"}, {"n_ranks": 3, "reserve": "0"})
    assert made_plan == Plan.from_json(made_plan.to_json())


def test_decisions_are_those_of_each_part() -> None:
    """Which request, from which rank on, how many, and on which nodes."""
    decisions = decide(PAIR, request(n_ranks=2, map_by="core"), request(n_ranks=3, map_by="core"))
    assert [(0, 2, ["n0"]), (2, 3, ["n0", "n1"])] == [
        (part.first_rank, part.n_ranks, [node.site.host for node in part.nodes]) for part in decisions.parts
    ]
    assert [["n1"], []] == [[site.host for site in part.unused] for part in decisions.parts]


def test_ranks_belong_to_parts() -> None:
    """And a rank that is not there to none; what a part keeps free is free of the whole job."""
    made_plan = _plan({"n_ranks": 1, "reserve": "0"}, {"n_ranks": 2, "reserve": "1"})
    assert [0, 1, 1] == [made_plan.part_of(rank) for rank in range(3)]
    assert str(made_plan.reserve) == "0-1"
    assert all(rank.cpus is not None and rank.cpus.isdisjoint(CpuSet.parse("0-1")) for rank in made_plan.ranks)
    for rank in (-1, 3):
        with pytest.raises(UsageError, match=f"rank {rank}: the job has ranks 0 to 2"):
            made_plan.part_of(rank)


def test_hardware_threads_of_a_core_may_be_parts() -> None:
    """Parts share no processor; where processors are PUs, they may share a core."""
    made_plan = _plan({"n_ranks": 1, "map_by": "hwthread"}, {"n_ranks": 15, "map_by": "hwthread"})
    assert len({(rank.host, str(rank.cpus)) for rank in made_plan.ranks}) == 16


def test_few_ranks_on_many_nodes_have_a_node_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rank is wider than its node, so no wider rank is tried, however many cores there are for each."""
    tried: list[int | None] = []
    attempt = planner._decide

    def counted(allocation: Allocation, specs: Sequence[LayoutSpec], width: int | None) -> Decisions:
        tried.append(width)
        return attempt(allocation, specs, width)

    monkeypatch.setattr(planner, "_decide", counted)
    parts = plan(allocation(*[made([[4]] * 2)] * 100), LayoutSpec(n_ranks=2), LayoutSpec(n_ranks=3))

    assert [8] == tried  # not the 160 that there are for each
    assert {8} == {len(rank.cpus or ()) for rank in parts.ranks}


def test_a_part_leaves_other_parts_what_they_have() -> None:
    """A rank that may use its whole domain, as nobody said otherwise, may not use what another part has there."""
    made_plan = _plan({"n_ranks": 2, "map_by": "package"}, {"n_ranks": 1, "map_by": "core"})
    assert [(0, "n0", "0,4"), (0, "n0", "2-3,6-7"), (1, "n0", "1,5")] == _shown(made_plan)


def test_what_is_kept_free_of_each_object_is_so_for_every_part() -> None:
    """The first core of each, not the first that the parts before have left."""
    made_plan = _plan({"n_ranks": 1, "map_by": "core", "reserve_per": "package:1"}, {"n_ranks": 1, "map_by": "core"})
    assert [(0, "n0", "1,5"), (1, "n0", "3,7")] == _shown(made_plan)


def test_gpus_of_a_part_are_not_given_to_the_next() -> None:
    """No more than its cores are."""
    node = allocation(with_gpus(NODE, 0, 0, 1, 1))
    sets = request(n_ranks=1, map_by="rs:a=1,c=1,g=2")
    assert [("0", "1"), ("2", "3")] == [rank.gpus for rank in plan(node, sets, sets).ranks]
    with pytest.raises(PlacementError, match=r"part 3 of the job.*room for 0 resource sets of 1 core and 2 GPUs"):
        plan(node, sets, sets, sets)
