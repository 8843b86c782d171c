"""Unit tests of rankmap.differences: what a preset claims and a node contradicts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rankmap.cpuset import CpuSet
from rankmap.differences import differences
from rankmap.discovery.machine import load
from rankmap.topology import NodeTopology, OsIndex

RECORDED = Path(__file__).parents[2] / "../shared/topologies"


def node(name: str) -> NodeTopology:
    """Return the node of a preset or a file."""
    return load(name, environ=os.environ).shapes[0]


AURORA = node("aurora")


def test_a_node_as_published_contradicts_nothing() -> None:
    """Nothing is said of a node that is what the preset says."""
    assert [] == list(differences(AURORA, AURORA, "published"))


def test_what_is_not_published_is_not_compared() -> None:
    """Polaris' preset knows no memory sizes and no L3 caches: a node that has them is no contradiction."""
    polaris = node("polaris")
    with_more = node("synthetic:pack:1 numa:4(memory=128GB) l3:2 core:4 pu:2(indexes=2*32:32*1)")
    assert [] == list(differences(replace(polaris, gpus=(), nics=()), with_more, "published"))


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (node("laptop"), "cores: 104 published, 4 here"),
        (replace(AURORA, gpus=AURORA.gpus[:10]), "GPUs: 12 published, 10 visible here"),
        (
            replace(AURORA, usable=AURORA.usable - CpuSet.parse("3")),
            "CPUs 3: free for ranks as published, not usable here",
        ),
        (replace(AURORA, memory_bytes=512 << 30), "memory: 1152 GiB published, 512 GiB here"),
        (replace(AURORA, nics=AURORA.nics[1:]), "NIC hsn0: published, not here"),
        (
            replace(AURORA, numa_domains=tuple(d for d in AURORA.numa_domains if d.os_index != OsIndex(3))),
            "HBM NUMA domain 3: published, not here",
        ),
        (
            replace(AURORA, gpus=tuple(replace(gpu, cpus=CpuSet.parse("0-3")) for gpu in AURORA.gpus)),
            "GPU 5.1: close to CPUs 52-103,156-207 as published, to 0-3 here",
        ),
        (
            replace(AURORA, gpus=tuple(replace(gpu, vendor="AMD") for gpu in AURORA.gpus)),
            "GPU 0.0: one of Intel published, of AMD here",
        ),
        (
            node("synthetic:pack:2 [numa(memory=576GB)] core:52 pu:2"),
            "hardware threads: a core has CPUs 1,105 as published, 0-1 here",
        ),
    ],
)
def test_differences_are_named(live: NodeTopology, said: str) -> None:
    """Each is a sentence with what is published and what is there."""
    assert any(what.startswith(said) for what in differences(AURORA, live, "published")), list(
        differences(AURORA, live, "published")
    )


def test_other_caches_are_named() -> None:
    """A node whose cores share caches otherwise is not what is published."""
    frontier = node("frontier")
    other = node("synthetic:pack:1 numa:4(memory=128GB) l3:1 core:16 pu:2(indexes=2*64:64*1)")
    assert any(what.startswith("L3 caches: 8 published, 4 here") for what in differences(frontier, other, "published"))


@pytest.mark.parametrize(
    ("preset", "recorded"),
    [
        ("el-capitan-spx", "tuolumne-mi300a-spx.xml"),
        ("el-capitan-cpx", "tuolumne-mi300a-cpx.xml"),
        ("lassen", "lassen-p9-4v100.xml"),
        ("frontier", "tioga-mi250x.xml"),
        ("lumi-g", "tioga-mi250x.xml"),
    ],
)
def test_presets_are_what_was_recorded(preset: str, recorded: str) -> None:
    """Dumps of real nodes, which nobody made the presets from by hand, contradict nothing but how NICs are called."""
    if not (RECORDED / recorded).exists():
        pytest.skip("no ../shared/topologies beside the project")
    live = node(str(RECORDED / recorded))
    found = [what for what in differences(node(preset), live, "published") if not what.startswith("NIC hsn")]
    assert [] == found
