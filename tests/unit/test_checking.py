"""When running ranks are looked at and what comes of it, with real processes and time that passes when a test says so.

The processes wait to be told something, so they sleep where they are, and each look finds them there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from rankmap.cpuset import CpuSet
from rankmap.node_plan import NodePlan
from rankmap.observe import Observation, ThreadObservation
from rankmap.planner import plan
from rankmap.report import Verdict
from rankmap.requests import request
from rankmap.runtime.checking import Checker
from rankmap.runtime.host_job import HostJob
from rankmap.runtime.job import Verify
from rankmap.runtime.limits import Limits
from rankmap.runtime.rank_process import RankProcess
from tests.children import python
from tests.clock import Clock
from tests.topologies_made import allocation, made

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.runtime.loop import Loop
    from tests.children import Child

CPUS = sorted(os.sched_getaffinity(0))
CONFIRMED_S = 6.2
WAITS = """
import os
print("up", flush=True)
while line := input():
    os.sched_setaffinity(0, {int(cpu) for cpu in line.split(",")})
    print("moved", flush=True)
"""

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs to be wrong about")


@pytest.fixture
def process() -> Iterator[Child]:
    """Return a process on the first CPU, which moves to the CPUs that it is told."""
    with python(WAITS) as started:
        started.hear()
        move(started, CPUS[0])
        yield started


def move(process: Child, *cpus: int) -> None:
    """Have it move there."""
    process.say(",".join(map(str, cpus)))
    assert "moved" == process.hear()


@dataclass
class Job:
    """A job of one rank that is planned on the first CPU, and its checker."""

    process: Child
    mode: Verify = Verify.WARN
    watch_s: float | None = None
    said: list[str] = field(default_factory=list)
    stopped: list[list[str]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        node = made([[len(CPUS)]], number=lambda core, _: CPUS[core])
        job = plan(allocation(node), request(n_ranks=1, cpus_per_rank=1))
        cpus = job.rank(0).cpus
        assert cpus == CpuSet.of(CPUS[:1])
        seen = Observation(rank=0, host="n0", pid=self.process.pid, cpus=cpus)
        self.rank = RankProcess(0, seen=seen, running=True)
        of_host = NodePlan.of(job, 0)
        self.asked = HostJob(
            name="rankmap-x",
            plan=of_host,
            applications=(),
            head_pid=0,
            limits=Limits(slack_ns=0, n_files=1024),
            drop_paths=(),
            reserve=CpuSet(),
            gpu_variables={},
            all_gpus=lambda _vendor: (),
            verify=self.mode,
            watch_s=self.watch_s,
        )
        self.checker = Checker(of_host, [self.rank], self.asked, say=self.said.append, stop=self.stopped.append)
        self.checker.look_later(cast("Loop", self.clock))

    def threads(self) -> tuple[ThreadObservation, ...]:
        """Return what was noted of the rank's threads."""
        assert self.rank.seen is not None
        return self.rank.seen.threads


def test_a_rank_in_its_place_is_looked_at_twice(process: Child) -> None:
    """At 0.3 and 2 s; nothing is said."""
    job = Job(process)
    job.clock.advance_to(0.29)
    assert () == job.threads()
    job.clock.advance_to(0.31)
    assert [CpuSet.of(CPUS[:1])] == [thread.cpus for thread in job.threads()]
    move(process, *CPUS[:2])
    job.clock.advance_to(1000)
    assert ([], Verdict.MISMATCH) == (job.stopped, job.checker.report().verdict)
    assert 1 == len(job.said)


def test_a_thread_out_of_place_is_a_finding_when_it_has_stayed_there(process: Child) -> None:
    """Six looks; before that the rank counts as what it was."""
    move(process, CPUS[1])
    job = Job(process, mode=Verify.FAIL)
    job.clock.advance_to(0.3 + CONFIRMED_S - 0.01)
    assert ([], (), Verdict.MATCH) == (job.stopped, job.threads(), job.checker.report().verdict)
    job.clock.advance_to(0.3 + CONFIRMED_S + 0.01)
    assert Verdict.MISMATCH is job.checker.report().verdict
    job.clock.advance_to(1000)
    ((reason,),) = job.stopped
    assert reason.startswith(f"rank 0 (thread-outside-cpus): planned CPUs {CPUS[0]}, found thread")


