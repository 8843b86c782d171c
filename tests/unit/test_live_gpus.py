"""Unit tests of rankmap.runtime.live_gpus, and of live.py for GPUs: what Dragon and hwloc each know of a live node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.errors import AllocationError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.live import live_allocation, rank_places
from rankmap.runtime.live_gpus import gpu_remark, gpu_variables, understood
from rankmap.visible_gpus import counted_gpus, without_gpus
from tests.topologies_made import made, with_gpus

if TYPE_CHECKING:
    from rankmap.placement import Plan
    from rankmap.topology import NodeTopology

BARE = made([[2], [2]])
_GPUS = with_gpus(BARE, 0, 1)
TWO = replace(_GPUS, gpus=tuple(replace(gpu, vendor="NVIDIA", token=str(i)) for i, gpu in enumerate(_GPUS.gpus)))
MIG = replace(TWO, gpus=tuple(replace(gpu, uuid=f"MIG-{i}", token=f"MIG-{i}") for i, gpu in enumerate(TWO.gpus)))
_TILES = [replace(gpu, vendor="Intel", partition=i) for gpu in _GPUS.gpus for i in (0, 1)]
TILES = replace(_GPUS, gpus=tuple(replace(gpu, token=str(i)) for i, gpu in enumerate(_TILES)))


def dragon(*gpus: object, variable: str = "CUDA_VISIBLE_DEVICES") -> dict[str, Any]:
    """Return the node as Dragon reports it, with GPUs of these ids."""
    return {"name": "localhost", "cpus": (0, 1, 2, 3), "gpus": gpus, "gpu_variable": variable if gpus else ""}


def facts(topology: NodeTopology) -> HostFacts:
    """Return the host that Dragon calls "localhost"."""
    return HostFacts(name="vm", own_name="vm", topology=topology, paths=())


def planned(topology: NodeTopology, node: dict[str, Any], environ: dict[str, str], **words: object) -> Plan:
    """Return the plan for the live node."""
    allocation, _ = live_allocation([node], [facts(topology)], environ=environ)
    return plan(allocation, request(**words))  # type: ignore[arg-type]


def variables(made_plan: Plan) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES is for each rank."""
    return [dict(rank.env)["CUDA_VISIBLE_DEVICES"] for rank in made_plan.ranks]


@pytest.mark.parametrize(
    ("topology", "node", "given", "remark"),
    [
        (TWO, dragon(0, 1), [["0"], ["1"]], ""),
        (TWO, dragon(), [[], []], ""),
        (MIG, dragon(0), [[], []], ""),
        (TWO, dragon(0), [["0"]], "GPUs here: Dragon knows 1, hwloc 2; the first 1 are used, which both know"),
        (
            TWO,
            dragon(0, 1, 2),
            [["0"], ["1"]],
            "GPUs here: Dragon knows 3, hwloc 2; the first 2 are used, which both know",
        ),
        (
            BARE,
            dragon(0, 1),
            [["0"], ["1"]],
            "2 GPUs here are known by their run-time library only: nobody knows which cores they are close to",
        ),
        (
            TILES,
            dragon(0.0, 0.1, 1.0, 1.1, variable="ZE_AFFINITY_MASK"),
            [["0.0"], ["0.1"], ["1.0"], ["1.1"]],
            "",
        ),
        (TILES, dragon(0, 1, 2, 3, variable="ZE_AFFINITY_MASK"), [["0"], ["1"], ["2"], ["3"]], ""),
    ],
)
def test_the_gpus_that_both_know_are_planned_with(
    topology: NodeTopology, node: dict[str, Any], given: list[list[str]], remark: str
) -> None:
    """Dragon gets its own ids where it has any; the user is told where the two do not agree."""
    made_plan = planned(topology, node, {}, gpus_per_rank=1)
    assert given == [gpus for _, _, gpus in rank_places(made_plan, {})]
    assert remark == gpu_remark(made_plan, 0, topology, node)


def test_nothing_is_said_of_gpus_that_nobody_asked_for() -> None:
    """A job for cores alone does not care."""
    made_plan = planned(TWO, dragon(0), {}, n_ranks=2)
    assert gpu_remark(made_plan, 0, TWO, dragon(0)) == ""


def test_a_library_may_know_what_dragon_does_not() -> None:
    """GPUs that were counted before the runtime started are said to be at no known place."""
    counted = replace(BARE, gpus=counted_gpus("NVIDIA", ("0", "1"), {}))
    made_plan = planned(counted, dragon(), {}, gpus_per_rank=1)
    assert "2 GPUs here are known by their run-time library only" in gpu_remark(made_plan, 0, counted, dragon())


@pytest.mark.parametrize(
    ("node", "environ", "expected"),
    [
        (dragon(0, 1, 2), {"CUDA_VISIBLE_DEVICES": "4,5,7"}, ["4", "5", "7"]),
        (dragon(0, 1), {"CUDA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb"}, ["GPU-aaaa", "GPU-bbbb"]),
    ],
)
def test_gpus_that_only_dragon_knows_are_called_as_the_mask_does(
    node: dict[str, Any], environ: dict[str, str], expected: list[str]
) -> None:
    """What Dragon makes of an inherited mask, rankmap does too (DRAGON.md, section 1)."""
    assert expected == variables(planned(BARE, node, environ, gpus_per_rank=1))


