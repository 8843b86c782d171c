"""An allocation's topology as text: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final

from rankmap.codec import encode
from rankmap.cpuset import CpuSet
from rankmap.devices import gpu_ids
from rankmap.exporters import tables
from rankmap.hostlist import fold
from rankmap.topology import MADE_UP_PCI_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rankmap.topology import Allocation, Gpu, NodeTopology, NumaDomain

__all__ = ["SCHEMA", "as_json", "table"]

SCHEMA: Final = "rankmap.topology/1"

_UNITS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_WHOLE: Final = 10  # from this many units on, the first decimal says nothing


def as_json(allocation: Allocation) -> str:
    """Return the allocation as one JSON object, indented, with a newline at the end.

    ``schema`` is "rankmap.topology/1". ``nodes`` has one entry per node, in the allocation's order: ``host``,
    ``shape_index`` (its place in ``shapes``), ``gpu_ids`` (as Dragon shows them, null where Dragon was not asked) and
    ``gpu_uuids`` (of the shape's GPUs, empty where none is known).
    ``shapes`` has one entry per kind of node: the fields of rankmap.topology.NodeTopology by their names. CPU sets are
    Linux lists of PU os indices ("0-7,64-71"), sizes are bytes.
    """
    document = {"schema": SCHEMA, "nodes": encode(allocation.nodes), "shapes": encode(allocation.shapes)}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def table(allocation: Allocation) -> str:
    """Return one block of text per node shape, in order of first appearance, with a newline at the end."""
    return "\n".join(
        _block(fold(hosts), len(hosts), shape)
        for index, shape in enumerate(allocation.shapes)
        for hosts in ([node.host for node in allocation.nodes if node.shape_index == index],)
    )


def _block(hosts: str, n_hosts: int, shape: NodeTopology) -> str:
    lines = [
        f"{hosts}: {'1 node' if n_hosts == 1 else f'{n_hosts} nodes, each'} with {_contents(shape)}",
        *_packages(shape),
        *_unusable(shape),
        *_kinds(shape),
        *([f"  {shape.gpu_remark}"] if shape.gpu_remark else []),
        "",
        _domains(shape),
    ]
    for title, text in (("GPUs", _gpus(shape)), ("network", _nics(shape)), ("distance", _distance_lines(shape))):
        if text:
            lines += ["", title, text]
    return "".join(f"{line.rstrip()}\n" for line in "\n".join(lines).split("\n"))


def _contents(shape: NodeTopology) -> str:
    parts = [
        _counted(len(shape.packages), "package") if shape.packages else "",
        _counted(len(shape.numa_domains), "NUMA domain"),
        _counted(len(shape.cores), "core"),
        f"{_counted(len(shape.present), 'CPU')}{_smt(shape)}",
        _size(shape.memory_bytes) if shape.memory_bytes else "",
        _counted(len(shape.gpus), "GPU") if shape.gpus else "",
        _counted(len(shape.nics), "NIC") if shape.nics else "",
    ]
    return ", ".join(part for part in parts if part)


def _smt(shape: NodeTopology) -> str:
    per_core = sorted({len(core.pus) for core in shape.cores})
    return "" if per_core == [1] else f" ({' or '.join(map(str, per_core))} per core)"


def _packages(shape: NodeTopology) -> list[str]:
    models = Counter(package.model for package in shape.packages if package.model)
    return [f"  {count} x {model}" for model, count in models.items()]


def _unusable(shape: NodeTopology) -> list[str]:
    missing = shape.present - shape.usable
    kept = shape.reserved & shape.usable
    lines = [f"  kept by the site: CPUs {kept} (--reserve none uses them)"] * bool(kept)
    if not missing:
        return lines
    counts = f"{len(shape.usable)} of {len(shape.present)} CPUs"
    return [*lines, f"  usable: {counts}; not usable (offline, or not allowed here): {missing}"]


def _kinds(shape: NodeTopology) -> list[str]:
    if len(shape.cpu_kinds) <= 1:
        return []
    return [
        f"  kind {index}{f' ({kind.name})' if kind.name else ''}: "
        f"{_counted(sum(core.kind == index for core in shape.cores), 'core')}, CPUs {kind.cpus}"
        for index, kind in enumerate(shape.cpu_kinds)
    ]


def _domains(shape: NodeTopology) -> str:
    homeless = shape.present
    rows = []
    for domain in shape.numa_domains:
        inside = domain.cpus if domain.local else CpuSet()
        homeless -= inside
        rows.append(
            {
                "NUMA": str(domain.os_index),
                "package": _packages_with(domain.cpus, shape),
                "cores": _usable_cores(inside, shape) if inside else "",
                "CPUs": str(inside & shape.usable),
                "not usable": str(inside - shape.usable),
                "memory": _size(domain.memory_bytes) if shape.memory_bytes else "",
                "GPUs": _ids(position for position, gpu in enumerate(shape.gpus) if domain.os_index in gpu.numa),
                "NICs": " ".join(nic.name for nic in shape.nics if domain.os_index in nic.numa),
                "remark": _remark(domain, shape),
            }
        )
    if homeless & shape.usable:
        rows.append(
            dict.fromkeys(rows[0], "")
            | {
                "NUMA": "-",
                "package": _packages_with(homeless & shape.usable, shape),
                "cores": _usable_cores(homeless, shape),
                "CPUs": str(homeless & shape.usable),
                "remark": "no memory of their own",
            }
        )
    return _table(rows)


def _packages_with(cpus: CpuSet, shape: NodeTopology) -> str:
    return " ".join(str(package.logical_index) for package in shape.packages if not package.cpus.isdisjoint(cpus))


def _usable_cores(cpus: CpuSet, shape: NodeTopology) -> str:
    return str(sum(not core.cpus.isdisjoint(cpus & shape.usable) for core in shape.cores))


def _remark(domain: NumaDomain, shape: NodeTopology) -> str:
    kind = _kind_of_memory(domain, shape)
    return kind if domain.allowed else f"{kind}{', ' if kind else ''}not allowed here"


def _kind_of_memory(domain: NumaDomain, shape: NodeTopology) -> str:
    if domain.local:
        return "" if domain.cpus & shape.usable else "no usable CPU"
    beside = [other.os_index for other in shape.numa_domains if other.local and not other.cpus.isdisjoint(domain.cpus)]
    place = f", beside {_ids(beside)}" if beside else ""
    return f"{domain.subtype or 'memory'} without CPUs{place}"


def _gpus(shape: NodeTopology) -> str:
    several = {gpu.pci_address for gpu in shape.gpus if gpu.partition and gpu.pci_address}
    return _table(
        [
            {
                "GPU": name,
                "model": _model(gpu),
                "memory": _size(gpu.memory_bytes) if gpu.memory_bytes else "",
                "address": _address(gpu.pci_address, gpu.partition if gpu.pci_address in several else None),
                "NUMA": _ids(gpu.numa),
                "CPUs": str(gpu.cpus),
                "NVLink": str(CpuSet.of(i for i, other in enumerate(shape.gpus) if other.pci_address in gpu.peers)),
                "names": " ".join(gpu.names),
            }
            for name, gpu in zip(gpu_ids(shape), shape.gpus, strict=True)
        ]
    )


def _address(pci_address: str, partition: int | None = None) -> str:
    """Return a PCI address, with the partition of one that several GPUs share; "" for what a preset has made up."""
    if pci_address.startswith(MADE_UP_PCI_DOMAIN):
        return ""
    return pci_address if partition is None else f"{pci_address}/{partition}"


def _model(gpu: Gpu) -> str:
    """Return vendor and model; the model alone where it says the vendor already."""
    return gpu.model if gpu.model.upper().startswith(gpu.vendor.upper()) else f"{gpu.vendor} {gpu.model}".strip()


def _nics(shape: NodeTopology) -> str:
    return _table(
        [
            {
                "NIC": nic.name,
                "fabric": nic.fabric,
                "link": "" if nic.linked else "down",
                "address": _address(nic.pci_address),
                "NUMA": _ids(nic.numa),
                "CPUs": str(nic.cpus),
            }
            for nic in shape.nics
        ]
    )


def _distance_lines(shape: NodeTopology) -> str:
    if len(shape.distances) <= 1:
        return ""
    names = [str(domain.os_index) for domain in shape.numa_domains]
    rows = [[name, *map(str, row)] for name, row in zip(names, shape.distances, strict=True)]
    return _indented(tables.plain(rows, ["NUMA", *names], align="right"))


def _ids(numbers: Iterable[int]) -> str:
    return str(CpuSet.of(numbers))


def _table(rows: list[dict[str, str]]) -> str:
    """Return the rows as aligned text without the columns that are empty in every row; "" without rows."""
    used = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    if not used:
        return ""
    right = {"NUMA", "GPU", "cores", "package", "memory"}
    return _indented(
        tables.simple(
            [[row[name] for name in used] for row in rows],
            used,
            align=["right" if name in right else "left" for name in used],
        )
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(size_bytes: int) -> str:
    """Return a size in the unit that keeps it short, "" for 0 (unknown)."""
    for unit, name in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.{0 if size_bytes >= _WHOLE * unit else 1}f} {name}".replace(".0 ", " ")
    return ""
