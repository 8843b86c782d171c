"""Unit tests of rankmap.nics and rankmap.mapping.nics: who uses which NIC, and by which variables."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rankmap
from rankmap.cpuset import CpuSet
from rankmap.devices import distance
from rankmap.discovery.machine import load
from rankmap.errors import PlacementError, UsageError
from rankmap.exporters.plan import ranks_lines, table
from rankmap.nics import high_speed, with_cxi_devices
from rankmap.placement import Plan
from rankmap.planner import plan
from rankmap.replaying import replay
from rankmap.requests import request
from rankmap.topology import Nic
from tests.topologies_made import allocation, made, with_gpus, with_nics

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology

NODE = with_nics(made([[4, 4], [4, 4]]), 3, 1, 2, 0)
"""Four domains of four cores; hsn0 is close to the last, hsn1 to the second, hsn2 to the third, hsn3 to the first."""
HALF = with_nics(made([[4, 4], [4, 4]]), 2, 1, name="ib{}", fabric="mlx5_{}")
"""Only the two domains in the middle have a NIC."""
RECORDED = sorted((Path(__file__).parents[2] / "../shared/topologies").glob("*.xml"))
TIOGA = next((file for file in RECORDED if file.stem == "tioga-mi250x"), None)


def _placed(node: NodeTopology, **words: object) -> list[tuple[str, str]]:
    made_plan = plan(allocation(node), request(**words))  # type: ignore[arg-type]
    return [(str(rank.cpus), ",".join(rank.nics)) for rank in made_plan.ranks]


def _env(node: NodeTopology, **words: object) -> list[dict[str, str]]:
    return [dict(rank.env) for rank in plan(allocation(node), request(**words)).ranks]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "placed"),
    [
        ({"n_ranks": 4, "nics_per_rank": 1}, [("0-3", "hsn3"), ("4-7", "hsn1"), ("8-11", "hsn2"), ("12-15", "hsn0")]),
        ({"n_ranks": 4, "map_by": "nic"}, [("12-15", "hsn0"), ("4-7", "hsn1"), ("8-11", "hsn2"), ("0-3", "hsn3")]),
        (
            {"n_ranks": 8, "map_by": "nic:PE=1"},
            [(str(i), f"hsn{n // 2}") for n, i in enumerate((12, 13, 4, 5, 8, 9, 0, 1))],
        ),
        ({"n_ranks": 8, "nics_per_rank": 1}, [(f"{2 * i}-{2 * i + 1}", f"hsn{'31203120'[i // 2]}") for i in range(8)]),
        ({"n_ranks": 2, "nics_per_rank": 2}, [("0-7", "hsn1,hsn3"), ("8-15", "hsn2,hsn0")]),
        ({"n_ranks": 2, "map_by": "core", "nics_per_rank": 1}, [("0", "hsn3"), ("1", "hsn1")]),
        ({"n_ranks": 1, "nics_per_rank": 1, "bind_to": "none"}, [("None", "hsn0")]),
        ({"n_ranks": 1, "cpus_per_rank": 1}, [("0", "")]),
    ],
)
def test_ranks_have_nics(words: dict[str, object], placed: list[tuple[str, str]]) -> None:
    """The nearest, shared evenly; mapped by NIC in the order of the NICs, on cores beside them."""
    assert placed == _placed(NODE, **words)


def test_mapped_by_nic_ranks_are_beside_the_nics() -> None:
    """Domains without a NIC have no ranks, as long as the others have room for all."""
    assert [("8-11", "ib0"), ("4-7", "ib1")] == _placed(HALF, n_ranks=2, map_by="nic")
    assert [("8", "ib0"), ("9", "ib0"), ("4", "ib1"), ("5", "ib1")] == _placed(HALF, n_ranks=4, map_by="nic:PE=1")
    assert 8 == Counter(nic for _, nic in _placed(HALF, map_by="nic"))["ib0"]


def test_the_nic_of_a_rank_with_a_gpu_is_beside_the_gpu() -> None:
    """Wherever its cores are."""
    node = with_gpus(NODE, 1, 3)
    far = replace(node, distances=())
    words = {"n_ranks": 2, "map_by": "core", "nics_per_rank": 1}
    assert ["hsn1", "hsn0"] == [nic for _, nic in _placed(far, **words, gpus_per_rank=1)]
    assert [("4-7", "hsn1"), ("12-15", "hsn0")] == _placed(far, n_ranks=2, gpus_per_rank=1, nics_per_rank=1)
    assert [("12-15", "hsn0"), ("4-7", "hsn1")] == _placed(far, n_ranks=2, gpus_per_rank=1, map_by="nic")


@pytest.mark.parametrize(
    ("nics", "fast"),
    [
        ([Nic(name="eno1"), Nic(name="hsi2"), Nic(name="hsi0")], ["hsi0", "hsi2"]),
        ([Nic(name="eth0"), Nic(name="ib0", fabric="mlx5_10"), Nic(name="ib1", fabric="mlx5_9")], ["ib1", "ib0"]),
        ([Nic(name="eth0", fabric="mlx5_an0"), Nic(name="ib0", fabric="mlx5_ib0")], ["ib0"]),
        ([Nic(name="eth0"), Nic(name="rdmap1", fabric="rdmap1")], ["rdmap1"]),
        ([Nic(name="ens2", fabric="mlx5_0"), Nic(name="eno1")], ["ens2"]),
        ([Nic(name="hsi0", fabric="mlx5_0", linked=False), Nic(name="hsi1", fabric="mlx5_1")], ["hsi1"]),
        ([Nic(name="eno2"), Nic(name="eno1")], ["eno1", "eno2"]),
        ([], []),
    ],
)
def test_what_counts_are_nics_of_a_high_speed_network(nics: list[Nic], fast: list[str]) -> None:
    """In the order of their devices; plain Ethernet only where there is nothing else, and nothing without a link."""
    node = replace(NODE, nics=tuple(nics))
    assert fast == [node.nics[i].name for i in high_speed(node)]


def test_slingshot_has_one_mapping_for_all_ranks_of_a_node() -> None:
    """Which local ranks use which device, in their final order; uneven nodes have texts of their own."""
    mapping = {"MPICH_OFI_NIC_POLICY": "USER", "MPICH_OFI_NIC_MAPPING": "0:3; 1:1; 2:2; 3:0"}
    assert [mapping] * 4 == _env(NODE, n_ranks=4, nics_per_rank=1)
    many = _env(NODE, n_ranks=16, nics_per_rank=1, rank_by="object")
    assert {"0:3,7,11,15; 1:1,5,9,13; 2:2,6,10,14; 3:0,4,8,12"} == {one["MPICH_OFI_NIC_MAPPING"] for one in many}
    two = plan(allocation(NODE, NODE), request(n_ranks=3, nics_per_rank=1)).ranks
    assert ["1:0; 2:1", "1:0; 2:1", "0:0"] == [dict(rank.env)["MPICH_OFI_NIC_MAPPING"] for rank in two]


def test_the_mapping_counts_the_local_ranks_of_all_parts() -> None:
    """Those of a part without NICs are not in it, and have no variable."""
    words: list[dict[str, object]] = [{"n_ranks": 2, "cpus_per_rank": 1}, {"n_ranks": 1, "nics_per_rank": 1}]
    ranks = plan(allocation(NODE), *(request(**one) for one in words)).ranks  # type: ignore[arg-type]
    assert [None, None] == [dict(rank.env).get("MPICH_OFI_NIC_MAPPING") for rank in ranks[:2]]
    assert ranks[2].env[1][1].endswith(":2")


def test_with_several_nics_the_first_are_even_too() -> None:
    """Cray MPICH has one for each rank: no NIC has more than its share of these."""
    text = _env(NODE, n_ranks=8, nics_per_rank=2)[0]["MPICH_OFI_NIC_MAPPING"]
    assert [2] * 4 == [len(CpuSet.parse(part.partition(":")[2])) for part in text.split("; ")]


def test_infiniband_has_names_and_ports() -> None:
    """UCX takes a port with each device, NCCL where a device has two."""
    own = [{"UCX_NET_DEVICES": f"mlx5_{i}:1", "NCCL_IB_HCA": f"=mlx5_{i}"} for i in (1, 0)]
    assert own == _env(HALF, n_ranks=2, nics_per_rank=1)
    both = {"UCX_NET_DEVICES": "mlx5_1:1,mlx5_0:1", "NCCL_IB_HCA": "=mlx5_1,mlx5_0"}
    assert both == _env(HALF, n_ranks=2, nics_per_rank=2)[0]
    here = HALF.numa_domains[0].cpus
    ports = (Nic(name="ib0", fabric="mlx4_0", cpus=here), Nic(name="ib1", fabric="mlx4_0", port=2, cpus=here))
    (one, two) = _env(replace(HALF, nics=ports), n_ranks=2, nics_per_rank=1)
    assert {"UCX_NET_DEVICES": "mlx4_0:1", "NCCL_IB_HCA": "=mlx4_0:1"} == one
    assert {"UCX_NET_DEVICES": "mlx4_0:2", "NCCL_IB_HCA": "=mlx4_0:2"} == two
    assert [{}] == _env(with_nics(made([[4]]), 0, name="eno{}"), n_ranks=1, nics_per_rank=1)
    assert [{}] == _env(with_nics(made([[4]]), 0, name="bxi{}", fabric="bxi{}"), n_ranks=1, nics_per_rank=1)


def test_nobody_is_told_to_use_a_nic_of_unknown_place() -> None:
    """Where there are several, the MPI library may know better; the plan says so."""
    for names, fabric in (("ib{}", "mlx5_{}"), ("hsn{}", "cxi{}")):
        unknown = tuple(Nic(name=names.format(i), fabric=fabric.format(i)) for i in range(2))
        made_plan = plan(allocation(replace(HALF, nics=unknown)), request(n_ranks=2, nics_per_rank=1))
        assert [(), ()] == [rank.env for rank in made_plan.ranks]
        assert any("no variables set for them" in note for note in made_plan.notes)


def test_libfabric_is_told_for_libraries_other_than_cray_mpich() -> None:
    """All of a rank's devices; a rank without NICs is left alone."""
    made_plan = plan(allocation(NODE), request(n_ranks=2, nics_per_rank=2))
    assert ["cxi1,cxi3", "cxi2,cxi0"] == [dict(r.env)["FI_CXI_DEVICE_NAME"] for r in with_cxi_devices(made_plan).ranks]
    without = plan(allocation(HALF), request(n_ranks=2, nics_per_rank=1))
    assert without == with_cxi_devices(without)


