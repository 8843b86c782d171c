from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rankmap.errors import PlacementError
from rankmap.planner import plan
from rankmap.requests import request
from tests.topologies_made import allocation, interleaved, made, with_caches

if TYPE_CHECKING:
    from rankmap.placement import Plan

NODE = with_caches(made([[4], [4]]), 3, [2, 2, 2, 2])
PAIR = allocation(NODE, NODE)
SMT = made([[2], [2]], smt=2, number=interleaved(4))


def _shown(made_plan: Plan) -> list[str]:
    return [f"{rank.host} {rank.cpus}" for rank in made_plan.ranks]


@pytest.mark.parametrize(
    ("n_ranks", "map_by", "expected"),
    [
        (3, "slot", ["n0 0", "n0 1", "n0 2"]),
        (3, "node", ["n0 0", "n1 0", "n0 1"]),
        (3, "core", ["n0 0", "n0 1", "n0 2"]),
        (3, "numa", ["n0 0-3", "n0 0-3", "n0 4-7"]),
        (3, "l3cache", ["n0 0-1", "n0 2-3", "n0 4-5"]),
        (5, "l3cache", ["n0 0-1", "n0 0-1", "n0 2-3", "n0 4-5", "n0 6-7"]),
        (3, "numa:SPAN", ["n0 0-3", "n0 4-7", "n1 0-3"]),
        (5, "numa:SPAN", ["n0 0-3", "n0 4-7", "n1 0-3", "n1 4-7", "n0 0-3"]),
        (4, "numa:PE=2", ["n0 0-1", "n0 2-3", "n0 4-5", "n0 6-7"]),
        (2, "numa:PE=1", ["n0 0", "n0 4"]),
        (4, "numa:PE=1:SCATTER", ["n0 0", "n0 2", "n0 4", "n0 6"]),
        (5, "plane:2", ["n0 0", "n0 1", "n1 0", "n1 1", "n0 2"]),
        (4, "ppr:1:numa", ["n0 0-3", "n0 4-7", "n1 0-3", "n1 4-7"]),
        (None, "ppr:1:package:PE=3", ["n0 0-2", "n0 4-6", "n1 0-2", "n1 4-6"]),
        (None, "ppr:2:node", ["n0 0", "n0 1", "n1 0", "n1 1"]),
    ],
)
def test_each_pattern_deals_numbers_and_binds(n_ranks: int | None, map_by: str, expected: list[str]) -> None:
    """Mapped to an object is bound to all of it; PE is just so many cores; the numbers are those natural to it."""
    assert expected == _shown(plan(PAIR, request(n_ranks=n_ranks, map_by=map_by)))


@pytest.mark.parametrize(
    ("map_by", "expected"),
    [
        ("hwthread", ["n0 0", "n0 4", "n0 1"]),
        ("core:HWTCPUS", ["n0 0,4", "n0 1,5", "n0 2,6"]),
        ("slot:HWTCPUS:PE=2", ["n0 0,4", "n0 1,5", "n0 2,6"]),
    ],
)
def test_hardware_threads_are_dealt_where_asked(map_by: str, expected: list[str]) -> None:
    """Each is a processor; an object is still bound to as a whole."""
    assert expected == _shown(plan(allocation(SMT), request(n_ranks=3, map_by=map_by)))


@pytest.mark.parametrize(
    ("rank_by", "expected"),
    [
        ("slot", ["n0 0", "n0 4", "n0 1", "n0 5", "n1 0", "n1 4"]),
        ("fill", ["n0 0", "n0 1", "n0 4", "n0 5", "n1 0", "n1 4"]),
        ("object", ["n0 0", "n0 4", "n0 1", "n0 5", "n1 0", "n1 4"]),
        ("span", ["n0 0", "n0 4", "n1 0", "n1 4", "n0 1", "n0 5"]),
        ("node", ["n0 0", "n1 0", "n0 4", "n1 4", "n0 1", "n0 5"]),
        ("plane:2", ["n0 0", "n0 4", "n1 0", "n1 4", "n0 1", "n0 5"]),
    ],
)
def test_ranks_are_numbered_in_any_order(rank_by: str, expected: list[str]) -> None:
    """Four ranks of n0 and two of n1 in two domains each: numbers change, places do not."""
    spec = request(n_ranks=6, map_by="numa:PE=1", rank_by=rank_by, hosts=["n0:4,n1:2"])
    assert expected == _shown(plan(PAIR, spec))


