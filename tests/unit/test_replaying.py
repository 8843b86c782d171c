"""Unit tests of rankmap.replaying: a saved plan on the nodes that there are now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import PlacementError
from rankmap.placement import Plan
from rankmap.planner import plan
from rankmap.replaying import replay
from rankmap.requests import request
from rankmap.topology import Allocation, NodeTopology
from tests.topologies_made import made, with_caches, with_gpus, with_nics

NODE = made([[4], [4]], smt=2)
OTHER = made([[8]], smt=2)


def live(*hosts: tuple[str, NodeTopology]) -> Allocation:
    """Return an allocation of these."""
    return Allocation.of(hosts)


def places(made_plan: Plan) -> list[tuple[int, str, CpuSet | None]]:
    """Return rank, host and CPUs of every rank."""
    return [(rank.rank, rank.host, rank.cpus) for rank in made_plan.iter_ranks()]


SAVED = Plan.from_json(plan(live(("n0", NODE), ("n1", NODE)), request(n_ranks=4, rank_by="node")).to_json())


def test_the_same_hosts_keep_their_ranks_in_whatever_order_they_come() -> None:
    """By name; hosts without ranks do not matter."""
    now = live(("x", OTHER), ("n1", NODE), ("n0", NODE))
    assert places(SAVED) == places(replay(SAVED, now))
    assert SAVED.notes == replay(SAVED, now).notes


def test_hosts_of_other_names_are_matched_in_order() -> None:
    """Where none of the plan's names is there; a note says so."""
    made_plan = replay(SAVED, live(("a", NODE), ("b", NODE)))
    assert [(rank, {"n0": "a", "n1": "b"}[host], cpus) for rank, host, cpus in places(SAVED)] == places(made_plan)
    assert "the plan's n[0-1] are a,b here" in made_plan.notes


def test_fewer_cpus_do_while_the_ranks_have_theirs() -> None:
    """A cgroup that takes only what no rank was planned on changes nothing."""
    saved = plan(live(("n0", NODE)), request(n_ranks=2, cpus_per_rank=2))
    assert places(saved) == places(replay(saved, live(("n0", NODE.restricted(NODE.usable - CpuSet.of([7]))))))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([("a", NODE)], "it needs 2 nodes, and there is 1"),
        ([("n0", NODE), ("b", NODE)], "n1 is not there; there is n0,b"),
        (
            [("a", OTHER), ("b", NODE)],
            "a: another kind of node than planned for: packages: 2 planned, 1 here; NUMA domain 0",
        ),
        (
            [("n0", NODE.restricted(NODE.usable - CpuSet.of([3]))), ("n1", NODE)],
            "n0: local rank 0 was planned on CPUs 0-7; 3 are not usable",
        ),
        (
            [("n0", OTHER), ("n1", NODE)],
            "n0: another kind of node than planned for: packages: 2 planned, 1 here; NUMA domain 0",
        ),
        (
            [("a", replace(NODE, memory_bytes=1 << 30)), ("b", NODE)],
            "a: another kind of node than planned for: memory: ",
        ),
    ],
)
def test_what_no_longer_fits_is_refused_with_what_differs(now: list[tuple[str, NodeTopology]], message: str) -> None:
    """Every difference is named, and what to do."""
    with pytest.raises(PlacementError) as caught:
        replay(SAVED, live(*now))
    assert "the plan does not fit the nodes that there are:\n" in caught.value.message
    assert message in caught.value.message
    assert "make it anew" in caught.value.hint


def test_a_plan_of_a_preset_fits_the_machine() -> None:
    """What was not known when it was planned (caches, sizes) does not matter, nor what ranks were not given."""
    known = replace(with_gpus(with_caches(NODE, 3, [4, 4]), 0, 1), memory_bytes=1 << 40)
    saved = plan(live(("n0", replace(NODE, memory_bytes=0))), request(n_ranks=4))
    assert [cpus for _, _, cpus in places(saved)] == [cpus for _, _, cpus in places(replay(saved, live(("x", known))))]


def test_a_missing_gpu_is_named() -> None:
    """Ids are positions among the node's GPUs."""
    (layout,) = plan(live(("n0", NODE)), request(n_ranks=1)).layouts
    saved = plan(live(("n0", NODE)), request(n_ranks=1))
    with_gpu = replace(saved, layouts=(replace(layout, ranks=(replace(layout.ranks[0], gpus=("0",)),)),))
    with pytest.raises(PlacementError, match="local rank 0 was planned with GPU 0; there are 0 GPUs"):
        replay(with_gpu, live(("n0", NODE)))


