"""The GPUs and NICs of an hwloc tree: one entry for what one rank can be given, whoever reported it.

hwloc shows a card once as PCI device and once for every API that sees it (cuda0, nvml0, opencl0d0, rsmi0, ze0,
card0, renderD128). Here devices of one card are one GPU, unless one API alone sees several: then these are its
partitions or tiles.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet
from rankmap.discovery.hwloc_objects import cpus_of, infos
from rankmap.topology import Gpu, Nic, NumaDomain, OsIndex

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

    from rankmap.discovery.hwloc_objects import Found, Tree

__all__ = ["gpus_of", "nics_of"]

_GPU_TYPES: Final = ("1", "5")  # hwloc 2's osdev_type: GPU, co-processor
_NETWORK_TYPE, _OPENFABRICS_TYPE = "2", "3"
_PORT_ACTIVE: Final = "4"

_APIS: Final = ("cuda", "rsmi", "ze", "nvml", "opencl")
"""The APIs whose devices are GPUs. Their numbers order a node's GPUs, the first API that numbers one decides."""

_DEVICE: Final = re.compile(r"(cuda|rsmi|ze|nvml|opencl|card|renderD|controlD)(\d+(?:[.d]\d+)*)")

_PCI_TYPE: Final = re.compile(r"([0-9a-f]{4}) \[([0-9a-f]{4}):([0-9a-f]{4})\].*")
"""hwloc's pci_type: class, [vendor:device], ..."""

_VENDORS: Final = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}  # pci.ids
_VENDOR_WORDS: Final = (("nvidia", "NVIDIA"), ("amd", "AMD"), ("advanced micro", "AMD"), ("intel", "Intel"))
_DISPLAY_CLASSES: Final = ("0300", "0302", "0380")  # PCI Code and ID Assignment: VGA, 3D, other display
_ACCELERATOR_CLASS: Final = "1200"  # AMD's MI300; with Intel's vendor id it is an NPU
_SERVER_VGA: Final = frozenset({"1002:515e", "1002:5969", "1002:4752"})  # pci.ids: ATI ES1000 (two), Rage XL

_MEMORY_KIB: Final = ("CUDAGlobalMemorySize", "RSMIVRAMSize", "LevelZeroHBMSize", "OpenCLGlobalMemorySize")
"""Facts of hwloc that hold a card's memory in KiB. Source: hwloc 2.x manual, "Object attributes"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Close:
    """What a device is near: PUs and the os indices of NUMA domains, both empty where hwloc does not know."""

    cpus: CpuSet
    numa: tuple[OsIndex, ...]


def _close_to(place: ET.Element, tree: Tree, domains: tuple[NumaDomain, ...]) -> _Close:
    local = [domain for domain in domains if domain.local]
    if place is tree.machine and len(local) > 1:
        return _Close(cpus=CpuSet(), numa=())
    cpus = cpus_of(place)
    return _Close(cpus=cpus, numa=tuple(domain.os_index for domain in local if not domain.cpus.isdisjoint(cpus)))


def gpus_of(tree: Tree, domains: tuple[NumaDomain, ...]) -> tuple[Gpu, ...]:
    """Return the node's GPUs in the order of their API's device numbers; those without one last, by PCI address."""
    devices: defaultdict[int, list[Found]] = defaultdict(list)
    for found in tree.all("OSDev"):
        if _is_gpu_device(found.element):
            devices[id(_seat(found))].append(found)
    gpus: list[tuple[tuple[object, ...], Gpu]] = []
    seats = {id(found.element): found for found in tree.all("PCIDev")}
    for key in dict.fromkeys((*seats, *devices)):
        card = seats.get(key)
        place = card.place if card else devices[key][0].place
        gpus += _partitions(card.element if card else None, devices[key], _close_to(place, tree, domains))
    return tuple(gpu for _, gpu in sorted(gpus, key=lambda item: item[0]))


def _seat(found: Found) -> ET.Element:
    return found.place if found.card is None else found.card


def _is_gpu_device(element: ET.Element) -> bool:
    """Return whether an OS device is a GPU's; OpenCL also shows CPUs."""
    opencl_type = infos(element).get("OpenCLDeviceType", "GPU")
    return (
        element.get("osdev_type") in _GPU_TYPES
        and _DEVICE.fullmatch(element.get("name", "")) is not None
        and opencl_type == "GPU"
    )