@pytest.mark.parametrize(
    ("node", "words", "message"),
    [
        (
            HALF,
            {"n_ranks": 1, "nics_per_rank": 3},
            "--nics-per-rank 3: 3 NICs for each rank on n0, which has 2 high-speed NICs (ib0, ib1)",
        ),
        (
            made([[4]]),
            {"n_ranks": 1, "nics_per_rank": 1},
            "--nics-per-rank 1: 1 NIC for each rank on n0, of which no NIC is known",
        ),
        (made([[4]]), {"map_by": "nic"}, "--map-by nic: 1 NIC for each rank on n0, of which no NIC is known"),
    ],
)
def test_what_cannot_be_had_is_refused(node: NodeTopology, words: dict[str, object], message: str) -> None:
    """With the numbers."""
    with pytest.raises(PlacementError) as refused:
        _placed(node, **words)
    assert message == refused.value.message
    with pytest.raises(UsageError, match="--nics-per-rank 0: leave it out"):
        request(nics_per_rank=0)


def test_nodes_without_enough_nics_have_no_ranks() -> None:
    """As long as others have room for all."""
    words = {"n_ranks": 2, "nics_per_rank": 3, "map_by": "node"}
    made_plan = plan(allocation(HALF, NODE), request(**words))  # type: ignore[arg-type]
    assert ["n1", "n1"] == [rank.host for rank in made_plan.ranks]
    assert "n0 has no ranks" in made_plan.notes
    with pytest.raises(PlacementError) as refused:
        plan(allocation(HALF, NODE), request(n_ranks=17, nics_per_rank=3))
    assert (
        "n0: 16 free cores in 4 NUMA domains, a domain has 4 cores, fewer than 3 NICs: no room" in refused.value.message
    )


