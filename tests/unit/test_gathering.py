"""Unit tests of rankmap.gathering: which nodes are alike, what is kept of them, and the report that comes of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.exporters.report import table
from rankmap.gathering import FULL_RANKS, Gathered, likeness, merged
from rankmap.node_plan import NodePlan
from rankmap.observe import Observation, Pages, ThreadObservation
from rankmap.planner import plan
from rankmap.report import Verdict
from rankmap.requests import request
from rankmap.verification import report_of_nodes, verify_node
from tests.large_jobs import SERVICES, as_tree, elsewhere, gathered, hosts, seen_on
from tests.topologies_made import interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
JOB = plan(hosts(3, NODE), request(ranks_per_node=2))
LARGE = plan(hosts(10_000, made([[32], [32]], smt=2, number=interleaved(64))), request(ranks_per_node=64))


def changed(node: NodePlan, **what: object) -> dict[int, Observation]:
    """Return what is seen of a node's ranks, with this about the first otherwise."""
    seen = seen_on(node)
    first = min(seen)
    return {**seen, first: replace(seen[first], **what)}  # type: ignore[arg-type]


def thread(tid: int, cpus: str, ticks: int = 0) -> ThreadObservation:
    """Return a thread."""
    return ThreadObservation(tid=tid, cpus=CpuSet.parse(cpus), ticks=ticks)


@pytest.mark.parametrize(
    ("on_one", "on_other", "slug"),
    [
        ({"pid": 7}, {"pid": 8}, ""),
        ({"threads": ()}, {"threads": (thread(1, "0"),)}, ""),
        ({"pages": Pages(resident={0: 4096}, chosen={})}, {}, ""),
        ({"threads": (thread(71, "7"),)}, {"threads": (thread(82, "7"),)}, "thread-outside-cpus"),
        (
            {"pages": Pages(resident={1: 64 << 20}, chosen={})},
            {"pages": Pages(resident={1: 65 << 20}, chosen={})},
            "pages-remote",
        ),
        ({"threads": (thread(1, "0", 99), thread(2, "0", 99))},) * 2 + ("threads-on-one-core",),
        ({"cpus": CpuSet.parse("3")},) * 2 + ("cpus-differ",),
        ({"host": "other"},) * 2 + ("host-differs",),
    ],
)
def test_nodes_with_the_same_found_are_alike(on_one: dict[str, object], on_other: dict[str, object], slug: str) -> None:
    """Whatever their hosts, ranks, pids, thread ids and sizes are."""
    reports = [
        verify_node(NodePlan.of(JOB, i), changed(NodePlan.of(JOB, i), **what))
        for i, what in ((0, on_one), (2, on_other))
    ]
    assert likeness(reports[0]) == likeness(reports[1])
    assert [[slug] * bool(slug)] * 2 == [[one.slug for one in report.ranks[0].findings] for report in reports]


@pytest.mark.parametrize(
    "on_other",
    [
        {"cpus": CpuSet.parse("3")},
        {"cpus": CpuSet.parse("0-7")},
        {"mem": "bind:0"},
        {"variables": {"CUDA_VISIBLE_DEVICES": "1"}},
        {"gpu_uuids": ("GPU-1",)},
        {"threads": (thread(1, "6"),)},
        {"host": "other"},
    ],
)
def test_nodes_with_other_places_or_findings_are_not_alike(on_other: dict[str, object]) -> None:
    """Each of what a reader needs to trust a placement counts."""
    usual = verify_node(NodePlan.of(JOB, 0), changed(NodePlan.of(JOB, 0), threads=(thread(1, "7"),)))
    other = verify_node(NodePlan.of(JOB, 1), changed(NodePlan.of(JOB, 1), **on_other))
    assert likeness(usual) != likeness(other)


def test_nodes_that_were_not_looked_at_are_alike() -> None:
    """But not as those that were."""
    silent = [likeness(verify_node(NodePlan.of(JOB, i), {})) for i in range(2)]
    assert silent[0] == silent[1] != likeness(verify_node(NodePlan.of(JOB, 0), seen_on(NodePlan.of(JOB, 0))))


def test_nothing_cannot_be_merged() -> None:
    """There is no job without nodes."""
    with pytest.raises(ValueError, match="nothing to merge"):
        merged([])


