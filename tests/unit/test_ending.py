"""The table in ending.py, row by row, with time that passes when the test says so."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from rankmap.errors import LaunchError
from rankmap.runtime.ending import GIVE_UP_S, Ending, Outcome, perhaps_left
from rankmap.runtime.rank_state import RankState
from tests.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.runtime.loop import Loop

TERM, KILL = signal.SIGTERM, signal.SIGKILL
GRACE_S = 10.0


@dataclass(slots=True, kw_only=True)
class Rank(RankState):
    """A rank and the signals that it got, with their times."""

    got: list[tuple[float, signal.Signals]] = field(default_factory=list)


class Job:
    """Four ranks that run, on host "n0" where nothing else is said, and how their job ends."""

    def __init__(self, *, kill_grace_s: float = GRACE_S, hosts: tuple[str, ...] = ("n0",) * 4) -> None:
        self.clock = Clock()
        self.in_mpi: set[int] = set()
        """Who is in MPI; those that have ended are out of it by themselves."""
        self.looks: list[float] = []
        """When was looked for ranks in MPI."""
        self.answer_after_s = 0.0
        """How long the hosts take to say who is in MPI."""
        self.given_up: list[float] = []
        self.ranks = [Rank(number=number, host=host, pid=1000 + number) for number, host in enumerate(hosts)]
        self.ending = Ending(
            cast("Loop", self.clock),
            kill_grace_s=kill_grace_s,
            send=self.send,
            ask_mpi=self.ask_mpi,
            give_up=lambda: self.given_up.append(self.clock.now_s),
        )
        self.ending.ranks = list(self.ranks)

    def send(self, number: signal.Signals) -> None:
        """Note a signal, where the hands of the hosts would have sent it."""
        for rank in self.ranks:
            if not rank.ended:
                rank.got.append((self.clock.now_s, number))

    def ask_mpi(self, then: Callable[[frozenset[int]], None]) -> None:
        """Say who is in MPI, as the hands of the hosts would have found it."""
        self.looks.append(self.clock.now_s)
        found = frozenset(rank.number for rank in self.ranks if rank.number in self.in_mpi and not rank.ended)
        if self.answer_after_s:
            self.clock.call_after(self.answer_after_s, lambda: then(found))
        else:
            then(found)

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


def test_a_rank_that_exits_0_lets_the_others_go_on() -> None:
    """After MPI_Finalize, or where there was no MPI at all; when all have, there is nothing to say."""
    made = Job()
    made.exits(2, 0)
    made.clock.advance_to(1e6)
    assert (None, math.inf) == (made.ending.outcome, made.ended_at_s)
    for number in (0, 1, 3):
        made.exits(number, 0)
    made.clock.advance_to(2e6)
    assert (None, math.inf, []) == (made.ending.outcome, made.ended_at_s, made.given_up)


def test_the_first_to_end_is_judged_first_whatever_the_order_of_the_news() -> None:
    """A rank that exits because another one crashed is often told of first."""
    made = Job()
    for order, number in enumerate((1, 0), start=1):
        made.ranks[number].ended, made.ranks[number].end_order = True, order
    made.ending.on_exit_codes({0: 1}, log_tail="")
    assert made.ending.outcome is None
    made.ending.on_exit_codes({1: -11}, log_tail="")
    assert (139, "rank 1 on n0 (pid 1001) was killed by SIGSEGV") == made.outcome()
    assert (-11, 1) == (made.ranks[1].exit_code, made.ranks[0].exit_code)


def test_without_anybody_in_mpi_it_is_looked_ever_more_seldom() -> None:
    """First when the grace is nearly over, in the end every 300 s; one exit or several, it is one row of looks."""
    made = Job()
    made.exits(2, 0)
    made.exits(3, 0, at_s=4)
    made.clock.advance_to(1500)
    assert made.looks == [9, 18, 36, 72, 144, 288, 576, 876, 1176, 1476]


def test_nobody_looks_when_all_have_ended() -> None:
    """The job is over."""
    made = Job()
    for number in range(4):
        made.exits(number, 0)
    made.clock.advance_to(1e6)
    assert made.looks == []


def test_a_rank_that_exits_n_ends_the_others_after_the_grace() -> None:
    """After MPI_Finalize: SIGTERM first, SIGKILL 2 s later, and 20 s later the end is given up."""
    made = Job()
    made.exits(1, 3, at_s=5)
    made.clock.advance_to(1000)
    assert made.outcome() == (3, "rank 1 on n0 exited with status 3")
    for rank in made.ranks:
        assert ([] if rank.number == 1 else [(15, TERM), (17, KILL)]) == rank.got
    assert made.given_up == [17 + GIVE_UP_S]


@pytest.mark.parametrize("grace_s", [0.0, 0.5, 1.0])
def test_a_short_grace_is_not_made_longer(grace_s: float) -> None:
    """Also shorter than it takes to find out who is in MPI."""
    made = Job(kill_grace_s=grace_s)
    made.in_mpi = {0, 2, 3}
    made.exits(1, 3)
    made.clock.advance_to(1000)
    assert (grace_s, (3, "rank 1 on n0 exited with status 3")) == (made.ended_at_s, made.outcome())


@pytest.mark.parametrize(("in_mpi", "who"), [({0, 2, 3}, "ranks 0,2-3 were"), ({0}, "rank 0 was")])
def test_a_rank_that_exits_n_while_others_are_in_mpi_ends_them_after_2_s(in_mpi: set[int], who: str) -> None:
    """MPI_Abort, or exit without MPI_Finalize: nobody waits for the grace."""
    made = Job()
    made.in_mpi = in_mpi
    made.exits(1, 3, at_s=100)
    made.clock.advance_to(1000)
    reason = f"rank 1 on n0 exited with status 3 while {who} still in MPI (MPI_Abort, or no MPI_Finalize)"
    assert ((3, reason), 102) == (made.outcome(), made.ended_at_s)
    assert [(102, TERM), (104, KILL)] == made.ranks[0].got
    assert made.looks == [101, 102]


@pytest.mark.parametrize(("grace_s", "end_s"), [(10.0, 10), (60.0, 60), (2.0, 2), (1.0, 2), (0.0, 2)])
def test_a_rank_that_exits_0_while_others_are_in_mpi_ends_them_after_the_grace(grace_s: float, end_s: float) -> None:
    """Without MPI_Finalize the others would wait for ever: status 1 and what to do; 2 s are needed to be certain."""
    made = Job(kill_grace_s=grace_s)
    made.in_mpi = {0, 1, 3}
    made.exits(2, 0)
    made.clock.advance_to(1000)
    reason = "rank 2 on n0 exited with status 0 without MPI_Finalize while ranks 0-1,3 were still in MPI"
    assert ((1, reason), end_s) == (made.outcome(), made.ended_at_s)
    assert made.ending.outcome is not None
    assert "MPI_Finalize" in made.ending.outcome.hint
    assert "--kill-grace" in made.ending.outcome.hint


@pytest.mark.parametrize("code", [0, 3])
def test_ranks_on_their_way_out_of_mpi_get_more_time(code: int) -> None:
    """As long as each look finds fewer of them in it than the one before, MPI_Finalize is going on."""
    made = Job(kill_grace_s=5)
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


def test_ranks_that_come_to_mpi_only_later_are_noticed() -> None:
    """A rank that has left before MPI_Init lets the others wait in it."""
    made = Job()
    made.exits(0, 0)
    made.clock.advance_to(50)
    made.in_mpi = {1, 2, 3}
    made.clock.advance_to(1000)
    assert ([9, 18, 36, 72, 73], 73) == (made.looks, made.ended_at_s)


def test_ranks_that_were_in_mpi_and_left_are_looked_at_as_often_as_before() -> None:
    """A look that finds somebody is not a reason to look more seldom."""
    made = Job()
    made.in_mpi = {1}
    made.exits(0, 0)
    made.clock.advance_to(9)
    made.in_mpi = set()
    made.clock.advance_to(50)
    assert made.looks == [9, 10, 19, 37]


@pytest.mark.parametrize(
    ("code", "status", "name"), [(-9, 137, "SIGKILL"), (-11, 139, "SIGSEGV"), (-40, 168, "signal 40")]
)
def test_a_rank_that_is_killed_ends_the_others_at_once(code: int, status: int, name: str) -> None:
    """Whatever they do; the status is what a shell would give."""
    made = Job()
    made.exits(2, code, at_s=7)
    assert ((status, f"rank 2 on n0 (pid 1002) was killed by {name}"), 7) == (made.outcome(), made.ended_at_s)


def test_a_rank_that_ends_before_the_application_started_ends_the_job() -> None:
    """Nobody has seen it: what Dragon said last may explain it."""
    made = Job()
    made.ranks[3].pid = None
    made.exits(3, 0)
    reason = "rank 3 on n0 ended with status 0 before the application started\n  dragon: x"
    assert ((LaunchError.exit_status, reason), 0) == (made.outcome(), made.ended_at_s)


def test_the_first_rank_that_fails_gives_the_status() -> None:
    """Others that fail in the grace change nothing, nor when the others are ended."""
    made = Job()
    made.exits(1, 3)
    made.exits(2, 4, at_s=1)
    made.exits(3, 0, at_s=2)
    made.clock.advance_to(100)
    assert ((3, "rank 1 on n0 exited with status 3"), 10) == (made.outcome(), made.ended_at_s)


def test_a_rank_that_is_killed_in_the_grace_ends_it() -> None:
    """The status is still the first one's."""
    made = Job()
    made.exits(1, 3)
    made.exits(2, -9, at_s=5)
    made.clock.advance_to(100)
    assert (made.outcome()[0], made.ended_at_s) == (3, 5)


