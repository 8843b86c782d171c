"""The topology table, as a person sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rankmap.discovery import machine
from rankmap.discovery.hwloc_xml import parse
from rankmap.exporters import topology as exporter
from rankmap.topology import Allocation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("case", "specs"),
    [
        ("topo-several-makers", ["{}/gpus-and-nics.xml"]),
        ("topo-hbm-restricted", ["{}/hbm-restricted.xml"]),
        ("topo-unequal-nodes", ["2x{}/hybrid.xml", "synthetic:pack:2 core:2 pu:2", "{}/hybrid.xml"]),
    ],
)
def test_table(case: str, specs: list[str], topologies: Path, golden: Callable[..., None]) -> None:
    """One block per kind of node names its hosts and shows what is in it."""
    allocation = machine.load_all([spec.format(topologies) for spec in specs], environ=os.environ)
    golden(case, exporter.table(allocation))


def test_table_of_all_kinds_of_devices(topologies: Path, golden: Callable[..., None]) -> None:
    """Partitions, tiles and cards, as they are before ranks get those of one maker."""
    spec = machine.MachineSpec.parse(str(topologies / "gpus-and-nics.xml"))
    node = parse(machine.machine_xml(spec, environ=os.environ), source=spec.name)
    golden("topo-gpus-and-nics", exporter.table(Allocation.of(tuple((f"n{i}", node) for i in range(3)))))
