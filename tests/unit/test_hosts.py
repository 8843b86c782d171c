"""Unit tests of rankmap.runtime.hosts: what is asked of all hosts of a job, and what comes of it where one is lost."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from rankmap.gathering import Gathered
from rankmap.node_plan import NodePlan
from rankmap.planner import plan
from rankmap.report import Verdict
from rankmap.requests import request
from rankmap.runtime import hosts as hosts_module
from rankmap.runtime.hosts import Host, Hosts
from rankmap.runtime.loop import Loop
from rankmap.verification import verify_node
from tests.large_jobs import seen_on
from tests.topologies_made import allocation, made

if TYPE_CHECKING:
    from rankmap.runtime.wire import Message

NODE = made([[2]])
PLAN = plan(allocation(NODE, NODE, NODE), request(ranks_per_node=2))
MPI = {"kind": "mpi"}


class Job:
    """Three hosts, what was said to each, and what the supervisor has heard of them."""

    def __init__(self) -> None:
        self.said: list[list[Message]] = [[], [], []]
        self.heard: list[tuple[str, str]] = []
        each = [Host(name=f"n{i}", node_index=i, do=partial(list.append, self.said[i])) for i in range(3)]
        self.hosts = Hosts(each, lambda host, message: self.heard.append((host.name, message["kind"])))
        self.answers: list[set[int]] = []

    def hear(self, i: int, kind: str, **more: object) -> None:
        """Let the hands of a host tell this."""
        self.hosts.hear(self.hosts.hosts[i], {"kind": kind, **more})

    def lose(self, i: int) -> None:
        """Let a host die."""
        self.hosts.lose(self.hosts.hosts[i])

    def ask(self) -> None:
        """Ask who is in MPI."""
        self.hosts.ask_mpi(lambda ranks: self.answers.append({*ranks}))


@pytest.fixture
def job() -> Job:
    """Return one of which nothing is known yet."""
    return Job()


def report(i: int) -> object:
    """Return what the hands of a host say of its ranks in the end."""
    of_host = NodePlan.of(PLAN, i)
    return Gathered.of(verify_node(of_host, seen_on(of_host)), n_job_ranks=PLAN.n_ranks).to_values()


def test_all_hosts_are_told_but_those_that_are_gone(job: Job) -> None:
    """There is nobody to hear it."""
    job.lose(1)
    job.hosts.tell({"kind": "drain"})
    assert [[{"kind": "drain"}], [], [{"kind": "drain"}]] == job.said


def test_what_hands_tell_is_noted_and_passed_on(job: Job) -> None:
    """Also what nothing is to be noted of; the note comes first."""
    job.hosts._on_message = lambda host, message: job.heard.append((str(host.lines), message["kind"]))
    job.hear(0, "checked", lines=["x"])
    job.hear(0, "ended", rank=0)
    assert [("['x']", "checked"), ("['x']", "ended")] == job.heard


def test_the_ranks_are_checked_when_every_host_has_said_so(job: Job) -> None:
    """The differences are told by host, in the plan's order, whoever was first."""
    for i, lines in ((2, ["two"]), (0, ["zero", "none"])):
        job.hear(i, "checked", lines=lines)
        assert not job.hosts.checked
    job.hear(1, "checked", lines=[])
    assert (True, ["zero", "none", "two"]) == (job.hosts.checked, job.hosts.lines())


def test_the_ranks_in_mpi_are_those_of_all_hosts(job: Job) -> None:
    """Asked once each, answered when the last has."""
    job.ask()
    assert [[MPI]] * 3 == job.said
    job.hear(1, "mpi", ranks=[2, 3])
    job.hear(0, "mpi", ranks=[])
    assert [] == job.answers
    job.hear(2, "mpi", ranks=[5])
    assert [{2, 3, 5}] == job.answers
    job.hear(2, "mpi", ranks=[4])  # nobody has asked
    assert [{2, 3, 5}] == job.answers


def test_a_host_that_dies_is_not_waited_for(job: Job) -> None:
    """Nobody there is in MPI any more, as far as anybody can know: whether it has been asked, or not yet."""
    job.ask()
    job.hear(0, "mpi", ranks=[1])
    job.lose(2)
    job.hear(1, "mpi", ranks=[3])
    assert [{1, 3}] == job.answers
    job.ask()
    assert [[MPI, MPI], [MPI, MPI], [MPI]] == job.said
    job.hear(1, "mpi", ranks=[2])
    job.lose(0)
    assert [{1, 3}, {2}] == job.answers


def test_without_any_host_the_answer_is_nobody(job: Job) -> None:
    """And comes at once."""
    for i in range(3):
        job.lose(i)
    job.ask()
    assert [set[int]()] == job.answers


def test_a_second_question_takes_the_place_of_the_first(job: Job) -> None:
    """An answer that was for the first is as good for the second; the first is never answered."""
    first: list[object] = []
    job.hosts.ask_mpi(first.append)
    job.hear(0, "mpi", ranks=[0])
    job.ask()
    for i in range(3):
        job.hear(i, "mpi", ranks=[2 * i])
    assert ([], [{0, 2, 4}]) == (first, job.answers)


def test_nothing_more_comes_of_a_host_that_has_said_so_or_is_lost(job: Job) -> None:
    """It is drained when all others are."""
    job.hear(0, "drained")
    job.hear(2, "drained")
    assert not job.hosts.drained
    job.lose(1)
    assert job.hosts.drained


def gather(job: Job) -> None:
    """Gather the reports in a loop of its own."""
    with Loop((), lambda _caught: None) as loop:
        job.hosts.gather_reports(loop)


def answer(job: Job, i: int, message: Message) -> None:
    """Answer as the hands of a host do that are asked for their report."""
    if message["kind"] == "report":
        job.hear(i, "report", report=report(i))


def test_the_report_is_that_of_all_hosts(job: Job) -> None:
    """Asked for, and there when all have answered."""
    for i, host in enumerate(job.hosts.hosts):
        host.do = partial(answer, job, i)
    gather(job)
    whole = job.hosts.report(PLAN)
    assert (Verdict.MATCH, list(range(6))) == (whole.verdict, [rank.rank for rank in whole.ranks])


def test_ranks_of_a_host_that_says_nothing_are_unobserved(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for a while; one that is gone is not, and one that had no ranks yet has nothing to say."""
    monkeypatch.setattr(hosts_module, "_REPORT_WAIT_S", 0.05)
    job.hosts.hosts[0].do = lambda _message: job.hear(0, "report", report=report(0))
    job.lose(1)
    gather(job)
    job.hear(2, "report", report=None)
    whole = job.hosts.report(PLAN)
    assert Verdict.UNOBSERVED is whole.verdict
    assert [True, True, False, False, False, False] == [rank.observed is not None for rank in whole.ranks]
