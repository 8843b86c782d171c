"""The topology table, as a person sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rankmap.discovery import machine
from rankmap.exporters import topology as exporter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("case", "specs"),
    [
        ("topo-gpus-and-nics", ["3x{}/gpus-and-nics.xml"]),
        ("topo-hbm-restricted", ["{}/hbm-restricted.xml"]),
        ("topo-unequal-nodes", ["2x{}/hybrid.xml", "synthetic:pack:2 core:2 pu:2", "{}/hybrid.xml"]),
    ],
)
def test_table(case: str, specs: list[str], topologies: Path, golden: Callable[..., None]) -> None:
    """One block per kind of node names its hosts and shows what is in it."""
    allocation = machine.load_all([spec.format(topologies) for spec in specs], environ=os.environ)
    golden(case, exporter.table(allocation))
