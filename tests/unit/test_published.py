"""The placements that sites publish for their machines come out of the presets, to the CPU and the GPU.

What is quoted is the sites' own text; tests/../docs/machines.md names the pages.
"""

from __future__ import annotations

import pytest

import rankmap

AURORA_12 = "1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"
AURORA_12_TILES = "0.0 0.1 1.0 1.1 2.0 2.1 3.0 3.1 4.0 4.1 5.0 5.1"
AURORA_6 = "1-16:17-32:33-48:53-68:69-84:85-100"
FRONTIER_L3_TO_GPU = "4 5 2 3 6 7 0 1"
FRONTIER_CORES = "1-7:9-15:17-23:25-31:33-39:41-47:49-55:57-63"
LUMI_MAP_CPU = "49,57,17,25,1,9,33,41"
LUMI_MASKS = "fe000000000000,fe00000000000000,fe0000,fe000000,fe,fe00,fe00000000,fe0000000000"
POLARIS_GPU_TO_CPUS = "24-31,56-63 16-23,48-55 8-15,40-47 0-7,32-39"
SUMMIT_FIRST_THREADS = "0 4 8 88 92 96"
JUWELS_GPU_TO_NUMA = "3 1 7 5"
LASSEN_GPU_SOCKETS = "0 0 8 8"


def planned(machine: str, **words: object) -> list[dict[str, str]]:
    """Return the CPUs, NUMA domains and GPUs of each rank, as text."""
    plan = rankmap.plan(rankmap.load(machine), **words)  # type: ignore[arg-type]
    return [
        {"cpus": str(rank.cpus), "numa": ",".join(map(str, rank.numa)), "gpus": ",".join(rank.gpus)}
        for rank in plan.ranks
    ]


def test_aurora_twelve_ranks() -> None:
    """ALCF, running-jobs-aurora, example 4: twelve ranks on one node, each with a tile; 64 nodes repeat it."""
    ranks = planned("64xaurora", gpus_per_rank=1, smt=1)

    assert 64 * 12 == len(ranks)
    assert AURORA_12.split(":") * 64 == [rank["cpus"] for rank in ranks]
    assert AURORA_12_TILES.split() * 64 == [rank["gpus"] for rank in ranks]


def test_aurora_six_ranks() -> None:
    """ALCF, running-jobs-aurora, implicit scaling: six ranks, each with both tiles of a card."""
    ranks = planned("aurora", gpus_per_rank=2, cpus_per_rank=16, smt=1)

    assert AURORA_6.split(":") == [rank["cpus"] for rank in ranks]
    assert [f"{card}.0,{card}.1" for card in range(6)] == [rank["gpus"] for rank in ranks]


def test_frontier_table() -> None:
    """OLCF, Frontier user guide: with one core of each L3 kept, a rank an L3, and the GCD beside it."""
    ranks = planned("frontier", gpus_per_rank=1, smt=1)

    assert FRONTIER_CORES.split(":") == [rank["cpus"] for rank in ranks]
    assert FRONTIER_L3_TO_GPU.split() == [rank["gpus"] for rank in ranks]


def test_lumi_map_cpu() -> None:
    """LUMI, distribution and binding: ``--cpu-bind=map_cpu:49,57,...`` puts rank i next to GPU i."""
    ranks = planned("lumi-g", map_by="gpu", cpus_per_rank=1, smt=1)

    assert LUMI_MAP_CPU.split(",") == [rank["cpus"] for rank in ranks]
    assert [str(gpu) for gpu in range(8)] == [rank["gpus"] for rank in ranks]


def test_lumi_masks() -> None:
    """LUMI, distribution and binding: the masks for seven cores a rank."""
    plan = rankmap.plan(rankmap.load("lumi-g"), map_by="gpu", smt=1)

    assert LUMI_MASKS.split(",") == [f"{rank.cpus.mask:x}" for rank in plan.ranks if rank.cpus is not None]


def test_polaris_is_reversed() -> None:
    """ALCF, Polaris, device affinity: GPU 0 is on the last NUMA domain."""
    by_gpu = planned("polaris", map_by="gpu")
    in_order = planned("polaris", gpus_per_rank=1)

    assert POLARIS_GPU_TO_CPUS.split() == [rank["cpus"] for rank in by_gpu]
    assert ["3", "2", "1", "0"] == [rank["gpus"] for rank in in_order]


def test_summit_jsrun() -> None:
    """OLCF, Summit user guide: ``jsrun -n6 -a1 -c1 -g1`` has its ranks on hardware threads 0, 4, 8, 88, 92, 96."""
    ranks = planned("summit", gpus_per_rank=1, cpus_per_rank=1, smt=1)

    assert SUMMIT_FIRST_THREADS.split() == [rank["cpus"] for rank in ranks]
    assert [str(gpu) for gpu in range(6)] == [rank["gpus"] for rank in ranks]


