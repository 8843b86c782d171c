"""GPUs and NICs: one entry for what one rank can be given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rankmap.discovery import hwloc
from rankmap.discovery.hwloc_xml import parse

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.topology import NodeTopology


@pytest.fixture
def node(topologies: Path) -> NodeTopology:
    """Return a node with a device of every sort."""
    path = topologies / "gpus-and-nics.xml"
    return parse(hwloc.file_xml(path, os.environ), source=path.name)


def test_one_card_seen_by_many_apis_is_one_gpu(node: NodeTopology) -> None:
    """cuda1, nvml1, opencl0d1, card1 and renderD128 of one PCI device are one GPU with all these names."""
    gpu = node.gpus[1]
    assert (
        gpu.pci_address,
        gpu.vendor,
        gpu.model,
        gpu.memory_bytes,
    ) == ("0000:04:00.0", "NVIDIA", "NVIDIA H100", 80 << 30)
    assert gpu.names == ("card1", "cuda1", "nvml1", "opencl0d1", "renderD128")
    assert (gpu.numa, str(gpu.cpus)) == ((1,), "2-3,10-11")


def test_partitions_behind_one_address_are_gpus(node: NodeTopology) -> None:
    """Three rsmi devices on one PCI device are three GPUs; the two tiles of a Level Zero device are two."""
    found = [(gpu.pci_address, gpu.partition, gpu.names) for gpu in node.gpus]
    assert [("0001:02:00.0", index, (f"rsmi{index}",)) for index in range(3)] == found[2:5]
    assert [("0001:04:00.0", index, (f"ze0.{index}",)) for index in range(2)] == found[5:7]
    assert {"Instinct Example"} == {gpu.model for gpu in node.gpus[2:5]}


def test_pci_device_alone_is_a_gpu(node: NodeTopology) -> None:
    """A display device of a GPU maker counts without any API; it comes after those that an API numbers."""
    assert (node.gpus[7].pci_address, node.gpus[7].vendor, node.gpus[7].names) == ("0001:03:00.0", "AMD", ())


def test_what_is_not_a_gpu(node: NodeTopology) -> None:
    """Management chips' VGA (ASPEED, also ATI's), an Intel NPU and OpenCL's CPU device are not GPUs."""
    assert len(node.gpus) == 8
    assert not [gpu for gpu in node.gpus if gpu.pci_address.startswith("0002")]


def test_gpus_are_in_their_apis_order(node: NodeTopology) -> None:
    """The GPU that CUDA calls 0 is the first, wherever it sits."""
    assert [node.gpus[0].names, node.gpus[1].names[1]] == [("cuda0", "nvml0"), "cuda1"]
    assert node.gpus[0].pci_address == "0000:31:00.0"


def test_nics(node: NodeTopology) -> None:
    """Interfaces have the RDMA device of their card: shared by two ports, alone where there is no interface."""
    assert [(nic.name, nic.fabric, nic.pci_address, nic.numa) for nic in node.nics] == [
        ("ib0", "mlx5_0", "0000:05:00.0", (1,)),
        ("eth2", "mlx4_0", "0002:05:00.0", (3,)),
        ("eth3", "mlx4_0", "0002:05:00.0", (3,)),
        ("rdma0", "rdma0", "0002:06:00.0", (3,)),
        ("eth0", "", "", ()),
    ]
    assert [1, 1, 2, 1, 1] == [nic.port for nic in node.nics]


@pytest.mark.parametrize(("state", "linked"), [("4", True), ("1", False)])
def test_a_port_without_a_link_is_known(state: str, linked: bool) -> None:  # noqa: FBT001 - a case
    """Hwloc says the state of each port of an RDMA device."""
    xml = hwloc.synthetic_xml("core:2 pu:1", os.environ)
    start = xml.rindex("</object>")
    port = f'<info name="Port1State" value="{state}"/>'
    device = f'<object type="OSDev" gp_index="99" name="mlx5_0" osdev_type="3">{port}</object>'
    node = parse(xml[:start] + device + xml[start:], source="made")
    assert [("mlx5_0", linked)] == [(nic.name, nic.linked) for nic in node.nics]


def test_gpu_without_pci() -> None:
    """APIs that show a GPU without its PCI device still show one GPU; on one domain everything is near."""
    xml = hwloc.synthetic_xml("core:2 pu:1", os.environ)
    start = xml.rindex("</object>")
    devices = (
        '<object type="OSDev" gp_index="90" name="cuda0" osdev_type="5">'
        '<info name="GPUVendor" value="NVIDIA"/></object>'
        '<object type="OSDev" gp_index="91" name="nvml0" osdev_type="1"/>'
        '<object type="OSDev" gp_index="92" name=":0.0" osdev_type="1"/>'
        '<object type="OSDev" gp_index="93" name="card0" osdev_type="1"/>'
    )
    gpus = parse(xml[:start] + devices + xml[start:], source="x").gpus
    assert [(gpu.pci_address, gpu.vendor, gpu.names, gpu.numa) for gpu in gpus] == [
        ("", "NVIDIA", ("card0", "cuda0", "nvml0"), (0,))
    ]
