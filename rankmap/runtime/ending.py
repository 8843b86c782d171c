"""How a job ends: which end of a rank ends the others too, when, with what status, and why.

| a rank | the others | status |
|---|---|---|
| exits 0 after MPI_Finalize, or was no MPI program | go on | 0 |
| exits N after MPI_Finalize | are ended after the grace | N |
| exits N while others are still in MPI (MPI_Abort, exit) | are ended as soon as that is certain: 2 s | N |
| exits 0 while others are still in MPI | are ended after the grace | 1 |
| is killed by signal N | are ended at once | 128 + N |
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import LaunchError, RankmapError, RuntimeUnusableError
from rankmap.hostlist import fold
from rankmap.runtime.processes import JOB_VARIABLE
from rankmap.runtime.shared_memory import job_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.rank_state import RankState

__all__ = ["GIVE_UP_S", "Ending", "Outcome", "no_start", "perhaps_left", "runtime_gone", "unreachable"]

_TERM_GRACE_S = 2.0
# After SIGKILL: how long Dragon may take to report the exit codes before the runtime is ended by force.
GIVE_UP_S = 20.0
# Who is still in MPI is looked at twice, this far apart: MPI_Finalize takes the ranks out within moments of each other.
_LOOK_S = 1.0
_SELDOM_S = 300.0
_SLOW_START_HINT = "--start-timeout TIME waits longer; -v shows what Dragon says meanwhile"
_UNFINISHED_HINT = (
    "every rank has to call MPI_Finalize (mpi4py does at a normal exit; `python -m mpi4py APP` aborts at exceptions);\n"
    "  MPI_Abort ends all ranks on purpose; --kill-grace says how long the others may go on"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Why the job ends with another status than 0."""

    status: int
    reason: str
    hint: str = ""


def no_start(timeout_s: float, *, late: str, log_tail: str) -> Outcome:
    """Return the outcome of a job whose runtime was not there in time; ``late`` are the hosts that were not ready."""
    reason = f"the Dragon runtime was not ready after {timeout_s:g} s"
    if late:
        reason = f"{late} was not ready after {timeout_s:g} s: no agent of rankmap's has answered from there"
    return Outcome(status=RuntimeUnusableError.exit_status, reason=reason + log_tail, hint=_SLOW_START_HINT)


def runtime_gone(what: str, *, started: bool, log_tail: str) -> Outcome:
    """Return the outcome of a job whose runtime has ended before it; ``started``: whether it was there at all."""
    status = LaunchError.exit_status if started else RuntimeUnusableError.exit_status
    when = "the Dragon runtime ended under the job" if started else "the Dragon runtime did not start"
    return Outcome(status=status, reason=f"{when}: {what}{log_tail}")


def unreachable(host: str) -> str:
    """Return what is known of a host that says nothing any more."""
    return f"{host} cannot be reached any more: it has died, or its network has"


def perhaps_left(hosts: Sequence[str], control: Path) -> str:
    """Return what to tell the user of hosts that have not said that they are clean.

    Args:
        hosts: Their names.
        control: The job's directory, which has the job's name.
    """
    return (
        f"whether anything of the job is left on {fold(hosts)} is not known: it did not answer\n"
        f"  there, `grep -lz ^{JOB_VARIABLE}={control.name} /proc/[0-9]*/environ` finds its processes; "
        f"its files are in {control} and {job_directory(control.name)}"
    )


