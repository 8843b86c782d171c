"""Unit tests of rankmap.mapping.gpus: who gets which GPU, and cores beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.devices import distance, gpu_ids, nearest
from rankmap.discovery.machine import load
from rankmap.errors import AllocationError, PlacementError, UsageError
from rankmap.planner import plan
from rankmap.requests import request
from tests.topologies_made import allocation, made, with_caches, with_gpus

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology

NODE = with_gpus(made([[4, 4], [4, 4]]), 3, 1, 2, 0)
"""Four domains of four cores; GPU 0 is close to the last one, GPU 1 to the second, 2 to the third, 3 to the first."""
HALF = with_gpus(made([[4, 4], [4, 4]]), 1, 2)
"""Only the two domains in the middle have a GPU."""
RECORDED = sorted((Path(__file__).parents[2] / "../shared/topologies").glob("*.xml"))


def _placed(node: NodeTopology, **words: object) -> list[tuple[str, str]]:
    made_plan = plan(allocation(node), request(**words))  # type: ignore[arg-type]
    return [(str(rank.cpus), ",".join(rank.gpus)) for rank in made_plan.ranks]


@pytest.mark.parametrize(
    ("words", "placed"),
    [
        ({"gpus_per_rank": 1}, [("0-3", "3"), ("4-7", "1"), ("8-11", "2"), ("12-15", "0")]),
        ({"map_by": "gpu"}, [("12-15", "0"), ("4-7", "1"), ("8-11", "2"), ("0-3", "3")]),
        ({"map_by": "gpu:PE=2", "n_ranks": 2}, [("4-5", "1"), ("0-1", "3")]),
        ({"gpus_per_rank": 2}, [("0-7", "1,3"), ("8-15", "0,2")]),
        ({"gpus_per_rank": "1/2", "n_ranks": 8}, [(f"{2 * i}-{2 * i + 1}", "33112200"[i]) for i in range(8)]),
        ({"ranks_per_gpu": 2, "map_by": "core", "n_ranks": 2}, [("0", "3"), ("1", "3")]),
        ({"share_gpus": True, "map_by": "core", "n_ranks": 5}, [(str(i), "33101"[i]) for i in range(5)]),
        ({"gpus_per_rank": 1, "map_by": "numa:PE=1", "n_ranks": 4}, [("0", "3"), ("4", "1"), ("8", "2"), ("12", "0")]),
        ({"gpu_bind": "round-robin", "n_ranks": 2, "map_by": "core"}, [("0", "0"), ("1", "1")]),
        ({"gpu_bind": "list:2:0,1", "n_ranks": 1, "cpus_per_rank": 1}, [("8", "2")]),
        ({"gpu_bind": "list:2:2", "n_ranks": 2, "map_by": "core", "share_gpus": True}, [("0", "2"), ("1", "2")]),
        ({"gpu_bind": "none", "n_ranks": 1, "cpus_per_rank": 1}, [("0", "")]),
        ({"gpu_bind": "list:2:1"}, [("8-11", "2"), ("4-7", "1")]),
        ({"gpu_bind": "list:2:2:1", "share_gpus": True}, [("8-9", "2"), ("10-11", "2"), ("4-7", "1")]),
        ({"gpu_bind": "round-robin", "n_ranks": 3}, [("12-15", "0"), ("4-7", "1"), ("8-11", "2")]),
        ({"share_gpus": True}, [("0-3", "3"), ("4-7", "1"), ("8-11", "2"), ("12-15", "0")]),
        ({"gpu_bind": "none", "gpus_per_rank": 1}, [("0-3", ""), ("4-7", ""), ("8-11", ""), ("12-15", "")]),
        ({"gpu_bind": "none", "map_by": "gpu"}, [("12-15", ""), ("4-7", ""), ("8-11", ""), ("0-3", "")]),
    ],
)
def test_ranks_have_gpus(words: dict[str, object], placed: list[tuple[str, str]]) -> None:
    """The nearest, in one order or the other, shared or not."""
    assert placed == _placed(NODE, **words)


def test_cores_are_beside_the_gpus() -> None:
    """Domains without a GPU have no ranks, as long as the others have room for all."""
    assert [("4-7", "0"), ("8-11", "1")] == _placed(HALF, gpus_per_rank=1)
    assert [("4-6", "0"), ("8-10", "1")] == _placed(HALF, n_ranks=2, cpus_per_rank=3, gpus_per_rank=1)
    assert [("0-5", "0"), ("8-13", "1")] == _placed(HALF, n_ranks=2, cpus_per_rank=6, gpus_per_rank=1)


def test_gpus_of_a_cache_come_before_those_of_a_domain() -> None:
    """A rank in the L3 that a GPU hangs on gets that one, its neighbour the domain's."""
    node = with_caches(with_gpus(made([[4]]), 0, 0), 3, [2, 2])
    near, wide = node.gpus
    node = replace(node, gpus=(wide, replace(near, cpus=CpuSet.parse("0-1"))))
    assert [("0-1", "1"), ("2-3", "0")] == _placed(node, gpus_per_rank=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n_ranks": 5, "gpus_per_rank": 1}, "-n 5 --gpus-per-rank 1: 5 ranks do not fit on 1 node with room for 4"),
        (
            {"n_ranks": 5, "gpus_per_rank": 1, "oversubscribe": True},
            "-n 5 --gpus-per-rank 1: 5 ranks do not fit on 1 node",
        ),
        ({"n_ranks": 5, "gpus_per_rank": 1, "map_by": "core"}, "there is room for 4 ranks of 1 core"),
        ({"gpus_per_rank": 5}, "5 GPUs for each rank, and no node has more than 4 free GPUs"),
        ({"n_ranks": 2, "gpu_bind": "list:0"}, "--gpu-bind list:0: 1 list for 2 ranks on n0"),
        ({"n_ranks": 1, "gpu_bind": "list:7"}, "--gpu-bind list:7: n0 has no free GPU 7; it has 0,1,2,3"),
        ({"n_ranks": 2, "gpu_bind": "list:0:0"}, "--gpu-bind list:0:0: local rank 1 shares GPU 0 with another"),
    ],
)
def test_what_cannot_be_had_is_refused(words: dict[str, object], message: str) -> None:
    """With the numbers."""
    with pytest.raises(PlacementError) as refused:
        _placed(NODE, **words)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"gpus_per_rank": "3/2"}, "--gpus-per-rank 3/2: a share is 1/K of one GPU"),
        ({"gpus_per_rank": "half"}, "--gpus-per-rank half: neither a number of GPUs nor a share of one"),
        ({"gpus_per_rank": 0}, "--gpus-per-rank 0: neither"),
        ({"ranks_per_gpu": 0}, "--ranks-per-gpu 0: a GPU that is used has at least one rank"),
        ({"gpus_per_rank": "1/2", "ranks_per_gpu": 3}, "two numbers of ranks for a GPU"),
        ({"share_gpus": True, "ranks_per_gpu": 3}, "one is a limit, the other says there is none"),
        ({"gpu_bind": "nearest"}, "--gpu-bind nearest: there is no such rule"),
        ({"gpu_bind": "list"}, "--gpu-bind list: there is no such rule"),
        ({"gpu_bind": "list:x"}, "--gpu-bind list:x: 'x' is no GPU id"),
        ({"gpu_bind": "list:0,0"}, "--gpu-bind list:0,0: 0,0 names a GPU twice"),
        ({"gpu_bind": "list:0:1,2", "gpus_per_rank": 1}, "two numbers of GPUs"),
        ({"gpus_per_rank": 1, "map_by": "rs:a=1,c=1,g=1"}, "the resource sets say how many GPUs there are for each"),
    ],
)
def test_words_that_cannot_be_understood_are_refused(words: dict[str, object], message: str) -> None:
    """Before anything is planned."""
    with pytest.raises(UsageError) as refused:
        request(**words)  # type: ignore[arg-type]
    assert message in refused.value.message


