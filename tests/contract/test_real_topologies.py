"""The 26 real machines of ../shared/topologies: what comes out is what is known of them and what hwloc's tools say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rankmap.discovery import hwloc
from rankmap.discovery.hwloc_xml import parse

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.topology import NodeTopology


class Counts(NamedTuple):
    """What SOURCES.md says of a machine; ``without_cpus`` are domains that no rank's CPUs can be in."""

    packages: int
    numa: int
    without_cpus: int
    l3: int
    cores: int
    pus: int
    usable: int
    present: int
    gpus: int


EXPECTED = {
    "aws-g4dn-metal-8t4": Counts(2, 2, 0, 2, 48, 96, 96, 96, 8),
    "azure-epyc9v33x-176c-smt1": Counts(2, 4, 0, 24, 176, 176, 176, 176, 0),
    "cascadelake-ap-4s": Counts(4, 4, 0, 4, 96, 192, 192, 192, 0),
    "catalyst-ivb-v1": Counts(2, 2, 0, 0, 24, 48, 48, 48, 0),
    "cgroup2-6of32-memless": Counts(3, 6, 4, 6, 6, 6, 6, 32, 0),
    "corona-rome-2numa-8gpu": Counts(2, 2, 0, 16, 48, 96, 96, 96, 8),
    "cpuset-restricted-8numa": Counts(6, 5, 2, 0, 10, 10, 10, 16, 0),
    "dgx-spark-gb10-arm-hybrid": Counts(1, 1, 0, 2, 20, 20, 20, 20, 0),
    "epyc-naples-2s-8numa-v1xml": Counts(2, 8, 0, 16, 64, 128, 128, 128, 0),
    "epyc7451-1s-4numa-rsmi": Counts(1, 4, 0, 8, 24, 48, 48, 48, 1),
    "epyc9654-2s-384pu-noNUMA": Counts(2, 1, 0, 24, 192, 384, 384, 384, 0),
    "ipa20-spr-snc4-4xh100": Counts(2, 8, 0, 2, 112, 224, 224, 224, 4),
    "knl-snc4-flat": Counts(1, 8, 4, 0, 68, 272, 272, 272, 0),
    "lassen-p9-4v100": Counts(2, 2, 0, 20, 40, 160, 160, 176, 4),
    "memside-cache-clx-snc2": Counts(2, 4, 0, 2, 40, 80, 80, 80, 0),
    "offline-cpus-smt-mixed": Counts(4, 1, 0, 4, 6, 7, 7, 16, 0),
    "pascal-bdw-2p100": Counts(2, 2, 0, 2, 36, 72, 72, 72, 2),
    "power8-4gpu-distances": Counts(2, 2, 0, 8, 8, 16, 16, 16, 4),
    "quartz-bdw-smt1-restricted": Counts(2, 2, 0, 2, 36, 36, 36, 72, 0),
    "raptorlake-hybrid-pe": Counts(1, 1, 0, 1, 14, 20, 20, 20, 0),
    "rzansel-p9-v1xml-cpulessnuma": Counts(2, 6, 4, 24, 44, 176, 176, 176, 4),
    "sgi-uv-24s-384pu": Counts(24, 24, 0, 24, 192, 384, 384, 384, 0),
    "tioga-mi250x": Counts(1, 4, 0, 8, 64, 128, 128, 128, 8),
    "tuolumne-mi300a-cpx": Counts(4, 4, 0, 12, 96, 192, 192, 192, 24),
    "tuolumne-mi300a-spx": Counts(4, 4, 0, 12, 96, 192, 192, 192, 4),
    "turin-2x9555-4gpu-nvml": Counts(2, 8, 0, 16, 128, 256, 256, 256, 4),
}

WITHOUT_MEMORY = {"cpuset-restricted-8numa"}
"""Machines that have CPUs whose memory a cgroup takes away."""


def load(path: Path) -> NodeTopology:
    """Return the machine of a file."""
    return parse(hwloc.file_xml(path, os.environ), source=path.name)


