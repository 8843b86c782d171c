"""Unit tests of rankmap.visible_gpus and of the variables that ranks get: what masks mean."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rankmap.devices import gpu_environment
from rankmap.visible_gpus import with_visible_gpus
from rankmap.errors import AllocationError
from tests.topologies_made import made, with_gpus

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology

UUIDS = ("GPU-aa11", "GPU-aa22", "GPU-bb33", "GPU-cc44")


def _node(vendor: str, n_gpus: int = 4) -> NodeTopology:
    node = with_gpus(made([[4, 4]]), *(i % 2 for i in range(n_gpus)))
    gpus = [
        replace(gpu, vendor=vendor, pci_address=f"0000:{i:02x}:00.0", uuid=UUIDS[i]) for i, gpu in enumerate(node.gpus)
    ]
    return replace(node, gpus=tuple(gpus))


@pytest.mark.parametrize(
    ("vendor", "environ", "shown"),
    [
        ("NVIDIA", {}, ["0", "1", "2", "3"]),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "2,0"}, ["2", "0"]),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": " 3 "}, ["3"]),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": ""}, []),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "1,-1,2"}, ["1"]),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "GPU-bb,GPU-aa22"}, ["GPU-bb", "GPU-aa22"]),
        ("NVIDIA", {"ROCR_VISIBLE_DEVICES": "1"}, ["0", "1", "2", "3"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "1,3"}, ["1", "3"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "1,3", "HIP_VISIBLE_DEVICES": "1"}, ["3"]),
        ("AMD", {"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "0"}, ["2"]),
        ("AMD", {"CUDA_VISIBLE_DEVICES": "0"}, ["0"]),
        ("Intel", {"ZE_AFFINITY_MASK": "1,2"}, ["1", "2"]),
        ("", {"CUDA_VISIBLE_DEVICES": "0"}, ["", "", "", ""]),
    ],
)
def test_a_mask_shows_gpus_in_its_order(vendor: str, environ: dict[str, str], shown: list[str]) -> None:
    """Each as the variable calls it; a mask over a mask counts what that has left."""
    assert shown == [gpu.token for gpu in with_visible_gpus(_node(vendor), environ).gpus]


def test_the_gpus_keep_what_they_are() -> None:
    """The second of the mask is the first of the node, with its place."""
    node = _node("NVIDIA")
    shown = with_visible_gpus(node, {"CUDA_VISIBLE_DEVICES": "3,0"})
    assert [node.gpus[3].cpus, node.gpus[0].cpus] == [gpu.cpus for gpu in shown.gpus]


def test_tiles_are_masked_by_their_names() -> None:
    """ROOT.TILE, as they are shown."""
    node = _node("Intel", 2)
    card = node.gpus[0]
    tiles = replace(node, gpus=(card, replace(card, partition=1), node.gpus[1], replace(node.gpus[1], partition=1)))
    assert ["0.1", "1.0"] == [gpu.token for gpu in with_visible_gpus(tiles, {"ZE_AFFINITY_MASK": "0.1,1.0"}).gpus]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("4", "CUDA_VISIBLE_DEVICES=4: '4' is none of the 4 GPUs that there are"),
        ("0,x", "CUDA_VISIBLE_DEVICES=0,x: 'x' is none of the 4 GPUs that there are"),
        ("GPU-aa", "CUDA_VISIBLE_DEVICES=GPU-aa: 'GPU-aa' is none of the 4 GPUs that there are"),
        ("1,1", "CUDA_VISIBLE_DEVICES=1,1: '1' is there twice"),
        ("0,", "CUDA_VISIBLE_DEVICES=0,: '' is none of the 4 GPUs that there are"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(mask: str, message: str) -> None:
    """The vendor's runtime would show fewer GPUs, or none, and say nothing."""
    with pytest.raises(AllocationError) as refused:
        with_visible_gpus(_node("NVIDIA"), {"CUDA_VISIBLE_DEVICES": mask})
    assert message == refused.value.message


@pytest.mark.parametrize(
    ("vendor", "environ", "gpus", "variables"),
    [
        ("NVIDIA", {}, (1,), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}),
        (
            "NVIDIA",
            {"CUDA_VISIBLE_DEVICES": "3,2"},
            (1, 0),
            {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,3"},
        ),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "GPU-bb33,GPU-cc"}, (1,), {"CUDA_VISIBLE_DEVICES": "GPU-cc"}),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "1,3"}, (1,), {"ROCR_VISIBLE_DEVICES": "3", "HIP_VISIBLE_DEVICES": "0"}),
        ("AMD", {}, (2, 3), {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "0,1"}),
        ("Intel", {}, (2,), {"ZE_AFFINITY_MASK": "2"}),
        ("", {}, (0,), {}),
        ("NVIDIA", {}, (), {}),
    ],
)
def test_a_rank_sees_its_gpus(
    vendor: str, environ: dict[str, str], gpus: tuple[int, ...], variables: dict[str, str]
) -> None:
    """By the scheduler's own word for each; indices of NVIDIA's in PCI order."""
    shown = with_visible_gpus(_node(vendor), environ)
    assert variables == dict(gpu_environment(shown, gpus))