def test_nics_are_shown_where_ranks_have_some() -> None:
    """A column of the table, a key of a rank's line, a sentence of why; the saved plan has them too."""
    here = allocation(NODE)
    with_them, without = (plan(here, request(n_ranks=2, nics_per_rank=n, map_by="core")) for n in (1, None))
    assert "nics" in table(with_them).splitlines()[0].split()
    assert "nics" not in table(without)
    assert [["hsn3"], ["hsn1"]] == [json.loads(line)["nics"] for line in ranks_lines(with_them)]
    assert not any("nics" in json.loads(line) for line in ranks_lines(without))
    assert with_them == Plan.from_json(with_them.to_json())
    said = "NICs: hsn3: near its cores, so that the distances of all ranks of the node add up to the least; "
    assert f"{said}1 of 2 ranks use hsn3, no NIC of 4 has more than 1" in rankmap.why(with_them, 0)
    placed = "place: 2 ranks go where the 4 NICs are, in proportion, each near one of them"
    assert placed in rankmap.why(plan(here, request(n_ranks=2, map_by="nic")), 0)


def test_a_plan_for_nics_that_are_gone_is_refused() -> None:
    """With their names and those that there are."""
    saved = plan(allocation(NODE), request(n_ranks=4, nics_per_rank=1))
    with pytest.raises(PlacementError, match=r"with NIC hsn3; the high-speed NICs with a link are hsn0, hsn1, hsn2"):
        replay(saved, allocation(replace(NODE, nics=NODE.nics[:3])))


