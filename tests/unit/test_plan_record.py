from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec
from rankmap.placement import LocalPlacement, Plan
from rankmap.plan_record import topology_digest
from rankmap.planner import plan
from rankmap.runs import Run
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
SMALL = made([[2]])
PLAN = plan(allocation(NODE, SMALL, NODE, NODE), LayoutSpec(n_ranks=8, hosts=("n0", "n2", "n3")))


def test_json_round_trip() -> None:
    """What to_json wrote comes back equal, on one line."""
    text = PLAN.to_json()

    assert Plan.from_json(text) == PLAN
    assert "\n" not in text
    assert json.loads(text)["schema"] == "rankmap.plan/1"


def test_json_keeps_what_later_rules_fill_in() -> None:
    """GPUs, memory, environment and unbound ranks travel too."""
    rich = LocalPlacement(cpus=None, gpus=("0", "0.1"), mem="bind:0", env=(("OMP_NUM_THREADS", "4"),))
    one = replace(PLAN, layouts=tuple(replace(x, ranks=(rich, *x.ranks[1:])) for x in PLAN.layouts))

    assert one == Plan.from_json(one.to_json())


def test_equal_nodes_in_a_row_are_one_entry() -> None:
    """The file grows with the kinds of node, not with the ranks."""
    nodes = json.loads(PLAN.to_json())["nodes"]

    assert [run["hosts"] for run in nodes] == [["n0"], ["n1"], ["n2"], ["n3"]]
    assert [[run["first"] for run in node["ranks"]] for node in nodes] == [[0], [], [3], [6]]
    big = plan(allocation(*[NODE] * 5), LayoutSpec())
    assert [run["hosts"] for run in json.loads(big.to_json())["nodes"]] == [["n0", "n1", "n2", "n3", "n4"]]


def test_digests_tell_topologies_apart() -> None:
    """Equal topologies have equal digests, others other ones."""
    assert topology_digest(NODE) == topology_digest(replace(NODE))
    assert topology_digest(NODE) != topology_digest(NODE.restricted(CpuSet.parse("0")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the plan is not JSON"),
        ("[" * 100_000, "the plan is not JSON"),
        ("[]", "not a plan: schema is None"),
        ('{"schema":"rankmap.plan/2"}', "not a plan: schema is 'rankmap.plan/2'"),
        ('{"schema":"rankmap.plan/1"}', "plan has no 'n_ranks'"),
    ],
)
def test_other_text_is_refused(text: str, message: str) -> None:
    """Text that is no plan is a usage error that says what it is not."""
    with pytest.raises(UsageError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), 1, "plan has an unknown key 'extra'"),
        (("n_ranks",), 9, "the plan cannot hold: n_ranks is 9, the nodes have 8"),
        (("nodes", 0, "layout"), 7, r"plan.nodes\[0\] has layout 7"),
        (("nodes", 0, "layout"), -1, r"plan.nodes\[0\] has layout -1"),
        (("nodes", 0, "ranks"), [], r"plan.nodes\[0\] has layout 0 and 0 runs of ranks"),
        (("nodes", 0, "ranks", 0, "first"), 2, "n0 has rank|n2 has rank 3, which another node or run has too"),
        (("nodes", 0, "ranks", 0, "first"), -1, "n0 has ranks -1 to 1, the job 0 to 7"),
        (("nodes", 0, "ranks", 0, "size"), 0, "n0 has 0 ranks and a layout for 3"),
        (("nodes", 0, "ranks", 0, "blocks"), 10**12, "n0 has 3000000000000 ranks and a layout for 3"),
        (("nodes", 0, "shape"), 1, "n0 has a layout for another shape"),
        (("nodes", 0, "shape"), 5, "n0 has shape 5, which is not there"),
        (("layouts", 0, "shape_index"), 5, "layout 0 is for shape 5, which is not there"),
        (("layouts", 0, "ranks"), [], "layout 0 has no ranks"),
        (("layouts", 0, "ranks", 0, "cpus"), "", "local rank 0 is bound to no CPU"),
        (("layouts", 0, "ranks", 0, "cpus"), "0,99", "local rank 0 is bound to CPUs 99, which are not free"),
        (("layouts", 0, "ranks", 0, "cpus"), "1", "local rank 1 has no core of its own in CPUs 1,5"),
        (("layouts", 0, "ranks", 0, "cpus"), "1,5", "local ranks 0-1 share CPUs 1,5, which are 1 cores"),
        (("parts",), [], "the plan cannot hold: it has no parts"),
        (("parts", 0, "n_ranks"), 7, "the plan cannot hold: its parts have 7 ranks, its nodes 8"),
        (("parts", 0, "spec", "map_by", "pattern"), "none", r"plan.parts\[0\].spec.map_by.pattern is not auto or slot"),
        (("parts", 0, "spec", "map_by", "pattern"), [], r"plan.parts\[0\].spec.map_by.pattern is not auto or slot"),
        (("parts", 0, "spec", "map_by", "level"), {}, r"plan.parts\[0\].spec.map_by.level is not hwthread or core"),
        (("parts", 0, "spec", "map_by", "pattern"), "object", "map_by object without what it needs: an object"),
        (("parts", 0, "spec", "map_by", "pattern"), "manual", "map_by manual without what it needs: a CPU list"),
        (("parts", 0, "spec", "map_by", "pattern"), "seq", "map_by seq without what it needs: a file"),
        (("parts", 0, "spec", "map_by", "count"), 0, "map_by auto without what it needs"),
        (("shapes", 0, "digest"), "sha256:00", r"plan.shapes\[0\].digest does not belong to its topology"),
        (("shapes", 0, "topology", "usable"), "0", r"plan.shapes\[0\].digest does not belong to its topology"),
        (("nodes",), [], "the plan cannot hold: it has no ranks"),
    ],
)
def test_a_plan_changed_by_hand_is_refused(path: tuple[str | int, ...], value: object, message: str) -> None:
    """What is read back is checked like a new plan."""
    data: Any = json.loads(PLAN.to_json())
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value

    with pytest.raises(UsageError, match=message):
        Plan.from_json(json.dumps(data))


def test_ranks_dealt_over_equal_nodes_are_one_entry_too() -> None:
    """The first node's runs, and by how much each next one's are larger."""
    big = plan(allocation(*[NODE] * 5), LayoutSpec())
    dealt = replace(
        big, nodes=tuple(replace(n, runs=(Run(first=i, size=1, blocks=4, stride=5),)) for i, n in enumerate(big.nodes))
    )
    (row,) = json.loads(dealt.to_json())["nodes"]
    assert ([{"first": 0, "size": 1, "blocks": 4, "stride": 5}], 1) == (row["ranks"], row["step"])
    assert dealt == Plan.from_json(dealt.to_json())
