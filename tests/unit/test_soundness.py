from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Pattern
from rankmap.placement import LocalPlacement, NodeLayout, Part, Plan, PlannedNode
from rankmap.planner import plan
from rankmap.runs import Run
from rankmap.soundness import check, violations
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
SMALL = made([[2]])
PLAN = plan(allocation(NODE, SMALL, NODE, NODE), LayoutSpec(n_ranks=8, hosts=("n0", "n2", "n3")))


def _on_one_node(*cpus: str | None, parts: tuple[Part, ...] = ()) -> Plan:
    """Return a plan with these ranks on one NODE: core i has the PUs i and i + 4."""
    ranks = tuple(LocalPlacement(cpus=None if text is None else CpuSet.parse(text)) for text in cpus)
    return Plan(
        allocation=allocation(NODE),
        parts=parts or (Part(spec=LayoutSpec(), n_ranks=len(cpus)),),
        layouts=(NodeLayout(shape_index=0, ranks=ranks),),
        nodes=(PlannedNode(node_index=0, layout_index=0, runs=(Run(first=0, size=len(cpus)),)),),
    )


def _asked(made_plan: Plan, spec: LayoutSpec) -> Plan:
    return replace(made_plan, parts=(Part(spec=spec, n_ranks=made_plan.n_ranks),))


def test_check_stops_a_wrong_plan() -> None:
    """A plan that cannot hold never leaves the planner."""
    twice = replace(PLAN, nodes=(PLAN.nodes[0], PLAN.nodes[0]))

    assert violations(twice) == ["n0 is planned twice"]
    with pytest.raises(AssertionError, match="n0 is planned twice"):
        check(twice)
    astray = replace(PLAN, nodes=(replace(PLAN.nodes[0], node_index=9, layout_index=9),))
    assert violations(astray) == ["node 9 is planned, and is not there", "layout 9 is used, and is not there"]


def test_sharing_is_allowed_only_where_asked() -> None:
    """Ranks may share cores under --oversubscribe; hyperthreads of a core count as shared."""
    shared = _on_one_node("0", "4")

    assert violations(shared) == ["local rank 1 has no core of its own in CPUs 4"]
    assert violations(_asked(shared, LayoutSpec(oversubscribe=True))) == []
    assert violations(_asked(shared, LayoutSpec(bind_to=BindTo(explicit=True, overload=True)))) == []


def test_hardware_threads_are_enough_where_they_were_asked_for() -> None:
    """Two ranks may have a PU of one core each when processors are PUs."""
    for pattern in (MapBy(pattern=Pattern.SLOT, threads=True), MapBy(pattern=Pattern.OBJECT, level=Level.HWTHREAD)):
        assert violations(_asked(_on_one_node("0", "4"), LayoutSpec(map_by=pattern))) == []
        assert violations(_asked(_on_one_node("0", "0"), LayoutSpec(map_by=pattern))) == [
            "local ranks 0-1 share CPUs 0, which are 1 cores"
        ]


def test_ranks_that_are_bound_to_the_same_object_need_a_core_each() -> None:
    """A set of CPUs may be shared by as many ranks as it has cores."""
    assert violations(_on_one_node("0-1,4-5", "0-1,4-5")) == []
    assert violations(_on_one_node("0-1,4-5", "0-1,4-5", "0-1,4-5")) == [
        "local ranks 0-2 share CPUs 0-1,4-5, which are 2 cores"
    ]


@pytest.mark.parametrize(
    ("cpus", "problem"),
    [
        (("0-1", "1-2", "2-3", "0,3"), ""),
        (("0-1", "0-1", "1-2"), ""),
        (("0-3", "0-3", "0-3", "0"), ""),
        (("0-2", "0-2", "0-1", "2"), "local rank 1 has no core of its own in CPUs 0-2"),
        (("0-1", "0-1", "1"), "local rank 1 has no core of its own in CPUs 0-1"),
        (("0-1", "4-5", "0,5"), "local rank 2 has no core of its own in CPUs 0,5"),
    ],
)
def test_sets_that_overlap_leave_each_rank_a_core(cpus: tuple[str, ...], problem: str) -> None:
    """Whichever ranks have to give way: there is a core for each, or the plan cannot hold."""
    assert ([problem] if problem else []) == violations(_on_one_node(*cpus))


def test_unbound_ranks_take_no_core() -> None:
    """They may be anywhere."""
    assert violations(_on_one_node(None, None, "0", "1", "2", "3")) == []


def test_reserved_cpus_are_free_of_ranks() -> None:
    """A rank is bound to usable CPUs that were not reserved."""
    assert violations(_asked(_on_one_node("0,4"), LayoutSpec(reserve=CpuSet.parse("4")))) == [
        "local rank 0 is bound to CPUs 4, which are not free for ranks"
    ]


def test_each_rank_is_judged_by_its_parts_request() -> None:
    """What the second part reserves the first may use."""
    parts = (
        Part(spec=LayoutSpec(), n_ranks=1),
        Part(spec=LayoutSpec(reserve=CpuSet.parse("0,4")), n_ranks=1),
    )
    assert violations(_on_one_node("0,4", "1,5", parts=parts)) == []
    assert violations(_on_one_node("1,5", "0,4", parts=parts)) == [
        "local rank 1 is bound to CPUs 0,4, which are not free for ranks"
    ]


def test_parts_have_the_ranks_of_the_job() -> None:
    """Their numbers of ranks add up, and none is empty."""
    part = Part(spec=LayoutSpec(), n_ranks=2)
    assert violations(_on_one_node("0", "1", parts=(part,))) == []
    assert violations(_on_one_node("0", "1", parts=(part, part))) == ["its parts have 4 ranks, its nodes 2"]
    assert violations(_on_one_node("0", "1", parts=(part, replace(part, n_ranks=0)))) == ["it has a part without ranks"]
    assert violations(replace(_on_one_node("0"), parts=())) == ["it has no parts"]


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


def test_uuids_are_one_for_each_gpu() -> None:
    """A saved plan whose list was edited is refused, not read with the wrong ones."""
    node = replace(PLAN.allocation.nodes[0], gpu_uuids=("GPU-0",))
    edited = replace(PLAN, allocation=replace(PLAN.allocation, nodes=(node, *PLAN.allocation.nodes[1:])))
    assert violations(edited) == ["n0 has 1 UUIDs for 0 GPUs"]
