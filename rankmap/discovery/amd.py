"""AMD's GPUs by what Linux says of them, and by AMD SMI (PyPI amdsmi, ROCm's libamd_smi) where it is installed.

/sys/class/kfd is what AMD's own run-time library enumerates, in the same order: a GPU in a partition mode (DPX, TPX,
CPX) is as many nodes there as it has partitions. UUIDs are in the form that ROCR_VISIBLE_DEVICES takes.

Source: ROCR-Runtime, libhsakmt/src/topology.c and core/runtime/amd_topology.cpp; Linux, drivers/gpu/drm/amd/amdkfd/
kfd_topology.c; amdgpu driver documentation, "GPU Memory Usage Information" (mem_info_vram_total), unique_id and
current_compute_partition; ROCm documentation, "GPU isolation techniques".
"""

from __future__ import annotations

import io
from collections import Counter
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rankmap.discovery.gpu_cards import Card, Part, fact, failure, numa_of, pci_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DEVICE", "VENDOR", "cards"]

VENDOR: Final = "AMD"
DEVICE: Final = "kfd"

_VENDOR_ID: Final = "0x1002"
_KFD_VENDOR_ID: Final = 0x1002
_WHOLE: Final = "SPX"


def cards(
    sys: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    load: Callable[[], Any] = lambda: import_module("amdsmi"),
) -> tuple[Card, ...]:
    """Return the cards that programs can use, in ROCr's order.

    Args:
        sys: Where sysfs is.
        say: Called with what AMD SMI fails at.
        load: Returns the module amdsmi.
    """
    found = _from_kfd(sys) or _from_drm(sys)
    if not found:
        return ()
    said: dict[str, Part] = {}
    try:
        said = dict(_from_smi(load))
    except ModuleNotFoundError:
        pass
    except Exception as error:  # noqa: BLE001 - it may raise whatever it likes while it is loaded; sysfs has the rest
        say(failure(VENDOR, error))
    return tuple(_with_model(card, said.get(card.pci_address, Part())) for card in found)


def _from_kfd(sys: Path) -> list[Card]:
    nodes = sorted((sys / "class/kfd/kfd/topology/nodes").glob("[0-9]*"), key=lambda node: int(node.name))
    parts: dict[str, list[int]] = {}
    for node in nodes:
        facts = _properties(node / "properties")
        if facts.get("vendor_id") == _KFD_VENDOR_ID and facts.get("simd_count", 0) > 0:
            address = _address(facts.get("domain", 0), facts.get("location_id", 0), sys)
            parts.setdefault(address, []).append(facts.get("unique_id", 0))
    times = Counter(number for numbers in parts.values() for number in numbers)
    return [
        Card(
            pci_address=address,
            parts=tuple(
                Part(
                    uuid=f"GPU-{number:016x}" if number and times[number] == 1 else "",  # of all partitions: of none
                    memory_bytes=_vram_bytes(sys, address) if len(numbers) == 1 else 0,
                )
                for number in numbers
            ),
            numa=numa_of(address, sys),
        )
        for address, numbers in parts.items()
    ]


def _address(domain: int, location_id: int, sys: Path) -> str:
    """Return the PCI address of a KFD node; in its last three bits is the function, or the number of a partition."""
    place = f"{domain:04x}:{location_id >> 8 & 0xFF:02x}:{location_id >> 3 & 0x1F:02x}"
    function = location_id & 7
    return f"{place}.{function if (sys / 'bus/pci/devices' / f'{place}.{function}').exists() else 0}"


def _properties(path: Path) -> dict[str, int]:
    """Return the properties of a KFD node; none where the cgroup of this process may not use its device."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
        return {word[0]: int(word[1]) for word in words if len(word) == 2}  # noqa: PLR2004 - name and value
    except (OSError, ValueError):
        return {}


def _from_drm(sys: Path) -> list[Card]:
    """Return the cards as the DRM driver has them, for a kernel without KFD; what is known of parts is hwloc's."""
    result = []
    for device in sorted((sys / "class/drm").glob("card[0-9]*/device")):
        address = device.resolve().name
        if fact(device / "vendor") == _VENDOR_ID and ":" in address:
            unique_id, mode = fact(device / "unique_id"), fact(device / "current_compute_partition")
            uuid = f"GPU-{unique_id}" if unique_id.strip("0") and mode in {"", _WHOLE} else ""
            part = Part(uuid=uuid, memory_bytes=_vram_bytes(sys, address))
            result.append(Card(pci_address=address, parts=(part,), numa=numa_of(address, sys)))
    return sorted(result, key=lambda card: card.pci_address)


def _vram_bytes(sys: Path, address: str) -> int:
    text = fact(sys / "bus/pci/devices" / address / "mem_info_vram_total")
    return int(text) if text.isdecimal() else 0


def _from_smi(load: Callable[[], Any]) -> Iterator[tuple[str, Part]]:
    """Yield the address of each card and what AMD SMI says of it; it numbers partitions by the PCI function."""
    with redirect_stdout(io.StringIO()):  # where its library is missing it says so there
        smi = load()
        smi.amdsmi_init()
    try:
        for handle in smi.amdsmi_get_processor_handles():
            address = pci_address(smi.amdsmi_get_gpu_device_bdf(handle))
            model, memory_bytes = "", 0
            with suppress(smi.AmdSmiException):
                model = str(smi.amdsmi_get_gpu_asic_info(handle)["market_name"])
            with suppress(smi.AmdSmiException):
                memory_bytes = int(smi.amdsmi_get_gpu_memory_total(handle, smi.AmdSmiMemoryType.VRAM))
            yield address, Part(model=model, memory_bytes=memory_bytes)
    finally:
        with suppress(smi.AmdSmiException):
            smi.amdsmi_shut_down()


def _with_model(card: Card, said: Part) -> Card:
    model = "" if said.model in {"", "N/A"} else said.model
    whole = len(card.parts) == 1
    return replace(
        card,
        parts=tuple(
            replace(part, model=model, memory_bytes=part.memory_bytes or said.memory_bytes * whole)
            for part in card.parts
        ),
    )
