"""Unit tests of rankmap.visible_gpus and of the variables that ranks get: what masks mean."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rankmap.devices import gpu_environment, gpu_ids
from rankmap.errors import AllocationError
from rankmap.visible_gpus import counted_gpus, shown_ids, vendor_of, with_visible_gpus
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
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "GPU-bb,GPU-aa22"}, ["GPU-bb", "GPU-aa22"]),
        ("NVIDIA", {"ROCR_VISIBLE_DEVICES": "1"}, ["0", "1", "2", "3"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "1,3"}, ["1", "3"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "1,3", "HIP_VISIBLE_DEVICES": "1"}, ["3"]),
        ("AMD", {"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "0"}, ["2"]),
        ("AMD", {"CUDA_VISIBLE_DEVICES": "0"}, ["0"]),
        ("Intel", {"ZE_AFFINITY_MASK": "1,2"}, ["1", "2"]),
        ("Intel", {"ZE_AFFINITY_MASK": "2,1"}, ["1", "2"]),
        ("Intel", {"ZE_AFFINITY_MASK": ""}, ["0", "1", "2", "3"]),
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


def _tiles() -> NodeTopology:
    """Return a node with two cards of two tiles."""
    node = _node("Intel", 2)
    tiles = [replace(gpu, partition=tile, uuid="") for gpu in node.gpus for tile in (0, 1)]
    return replace(node, gpus=tuple(tiles))


COMPOSITE, FLAT, COMBINED = ({"ZE_FLAT_DEVICE_HIERARCHY": name} for name in ("COMPOSITE", "FLAT", "COMBINED"))
PCI_ORDER = {"ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, ["0", "1", "2", "3"]),
        (FLAT, ["0", "1", "2", "3"]),
        (COMPOSITE, ["0.0", "0.1", "1.0", "1.1"]),
        (COMPOSITE | {"ZE_AFFINITY_MASK": "1"}, ["1.0", "1.1"]),
        (COMPOSITE | {"ZE_AFFINITY_MASK": "1.0,0.1"}, ["0.1", "1.0"]),
        (FLAT | {"ZE_AFFINITY_MASK": "3,1"}, ["1", "3"]),
        (COMBINED | {"ZE_AFFINITY_MASK": "1"}, ["1"]),
        ({"ZE_AFFINITY_MASK": "1.0"}, ["1.0"]),
    ],
)
def test_what_names_a_tile_follows_from_the_hierarchy(environ: dict[str, str], shown: list[str]) -> None:
    """COMPOSITE: cards, and ROOT.TILE; FLAT, COMBINED and nothing said: the tiles are numbered through."""
    assert shown == [gpu.token for gpu in with_visible_gpus(_tiles(), environ).gpus]


def test_a_plan_calls_tiles_the_same_in_every_hierarchy() -> None:
    """ROOT.TILE; only the variables differ, and those of ROOT.TILE say which hierarchy they are for."""
    for environ, variables in (
        (FLAT, {"ZE_AFFINITY_MASK": "2"} | PCI_ORDER),
        (COMPOSITE, {"ZE_AFFINITY_MASK": "1.0"} | COMPOSITE | PCI_ORDER),
        (None, {"ZE_AFFINITY_MASK": "1.0"} | COMPOSITE | PCI_ORDER),  # of a recorded node
    ):
        node = _tiles() if environ is None else with_visible_gpus(_tiles(), environ)
        assert ("1.0", variables) == (gpu_ids(node)[2], dict(gpu_environment(node, (2,))))


def test_root_and_tile_mean_nothing_where_tiles_are_devices() -> None:
    """The driver would show no device at all; the hint says what to set."""
    with pytest.raises(AllocationError) as refused:
        with_visible_gpus(_tiles(), FLAT | {"ZE_AFFINITY_MASK": "0.1"})
    assert "'0.1' is none of the 4 GPUs" in refused.value.message
    assert "ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE" in refused.value.hint


def _divided() -> NodeTopology:
    """Return a node whose GPU 0 is divided into two instances, and GPU 1 is whole."""
    node = _node("NVIDIA", 2)
    instances = [replace(node.gpus[0], partition=i, uuid=f"MIG-{i}f", token=f"MIG-{i}f") for i in (0, 1)]
    return replace(node, gpus=(*instances, node.gpus[1]))


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        (None, ["MIG-0f", "MIG-1f", "GPU-aa22"]),
        ("MIG-1f,MIG-0f", ["MIG-1f", "MIG-0f"]),
        ("1", ["GPU-aa22"]),
        ("0", ["MIG-0f"]),
    ],
)
def test_instances_have_uuids_only(mask: str | None, shown: list[str]) -> None:
    """Indices count GPUs; that of a divided one is its first instance (MIG User Guide)."""
    environ = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    assert shown == [gpu.token for gpu in with_visible_gpus(_divided(), environ).gpus]


def test_a_rank_with_an_instance_gets_its_uuid() -> None:
    """Beside which no order of indices is asked for."""
    shown = with_visible_gpus(_divided(), {})
    assert {"CUDA_VISIBLE_DEVICES": "MIG-1f"} == dict(gpu_environment(shown, (1,)))


def test_indices_count_in_pci_order_whatever_hwloc_has_numbered() -> None:
    """Under a mask hwloc's CUDA devices are those that it shows, and come first."""
    node = _node("NVIDIA")
    third = replace(node, gpus=(node.gpus[2], *node.gpus[:2], node.gpus[3]))
    assert node.gpus[2].uuid == with_visible_gpus(third, {"CUDA_VISIBLE_DEVICES": "2"}).gpus[0].uuid


