"""The planner on recordings of real machines, where the checkout has them beside it."""

from __future__ import annotations

import os
from functools import reduce
from operator import or_
from pathlib import Path

import pytest

from rankmap.cpuset import CpuSet
from rankmap.discovery.machine import load
from rankmap.layout import LayoutSpec
from rankmap.placement import Plan
from rankmap.planner import plan
from rankmap.processors import ground

RECORDED = sorted((Path(__file__).parents[2] / "../shared/topologies").glob("*.xml"))


@pytest.mark.skipif(not RECORDED, reason="no recorded machines in ../shared/topologies")
@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.stem)
def test_every_recorded_machine_is_planned(file: Path) -> None:
    """Whatever the machine: full, one rank per node on its fast cores, and one per domain have a plan that holds."""
    nodes = load(f"2x{file}", environ=os.environ)
    (shape,) = nodes.shapes
    domains = ground(shape).domains
    n_cores = sum(map(len, domains))

    full = plan(nodes, LayoutSpec())
    whole = plan(nodes, LayoutSpec(ranks_per_node=1))
    per_domain = plan(nodes, LayoutSpec(ranks_per_node=len(domains)))

    assert full.n_ranks == 2 * n_cores
    assert all(len(rank.numa) <= 1 for rank in full.ranks)
    fast = [core.cpus.mask for core in shape.cores if shape.core_classes().get(core.kind, 0) == 0]
    assert [rank.cpus for rank in whole.ranks] == [CpuSet(reduce(or_, fast)) & shape.usable] * 2
    assert per_domain.n_ranks == 2 * len(domains)
    assert Plan.from_json(full.to_json()) == full