def test_a_mask_that_makes_no_sense_is_refused_where_gpus_are_asked_for() -> None:
    """Named; other jobs run."""
    node = replace(NODE, gpus=(), gpu_remark="CUDA_VISIBLE_DEVICES=9: '9' is none of the 4 GPUs that there are")
    with pytest.raises(AllocationError, match="--gpus-per-rank 1: CUDA_VISIBLE_DEVICES=9: '9' is none of the 4 GPUs"):
        _placed(node, gpus_per_rank=1)
    assert [""] * 2 == [gpus for _, gpus in _placed(node, n_ranks=2)]


def test_tiles_have_their_root_in_front() -> None:
    """As ZE_AFFINITY_MASK has them; a card without tiles is a number."""
    node = with_gpus(made([[4]]), 0, 0)
    card = replace(node.gpus[0], vendor="Intel", pci_address="0000:18:00.0")
    tiles = tuple(replace(card, partition=tile) for tile in (0, 1))
    other = tuple(replace(tile, pci_address="0000:42:00.0") for tile in tiles)
    assert ("0.0", "0.1", "1.0", "1.1") == gpu_ids(replace(node, gpus=(*tiles, *other)))
    assert ("0", "1") == gpu_ids(replace(node, gpus=(card, other[0])))


@pytest.mark.skipif(not RECORDED, reason="no recorded machines in ../shared/topologies")
@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.stem)
def test_no_other_assignment_is_nearer(file: Path) -> None:
    """On every recorded machine with GPUs, up to 8 ranks with one each: the smallest sum of all permutations."""
    (node,) = load(str(file), environ=os.environ).shapes
    n_ranks = min(len(node.gpus), len(node.usable_cores()), 8)
    if not n_ranks:
        pytest.skip("it has no GPU")
    blocks = [rank.cpus for rank in plan(load(str(file), environ=os.environ), request(n_ranks=n_ranks)).ranks]
    sets = [cpus for cpus in blocks if cpus is not None]
    given = nearest(node, node.gpus, sets, each=1, free=range(len(node.gpus)))
    assert given is not None
    own = sum(distance(node, node.gpus[gpus[0]], cpus) for gpus, cpus in zip(given, sets, strict=True))
    far = [[distance(node, gpu, cpus) for gpu in node.gpus[:8]] for cpus in sets]
    best = min(
        sum(row[gpu] for row, gpu in zip(far, some, strict=True)) for some in permutations(range(len(far[0])), n_ranks)
    )
    assert own == best or (own < best and len(node.gpus) > len(far[0]))


