from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rankmap.errors import PlacementError
from rankmap.planner import plan
from rankmap.requests import request
from tests.topologies_made import allocation, made, with_caches, with_gpus

if TYPE_CHECKING:
    from rankmap.placement import Plan

NODE = made([[8], [8]])
SUMMIT = with_gpus(made([[21], [21]]), 0, 0, 0, 1, 1, 1)
"""Two sockets of 21 cores with three GPUs each, as jsrun was made for."""


def _shown(made_plan: Plan) -> list[str]:
    return [f"{rank.host} {rank.cpus}" + f" {','.join(rank.gpus)}" * bool(rank.gpus) for rank in made_plan.ranks]


def test_a_resource_set_is_shared_out_among_its_ranks() -> None:
    """Sets are placed as ranks with so many cores; their ranks have neighbouring cores of theirs."""
    made_plan = plan(allocation(NODE), request(n_ranks=4, map_by="rs:a=2,c=6"))
    assert _shown(made_plan) == ["n0 0-2", "n0 3-5", "n0 8-10", "n0 11-13"]


def test_cores_that_do_not_divide_go_to_the_first_ranks() -> None:
    """Each has at least one core, none has two more than another."""
    assert _shown(plan(allocation(NODE), request(n_ranks=3, map_by="rs:a=3,c=8"))) == ["n0 0-2", "n0 3-5", "n0 6-7"]
    assert _shown(plan(allocation(NODE), request(n_ranks=2, map_by="rs:a=2,c=2"))) == ["n0 0", "n0 1"]


def test_nothing_asked_is_as_many_sets_as_fit() -> None:
    """On every node."""
    assert len(plan(allocation(NODE, NODE), request(map_by="rs:a=2,c=3")).ranks) == 2 * 2 * 2 * 2


@pytest.mark.parametrize("gpus", [1, 3])
def test_the_ranks_of_a_set_share_its_gpus(gpus: int) -> None:
    """Each set has the nearest ones, all of its ranks all of them."""
    sets = 6 // gpus
    made_plan = plan(allocation(SUMMIT), request(n_ranks=2 * sets, map_by=f"rs:a=2,c={7 * gpus},g={gpus}"))
    expected = [[str(gpus * (i // 2) + k) for k in range(gpus)] for i in range(2 * sets)]
    assert expected == [list(rank.gpus) for rank in made_plan.ranks]


def test_sets_are_the_objects_of_their_ranks() -> None:
    """--rank-by object goes round the sets."""
    spec = request(n_ranks=4, map_by="rs:a=2,c=2", rank_by="object")
    assert _shown(plan(allocation(NODE), spec)) == ["n0 0", "n0 8", "n0 1", "n0 9"]


def test_so_many_ranks_on_each_node() -> None:
    """-N counts ranks, not sets."""
    made_plan = plan(allocation(NODE, NODE), request(ranks_per_node=4, map_by="rs:a=2,c=4"))
    assert _shown(made_plan)[:4] == ["n0 0-1", "n0 2-3", "n0 8-9", "n0 10-11"]
    assert made_plan.n_ranks == 8


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            {"n_ranks": 6, "map_by": "rs:a=2,c=7"},
            (
                "-n 6 (--map-by rs:a=2,c=7): there is room for 2 resource sets of 7 cores, 4 ranks\n"
                "  n0: 16 free cores: room for 4 ranks"
            ),
            "these fit: -n 4",
        ),
        (
            {"map_by": "rs:a=2,c=17"},
            (
                "a job (--map-by rs:a=2,c=17): there is room for 0 resource sets of 17 cores, 0 ranks\n"
                "  n0: 16 free cores: room for 0 ranks"
            ),
            "see `rankmap topo`",
        ),
        (
            {"n_ranks": 2, "map_by": "rs:a=1,c=2,g=1"},
            (
                "-n 2 (--map-by rs:a=1,c=2,g=1): there is room for 0 resource sets of 2 cores and 1 GPU, 0 ranks\n"
                "  n0: 16 free cores, 0 free GPUs: room for 0 ranks"
            ),
            "see `rankmap topo`",
        ),
    ],
)
def test_sets_that_do_not_fit_are_refused(words: dict[str, int | str], message: str, hint: str) -> None:
    """Too many cores or too many GPUs, with the numbers."""
    with pytest.raises(PlacementError) as refused:
        plan(allocation(NODE), request(**words))  # type: ignore[arg-type]
    assert (message, hint) == (refused.value.message, refused.value.hint)


def test_sets_keep_to_the_slots_of_a_host() -> None:
    """Slots count ranks: two of them are one set of two."""
    made_plan = plan(allocation(NODE), request(map_by="rs:a=2,c=2", hosts=["n0:2"]))
    assert _shown(made_plan) == ["n0 0", "n0 1"]


def test_sets_do_not_straddle_caches_without_need() -> None:
    """They are placed by the rules of the default layout."""
    cached = with_caches(made([[8]]), 3, [3, 5])
    assert _shown(plan(allocation(cached), request(n_ranks=4, map_by="rs:a=2,c=3"))) == [
        "n0 0-1",
        "n0 2",
        "n0 3-4",
        "n0 5",
    ]


def test_the_default_layout_takes_modifiers() -> None:
    """PE, HWTCPUS and pe-list say what its processors are."""
    node = made([[2], [2]], smt=2)
    assert _shown(plan(allocation(node), request(map_by="auto:PE=2"))) == ["n0 0-3", "n0 4-7"]
    assert _shown(plan(allocation(node), request(map_by="auto:HWTCPUS"))) == [f"n0 {i}" for i in range(8)]
    assert _shown(plan(allocation(node), request(map_by="auto:pe-list=1,4-5"))) == ["n0 1", "n0 4-5"]


@pytest.mark.parametrize(
    ("rank_by", "expected"),
    [("slot", ["0", "1", "8", "9"]), ("fill", ["0", "1", "8", "9"]), ("object", ["0", "8", "1", "9"])],
)
def test_the_default_layout_can_be_numbered_by_domain(rank_by: str, expected: list[str]) -> None:
    """Its objects are NUMA domains."""
    spec = request(n_ranks=4, cpus_per_rank=1, rank_by=rank_by)
    assert [f"n0 {cpus}" for cpus in expected] == _shown(plan(allocation(NODE), spec))


@pytest.mark.parametrize(
    ("bind_to", "expected"), [("none", ["None", "None"]), ("core", ["0-1", "8-9"]), ("numa", ["0-7", "8-15"])]
)
def test_the_default_layout_can_be_bound_otherwise(bind_to: str, expected: list[str]) -> None:
    """To nothing, or to the objects of its cores."""
    spec = request(n_ranks=2, cpus_per_rank=2, bind_to=bind_to)
    assert expected == [str(rank.cpus) for rank in plan(allocation(NODE), spec).ranks]


def test_a_refused_default_layout_with_pe_says_what_fits() -> None:
    """PE=n is as good as -c n."""
    with pytest.raises(PlacementError, match="4 ranks of 8 cores do not fit") as refused:
        plan(allocation(NODE), request(n_ranks=4, map_by="auto:PE=8"))
    assert refused.value.hint.startswith("these fit: ")
