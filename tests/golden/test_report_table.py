"""What --report-bindings and --report show, as a person reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.exporters.report import table
from rankmap.gathering import Gathered
from rankmap.layout import LayoutSpec
from rankmap.node_plan import NodePlan
from rankmap.observe import Observation, ThreadObservation
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.verification import report_of_nodes, verify, verify_node
from tests.large_jobs import elsewhere, gathered, hosts, seen_on
from tests.topologies_made import allocation, interleaved, made

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.report import Report

SERVICES = (
    {"pid": 40, "name": "Dragon runtime", "cpus": [0, 1], "idle": False},
    {"pid": 41, "name": "rankmap head", "cpus": [0, 1], "idle": False},
    {"pid": 42, "name": "Dragon group service", "cpus": [0, 1], "idle": True},
    {"pid": 43, "name": "Dragon group service", "cpus": [0, 1], "idle": True},
)
NODE = made([[4], [4]], smt=2, number=interleaved(8))
WIDE = made([[16], [16]], smt=2, number=interleaved(32))


def report(*, wrong: bool) -> Report:
    """Return the report of 8 ranks on two nodes; all as planned, or one of each kind of trouble."""
    job = plan(allocation(NODE, NODE), LayoutSpec(n_ranks=8))
    seen = {}
    for rank in job.iter_ranks():
        cpus = rank.cpus or CpuSet()
        threads = tuple(ThreadObservation(tid=500 + i, cpus=cpus) for i in range(4))
        seen[rank.rank] = Observation(rank=rank.rank, host=rank.host, pid=1000 + rank.rank, cpus=cpus, threads=threads)
    if wrong:
        stray = (*seen[3].threads, ThreadObservation(tid=504, cpus=CpuSet.parse("0-15")))
        seen[1] = replace(seen[1], cpus=CpuSet.parse("0-15"))
        seen[3] = replace(seen[3], threads=stray)
        seen[4] = replace(seen[4], host="n0", threads=())
        del seen[6]
    return verify(job, seen, services=SERVICES)


def test_all_as_planned(golden: Callable[..., None]) -> None:
    """Both sides, ``ok`` at the end of every row, the services below, and the verdict."""
    right = report(wrong=False)
    golden("report-as-planned", f"{table(right)}\n{right.summary()}\n")
    golden("report-as-planned", right.to_json(), name="report.json")


def test_every_kind_of_trouble(golden: Callable[..., None]) -> None:
    """Wrong CPUs, a thread outside, another host, a rank that was never looked at."""
    wrong = report(wrong=True)
    golden("report-trouble", f"{table(wrong)}\n{wrong.summary()}\n")
    golden("report-trouble", wrong.to_json(), name="report.json")


def test_one_node_of_64_deviates(golden: Callable[..., None]) -> None:
    """What is wrong comes first, then one node in full, then which are like it; the file has every rank."""
    job = plan(hosts(64, NODE), request(ranks_per_node=8))
    found = {130: elsewhere("0-15"), 131: elsewhere("1"), 135: lambda _seen: None}
    folded = report_of_nodes(job, gathered(job, found))
    golden("report-64-nodes", f"{table(folded)}\n{folded.summary()}\n")
    assert 512 == len(folded.ranks)


def test_ten_thousand_nodes(golden: Callable[..., None]) -> None:
    """A screen, and a file of one node and the ranks with findings; each node that is alike is told by one."""
    job = plan(hosts(10_000, WIDE), request(ranks_per_node=32, rank_by="node"))
    right, wrong = (NodePlan.of(job, i) for i in (0, 4711))
    seen = seen_on(wrong)
    seen[4711] = elsewhere("0-63")(seen[4711])
    parts = [
        Gathered.of(verify_node(right, seen_on(right), services=SERVICES[:2]), n_job_ranks=job.n_ranks).also_of(
            i for i in range(9_990) if i != 4711
        ),
        Gathered.of(verify_node(wrong, seen), n_job_ranks=job.n_ranks),
    ]
    folded = report_of_nodes(job, parts)
    text = folded.to_json()
    golden("report-10000-nodes", f"{table(folded)}\n{folded.summary()}\n")
    golden("report-10000-nodes", text, name="report.json")