@pytest.mark.parametrize(
    ("vendor", "n_gpus", "environ", "tokens"),
    [
        ("NVIDIA", 4, {}, ["0", "1", "2", "3"]),
        ("NVIDIA", 3, {"CUDA_VISIBLE_DEVICES": "4,5,7"}, ["4", "5", "7"]),
        ("NVIDIA", 2, {"CUDA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb"}, ["GPU-aaaa", "GPU-bbbb"]),
        ("NVIDIA", 1, {"CUDA_VISIBLE_DEVICES": "3,99"}, ["3"]),
        ("AMD", 2, {}, ["0", "1"]),
        ("AMD", 2, {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "2,3"}, ["6", "7"]),
        ("AMD", 2, {"HIP_VISIBLE_DEVICES": "2,3"}, ["2", "3"]),
        ("AMD", 1, {"ROCR_VISIBLE_DEVICES": "4,5", "CUDA_VISIBLE_DEVICES": "1"}, ["5"]),
        ("Intel", 2, {}, ["0", "1"]),
        ("Intel", 2, FLAT | {"ZE_AFFINITY_MASK": "7,2"}, ["2", "7"]),
        ("Intel", 2, {"ZE_AFFINITY_MASK": "1.1,0.1"}, ["0.1", "1.1"]),
    ],
)
def test_gpus_of_which_only_the_number_is_known(
    vendor: str, n_gpus: int, environ: dict[str, str], tokens: list[str]
) -> None:
    """Each is the word of the mask at its place; nobody knows what they are close to."""
    gpus = counted_gpus(vendor, [str(i) for i in range(n_gpus)], environ)
    assert tokens == [gpu.token for gpu in gpus]
    assert {("", vendor, ())} == {(gpu.pci_address, gpu.vendor, gpu.numa) for gpu in gpus}


def test_roots_that_a_mask_leaves_keep_their_numbers() -> None:
    """Dragon counts them from 0, the mask has their own."""
    environ = COMPOSITE | {"ZE_AFFINITY_MASK": "2,5"}
    assert ["2.0", "2.1", "5.0", "5.1"] == [
        gpu.token for gpu in counted_gpus("Intel", ("0.0", "0.1", "1.0", "1.1"), environ)
    ]


@pytest.mark.parametrize(
    ("vendor", "n_gpus", "environ", "message"),
    [
        ("NVIDIA", 4, {"CUDA_VISIBLE_DEVICES": "4,5,7"}, "4 NVIDIA GPUs, and the mask in the environment names 4,5,7"),
        ("NVIDIA", 1, {"CUDA_VISIBLE_DEVICES": "-1"}, "1 NVIDIA GPUs, and the mask in the environment names none"),
        (
            "AMD",
            2,
            {"ROCR_VISIBLE_DEVICES": "6,7", "HIP_VISIBLE_DEVICES": "2,3"},
            "HIP_VISIBLE_DEVICES=2,3: '2' is none of them: ROCR_VISIBLE_DEVICES leaves 2 GPUs",
        ),
        ("AMD", 1, {"HIP_VISIBLE_DEVICES": "GPU-1"}, "HIP_VISIBLE_DEVICES=GPU-1: 'GPU-1' is none of them"),
        ("Intel", 3, FLAT | {"ZE_AFFINITY_MASK": "0,1"}, "nobody can tell which of its words each of them is"),
        ("Intel", 3, COMPOSITE | {"ZE_AFFINITY_MASK": "0,1.0"}, "it shows 3 GPUs"),
    ],
)
def test_masks_that_cannot_be_meant_for_them_are_refused(
    vendor: str, n_gpus: int, environ: dict[str, str], message: str
) -> None:
    """Dragon would end its runtime on some of them, or show a rank no GPU at all."""
    with pytest.raises(AllocationError) as refused:
        counted_gpus(vendor, [str(i) for i in range(n_gpus)], environ)
    assert message in refused.value.message