@pytest.mark.parametrize(("end_s", "warned"), [(0.4, False), (0.6, False), (1.6, True), (3.9, True)])
def test_a_rank_that_ends_before_anybody_is_sure_is_warned_of(process: Child, end_s: float, *, warned: bool) -> None:
    """It is no mismatch, but nor is it nothing: what was seen twice is said, in the report and the summary."""
    move(process, CPUS[1])
    job = Job(process)
    job.clock.advance_to(end_s)
    job.rank.ended = True
    job.clock.advance_to(100)
    report = job.checker.report()
    assert Verdict.MATCH is report.verdict
    assert warned == ("1 with warnings" in report.summary())
    assert warned == any(
        "the rank ended before that was certain" in finding.observed for _, finding in report.warnings()
    )


def test_a_thread_that_was_out_of_place_for_a_moment_is_none(process: Child) -> None:
    """As MPI_Init's, which visits every CPU."""
    move(process, CPUS[1])
    job = Job(process)
    job.clock.advance_to(1.9)
    move(process, CPUS[0])
    job.clock.advance_to(1000)
    assert ([], Verdict.MATCH) == (job.said, job.checker.report().verdict)


def test_who_leaves_later_is_found_by_who_watches(process: Child) -> None:
    """Said once, however often it is seen, and in the report although the rank went back."""
    job, watched = Job(process), Job(process, watch_s=10)
    for one in (job, watched):
        one.clock.advance_to(15)
    move(process, CPUS[1])
    for one in (job, watched):
        one.clock.advance_to(100)
    move(process, CPUS[0])
    for one in (job, watched):
        one.clock.advance_to(200)
    assert ([], Verdict.MATCH) == (job.said, job.checker.report().verdict)
    assert (1, Verdict.MISMATCH) == (len(watched.said), watched.checker.report().verdict)
    assert [CpuSet.of(CPUS[:1])] == [thread.cpus for thread in watched.threads()]


def test_nobody_is_watched_for_ever(process: Child) -> None:
    """When the ranks have ended there is nothing more to do, and what was known of them stays."""
    job = Job(process, watch_s=10)
    job.clock.advance_to(5)
    threads = job.threads()
    job.rank.ended = True
    job.clock.advance_to(1e9)  # for ever, if it went on
    assert (threads, Verdict.MATCH) == (job.threads(), job.checker.report().verdict)


def test_who_is_not_to_be_verified_is_not_looked_at(process: Child) -> None:
    """--verify off."""
    move(process, CPUS[1])
    job = Job(process, mode=Verify.OFF)
    job.clock.advance_to(1000)
    job.checker.check()
    assert ([], ()) == (job.said, job.threads())


def test_looks_are_planned_once(process: Child) -> None:
    """A second call changes nothing: the watch does not go twice as fast."""
    job = Job(process, watch_s=10)
    job.checker.look_later(cast("Loop", job.clock))
    assert 3 == len(job.clock._timers)


def test_one_node_of_a_job_is_checked_alone(process: Child) -> None:
    """By its own part of the plan, whose ranks do not begin with 0; threads are judged as on a single host."""
    node = made([[len(CPUS)]], number=lambda core, _: CPUS[core])
    job = plan(allocation(node, node), request(ranks_per_node=1, cpus_per_rank=1))
    of_n1 = NodePlan.of(job, 1)
    seen = Observation(rank=1, host="n1", pid=process.pid, cpus=CpuSet.of(CPUS[:1]))
    rank, clock = RankProcess(1, seen=seen, running=True), Clock()
    said: list[str] = []
    checker = Checker(of_n1, [rank], Job(process).asked, say=said.append, stop=said.extend)
    checker.check()
    assert ([], Verdict.MATCH) == (said, checker.report().verdict)
    move(process, CPUS[1])
    checker.look_later(cast("Loop", clock))
    clock.advance_to(1.6)
    rank.ended = True
    clock.advance_to(100)
    assert [1] == [number for number, _ in checker.report().warnings()]
