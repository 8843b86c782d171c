from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.layout import LayoutSpec
from rankmap.placement import LocalPlacement, NodeLayout
from rankmap.planner import plan
from rankmap.runs import Run
from rankmap.soundness import check, violations
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
SMALL = made([[2]])
PLAN = plan(allocation(NODE, SMALL, NODE, NODE), LayoutSpec(n_ranks=8, hosts=("n0", "n2", "n3")))


def test_check_stops_a_wrong_plan() -> None:
    """A plan that cannot hold never leaves the planner."""
    twice = replace(PLAN, nodes=(PLAN.nodes[0], PLAN.nodes[0]))

    assert violations(twice) == ["n0 is planned twice"]
    with pytest.raises(AssertionError, match="n0 is planned twice"):
        check(twice)
    astray = replace(PLAN, nodes=(replace(PLAN.nodes[0], node_index=9, layout_index=9),))
    assert violations(astray) == ["node 9 is planned, and is not there", "layout 9 is used, and is not there"]


def test_sharing_is_allowed_only_where_asked() -> None:
    """Ranks may share cores under --oversubscribe, hyperthreads of a core count as shared."""
    two = (LocalPlacement(cpus=CpuSet.parse("0")), LocalPlacement(cpus=CpuSet.parse("4")))
    node = replace(PLAN.nodes[0], runs=(Run(first=0, size=2),))
    shared = replace(PLAN, layouts=(NodeLayout(shape_index=0, ranks=two),), nodes=(node,))

    assert violations(shared) == ["local ranks 0 and 1 share a core"]
    assert violations(replace(shared, spec=LayoutSpec(oversubscribe=True))) == []


def test_every_rank_is_there_once() -> None:
    """Whatever the pattern of the numbers: none twice, none left out, none beyond the last."""
    first, second, third = PLAN.nodes
    same = replace(PLAN, nodes=(first, replace(second, runs=first.runs), third))
    assert violations(same) == ["n2 has rank 0, which another node or run has too"]
    far = replace(PLAN, nodes=(first, replace(second, runs=(Run(first=3, size=1, blocks=3, stride=4),)), third))
    assert violations(far) == ["n2 has ranks 3 to 11, the job 0 to 7"]
    crossed = replace(second, runs=(Run(first=3, size=1, blocks=3, stride=2),))
    assert violations(replace(PLAN, nodes=(first, crossed, third))) == [
        "n3 has rank 7, which another node or run has too"
    ]
