"""The table in ending.py, row by row, with time that passes when the test says so."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import LaunchError
from rankmap.observe import Observation
from rankmap.runtime import pmi_link
from rankmap.runtime.ending import GIVE_UP_S, Ending, Outcome
from rankmap.runtime.rank_process import RankProcess
from tests.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rankmap.runtime.loop import Loop

TERM, KILL = signal.SIGTERM, signal.SIGKILL
GRACE_S = 10.0


@dataclass(slots=True)
class Rank(RankProcess):
    """A rank that remembers when it got which signal."""

    clock: Clock = field(default_factory=Clock)
    got: list[tuple[float, signal.Signals]] = field(default_factory=list)

    def end(self, number: signal.Signals) -> None:
        """Note it, where it would have been sent."""
        if not self.ended:
            self.got.append((self.clock.now_s, number))
        RankProcess.end(self, number)


class Job:
    """Four ranks that run, on host "n0", and how their job ends."""

    def __init__(self, *, kill_grace_s: float = GRACE_S) -> None:
        self.clock = Clock()
        self.in_mpi: set[int] = set()
        """Who is in MPI; those that have ended are out of it by themselves."""
        self.looks: list[float] = []
        """When was looked for ranks in MPI."""
        self.given_up: list[float] = []
        ports = frozenset({4000})
        self.ranks = [Rank(number, seen=seen(number), pmi_ports=ports, clock=self.clock) for number in range(4)]
        self.ending = Ending(
            cast("Loop", self.clock),
            host="n0",
            kill_grace_s=kill_grace_s,
            give_up=lambda: self.given_up.append(self.clock.now_s),
        )
        self.ending.ranks = list(self.ranks)

    def connected(self, ranks: Mapping[int, tuple[int, frozenset[int]]]) -> frozenset[int]:
        """Stand for pmi_link.connected."""
        self.looks.append(self.clock.now_s)
        assert ranks == {rank.number: (1000 + rank.number, frozenset({4000})) for rank in self.ranks if not rank.ended}
        return frozenset(self.in_mpi & ranks.keys())

    def exits(self, number: int, code: int, *, at_s: float | None = None) -> None:
        """Let this rank end with this code, now or at this time."""
        if at_s is not None:
            self.clock.advance_to(at_s)
        self.ending.on_exit_code(self.ranks[number], code, log_tail="\n  dragon: x")

    @property
    def ended_at_s(self) -> float:
        """When the ranks were told to end; infinity for never."""
        return min((got[0] for rank in self.ranks for got in rank.got), default=math.inf)

    def outcome(self) -> tuple[int, str]:
        """Return the status and the reason that are reported."""
        assert self.ending.outcome is not None
        return self.ending.outcome.status, self.ending.outcome.reason


def seen(number: int) -> Observation:
    """Return what the shim of this rank has reported."""
    return Observation(rank=number, host="n0", pid=1000 + number, cpus=CpuSet.of([number]), variables={})


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Return a function that makes a job whose ranks in MPI are found."""

    def make(*, kill_grace_s: float = GRACE_S) -> Job:
        made = Job(kill_grace_s=kill_grace_s)
        monkeypatch.setattr(pmi_link, "connected", made.connected)
        return made

    return make


def test_a_rank_that_exits_0_lets_the_others_go_on(job: Callable[..., Job]) -> None:
    """After MPI_Finalize, or where there was no MPI at all; when all have, there is nothing to say."""
    made = job()
    made.exits(2, 0)
    made.clock.advance_to(1e6)
    assert (None, math.inf) == (made.ending.outcome, made.ended_at_s)
    for number in (0, 1, 3):
        made.exits(number, 0)
    made.clock.advance_to(2e6)
    assert (None, math.inf, []) == (made.ending.outcome, made.ended_at_s, made.given_up)


def test_the_first_to_end_is_judged_first_whatever_the_order_of_the_news(job: Callable[..., Job]) -> None:
    """A rank that exits because another one crashed is often told of first."""
    made = job()
    for order, number in enumerate((1, 0), start=1):
        made.ranks[number].ended, made.ranks[number].end_order = True, order
    made.ending.on_exit_codes({0: 1}, log_tail="")
    assert made.ending.outcome is None
    made.ending.on_exit_codes({1: -11}, log_tail="")
    assert (139, "rank 1 on n0 (pid 1001) was killed by SIGSEGV") == made.outcome()
    assert (-11, 1) == (made.ranks[1].exit_code, made.ranks[0].exit_code)


def test_without_anybody_in_mpi_it_is_looked_ever_more_seldom(job: Callable[..., Job]) -> None:
    """First when the grace is nearly over, in the end every 300 s; one exit or several, it is one row of looks."""
    made = job()
    made.exits(2, 0)
    made.exits(3, 0, at_s=4)
    made.clock.advance_to(1500)
    assert made.looks == [9, 18, 36, 72, 144, 288, 576, 876, 1176, 1476]