def test_summit_resource_sets() -> None:
    """OLCF, Summit user guide: six resource sets of seven cores and a GPU fill a node."""
    ranks = planned("summit", map_by="rs:a=1,c=7,g=1", smt=1)

    assert [str(gpu) for gpu in range(6)] == [rank["gpus"] for rank in ranks]
    assert ["0", "0", "0", "8", "8", "8"] == [rank["numa"] for rank in ranks]


def test_resource_sets_go_where_the_gpus_are() -> None:
    """Half of the domains of JUWELS Booster have no GPU, and get no resource set with one."""
    ranks = planned("juwels-booster", map_by="rs:a=2,c=6,g=1", n_ranks=8)

    assert [("1", "1"), ("1", "1"), ("3", "0"), ("3", "0")] == [(rank["numa"], rank["gpus"]) for rank in ranks[:4]]


def test_juwels_booster_leaves_half_of_the_domains() -> None:
    """POP CoE, GPU affinity: GPUs 0 to 3 are on NUMA domains 3, 1, 7 and 5."""
    assert JUWELS_GPU_TO_NUMA.split() == [rank["numa"] for rank in planned("juwels-booster", map_by="gpu")]


def test_lassen_sockets() -> None:
    """LLNL's dump: GPUs 0 and 1 are on the first package, whose domain is 0, 2 and 3 on the second, 8."""
    assert LASSEN_GPU_SOCKETS.split() == [rank["numa"] for rank in planned("lassen", map_by="gpu")]


@pytest.mark.parametrize(("mode", "each"), [("spx", 1), ("tpx", 3), ("cpx", 6)])
def test_el_capitan_modes(mode: str, each: int) -> None:
    """Flux's dumps: GPU s of SPX, 3s to 3s+2 of TPX, 6s to 6s+5 of CPX are on socket s, with its 24 cores."""
    ranks = planned(f"el-capitan-{mode}", gpus_per_rank=1)

    assert [str(gpu) for gpu in range(4 * each)] == [rank["gpus"] for rank in ranks]
    assert [str(gpu // each) for gpu in range(4 * each)] == [rank["numa"] for rank in ranks]


def test_alps_has_gpu_memory_beside_each_socket() -> None:
    """CSCS, affinity: socket s has CPUs 72s to 72s+71; the memory of its GPU is NUMA domain 4, 12, 20 or 28."""
    plan = rankmap.plan(rankmap.load("alps-gh200"), gpus_per_rank=1, mem_bind="hbm")

    assert [f"{72 * s}-{72 * s + 71}" for s in range(4)] == [str(rank.cpus) for rank in plan.ranks]
    assert ["bind:4", "bind:12", "bind:20", "bind:28"] == [rank.mem for rank in plan.ranks]


def test_aurora_has_high_bandwidth_memory_beside_each_socket() -> None:
    """ALCF, ``numactl -H``: domains 2 and 3 are HBM, of the first and of the second socket."""
    ranks = rankmap.plan(rankmap.load("aurora"), gpus_per_rank=1, mem_bind="hbm").ranks

    assert ["bind:2"] * 6 + ["bind:3"] * 6 == [rank.mem for rank in ranks]


def test_published_placements_cost_nothing() -> None:
    """A GPU of Frontier is in the rank's own L3 cache, one of Polaris in its domain; no GPU, no distance."""
    for machine, distance in (("frontier", 0), ("polaris", 1), ("juwels-booster", 1)):
        assert distance == rankmap.score(rankmap.plan(rankmap.load(machine), gpus_per_rank=1)).gpu_distance
    assert rankmap.score(rankmap.plan(rankmap.load("frontier"), n_ranks=8)).gpu_distance is None


def test_what_the_site_keeps_is_used_when_asked() -> None:
    """``--reserve none`` gives ranks the CPUs that the site keeps for itself."""
    with_all = rankmap.plan(rankmap.load("aurora"), reserve="none")

    assert 104 == with_all.n_ranks
    assert 102 == rankmap.plan(rankmap.load("aurora")).n_ranks


def test_reserved_cpus_go_beside_those_of_the_site() -> None:
    """``--reserve LIST`` keeps more free, not other CPUs."""
    allocation = rankmap.load("aurora")
    plan = rankmap.plan(allocation, reserve="1")

    assert 101 == plan.n_ranks
    assert all(rank.cpus is not None and rank.cpus.isdisjoint(allocation.shapes[0].reserved) for rank in plan.ranks)