def _partitions(card: ET.Element | None, devices: list[Found], close: _Close) -> list[tuple[tuple[object, ...], Gpu]]:
    """Return one card's GPUs, each with the key that it sorts by; none where it is not a GPU's card.

    Args:
        card: The PCI device; None for GPUs that hwloc shows without one.
        devices: The OS devices on it.
        close: What the card is near.
    """
    families: defaultdict[str, list[ET.Element]] = defaultdict(list)
    for device in devices:
        # A Level Zero device with tiles (ze0 above ze0.0 and ze0.1) is its tiles.
        if device.element.find("object[@type='OSDev']") is None:
            families[_family(device.element)].append(device.element)
    for family in families.values():
        family.sort(key=_number)
    vendor, is_gpu_card = _pci_vendor(card)
    count = max(len(families.get(api, ())) for api in _APIS)
    if not count and not is_gpu_card:
        return []
    address = "" if card is None else card.get("pci_busid", "")
    facts = [infos(element) for api in ("nvml", *_APIS) for element in families.get(api, ())]
    facts += [infos(device.element) for device in devices]  # what a device with tiles says once for all of them
    facts += [] if card is None else [infos(card)]
    model = _first(facts, "GPUModel") or _first(facts, "PCIDevice")
    memory_kib = next((int(_first(facts, name)) for name in _MEMORY_KIB if _first(facts, name)), 0)
    result: list[tuple[tuple[object, ...], Gpu]] = []
    for partition in range(max(count, 1)):
        mine = [family[min(partition, len(family) - 1)] for family in families.values() if len(family) in {1, count}]
        numbers = {_family(element): _number(element) for element in mine}
        rank = next(((place, numbers[api]) for place, api in enumerate(_APIS) if api in numbers), (len(_APIS), ()))
        gpu = Gpu(
            pci_address=address,
            partition=partition,
            vendor=vendor or _vendor_of(_first(facts, "GPUVendor")),
            model=model,
            memory_bytes=memory_kib * 1024,
            names=tuple(sorted(element.get("name", "") for element in mine)),
            cpus=close.cpus,
            numa=close.numa,
        )
        result.append(((*rank, address, partition), gpu))
    return result


def _family(device: ET.Element) -> str:
    match = _DEVICE.fullmatch(device.get("name", ""))
    return match[1] if match else ""


def _number(device: ET.Element) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", device.get("name", "")))


def _first(facts: list[dict[str, str]], name: str) -> str:
    return next((fact[name] for fact in facts if fact.get(name)), "")


def _pci_vendor(card: ET.Element | None) -> tuple[str, bool]:
    """Return the GPU vendor that made a PCI device ("" for others), and whether the device is a GPU."""
    match = _PCI_TYPE.fullmatch("" if card is None else card.get("pci_type", ""))
    if match is None:
        return "", False
    kind, vendor, device = match.groups()
    name = _VENDORS.get(vendor, "")
    is_display = kind in _DISPLAY_CLASSES and f"{vendor}:{device}" not in _SERVER_VGA
    return name, bool(name) and (is_display or (kind == _ACCELERATOR_CLASS and name == "AMD"))


def _vendor_of(text: str) -> str:
    return next((vendor for word, vendor in _VENDOR_WORDS if word in text.lower()), "")


def nics_of(tree: Tree, domains: tuple[NumaDomain, ...]) -> tuple[Nic, ...]:
    """Return the node's network interfaces in topology order, each with the RDMA device of the same PCI device."""
    interfaces: defaultdict[int, list[Found]] = defaultdict(list)
    fabrics: defaultdict[int, list[Found]] = defaultdict(list)
    seats: dict[int, Found] = {}
    for found in tree.all("OSDev"):
        kind = found.element.get("osdev_type")
        if kind in {_NETWORK_TYPE, _OPENFABRICS_TYPE}:
            # Without a PCI device nothing says which interface and which RDMA device are the same hardware.
            seat = id(found.element if found.card is None else found.card)
            seats.setdefault(seat, found)
            (interfaces if kind == _NETWORK_TYPE else fabrics)[seat].append(found)
    return tuple(
        Nic(
            name=name,
            pci_address="" if found.card is None else found.card.get("pci_busid", ""),
            fabric=fabric,
            port=port,
            linked=_is_linked(fabrics[seat], fabric, port),
            cpus=close.cpus,
            numa=close.numa,
        )
        for seat, found in seats.items()
        for close in (_close_to(found.place, tree, domains),)
        for name, fabric, port in _pairs(_names(interfaces[seat]), _names(fabrics[seat]))
    )


def _names(devices: list[Found]) -> list[str]:
    return sorted(device.element.get("name", "") for device in devices)


def _pairs(interfaces: list[str], fabrics: list[str]) -> list[tuple[str, str, int]]:
    """Return interface, RDMA device and port; two ports may share one device, a device may have no interface."""
    if not interfaces:
        return [(fabric, fabric, 1) for fabric in fabrics]
    last = max(len(fabrics) - 1, 0)
    return [
        (interface, fabrics[min(index, last)] if fabrics else "", max(index - last, 0) + 1 if fabrics else 1)
        for index, interface in enumerate(interfaces)
    ]


def _is_linked(devices: list[Found], fabric: str, port: int) -> bool:
    """Return False where an RDMA device says that this port of it is not active.

    Source: hwloc 2.x manual, "Object attributes", PortNState; ibv_query_port(3): 4 is IBV_PORT_ACTIVE.
    """
    states = [infos(one.element).get(f"Port{port}State") for one in devices if one.element.get("name") == fabric]
    return all(state in {None, _PORT_ACTIVE} for state in states)
