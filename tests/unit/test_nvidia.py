"""Unit tests of rankmap.discovery.nvidia: what NVML says, card by card."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from rankmap.discovery import nvidia
from rankmap.discovery.gpu_cards import Card, Part
from tests.fake_nvml import TO_GPU, TO_SWITCH, FakeGpu, FakeNvml, NVMLError

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
A, B, C = (f"0000{bus}" for bus in ("0000:07:00.0", "0000:0A:00.0", "0000:C7:00.0"))
"""As NVML writes addresses: eight digits of domain, upper case."""


def test_a_card_is_known_by_hwlocs_address(tmp_path: Path) -> None:
    """With UUID, model, memory, and the NUMA domain that Linux says; NVML is closed again."""
    device = tmp_path / "bus/pci/devices/0000:c7:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    nvml = FakeNvml(FakeGpu(bus_id=C, uuid="GPU-1"), FakeGpu(bus_id=A, uuid="GPU-2", memory=None))
    assert nvidia.cards(tmp_path, load=lambda: nvml) == (
        Card(
            pci_address="0000:c7:00.0",
            numa=1,
            parts=(Part(uuid="GPU-1", model="NVIDIA H100", memory_bytes=80 * GIB),),
        ),
        Card(pci_address="0000:07:00.0", parts=(Part(uuid="GPU-2", model="NVIDIA H100"),)),
    )
    assert nvml.n_open == 0


def test_instances_of_a_divided_gpu_are_its_parts(tmp_path: Path) -> None:
    """Each by its UUID, which is its only name; places without an instance are none, nor is the GPU itself."""
    small = [FakeGpu(uuid=f"MIG-{i}", name="NVIDIA H100 MIG 1g.10gb", memory=10 * GIB) for i in (1, 2)]
    divided = FakeGpu(bus_id=A, uuid="GPU-1", mig=(small[0], None, small[1]))
    empty = FakeGpu(bus_id=B, uuid="GPU-2", mig=(None, None))
    off = FakeGpu(bus_id=C, uuid="GPU-3", mig=())
    cards = nvidia.cards(tmp_path, load=lambda: FakeNvml(divided, empty, off))
    assert [[part.token for part in card.parts] for card in cards] == [["MIG-1", "MIG-2"], [], [""]]
    assert [part.memory_bytes for part in cards[0].parts] == [10 * GIB] * 2


def test_peers_are_linked_directly_or_by_switches(tmp_path: Path) -> None:
    """Active links only; a link to a CPU (POWER9) leads to no GPU; a divided GPU has none."""
    to_b, to_a = {0: (TO_GPU, B), 3: (TO_GPU, B)}, {1: (TO_GPU, A)}
    direct = FakeNvml(
        FakeGpu(bus_id=A, uuid="1", links=to_b),
        FakeGpu(bus_id=B, uuid="2", links=to_a),
        FakeGpu(bus_id=C, uuid="3", links={0: (1, "0004:00:00.0")}),
    )
    peers = {card.pci_address: card.peers for card in nvidia.cards(tmp_path, load=lambda: direct)}
    assert peers == {"0000:07:00.0": ("0000:0a:00.0",), "0000:0a:00.0": ("0000:07:00.0",), "0000:c7:00.0": ()}
    switch = dict.fromkeys(range(18), (TO_SWITCH, "00000000:FF:00.0"))
    instance = FakeGpu(uuid="MIG-1")
    switched = FakeNvml(
        FakeGpu(bus_id=A, uuid="1", links=switch),
        FakeGpu(bus_id=B, uuid="2", links=switch),
        FakeGpu(bus_id=C, uuid="3", links=switch, mig=(instance,)),
    )
    assert [card.peers for card in nvidia.cards(tmp_path, load=lambda: switched)] == [
        ("0000:0a:00.0",),
        ("0000:07:00.0",),
        (),
    ]


def test_one_lost_gpu_costs_nothing_of_the_others(tmp_path: Path) -> None:
    """It is told of, and no program can use it."""
    said: list[str] = []
    nvml = FakeNvml(FakeGpu(bus_id=A, uuid="GPU-1"), FakeGpu(bus_id=B, lost=True), FakeGpu(bus_id=C, uuid="GPU-3"))
    cards = nvidia.cards(tmp_path, say=said.append, load=lambda: nvml)
    assert [part.uuid for card in cards for part in card.parts] == ["GPU-1", "GPU-3"]
    assert (["NVIDIA's library of GPU 1 fails: 15 (NVMLError)"], 0) == (said, nvml.n_open)


def test_a_library_that_fails_says_so(tmp_path: Path) -> None:
    """The caller (accelerators.py) goes on without facts."""
    with pytest.raises(NVMLError):
        nvidia.cards(tmp_path, load=lambda: FakeNvml(works=False))


def test_the_stand_in_is_like_the_real_module() -> None:
    """Every function that it has is there, with the same parameters in the same order."""
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    assert issubclass(real.NVMLError, Exception)
    assert isinstance(real.NVML_NVLINK_MAX_LINKS, int)
    assert (TO_GPU, TO_SWITCH) == (real.NVML_NVLINK_DEVICE_TYPE_GPU, real.NVML_NVLINK_DEVICE_TYPE_SWITCH)
    for name, own in inspect.getmembers(FakeNvml, inspect.isfunction):
        if name.startswith("nvml"):
            parameters = list(inspect.signature(own).parameters)[1:]
            assert (name, parameters) == (name, list(inspect.signature(getattr(real, name)).parameters))