def test_a_failure_after_a_good_end_counts() -> None:
    """The looks that the good end has begun do not hide it."""
    made = Job()
    made.exits(0, 0)
    made.exits(1, 3, at_s=100)
    made.clock.advance_to(1000)
    assert ((3, "rank 1 on n0 exited with status 3"), 110) == (made.outcome(), made.ended_at_s)


def test_codes_of_ranks_that_we_have_ended_do_not_count() -> None:
    """SIGTERM and SIGKILL were ours, and so is what a rank exits with when it catches one."""
    made = Job()
    made.ending.end(Outcome(status=130, reason="ended by SIGINT"))
    for number, code in enumerate((-15, -9, 1, 0)):
        made.exits(number, code)
    assert made.outcome() == (130, "ended by SIGINT")
    assert [-15, -9, 1, 0] == [rank.exit_code for rank in made.ranks]
    assert all(rank.ended for rank in made.ranks)


def test_ranks_are_ended_once_however_often_it_is_asked_for() -> None:
    """Each gets one SIGTERM and one SIGKILL, those that have ended none, and the first reason stays."""
    made = Job()
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
def test_a_job_whose_time_is_over_says_who_still_ran(ended: list[int], what: str) -> None:
    """With the status that the caller gives."""
    made = Job()
    for number in ended:
        made.exits(number, 0)
    assert Outcome(status=124, reason=f"--timeout 2.5 s reached, starting included: {what}") == made.ending.on_timeout(
        2.5, 124
    )