@pytest.mark.skipif(TIOGA is None, reason="no recorded Tioga in ../shared/topologies")
@pytest.mark.parametrize("words", [{}, {"gpus_per_rank": 1}])
def test_a_node_with_four_slingshot_nics(words: dict[str, object]) -> None:
    """As OLCF documents it for Frontier's nodes: two GPUs (two L3s) for each NIC. Source: MACHINES.md, Tioga."""
    assert TIOGA is not None
    ranks = plan(load(str(TIOGA), environ=os.environ), request(n_ranks=8, nics_per_rank=1, **words)).ranks  # type: ignore[arg-type]
    assert [f"hsi{n}" for n in (2, 2, 1, 1, 3, 3, 0, 0)] == [rank.nics[0] for rank in ranks]
    assert {"0:6-7; 1:2-3; 2:0-1; 3:4-5"} == {dict(rank.env)["MPICH_OFI_NIC_MAPPING"] for rank in ranks}
    by_nic = plan(load(str(TIOGA), environ=os.environ), request(n_ranks=4, map_by="nic:PE=8", smt=1)).ranks
    assert ["56-63", "24-31", "8-15", "40-47"] == [str(rank.cpus) for rank in by_nic]


@pytest.mark.skipif(not RECORDED, reason="no recorded machines in ../shared/topologies")
@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.stem)
def test_no_even_sharing_is_nearer(file: Path) -> None:
    """On every recorded machine with NICs: no NIC has more than its share, and no other even way has a smaller sum."""
    nodes = load(str(file), environ=os.environ)
    (node,) = nodes.shapes
    free, n_ranks = high_speed(node), min(len(node.usable_cores()), 5)
    if not free:
        pytest.skip("it has no NIC")
    ranks = plan(nodes, request(n_ranks=n_ranks, nics_per_rank=1)).ranks
    share = -(-n_ranks // len(free))
    rows = [[distance(node, node.nics[i], rank.cpus or CpuSet()) for i in free] for rank in ranks]
    names = [node.nics[i].name for i in free]
    own = [names.index(rank.nics[0]) for rank in ranks]
    assert share >= max(Counter(own).values())
    even = (way for way in product(range(len(free)), repeat=n_ranks) if max(Counter(way).values()) <= share)
    best = min(sum(row[nic] for row, nic in zip(rows, way, strict=True)) for way in even)
    assert best == sum(row[nic] for row, nic in zip(rows, own, strict=True))