def test_nobody_looks_when_all_have_ended(job: Callable[..., Job]) -> None:
    """The job is over."""
    made = job()
    for number in range(4):
        made.exits(number, 0)
    made.clock.advance_to(1e6)
    assert made.looks == []


def test_a_rank_that_exits_n_ends_the_others_after_the_grace(job: Callable[..., Job]) -> None:
    """After MPI_Finalize: SIGTERM first, SIGKILL 2 s later, and 20 s later the end is given up."""
    made = job()
    made.exits(1, 3, at_s=5)
    made.clock.advance_to(1000)
    assert made.outcome() == (3, "rank 1 on n0 exited with status 3")
    for rank in made.ranks:
        assert ([] if rank.number == 1 else [(15, TERM), (17, KILL)]) == rank.got
    assert made.given_up == [17 + GIVE_UP_S]


@pytest.mark.parametrize("grace_s", [0.0, 0.5, 1.0])
def test_a_short_grace_is_not_made_longer(grace_s: float, job: Callable[..., Job]) -> None:
    """Also shorter than it takes to find out who is in MPI."""
    made = job(kill_grace_s=grace_s)
    made.in_mpi = {0, 2, 3}
    made.exits(1, 3)
    made.clock.advance_to(1000)
    assert (grace_s, (3, "rank 1 on n0 exited with status 3")) == (made.ended_at_s, made.outcome())


@pytest.mark.parametrize(("in_mpi", "who"), [({0, 2, 3}, "ranks 0,2-3 were"), ({0}, "rank 0 was")])
def test_a_rank_that_exits_n_while_others_are_in_mpi_ends_them_after_2_s(
    in_mpi: set[int], who: str, job: Callable[..., Job]
) -> None:
    """MPI_Abort, or exit without MPI_Finalize: nobody waits for the grace."""
    made = job()
    made.in_mpi = in_mpi
    made.exits(1, 3, at_s=100)
    made.clock.advance_to(1000)
    reason = f"rank 1 on n0 exited with status 3 while {who} still in MPI (MPI_Abort, or no MPI_Finalize)"
    assert ((3, reason), 102) == (made.outcome(), made.ended_at_s)
    assert [(102, TERM), (104, KILL)] == made.ranks[0].got
    assert made.looks == [101, 102]


@pytest.mark.parametrize(("grace_s", "end_s"), [(10.0, 10), (60.0, 60), (2.0, 2), (1.0, 2), (0.0, 2)])
def test_a_rank_that_exits_0_while_others_are_in_mpi_ends_them_after_the_grace(
    grace_s: float, end_s: float, job: Callable[..., Job]
) -> None:
    """Without MPI_Finalize the others would wait for ever: status 1 and what to do; 2 s are needed to be certain."""
    made = job(kill_grace_s=grace_s)
    made.in_mpi = {0, 1, 3}
    made.exits(2, 0)
    made.clock.advance_to(1000)
    reason = "rank 2 on n0 exited with status 0 without MPI_Finalize while ranks 0-1,3 were still in MPI"
    assert ((1, reason), end_s) == (made.outcome(), made.ended_at_s)
    assert made.ending.outcome is not None
    assert "MPI_Finalize" in made.ending.outcome.hint
    assert "--kill-grace" in made.ending.outcome.hint


@pytest.mark.parametrize("code", [0, 3])
def test_ranks_on_their_way_out_of_mpi_get_more_time(code: int, job: Callable[..., Job]) -> None:
    """As long as each look finds fewer of them in it than the one before, MPI_Finalize is going on."""
    made = job(kill_grace_s=5)
    made.exits(3, code)
    for gone_by_s, in_mpi in ((4, {0, 1, 2}), (5, {0, 1}), (6, {0}), (7, set())):
        made.in_mpi = in_mpi
        made.clock.advance_to(gone_by_s if code == 0 else gone_by_s - 3)
    made.clock.advance_to(1000)
    if code == 0:
        assert ([4, 5, 6, 7], None, math.inf) == (made.looks[:4], made.ending.outcome, made.ended_at_s)
    else:
        assert [1, 2, 3, 4] == made.looks[:4]
        assert (made.outcome(), made.ended_at_s) == ((3, "rank 3 on n0 exited with status 3"), 5)


def test_ranks_that_come_to_mpi_only_later_are_noticed(job: Callable[..., Job]) -> None:
    """A rank that has left before MPI_Init lets the others wait in it."""
    made = job()
    made.exits(0, 0)
    made.clock.advance_to(50)
    made.in_mpi = {1, 2, 3}
    made.clock.advance_to(1000)
    assert ([9, 18, 36, 72, 73], 73) == (made.looks, made.ended_at_s)


def test_ranks_that_were_in_mpi_and_left_are_looked_at_as_often_as_before(job: Callable[..., Job]) -> None:
    """A look that finds somebody is not a reason to look more seldom."""
    made = job()
    made.in_mpi = {1}
    made.exits(0, 0)
    made.clock.advance_to(9)
    made.in_mpi = set()
    made.clock.advance_to(50)
    assert made.looks == [9, 10, 19, 37]