class Ending:
    """Decides when a job has to end, and ends its ranks.

    Args:
        loop: The supervisor's.
        kill_grace_s: How long the other ranks may go on after one has failed.
        send: Sends a signal to all ranks that have not ended, and to what they have started.
        ask_mpi: Has its argument called, once, with the ranks that are between MPI_Init and MPI_Finalize.
        give_up: Called when the end of a rank has not come long after they were killed.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        kill_grace_s: float,
        send: Callable[[signal.Signals], None],
        ask_mpi: Callable[[Callable[[frozenset[int]], None]], None],
        give_up: Callable[[], None],
    ) -> None:
        self.ranks: list[RankState] = []
        self.outcome: Outcome | None = None
        self._lost: Outcome | None = None
        self._loop = loop
        self._send = send
        self._ask_mpi = ask_mpi
        self._kill_grace_s = kill_grace_s
        self._give_up = give_up
        self._codes: dict[int, int] = {}
        self._ending = False
        self._looking = False

    def settle(self, outcome: Outcome) -> None:
        """The first reason for a status other than 0 is the job's."""
        if self.outcome is None:
            self.outcome = outcome

    def lose(self, host: str) -> None:
        """Settle that the job ends because this host cannot be reached any more."""
        if self.outcome is None:
            self.outcome = self._lost = Outcome(status=LaunchError.exit_status, reason=unreachable(host))

    def explain(self, known: Sequence[str]) -> Sequence[str]:
        """Take what is known of lost hosts by now as the job's reason, where they are; return what is not in that."""
        if not known or self._lost is None or self.outcome is not self._lost:
            return known
        self.outcome = replace(self._lost, reason="\n  ".join(known))
        return ()

    def end(self, outcome: Outcome) -> None:
        """End the job for this reason."""
        self.settle(outcome)
        self.end_ranks()

    def end_ranks(self) -> None:
        """Send the ranks SIGTERM, SIGKILL a little later, and give up on them in the end."""
        if not self._ending:
            self._ending = True
            self._signal(signal.SIGTERM)
            self._loop.call_after(_TERM_GRACE_S, self.kill_ranks)
            self._loop.call_after(_TERM_GRACE_S + GIVE_UP_S, self._give_up_if_ranks_miss)

    def _give_up_if_ranks_miss(self) -> None:
        if any(rank.exit_code is None for rank in self.ranks):
            self._give_up()

    def kill_ranks(self) -> None:
        """Send the ranks SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            rank.ended_by_us |= not rank.ended
        self._send(number)

    def on_exit_codes(self, codes: Mapping[int, int], *, log_tail: str) -> None:
        """Judge the ends of ranks by their exit codes, in the order in which the kernel has told of them.

        Dragon tells the codes in an order of its own: what is judged has to wait for the code of a rank that ended
        earlier, which may be the cause.
        """
        self._codes.update(codes)
        waiting = [r.end_order for r in self.ranks if r.ended and r.exit_code is None and r.number not in self._codes]
        first = min(waiting, default=len(self.ranks) + 1)
        for number in sorted(self._codes, key=lambda number: self.ranks[number].end_order):
            if self.ranks[number].end_order < first:
                self.on_exit_code(self.ranks[number], self._codes.pop(number), log_tail=log_tail)

    def on_exit_code(self, rank: RankState, code: int, *, log_tail: str) -> None:
        """Judge the end of a rank.

        Args:
            rank: Which one.
            code: Its exit code; -N is signal N.
            log_tail: What Dragon has said last, to explain a rank that has not come as far as the application.
        """
        rank.ended, rank.exit_code = True, code
        if rank.ended_by_us:
            return
        where = f"rank {rank.number} on {rank.host}"
        if rank.pid is None:
            reason = f"{where} ended with status {code} before the application started{log_tail}"
            self.end(Outcome(status=LaunchError.exit_status, reason=reason))
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            self.end(Outcome(status=128 - code, reason=f"{where} (pid {rank.pid}) was killed by {name}"))
        elif self.outcome is None:
            look_s = _LOOK_S
            if code != 0:
                self.settle(Outcome(status=code, reason=f"{where} exited with status {code}"))
                self._loop.call_after(self._kill_grace_s, self.end_ranks)
            elif self._looking:
                return
            else:
                self._looking = True
                look_s = max(self._kill_grace_s - _LOOK_S, _LOOK_S)
            self._loop.call_after(look_s, lambda: self._look_for_waiting_ranks(rank, code, frozenset(), look_s))

    def on_timeout(self, timeout_s: float, status: int) -> Outcome | None:
        """Return the outcome of a job whose time is over, None when its ranks have ended already."""
        left = [rank for rank in self.ranks if not rank.ended]
        if self.ranks and not left:
            return None
        hosts = fold(dict.fromkeys(rank.host for rank in left))
        what = f"{_named(CpuSet.of(rank.number for rank in left))} still ran on {hosts}" if left else "no rank ran yet"
        return Outcome(status=status, reason=f"--timeout {timeout_s:g} s reached, starting included: {what}")

    def _look_for_waiting_ranks(self, rank: RankState, code: int, before: frozenset[int], again_s: float) -> None:
        """End the job when other ranks wait in MPI for this one, which has ended.

        Args:
            rank: The one that has ended.
            code: How.
            before: Who was still in MPI at the look before.
            again_s: When to look again for ranks that come to MPI only later; twice as late each time.
        """
        if not self._ending and not all(other.ended for other in self.ranks):
            self._ask_mpi(lambda in_mpi: self._judge_waiting_ranks(rank, code, before, in_mpi, again_s))

    def _judge_waiting_ranks(
        self, rank: RankState, code: int, before: frozenset[int], in_mpi: frozenset[int], again_s: float
    ) -> None:
        if self._ending:
            return
        if not in_mpi or in_mpi != before:  # ranks may be on their way out
            wait_s = _LOOK_S if in_mpi else again_s
            later_s = again_s if in_mpi else min(2 * again_s, _SELDOM_S)
            self._loop.call_after(wait_s, lambda: self._look_for_waiting_ranks(rank, code, in_mpi, later_s))
            return
        what = f"rank {rank.number} on {rank.host} exited with status {code}"
        waiting = f"while {_named(CpuSet.of(in_mpi))} {'was' if len(in_mpi) == 1 else 'were'} still in MPI"
        if code == 0:
            reason = f"{what} without MPI_Finalize {waiting}"
            self.end(Outcome(status=RankmapError.exit_status, reason=reason, hint=_UNFINISHED_HINT))
        elif self.outcome is not None:
            self.outcome = replace(self.outcome, reason=f"{what} {waiting} (MPI_Abort, or no MPI_Finalize)")
            self.end_ranks()


def _named(ranks: CpuSet) -> str:
    return f"rank {ranks}" if len(ranks) == 1 else f"ranks {ranks}"
