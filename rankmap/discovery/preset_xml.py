"""A machine preset as hwloc XML, so that it comes through the same parser as every other node.

libhwloc turns the synthetic description into XML; memory kinds, distances, GPUs and NICs are put in as hwloc would
write them. PCI addresses that no site publishes are made up, in a PCI domain that no machine has.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import count
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet
from rankmap.discovery import hwloc
from rankmap.errors import AllocationError, UsageError
from rankmap.topology import MADE_UP_PCI_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rankmap.preset import Gpus, Nics, Preset

__all__ = ["preset_xml"]

_VENDOR_IDS: Final = {"NVIDIA": "10de", "AMD": "1002", "Intel": "8086"}  # pci.ids
_APIS: Final = {"NVIDIA": "cuda", "AMD": "rsmi", "Intel": "ze"}
_DISPLAY, _NETWORK, _INFINIBAND = "0302", "0200", "0207"  # PCI Code and ID Assignment
_GPU_TYPE, _NETWORK_TYPE, _OPENFABRICS_TYPE = "1", "2", "3"  # hwloc 2's osdev_type
_HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n'
_HINT: Final = "docs/machines.md explains every key of a preset"
_LATENCY_KIND: Final = "5"  # hwloc/distances.h: FROM_OS and MEANS_LATENCY
_PLACES: Final = ("Machine", "Package", "Die", "Group", "L3Cache", "L2Cache", "Core")


def preset_xml(preset: Preset, environ: Mapping[str, str]) -> str:
    """Return a node of this preset as hwloc 2 XML.

    Raises:
        AllocationError: There is no libhwloc, the description is none, or the preset contradicts itself.
    """
    root = _synthetic(preset, environ)
    machine = root.find("object")
    assert machine is not None  # noqa: S101 - every topology has one
    _check_sums(machine, preset)
    domains = {int(one.attrib["os_index"]): one for one in machine.iter("object") if one.get("type") == "NUMANode"}
    if "memory=" not in preset.structure.synthetic:
        for domain in domains.values():
            domain.attrib.pop("local_memory", None)  # libhwloc's own 1 GiB, where nobody has said a size
    for number, memory in enumerate(preset.memory):
        if memory.numa not in domains:
            place = preset.text.place("memory", "numa", number)
            msg = f"{place}: there is no NUMA domain {memory.numa}; the domains are {CpuSet.of(domains)}"
            raise AllocationError(msg, hint=_HINT)
        domains[memory.numa].set("subtype", memory.subtype)
    if preset.structure.distances:
        _add_distances(root, preset, sorted(domains))
    devices = _Devices(machine, preset)
    if preset.gpus is not None:
        devices.add_gpus(preset.gpus)
    if preset.nics is not None:
        devices.add_nics(preset.nics)
    ET.indent(root)
    return _HEAD + ET.tostring(root, encoding="unicode") + "\n"


def _synthetic(preset: Preset, environ: Mapping[str, str]) -> ET.Element:
    try:
        return ET.fromstring(hwloc.synthetic_xml(preset.structure.synthetic, environ))  # noqa: S314 - libhwloc's own
    except (AllocationError, UsageError) as error:
        msg = f"{preset.text.place('topology', 'synthetic')}: {error.message}"
        raise AllocationError(msg, hint=error.hint) from error


def _check_sums(machine: ET.Element, preset: Preset) -> None:
    """Raise where the description does not come to the numbers beside it, or a CPU is reserved that is not there."""
    cpus = CpuSet.from_hex(machine.attrib["cpuset"])
    n_cores = sum(one.get("type") == "Core" for one in machine.iter("object"))
    structure = preset.structure
    numbers = [int(one.attrib["os_index"]) for one in machine.iter("object") if one.get("type") == "PU"]
    if re.search(r"\bpu:\d+\([^)]*indexes", structure.synthetic) and numbers == sorted(numbers):
        place = preset.text.place("topology", "synthetic")
        msg = f"{place}: hwloc does not take the indexes of pu: {structure.synthetic}"
        raise AllocationError(msg, hint="for core c with CPUs c and c+N write pu:2(indexes=2*N:N*1), N is the cores")
    for name, found, said in (("cores", n_cores, structure.cores), ("cpus", len(cpus), structure.cpus)):
        if found != said:
            msg = f"{preset.text.place('topology', name)}: {name} = {said}, and the synthetic description has {found}"
            raise AllocationError(msg, hint="correct one of them")
    if strange := preset.reserved - cpus:
        msg = f"{preset.text.place('site', 'reserved')}: there is no CPU {strange}; the CPUs are {cpus}"
        raise AllocationError(msg, hint=_HINT)


def _add_distances(root: ET.Element, preset: Preset, domains: list[int]) -> None:
    rows = preset.structure.distances
    n = len(domains)
    if len(rows) != n or any(len(row) != n for row in rows):
        msg = f"{preset.text.place('topology', 'distances')}: {n} NUMA domains need {n} rows of {n}"
        raise AllocationError(msg, hint=_HINT)
    attributes = {"type": "NUMANode", "nbobjs": str(n), "kind": _LATENCY_KIND, "indexing": "os"}
    matrix = ET.SubElement(root, "distances2", attributes | {"name": "NUMALatency"})
    for tag, values in (("indexes", domains), ("u64values", [value for row in rows for value in row])):
        text = " ".join(map(str, values)) + " "
        ET.SubElement(matrix, tag, {"length": str(len(text))}).text = text


class _Devices:
    """Puts PCI devices into the tree, each under the smallest object that holds the CPUs it is close to."""

    def __init__(self, machine: ET.Element, preset: Preset) -> None:
        self._machine = machine
        self._preset = preset
        self._objects = [one for one in machine.iter("object") if one.get("type") in _PLACES]
        self._buses = count(1)
        self._ids = count(1 + max(int(one.get("gp_index", "0")) for one in machine.iter("object")))

    def add_gpus(self, gpus: Gpus) -> None:
        api, vendor = _APIS[gpus.vendor], _VENDOR_IDS[gpus.vendor]
        for card, near in enumerate(gpus.near):
            device = self._pci(near, "gpus", f"{_DISPLAY} [{vendor}:0000]")
            facts = {"GPUModel": gpus.model}
            if gpus.memory_gib and api == "cuda":
                facts["CUDAGlobalMemorySize"] = str(gpus.memory_gib << 20)
            elif gpus.memory_gib and api == "rsmi":
                facts["RSMIVRAMSize"] = str(gpus.memory_gib << 20)
            elif gpus.memory_gib:
                facts["LevelZeroHBMSize"] = str(gpus.memory_gib << 20)
            if api == "ze" and gpus.parts > 1:
                root = self._os_device(device, f"ze{card}", _GPU_TYPE, facts)
                for tile in range(gpus.parts):
                    self._os_device(root, f"ze{card}.{tile}", _GPU_TYPE, {})
                continue
            for part in range(gpus.parts):
                self._os_device(device, f"{api}{card * gpus.parts + part}", _GPU_TYPE, facts)

    def add_nics(self, nics: Nics) -> None:
        for i, name in enumerate(nics.names):
            rdma = nics.devices[i] if nics.devices else ""
            kind = _INFINIBAND if rdma.startswith("mlx") else _NETWORK
            near = nics.near[i] if nics.near else ""
            device = self._pci(near, "nics", f"{kind} [0000:0000]")
            self._os_device(device, name, _NETWORK_TYPE, {})
            if rdma:
                self._os_device(device, rdma, _OPENFABRICS_TYPE, {})

    def _pci(self, near: str, table: str, kind: str) -> ET.Element:
        place = self._object(near, self._preset.text.place(table, "near"))
        bus = f"{next(self._buses):02x}"
        bridge = self._child(
            place,
            {"type": "Bridge", "bridge_type": "0-1", "depth": "0", "bridge_pci": f"{MADE_UP_PCI_DOMAIN}[{bus}-{bus}]"},
        )
        address = f"{MADE_UP_PCI_DOMAIN}{bus}:00.0"
        pci_type = f"{kind} [0000:0000] 00"
        return self._child(
            bridge, {"type": "PCIDev", "pci_busid": address, "pci_type": pci_type, "pci_link_speed": "0.000000"}
        )

    def _os_device(self, parent: ET.Element, name: str, kind: str, facts: Mapping[str, str]) -> ET.Element:
        device = self._child(parent, {"type": "OSDev", "name": name, "osdev_type": kind})
        for key, value in facts.items():
            if value:
                ET.SubElement(device, "info", {"name": key, "value": value})
        return device

    def _child(self, parent: ET.Element, attributes: Mapping[str, str]) -> ET.Element:
        kind = {"type": attributes["type"], "gp_index": str(next(self._ids))}
        return ET.SubElement(parent, "object", {**kind, **attributes})

    def _object(self, near: str, where: str) -> ET.Element:
        """Return the smallest object with these CPUs; the machine where nobody knows what the device is close to."""
        if not near:
            return self._machine
        try:
            cpus = CpuSet.parse(near)
        except UsageError as error:
            msg = f"{where}: {error.message}"
            raise AllocationError(msg, hint=error.hint) from error
        holding = list(self._holding(cpus))
        if not holding:
            msg = f"{where}: there are no CPUs {cpus}"
            raise AllocationError(msg, hint=_HINT)
        found = min(holding, key=lambda one: len(CpuSet.from_hex(one.attrib["cpuset"])))
        if CpuSet.from_hex(found.attrib["cpuset"]) != cpus:
            there = found.get("type")
            msg = f"{where}: no object of the topology has just the CPUs {cpus}"
            raise AllocationError(
                msg, hint=f"the smallest that has them all is a {there}; a device is close to all of it"
            )
        return found

    def _holding(self, cpus: CpuSet) -> Iterator[ET.Element]:
        for one in self._objects:
            if cpus.issubset(CpuSet.from_hex(one.attrib["cpuset"])):
                yield one
