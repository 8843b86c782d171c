"""What --report-bindings and --report show, as a person reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.exporters.report import table
from rankmap.layout import LayoutSpec
from rankmap.observe import Observation, ThreadObservation
from rankmap.planner import plan
from rankmap.verification import verify
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


def report(*, wrong: bool) -> Report:
    """Return the report of 8 ranks on two nodes; all as planned, or one of each kind of trouble."""
    node = made([[4], [4]], smt=2, number=interleaved(8))
    job = plan(allocation(node, node), LayoutSpec(n_ranks=8))
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
