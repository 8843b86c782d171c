"""Unit tests of rankmap.discovery.amd, on trees as Linux has them in /sys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.discovery import amd
from rankmap.discovery.gpu_cards import Card, Part

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


def kfd(sys: Path, *nodes: dict[str, int]) -> None:
    """Write the KFD topology: one directory of properties for each node."""
    for number, facts in enumerate(nodes):
        node = sys / "class/kfd/kfd/topology/nodes" / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text("".join(f"{name} {value}\n" for name, value in facts.items()))


def gpu(location_id: int, unique_id: int, domain: int = 0) -> dict[str, int]:
    """Return the properties of a GPU's node."""
    return {
        "simd_count": 880,
        "vendor_id": 0x1002,
        "domain": domain,
        "location_id": location_id,
        "unique_id": unique_id,
    }


CPU = {"cpu_cores_count": 24, "simd_count": 0, "vendor_id": 0}


def pci(sys: Path, address: str, **files: str) -> Path:
    """Write the directory of a PCI device."""
    device = sys / "bus/pci/devices" / address
    device.mkdir(parents=True)
    for name, text in files.items():
        (device / name).write_text(text + "\n")
    return device


def no_library() -> Any:  # noqa: ANN401
    """Fail as an import of a module does that is not installed."""
    raise ImportError


def test_gpus_are_in_the_order_of_the_run_time_library(tmp_path: Path) -> None:
    """That of the KFD nodes, with the UUIDs that ROCR_VISIBLE_DEVICES takes; CPUs are no GPUs."""
    kfd(tmp_path, CPU, gpu(0xC100, 0xABC), gpu(0x6300, 0x12345678DEADBEEF))
    pci(tmp_path, "0000:c1:00.0", numa_node="3", mem_info_vram_total=str(64 * GIB))
    assert amd.cards(tmp_path, load=no_library) == (
        Card(pci_address="0000:c1:00.0", numa=3, parts=(Part(uuid="GPU-0000000000000abc", memory_bytes=64 * GIB),)),
        Card(pci_address="0000:63:00.0", parts=(Part(uuid="GPU-12345678deadbeef"),)),
    )


def test_partitions_share_a_card(tmp_path: Path) -> None:
    """CPX: six nodes at one place, with the number of the partition in the location; one UUID for all names none."""
    kfd(tmp_path, CPU, *(gpu(0x100 + i, 7, domain=1) for i in range(6)), gpu(0x200 | 1 << 28, 8, domain=1))
    cards = amd.cards(tmp_path, load=no_library)
    assert [(card.pci_address, len(card.parts)) for card in cards] == [("0001:01:00.0", 6), ("0001:02:00.0", 1)]
    assert {part.uuid for part in cards[0].parts} == {""}


def test_partitions_with_uuids_of_their_own_have_them(tmp_path: Path) -> None:
    """As newer kernels give them."""
    kfd(tmp_path, *(gpu(0x100 + i, 7 + i) for i in range(3)))
    assert [part.uuid[-2:] for part in amd.cards(tmp_path, load=no_library)[0].parts] == ["07", "08", "09"]


def test_a_function_of_a_virtual_machine_is_kept(tmp_path: Path) -> None:
    """A GPU that is passed on may be function 1 of its device; that device is there then."""
    kfd(tmp_path, gpu(0x101, 7))
    pci(tmp_path, "0000:01:00.1")
    assert ["0000:01:00.1"] == [card.pci_address for card in amd.cards(tmp_path, load=no_library)]


def test_nodes_that_may_not_be_read_are_not_ours(tmp_path: Path) -> None:
    """The cgroup of a job hides the properties of GPUs that it may not use: the file is there, and empty."""
    kfd(tmp_path, gpu(0x100, 1), {}, gpu(0x300, 3))
    assert ["0000:01:00.0", "0000:03:00.0"] == [card.pci_address for card in amd.cards(tmp_path, load=no_library)]


@pytest.mark.parametrize(("mode", "uuid"), [("SPX", "GPU-abc0"), ("CPX", ""), (None, "GPU-abc0")])
def test_without_kfd_the_drm_driver_is_read(mode: str | None, uuid: str, tmp_path: Path) -> None:
    """A kernel without it still says what cards there are; a partitioned one has no UUID that names a part."""
    files = {"vendor": "0x1002", "unique_id": "abc0"} | ({"current_compute_partition": mode} if mode else {})
    card = tmp_path / "class/drm/card1"
    card.mkdir(parents=True)
    (card / "device").symlink_to(pci(tmp_path, "0000:05:00.0", **files))
    other = tmp_path / "class/drm/card0"
    other.mkdir()
    (other / "device").symlink_to(pci(tmp_path, "0000:06:00.0", vendor="0x1a03"))
    (tmp_path / "class/drm/card1-DP-1").mkdir()
    assert amd.cards(tmp_path, load=no_library) == (Card(pci_address="0000:05:00.0", parts=(Part(uuid=uuid),)),)


def test_amd_smi_adds_models_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is installed; what it prints is not shown, and a card that it does not know stays as it is."""
    kfd(tmp_path, gpu(0x100, 1), gpu(0x200, 2))

    class AmdSmiException(Exception):  # noqa: N818 - the library's name for it
        pass

    def asic(_handle: int) -> dict[str, str]:
        return {"market_name": "AMD Instinct MI250X"}

    def load() -> Any:  # noqa: ANN401
        print("Unable to find libamd_smi.so library")  # noqa: T201 - as the real one does
        return SimpleNamespace(
            AmdSmiException=AmdSmiException,
            AmdSmiMemoryType=SimpleNamespace(VRAM=0),
            amdsmi_init=lambda: None,
            amdsmi_shut_down=lambda: None,
            amdsmi_get_processor_handles=lambda: [5],
            amdsmi_get_gpu_device_bdf=lambda _handle: "0000:01:00.0",
            amdsmi_get_gpu_asic_info=asic,
            amdsmi_get_gpu_memory_total=lambda _handle, _kind: 64 * GIB,
        )

    parts = [card.parts[0] for card in amd.cards(tmp_path, load=load)]
    assert [("AMD Instinct MI250X", 64 * GIB), ("", 0)] == [(part.model, part.memory_bytes) for part in parts]
    assert capsys.readouterr().out == ""


def test_a_broken_amd_smi_takes_nothing_away(tmp_path: Path) -> None:
    """It raises KeyError while it is imported where its library is missing; that is told."""

    def load() -> Any:  # noqa: ANN401
        msg = "libamd_smi.so"
        raise KeyError(msg)

    kfd(tmp_path, gpu(0x100, 1))
    said: list[str] = []
    assert len(amd.cards(tmp_path, say=said.append, load=load)) == 1
    assert said == ["AMD's library fails: 'libamd_smi.so' (KeyError)"]


def test_no_gpus_no_questions(tmp_path: Path) -> None:
    """The library is not loaded where Linux shows no GPU."""
    assert amd.cards(tmp_path, load=lambda: pytest.fail("it was loaded")) == ()
