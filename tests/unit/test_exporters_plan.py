from __future__ import annotations

import json
from dataclasses import replace

from rankmap.exporters.plan import ranks_lines, table
from rankmap.layout import LayoutSpec
from rankmap.placement import LocalPlacement, Plan
from rankmap.planner import plan
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))


def _with_first_rank(old: Plan, local: LocalPlacement) -> Plan:
    return replace(old, layouts=tuple(replace(layout, ranks=(local, *layout.ranks[1:])) for layout in old.layouts))


def test_table_has_a_row_for_every_rank() -> None:
    """Host, local rank, CPUs as a Linux list, NUMA domains and GPUs of every rank."""
    expected = """\
rank    node    local    cpus     numa    gpus
------  ------  -------  -------  ------  ------
0       n0      0        0-1,4-5  0       -
1       n0      1        2-3,6-7  1       -
2       n1      0        0-7      0,1     -"""

    assert expected == table(plan(allocation(NODE, NODE), LayoutSpec(n_ranks=3)))


def test_table_says_what_is_not_bound() -> None:
    """A rank without CPUs is unbound, and its GPUs are listed."""
    free = LocalPlacement(cpus=None, gpus=("0", "0.1"))

    rows = table(_with_first_rank(plan(allocation(NODE), LayoutSpec(n_ranks=1)), free)).splitlines()

    assert rows[2].split() == ["0", "n0", "0", "unbound", "-", "0,0.1"]


def test_a_long_table_is_cut_and_says_so() -> None:
    """Of more than 200 ranks the first 100 and the last 20 are shown."""
    lines = table(plan(allocation(*[NODE] * 51), LayoutSpec())).splitlines()

    assert len(lines) == 2 + 100 + 1 + 20 + 1
    assert [line.split()[0] for line in lines[101:104]] == ["99", "...", "184"]
    assert lines[-1] == "84 of 204 ranks are left out here; --format ranks prints every rank"


def test_ranks_are_lines_of_the_contract() -> None:
    """Key order, separators and null for what is not there are fixed."""
    first = LocalPlacement(cpus=None, gpus=("0",), mem="bind:0", env=(("A", "1"),))
    bound = plan(allocation(NODE, NODE), LayoutSpec(ranks_per_node=2))

    assert list(ranks_lines(bound))[3] == (
        '{"rank":3,"node":1,"host":"n1","local_rank":1,"cpus":[2,3,6,7],"numa":[1],"gpus":[],"mem":null,"env":{}}'
    )
    assert next(ranks_lines(_with_first_rank(bound, first))) == (
        '{"rank":0,"node":0,"host":"n0","local_rank":0,"cpus":null,"numa":[],"gpus":["0"],"mem":"bind:0","env":{"A":"1"}}'
    )
    assert [json.loads(line)["rank"] for line in ranks_lines(bound)] == list(range(4))