@pytest.mark.parametrize(
    ("code", "status", "name"), [(-9, 137, "SIGKILL"), (-11, 139, "SIGSEGV"), (-40, 168, "signal 40")]
)
def test_a_rank_that_is_killed_ends_the_others_at_once(
    code: int, status: int, name: str, job: Callable[..., Job]
) -> None:
    """Whatever they do; the status is what a shell would give."""
    made = job()
    made.exits(2, code, at_s=7)
    assert ((status, f"rank 2 on n0 (pid 1002) was killed by {name}"), 7) == (made.outcome(), made.ended_at_s)


def test_a_rank_that_ends_before_the_application_started_ends_the_job(job: Callable[..., Job]) -> None:
    """Nobody has seen it: what Dragon said last may explain it."""
    made = job()
    made.ranks[3].seen = None
    made.exits(3, 0)
    reason = "rank 3 on n0 ended with status 0 before the application started\n  dragon: x"
    assert ((LaunchError.exit_status, reason), 0) == (made.outcome(), made.ended_at_s)


def test_the_first_rank_that_fails_gives_the_status(job: Callable[..., Job]) -> None:
    """Others that fail in the grace change nothing, nor when the others are ended."""
    made = job()
    made.exits(1, 3)
    made.exits(2, 4, at_s=1)
    made.exits(3, 0, at_s=2)
    made.clock.advance_to(100)
    assert ((3, "rank 1 on n0 exited with status 3"), 10) == (made.outcome(), made.ended_at_s)


def test_a_rank_that_is_killed_in_the_grace_ends_it(job: Callable[..., Job]) -> None:
    """The status is still the first one's."""
    made = job()
    made.exits(1, 3)
    made.exits(2, -9, at_s=5)
    made.clock.advance_to(100)
    assert (made.outcome()[0], made.ended_at_s) == (3, 5)


def test_a_failure_after_a_good_end_counts(job: Callable[..., Job]) -> None:
    """The looks that the good end has begun do not hide it."""
    made = job()
    made.exits(0, 0)
    made.exits(1, 3, at_s=100)
    made.clock.advance_to(1000)
    assert ((3, "rank 1 on n0 exited with status 3"), 110) == (made.outcome(), made.ended_at_s)


def test_codes_of_ranks_that_we_have_ended_do_not_count(job: Callable[..., Job]) -> None:
    """SIGTERM and SIGKILL were ours, and so is what a rank exits with when it catches one."""
    made = job()
    made.ending.end(Outcome(status=130, reason="ended by SIGINT"))
    for number, code in enumerate((-15, -9, 1, 0)):
        made.exits(number, code)
    assert made.outcome() == (130, "ended by SIGINT")
    assert [-15, -9, 1, 0] == [rank.exit_code for rank in made.ranks]
    assert all(rank.ended for rank in made.ranks)


def test_ranks_are_ended_once_however_often_it_is_asked_for(job: Callable[..., Job]) -> None:
    """Each gets one SIGTERM and one SIGKILL, those that have ended none, and the first reason stays."""
    made = job()
    made.exits(0, 0)
    made.ending.end(Outcome(status=5, reason="first"))
    made.clock.advance_to(1)
    made.ending.end(Outcome(status=6, reason="second"))
    made.clock.advance_to(100)
    assert ([[], [(0, TERM), (2, KILL)], [22]]) == [made.ranks[0].got, made.ranks[1].got, made.given_up]
    assert made.outcome() == (5, "first")
    assert made.looks == []


def test_killing_needs_no_grace_and_no_ranks() -> None:
    """The last thing before the runtime ends, however far the job has come."""
    made = Job()
    made.ending.kill_ranks()
    assert [(0, KILL)] == made.ranks[0].got
    made.ending.ranks = []
    made.ending.kill_ranks()


@pytest.mark.parametrize(
    ("ended", "what"),
    [([], "ranks 0-3 still ran on n0"), ([0, 2, 3], "rank 1 still ran on n0")],
)
def test_a_job_whose_time_is_over_says_who_still_ran(ended: list[int], what: str, job: Callable[..., Job]) -> None:
    """With the status that the caller gives."""
    made = job()
    for number in ended:
        made.exits(number, 0)
    assert Outcome(status=124, reason=f"--timeout 2.5 s reached, starting included: {what}") == made.ending.on_timeout(
        2.5, 124
    )


def test_a_time_that_is_over_too_early_or_too_late(job: Callable[..., Job]) -> None:
    """Before there were ranks it is said so; when all have ended, the job is not late."""
    made = job()
    for number in range(4):
        made.exits(number, 0)
    assert made.ending.on_timeout(60, 124) is None
    made.ending.ranks = []
    assert Outcome(
        status=124, reason="--timeout 60 s reached, starting included: no rank ran yet"
    ) == made.ending.on_timeout(60, 124)