def test_a_time_that_is_over_too_early_or_too_late() -> None:
    """Before there were ranks it is said so; when all have ended, the job is not late."""
    made = Job()
    for number in range(4):
        made.exits(number, 0)
    assert made.ending.on_timeout(60, 124) is None
    made.ending.ranks = []
    assert Outcome(
        status=124, reason="--timeout 60 s reached, starting included: no rank ran yet"
    ) == made.ending.on_timeout(60, 124)


def test_ranks_that_still_ran_are_named_with_their_hosts() -> None:
    """Those of the hosts that have some, folded; a rank that ends is named with its own."""
    made = Job(hosts=("n0", "n1", "n2", "n4"))
    made.exits(1, 0)
    late = made.ending.on_timeout(60, 124)
    assert late is not None
    assert late.reason.endswith(": ranks 0,2-3 still ran on n[0,2,4]")
    made.exits(3, -9)
    assert (137, "rank 3 on n4 (pid 1003) was killed by SIGKILL") == made.outcome()


def test_hosts_that_take_their_time_to_answer_are_waited_for() -> None:
    """An answer later than the next look would be is an answer; nothing is asked twice meanwhile."""
    made = Job()
    made.in_mpi, made.answer_after_s = {0, 2}, 3.0
    made.exits(1, 3)
    made.clock.advance_to(1000)
    assert [1, 5] == made.looks
    assert (8, 3) == (made.ended_at_s, made.outcome()[0])
    assert "while ranks 0,2 were still in MPI" in made.outcome()[1]


def test_an_answer_that_comes_when_the_end_has_begun_changes_nothing() -> None:
    """The job has its reason already."""
    made = Job()
    made.in_mpi, made.answer_after_s = {0}, 3.0
    made.exits(1, 0)
    made.clock.advance_to(9.5)
    made.ending.end(Outcome(status=130, reason="ended by SIGINT"))
    made.clock.advance_to(1000)
    assert ((130, "ended by SIGINT"), 9.5, [9]) == (made.outcome(), made.ended_at_s, made.looks)


def test_what_is_found_out_of_a_lost_host_becomes_the_reason() -> None:
    """The status stays; another host's loss is no other reason."""
    job = Job()
    job.ending.lose("n1")
    job.ending.lose("n2")
    assert job.ending.outcome is not None
    assert job.ending.outcome.reason.startswith("n1 cannot be reached any more")
    assert () == job.ending.explain(["the agent on n1 was killed", "n2 has died"])
    assert Outcome(status=LaunchError.exit_status, reason="the agent on n1 was killed\n  n2 has died") == (
        job.ending.outcome
    )


@pytest.mark.parametrize("before", [Outcome(status=3, reason="rank 1 exited with status 3"), None])
def test_what_is_found_out_of_a_host_that_is_not_the_reason_is_left_to_say(before: Outcome | None) -> None:
    """The job had failed before, or was over."""
    job = Job()
    if before is not None:
        job.ending.settle(before)
        job.ending.lose("n1")
    assert ["n1 has died"] == job.ending.explain(["n1 has died"])
    assert before == job.ending.outcome


def test_where_something_may_be_left_it_is_said_how_to_find_it() -> None:
    """By a command that can be typed there, and the names of the directories."""
    text = perhaps_left(["n1", "n2"], Path("/tmp/rankmap-x"))  # noqa: S108 - nothing is made there
    assert text.startswith("whether anything of the job is left on n[1-2] is not known")
    assert "`grep -lz ^RANKMAP_JOB=rankmap-x /proc/[0-9]*/environ`" in text
    assert text.endswith("its files are in /tmp/rankmap-x and /dev/shm/rankmap-x.mpi")