def test_a_job_of_few_ranks_lists_all_of_them() -> None:
    """And which nodes are alike, and each node's services."""
    report = report_of_nodes(JOB, gathered(JOB, {2: elsewhere("0-7")})[:2])
    data = json.loads(report.to_json())
    assert ("mismatch", False, 6) == (data["verdict"], data["folded"], data["n_ranks"])
    assert {"match": 3, "mismatch": 1, "unobserved": 2, "warned": 0} == data["counts"]
    assert list(range(6)) == [rank["rank"] for rank in data["ranks"]]
    assert [
        {"nodes": str(i), "hosts": f"x000{i + 1}", "as": i, "verdict": verdict, "n_ranks": 2, "first_rank": 2 * i}
        | {"step": 0, "ranks": [[2 * i, 2, 1, 0]]}
        for i, verdict in enumerate(("match", "mismatch", "unobserved"))
    ] == data["nodes"]
    assert [{**service, "host": f"x000{i + 1}", "nodes": str(i)} for i in range(2) for service in SERVICES] == data[
        "services"
    ]


def test_alike_nodes_with_ranks_equally_far_apart_are_one_row() -> None:
    """Dealt over nodes too; of another number of ranks not."""
    job = plan(hosts(5, NODE), request(n_ranks=13, rank_by="node"))
    rows = report_of_nodes(job, gathered(job, {})).nodes
    assert [("0-2", 0, 1), ("3-4", 3, 1)] == [(str(row.nodes), row.first, row.step) for row in rows]
    assert [["x0001", "x0002", "x0003"], ["x0004", "x0005"]] == [list(row.hosts) for row in rows]


def test_ranks_without_a_pattern_are_left_to_the_plan() -> None:
    """In a file of small size they would be longer than all the rest."""
    (row,) = report_of_nodes(JOB, gathered(JOB, {})).nodes
    assert [[0, 2, 1, 0]] == row.to_dict()["ranks"]
    assert replace(row, runs=row.runs * 9).to_dict()["ranks"] is None


def large_parts(*wrong: int) -> list[Gathered]:
    """Return what the nodes of LARGE say, of which the first rank is wrong on some; alike ones are told by one."""

    def said(position: int, of: list[int], *, wrong: bool) -> Gathered:
        node = NodePlan.of(LARGE, position)
        seen = changed(node, cpus=CpuSet.parse(str(position % 32 + 1)), threads=()) if wrong else seen_on(node)
        return Gathered.of(verify_node(node, seen), n_job_ranks=node.n_job_ranks).also_of(of)

    right = [i for i in range(10_000) if i not in wrong]
    return [said(right[0], right, wrong=False), *(said(i, [i], wrong=True) for i in wrong)]


def test_ten_thousand_nodes_are_a_screen_and_a_small_file() -> None:
    """Every wrong rank and one node of each kind; fast."""
    assert LARGE.n_ranks == 640_000 > FULL_RANKS
    parts = large_parts(10, 4711, 9999)
    start = time.process_time()
    report = report_of_nodes(LARGE, [as_tree(parts, width=2)])
    text, shown = report.to_json(), table(report)
    assert time.process_time() - start < 5
    assert len(text) < 100_000
    assert len(shown.splitlines()) < 60
    data = json.loads(text)
    assert (True, 640_000, "mismatch") == (data["folded"], data["n_ranks"], data["verdict"])
    assert {"match": 639_997, "mismatch": 3, "unobserved": 0, "warned": 0} == data["counts"]
    assert [*range(64), 640, 301_504, 639_936] == [rank["rank"] for rank in data["ranks"]]
    assert [("0-9", 0), ("10", 10), ("11-4710", 0), ("4711", 4711), ("4712-9998", 0), ("9999", 9999)] == [
        (row["nodes"], row["as"]) for row in sorted(data["nodes"], key=lambda row: row["first_rank"])
    ]


def test_nodes_that_say_nothing_are_unobserved() -> None:
    """All 10,000 of them at once, too."""
    report = report_of_nodes(LARGE, [])
    assert (Verdict.UNOBSERVED, 640_000) == (report.verdict, report.counts.unobserved)
    assert 64 == len(report.ranks)
    assert ["0-9999"] == [str(row.nodes) for row in report.nodes]


def test_the_worst_job_still_fits() -> None:
    """Every rank on other CPUs than planned, on every node on others."""
    wrong = large_parts(*range(64))[1:]
    alike = wrong[0].alike[0]
    parts = [
        *wrong,
        *(replace(wrong[0], alike=(replace(alike, likeness=str(i), nodes=CpuSet.of([i])),)) for i in range(64, 10_000)),
    ]
    report = report_of_nodes(LARGE, [as_tree(parts, width=100)])
    text, shown = report.to_json(), table(report)
    assert len(text) < 2_000_000
    assert len(shown.splitlines()) < 60
    assert 10_000 == report.counts.mismatch
    assert "and 9990 more ranks with findings" in shown