def test_memory_that_the_new_job_may_not_use_is_named() -> None:
    """A policy with domains that the kernel would leave out is no longer the plan's."""
    saved = plan(live(("n0", NODE)), request(n_ranks=2, mem_bind="interleave:0-1"))
    fenced = NODE.restricted_memory(CpuSet.parse("0"))
    with pytest.raises(PlacementError, match=r"with memory interleave:0-1; NUMA domain 1 is not allowed here"):
        replay(saved, live(("n0", fenced)))
    local = plan(live(("n0", NODE)), request(n_ranks=2, mem_bind="local"))
    assert ["local", "local"] == [rank.mem for rank in replay(local, live(("n0", fenced))).ranks]


def test_gpus_are_called_what_they_are_called_now() -> None:
    """The mask in the environment may be another one than when the plan was made; other variables stay."""
    bare = with_gpus(NODE, 0, 1)
    then, now = (
        replace(bare, gpus=tuple(replace(g, vendor="NVIDIA", token=t) for g, t in zip(bare.gpus, tokens, strict=True)))
        for tokens in (("", ""), ("GPU-a", "5"))
    )
    saved = plan(live(("n0", then)), request(gpus_per_rank=1, threads_per_rank=2))
    for hosts in ("n0", "m0"):
        ranks = replay(saved, live((hosts, now))).ranks
        assert ["GPU-a", "5"] == [dict(rank.env)["CUDA_VISIBLE_DEVICES"] for rank in ranks]
        assert ["2", "2"] == [dict(rank.env)["OMP_NUM_THREADS"] for rank in ranks]
        assert ["CUDA_DEVICE_ORDER" in dict(rank.env) for rank in ranks] == [False, True]


def test_many_differences_are_cut_short() -> None:
    """A dozen are enough to see what is wrong."""
    hosts = [(f"n{i}", NODE) for i in range(20)]
    saved = plan(live(*hosts), request(ranks_per_node=2))
    with pytest.raises(PlacementError, match="and 8 more"):
        replay(saved, live(*((host, OTHER) for host, _ in hosts)))


def test_instances_that_one_process_cannot_use_together_are_refused() -> None:
    """Planned with two whole GPUs for a rank, and they have been divided (MIG) since."""
    bare = with_gpus(NODE, 0, 0)
    saved = plan(live(("n0", bare)), request(n_ranks=1, gpus_per_rank=2))
    divided = replace(bare, gpus=tuple(replace(g, token=f"MIG-{i}") for i, g in enumerate(bare.gpus)))
    with pytest.raises(PlacementError, match="GPUs 0,1 of m0 for one rank: MIG instances"):
        replay(saved, live(("m0", divided)))


def test_nics_are_counted_among_those_of_the_live_node() -> None:
    """Cray MPICH's numbers and UCX's ports are those of now; what says nothing about NICs stays, in its order."""
    then = with_nics(with_gpus(NODE, 0, 1), 0, 1, name="hsn{}")
    words = {"n_ranks": 2, "gpus_per_rank": 1, "nics_per_rank": 1, "threads_per_rank": 1}
    saved = plan(
        live(("n0", replace(then, nics=tuple(replace(n, name=f"hsn{i + 1}") for i, n in enumerate(then.nics))))),
        request(**words),  # type: ignore[arg-type]
    )
    now = with_nics(with_gpus(NODE, 0, 1), None, 0, 1)
    mappings = [
        [dict(rank.env)["MPICH_OFI_NIC_MAPPING"] for rank in p.ranks] for p in (saved, replay(saved, live(("n0", now))))
    ]
    assert mappings == [["0:0; 1:1"] * 2, ["1:0; 2:1"] * 2]
    assert saved.layouts == replay(saved, saved.allocation).layouts


def test_the_port_of_a_nic_is_that_of_now() -> None:
    """InfiniBand's: the same interface may be another port of another device."""
    then = with_nics(NODE, 0, name="ib{}", fabric="mlx5_{}")
    saved = plan(live(("n0", then)), request(n_ranks=1, nics_per_rank=1))
    now = replace(then, nics=(replace(then.nics[0], fabric="mlx5_3", port=2),))
    (rank,) = replay(saved, live(("n0", now))).ranks
    assert rank.env == (("UCX_NET_DEVICES", "mlx5_3:2"), ("NCCL_IB_HCA", "=mlx5_3:2"))


@pytest.mark.parametrize("lost", ["down", "slow"])
def test_a_nic_that_no_rank_can_be_given_now_is_refused(lost: str) -> None:
    """Its port is down, or it is not of the high-speed network; what there is is named."""
    then = with_nics(NODE, 0, 1)
    saved = plan(live(("n0", then)), request(n_ranks=2, nics_per_rank=1))
    first, second = then.nics
    now = (replace(first, linked=False), second) if lost == "down" else (replace(first, name="eth0"), second)
    with pytest.raises(PlacementError, match="planned with NIC hsn0; the high-speed NICs with a link are hsn1"):
        replay(saved, live(("n0", replace(then, nics=now))))