def test_variables_have_vendors() -> None:
    """As Dragon names them."""
    names = ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", ""]
    assert ["NVIDIA", "AMD", "Intel", ""] == [vendor_of(name) for name in names]


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
    ("environ", "message", "hint"),
    [
        (
            {"ROCR_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "2,3"},
            "CUDA_VISIBLE_DEVICES=2,3: '2' is none of the 2 GPUs that ROCR_VISIBLE_DEVICES leaves",
            "HIP counts what ROCR_VISIBLE_DEVICES leaves from 0: unset CUDA_VISIBLE_DEVICES, or correct it",
        ),
        (
            {"ROCR_VISIBLE_DEVICES": "7"},
            "ROCR_VISIBLE_DEVICES=7: '7' is none of the 4 GPUs that there are",
            "unset it, or correct it",
        ),
    ],
)
def test_masks_of_amds_are_explained_in_its_terms(environ: dict[str, str], message: str, hint: str) -> None:
    """Slurm may set both to the same indices, of which HIP then finds none; NVML is no help."""
    with pytest.raises(AllocationError) as refused:
        with_visible_gpus(_node("AMD"), environ)
    assert (message, hint) == (refused.value.message, refused.value.hint)


def _mixed(*, integrated_first: bool) -> NodeTopology:
    """Return a node with two GPUs of NVIDIA's and the processor's graphics."""
    node = _node("NVIDIA", 3)
    graphics = replace(node.gpus[0], vendor="Intel", pci_address="0000:00:02.0", uuid="")
    others = node.gpus[1:]
    return replace(node, gpus=(graphics, *others) if integrated_first else (*others, graphics))


@pytest.mark.parametrize("integrated_first", [True, False])
@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, [("NVIDIA", "0"), ("NVIDIA", "1"), ("Intel", "0")]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [("NVIDIA", "1"), ("Intel", "0")]),
        ({"CUDA_VISIBLE_DEVICES": "1", "ZE_AFFINITY_MASK": "7"}, [("NVIDIA", "1")]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_a_mask_is_for_its_makers_gpus(
    environ: dict[str, str], shown: list[tuple[str, str]], *, integrated_first: bool
) -> None:
    """Each counts its own; who hides the GPUs does not mean the processor's graphics."""
    node = with_visible_gpus(_mixed(integrated_first=integrated_first), environ)
    assert shown == [(gpu.vendor, gpu.token) for gpu in node.gpus]


@pytest.mark.parametrize(
    ("vendor", "environ", "ids"),
    [
        ("NVIDIA", {}, None),
        ("NVIDIA", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, None),
        ("NVIDIA", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": " 7, 4"}, ["3", "0"]),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ("NVIDIA", {"CUDA_VISIBLE_DEVICES": "GPU-bb33,9"}, ["2", "9"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "2,3"}, ["2", "3"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "6", "HIP_VISIBLE_DEVICES": "0,5"}, ["2"]),
        ("AMD", {"ROCR_VISIBLE_DEVICES": "6"}, ["2"]),
        ("AMD", {"HIP_VISIBLE_DEVICES": "5"}, ["1"]),
        ("Intel", COMPOSITE | {"ZE_AFFINITY_MASK": "5"}, ["1"]),
        ("Intel", COMPOSITE, None),
    ],
)
def test_what_a_rank_sees_is_called_as_in_the_plan(vendor: str, environ: dict[str, str], ids: list[str] | None) -> None:
    """Of a node whose GPUs are 4 to 7 of the scheduler's: by the masks only, one over the other."""
    bare = _node(vendor)
    node = replace(bare, gpus=tuple(replace(gpu, token=str(4 + i), uuid="") for i, gpu in enumerate(bare.gpus)))
    assert ids == shown_ids(node, UUIDS, environ)


def test_a_card_of_a_mask_is_its_tiles() -> None:
    """Under COMPOSITE."""
    node = with_visible_gpus(_tiles(), COMPOSITE)
    assert ["1.0", "1.1"] == shown_ids(node, (), COMPOSITE | {"ZE_AFFINITY_MASK": "1"})


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
        ("Intel", {}, (2,), {"ZE_AFFINITY_MASK": "2"} | PCI_ORDER),
        ("Intel", {"ZE_AFFINITY_MASK": "3,1"}, (0,), {"ZE_AFFINITY_MASK": "1"} | PCI_ORDER),
        ("", {}, (0,), {}),
        ("NVIDIA", {}, (), {}),
    ],
)
def test_a_rank_sees_its_gpus(
    vendor: str, environ: dict[str, str], gpus: tuple[int, ...], variables: dict[str, str]
) -> None:
    """By the scheduler's own word for each; indices of NVIDIA's and Intel's in PCI order."""
    shown = with_visible_gpus(_node(vendor), environ)
    assert variables == dict(gpu_environment(shown, gpus))