@pytest.mark.parametrize(
    "words",
    [
        {"n_ranks": 1, "gpus_per_rank": 2},
        {"n_ranks": 1, "gpu_bind": "list:0,1"},
        {"map_by": "rs:a=1,c=2,g=2", "n_ranks": 1},
    ],
)
def test_a_rank_has_one_instance_of_a_divided_gpu(words: dict[str, object]) -> None:
    """CUDA shows a process no second one; each of several ranks has its own."""
    whole = with_gpus(made([[4]]), 0, 0, 0)
    instances = [replace(gpu, vendor="NVIDIA", token=f"MIG-{i}") for i, gpu in enumerate(whole.gpus)]
    node = replace(whole, gpus=tuple(instances))
    with pytest.raises(PlacementError) as refused:
        _placed(node, **words)
    assert (
        refused.value.message == "GPUs 0,1 of n0 for one rank: MIG instances, of which a CUDA process can use one only"
    )
    assert ["0", "1", "2"] == [gpu for _, gpu in _placed(node, gpus_per_rank=1)]


def test_gpus_without_an_address_are_of_no_card() -> None:
    """Intel GPUs of which only the number is known are not the tiles of one."""
    node = with_gpus(made([[4]]), 0, 0)
    assert ("0", "1") == gpu_ids(
        replace(node, gpus=tuple(replace(g, vendor="Intel", pci_address="") for g in node.gpus))
    )


def test_parts_share_gpus_only_where_that_is_asked_for() -> None:
    """Cores may be shared with --oversubscribe; GPUs are a matter of --share-gpus."""
    first = request(n_ranks=3, gpus_per_rank=1, cpus_per_rank=1, oversubscribe=True)
    with pytest.raises(PlacementError, match="room for 1"):
        plan(allocation(NODE), first, first)
    shared = request(n_ranks=3, share_gpus=True, cpus_per_rank=1)
    assert ["0"] * 3 == [rank.gpus[0] for rank in plan(allocation(NODE), first, shared).ranks[3:]]
    all_taken = request(n_ranks=4, gpus_per_rank=1, cpus_per_rank=1)
    assert ["3", "1", "2"] == [rank.gpus[0] for rank in plan(allocation(NODE), all_taken, shared).ranks[4:]]


def test_gpus_of_unknown_place_are_at_home_on_what_the_others_leave() -> None:
    """The others have cores beside their GPUs all the same, and nobody has more than they."""
    unknown = replace(NODE, gpus=(*NODE.gpus[:3], replace(NODE.gpus[3], cpus=CpuSet(), numa=())))
    assert [("4-7", "1"), ("8-11", "2"), ("12-15", "0"), ("0-3", "3")] == _placed(unknown, gpus_per_rank=1)
    assert [("5-7", "1"), ("8-10", "2"), ("12-14", "0"), ("0-2", "3")] == [
        (cpus, gpu) for cpus, gpu in _placed(unknown, gpus_per_rank=1, reserve="4", cpus_per_rank=3)
    ]


def test_a_gpu_whose_domain_is_reserved_does_not_take_the_others_from_theirs() -> None:
    """Its rank goes where there is room, the others stay."""
    placed = _placed(HALF, gpus_per_rank=1, reserve="8-11")
    assert ("4-7", "0") == placed[0]
    assert "1" == placed[1][1]