def test_a_mask_of_a_mask_of_amds_is_resolved() -> None:
    """ROCR=4,5,6,7 HIP=2,3: Dragon's 0 is 6, and HIP is set to count what is left, which Dragon may leave as it is."""
    masks = {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "2,3"}
    ranks = planned(BARE, dragon(0, 1, variable="ROCR_VISIBLE_DEVICES"), masks, gpus_per_rank=1).ranks
    expected = [{"ROCR_VISIBLE_DEVICES": shown, "HIP_VISIBLE_DEVICES": "0"} for shown in ("6", "7")]
    assert expected == [dict(rank.env) for rank in ranks]


def test_a_mask_that_dragon_cannot_have_counted_is_refused() -> None:
    """Dragon would look up the fourth word of three, and end the runtime; a job without GPUs runs all the same."""
    node, masks = dragon(0, 1, 2, 3), {"CUDA_VISIBLE_DEVICES": "4,5,7"}
    with pytest.raises(AllocationError, match="4 NVIDIA GPUs, and the mask"):
        planned(BARE, node, masks, gpus_per_rank=1)
    assert 4 == planned(BARE, node, masks, n_ranks=4).n_ranks


def test_the_live_node_keeps_its_uuids_and_its_shape_does_not() -> None:
    """Nodes of one make are one shape."""
    named = replace(TWO, gpus=tuple(replace(gpu, uuid=f"GPU-{i}") for i, gpu in enumerate(TWO.gpus)))
    allocation, _ = live_allocation([dragon(0, 1)], [facts(named)], environ={})
    assert (allocation.shapes, allocation.nodes[0].gpu_uuids) == ((TWO,), ("GPU-0", "GPU-1"))


def test_the_callers_variables_are_kept_for_the_ranks() -> None:
    """Those of GPUs that are set, and no others."""
    environ = {"CUDA_VISIBLE_DEVICES": "1", "ZE_FLAT_DEVICE_HIERARCHY": "FLAT", "HOME": "/"}
    assert {"CUDA_VISIBLE_DEVICES": "1", "ZE_FLAT_DEVICE_HIERARCHY": "FLAT"} == gpu_variables(environ)


_CARD = replace(TWO.gpus[0], vendor="Intel", pci_address="0000:00:02.0")
MIXED = replace(TWO, gpus=(*TWO.gpus, _CARD))
"""Two of NVIDIA and the graphics of the processor."""


@pytest.mark.parametrize(
    ("node", "given"),
    [
        (dragon(0, 1), [["0"], ["1"]]),
        (dragon(), [[], []]),
        (dragon(0, variable="ZE_AFFINITY_MASK"), [[], []]),
    ],
)
def test_the_processors_graphics_are_not_for_ranks(node: dict[str, Any], given: list[list[str]]) -> None:
    """Whatever Dragon knows: each rank has a GPU of NVIDIA's, and the user is told once what is left out."""
    made_plan = planned(MIXED, node, {}, gpus_per_rank=1)
    assert (["0", "1"], given) == (variables(made_plan), [gpus for _, _, gpus in rank_places(made_plan, {})])
    remark = "GPUs of several makers: ranks get the 2 of NVIDIA, not the 1 of Intel"
    assert remark == gpu_remark(made_plan, 0, MIXED, node)


def test_of_two_makers_that_is_taken_whose_gpus_dragon_knows() -> None:
    """And fewer than there are cut nothing of the other's."""
    discrete = replace(MIXED, gpus=(*TWO.gpus, replace(_CARD, pci_address="0000:42:00.0")))
    made_plan = planned(discrete, dragon(0, variable="ZE_AFFINITY_MASK"), {}, gpus_per_rank=1)
    assert ["0"] == [dict(rank.env)["ZE_AFFINITY_MASK"] for rank in made_plan.ranks]
    assert ["0", "1"] == variables(planned(discrete, dragon(0, 1), {}, gpus_per_rank=1))


def test_gpus_that_only_dragon_knows_come_before_the_processors_graphics() -> None:
    """They are not cut out of it."""
    node = replace(BARE, gpus=(_CARD,))
    assert ["0", "1"] == variables(planned(node, dragon(0, 1), {}, gpus_per_rank=1))


def test_dragon_does_not_see_masks_that_make_no_sense() -> None:
    """It would end its runtime; other variables stay, and so do masks of GPUs that are there."""
    environ = {"ROCR_VISIBLE_DEVICES": "6,7", "HIP_VISIBLE_DEVICES": "2,3", "HOME": "/"}
    senseless = without_gpus(TWO, AllocationError("no such GPU", hint="unset it"))
    assert "no such GPU; unset it" == senseless.gpu_remark
    assert ({"HOME": "/"}, environ) == (understood(environ, senseless), understood(environ, TWO))