def counts(node: NodeTopology) -> Counts:
    """Return what is counted of a machine."""
    return Counts(
        packages=len(node.packages),
        numa=len(node.numa_domains),
        without_cpus=sum(not d.local or d.cpus.isdisjoint(node.usable) for d in node.numa_domains),
        l3=sum(cache.level == 3 for cache in node.caches),
        cores=len(node.cores),
        pus=sum(len(core.pus) for core in node.cores),
        usable=len(node.usable),
        present=len(node.present),
        gpus=len(node.gpus),
    )


def test_table_is_complete(shared_topologies: Path) -> None:
    """Every file has a row."""
    assert sorted(EXPECTED) == sorted(path.stem for path in shared_topologies.glob("*.xml"))


@pytest.mark.parametrize("name", EXPECTED)
def test_known_counts(name: str, shared_topologies: Path) -> None:
    """The machine has as many of everything as its source says."""
    assert EXPECTED[name] == counts(load(shared_topologies / f"{name}.xml"))


@pytest.mark.parametrize("name", EXPECTED)
def test_holds_together(name: str, shared_topologies: Path) -> None:
    """Whatever the machine, the parts of its topology agree with each other."""
    node = load(shared_topologies / f"{name}.xml")
    pus = [pu.os_index for core in node.cores for pu in core.pus]
    assert len(pus) == len(set(pus))
    assert node.usable.issubset(type(node.usable).of(pus))
    assert node.usable.issubset(node.present)
    homes = [sum(domain.local and pu in domain.cpus for domain in node.numa_domains) for pu in pus]
    assert max(homes) == 1
    assert (0 in homes) == (name in WITHOUT_MEMORY)
    assert len(node.distances) in {0, len(node.numa_domains)}
    assert all(node.distances[i][i] == min(node.distances[i]) for i in range(len(node.distances)))
    assert all(gpu.vendor for gpu in node.gpus)
    domains = {domain.os_index for domain in node.numa_domains}
    assert all(set(gpu.numa) <= domains for gpu in node.gpus)
    assert all(set(nic.numa) <= domains for nic in node.nics)


@pytest.mark.parametrize("name", EXPECTED)
def test_agrees_with_hwloc_info(name: str, shared_topologies: Path) -> None:
    """Hwloc's own tool counts the same packages, dies, domains, caches, cores and PUs, in the same order."""
    if shutil.which("hwloc-info") is None or shutil.which("lstopo-no-graphics") is None:
        pytest.skip("hwloc's tools (hwloc-info, lstopo-no-graphics) are not installed")
    path = shared_topologies / f"{name}.xml"
    node = load(path)
    found: dict[str, int] = {}
    for line in tool("hwloc-info", "--disallowed", "-i", str(path)):
        match = re.match(r"\s*(?:Special )?depth -?\d+:\s+(\d+) ([A-Za-z0-9]+)", line)
        if match:
            found[match[2]] = found.get(match[2], 0) + int(match[1])
    mine = {
        "Package": len(node.packages),
        "Die": len(node.dies),
        "NUMANode": len(node.numa_domains),
        "L2Cache": sum(cache.level == 2 for cache in node.caches),
        "L3Cache": sum(cache.level == 3 for cache in node.caches),
        "Core": len(node.cores),
        "PU": sum(len(core.pus) for core in node.cores),
    }
    assert {kind: found.get(kind, 0) for kind in mine} == mine
    pus = tool("lstopo-no-graphics", "--disallowed", "-i", str(path), "--only", "pu", "-p")
    assert [int(re.findall(r"P#(\d+)", line)[0]) for line in pus] == [
        pu.os_index for core in node.cores for pu in core.pus
    ]
    domains = tool("lstopo-no-graphics", "--disallowed", "-i", str(path), "--only", "numa", "-p")
    assert [int(re.findall(r"P#(\d+)", line)[0]) for line in domains] == [d.os_index for d in node.numa_domains]


def tool(*command: str) -> list[str]:
    """Return the lines that one of hwloc's tools prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()


def test_largest_is_read_quickly(shared_topologies: Path) -> None:
    """The largest machine (384 PUs) is read in well under 100 ms of CPU time, libhwloc included."""
    path = max(shared_topologies.glob("*.xml"), key=lambda path: path.stat().st_size)
    times = []
    for _ in range(3):
        start = time.process_time()
        load(path)
        times.append(time.process_time() - start)
    assert min(times) < 0.1