def test_slots_limit_what_a_host_takes() -> None:
    """A host without takes what its cores hold."""
    assert _shown(plan(PAIR, request(map_by="slot", hosts=["n0:2,n1:1"]))) == ["n0 0", "n0 1", "n1 0"]
    assert len(plan(PAIR, request(map_by="slot", hosts=["n0:2,n1"])).ranks) == 10


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            {"n_ranks": 17, "map_by": "core"},
            "-n 17 (--map-by core): there is room for 16 ranks of 1 core\n  n[0-1]: 8 x core with 1 free core",
            "these fit: -n 16 | --oversubscribe",
        ),
        (
            {"n_ranks": 5, "map_by": "numa:PE=3"},
            "-n 5 (--map-by numa:PE=3): there is room for 4 ranks of 3 cores\n  n[0-1]: 2 x numa with 4 free cores",
            "these fit: -n 4 | --oversubscribe",
        ),
        (
            {"map_by": "l3cache:PE=3"},
            "--map-by l3cache:PE=3: no l3cache holds 1 rank of 3 cores; the largest has 2 free cores",
            "try --map-by numa | --map-by die | --map-by package; with HWTCPUS hardware threads count, not cores",
        ),
        (
            {"map_by": "die"},
            "--map-by die: n[0-1] have no die with free processors",
            "there is: hwthread, core, l3cache, numa, package, node",
        ),
        (
            {"map_by": "ppr:5:numa:HWTCPUS"},
            (
                "--map-by ppr:5:numa:HWTCPUS: no numa holds 5 ranks of 1 hardware thread; the largest has 4 free"
                " hardware threads"
            ),
            "try --oversubscribe | --map-by ppr:4:numa",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(words: dict[str, int | str], message: str, hint: str) -> None:
    """What was asked, what there is, and what would fit."""
    with pytest.raises(PlacementError) as refused:
        plan(PAIR, request(**words))  # type: ignore[arg-type]
    assert (message, hint) == (refused.value.message, refused.value.hint)


@pytest.mark.parametrize("map_by", ["slot", "node", "plane:2"])
def test_a_node_without_free_cores_is_told_as_it_is(map_by: str) -> None:
    """Patterns without objects do not speak of any."""
    with pytest.raises(PlacementError) as refused:
        plan(allocation(NODE), request(map_by=map_by, reserve="0-7"))
    assert "None" not in refused.value.message


@pytest.mark.parametrize("hosts", ["n0,n1", "n0:3,n1:3"])
def test_what_is_said_to_fit_a_ppr_does(hosts: str) -> None:
    """Its room is so many ranks for each object, and no more than the slots."""
    with pytest.raises(PlacementError) as refused:
        plan(PAIR, request(n_ranks=12, map_by="ppr:2:numa", hosts=[hosts]))
    for text in refused.value.hint.removeprefix("these fit: ").split(" | "):
        if text.startswith("-n "):
            n_ranks = int(text.removeprefix("-n "))
            assert n_ranks == plan(PAIR, request(n_ranks=n_ranks, map_by="ppr:2:numa", hosts=[hosts])).n_ranks
        elif text == "--oversubscribe":
            again = request(n_ranks=12, map_by="ppr:2:numa", hosts=[hosts], oversubscribe=True)
            assert plan(PAIR, again).n_ranks == 12


def test_so_many_on_each_node_hold_when_cores_are_shared() -> None:
    """-N says how many, whatever the nodes have room for."""
    nodes = allocation(made([[2]]), made([[8]]))
    made_plan = plan(nodes, request(ranks_per_node=4, map_by="core", oversubscribe=True))
    assert [4, 4] == [len(made_plan.ranks_on(i)) for i in (0, 1)]


def test_so_many_on_each_node_are_the_most_that_a_node_gets() -> None:
    """-n beyond -N times the nodes is refused, as in the default layout."""
    nodes = allocation(NODE, NODE)
    with pytest.raises(PlacementError):
        plan(nodes, request(n_ranks=10, ranks_per_node=4, oversubscribe=True))
    with pytest.raises(PlacementError):
        plan(nodes, request(n_ranks=10, ranks_per_node=4, map_by="core", oversubscribe=True))


@pytest.mark.parametrize("map_by", ["auto", "slot", "core", "numa"])
@pytest.mark.parametrize("bind_to", ["core", "explicit", "hwthread"])
def test_more_ranks_than_cores_need_leave_to_overload_once_bound(map_by: str, bind_to: str) -> None:
    """--oversubscribe does not allow it where --bind-to asks for cores of its own, and that is said."""
    words = {"n_ranks": 9, "map_by": map_by, "oversubscribe": True}
    with pytest.raises(PlacementError, match="overload-allowed"):
        plan(allocation(NODE), request(**words, bind_to=bind_to))  # type: ignore[arg-type]
    allowed = request(**words, bind_to=f"{bind_to}:overload-allowed")  # type: ignore[arg-type]
    assert plan(allocation(NODE), allowed).n_ranks == 9
