from __future__ import annotations

from dataclasses import replace

from rankmap.cpuset import CpuSet
from rankmap.exporters.report import table
from rankmap.layout import LayoutSpec
from rankmap.observe import Observation, ThreadObservation
from rankmap.planner import plan
from rankmap.report import RankReport, Report
from rankmap.verification import report_of_nodes, verify
from tests.large_jobs import gathered
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
PLAN = plan(allocation(NODE), LayoutSpec(n_ranks=2))
SEEN = {rank.rank: Observation(rank=rank.rank, host="n0", pid=10, cpus=rank.cpus or CpuSet()) for rank in PLAN.ranks}


def rows(report: Report) -> list[list[str]]:
    """Return the words of every row of the table."""
    return [line.split() for line in table(report).splitlines()[2:]]


def test_a_row_has_both_sides_as_linux_lists() -> None:
    """Planned and observed stand side by side; no thread seen is a dash."""
    expected = [["0", "n0", "10", "0-1,4-5", "0-1,4-5", "0", "-", "ok"]]
    assert expected == rows(verify(PLAN, SEEN))[:1]


def test_findings_are_capitals_at_the_end_each_kind_once() -> None:
    """What is wrong meets the eye, and ten threads outside are one word."""
    outside = tuple(ThreadObservation(tid=tid, cpus=CpuSet(1)) for tid in (1, 2))
    wrong = {1: replace(SEEN[1], cpus=CpuSet.parse("3"), threads=outside)}
    expected = [
        ["0", "n0", "-", "0-1,4-5", "not", "observed", "-", "-", "UNOBSERVED"],
        ["1", "n0", "10", "2-3,6-7", "3", "1", "2", "CPUS-DIFFER,", "THREAD-OUTSIDE-CPUS"],
    ]
    assert expected == rows(verify(PLAN, wrong))


def test_a_rank_without_binding_or_domain_is_shown_as_such() -> None:
    """``unbound`` is not an empty list of CPUs."""
    planned: dict[str, object] = {"host": "n0", "cpus": None, "numa": [], "gpus": [], "mem": None}
    seen = {"host": "n0", "pid": 5, "cpus": [0, 1], "numa": [], "gpus": None, "mem": None, "threads": 3}
    report = Report(ranks=(RankReport(rank=0, planned=planned, observed=seen, findings=()),))
    assert rows(report) == [["0", "n0", "5", "unbound", "0-1", "-", "3", "ok"]]


def test_services_are_grouped_by_place() -> None:
    """Equal places share a line, equal names are counted, a lowered priority is said."""
    services = [
        {"pid": 1, "name": "Dragon runtime", "cpus": [0, 1], "idle": False},
        {"pid": 2, "name": "Dragon group service", "cpus": [0, 1], "idle": True},
        {"pid": 3, "name": "Dragon group service", "cpus": [0, 1], "idle": True},
        {"pid": 4, "name": "rankmap head", "cpus": [0, 1], "idle": False},
    ]
    assert table(verify(PLAN, SEEN, services=services)).splitlines()[-2:] == [
        "services on CPUs 0-1: 1 x Dragon runtime, 1 x rankmap head",
        "services on CPUs 0-1, SCHED_IDLE: 2 x Dragon group service",
    ]


def test_many_kinds_of_node_are_told_in_a_line_each() -> None:
    """When the screen is full; lines and services of kinds that are too many are counted."""
    shapes = [made([[n]]) for n in range(20, 4, -1)]
    job = plan(allocation(*shapes), LayoutSpec())
    text = table(report_of_nodes(job, gathered(job, {})))
    lines = text.splitlines()
    assert [f"node {i} (n{i}): {20 - i} ranks each, all ok" for i in range(1, 6)] == lines[-8:-3]
    assert "... and 10 more kinds of node, all ok" == lines[-3]
    assert 2 + 20 + 6 + 2 == len(lines)


def test_few_ranks_on_several_nodes_are_all_shown() -> None:
    """They are a screen anyway."""
    job = plan(allocation(NODE, NODE), LayoutSpec(n_ranks=4))
    lines = table(report_of_nodes(job, gathered(job, {}))).splitlines()
    assert ["0", "1", "2", "3"] == [line.split()[0] for line in lines[2:6]]
    assert ["services on CPUs 0: 1 x rankmap agent (nodes 0-1)"] == lines[7:]
