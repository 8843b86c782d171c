"""Whether the ranks are where the plan says: before the application runs, and looked at again while it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.report import Report, Verdict
from rankmap.runtime.job import Verify
from rankmap.runtime.observer import threads_of
from rankmap.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.rank_process import RankProcess
    from rankmap.runtime.services import Service

__all__ = ["Checker"]

# When running ranks are looked at: soon, and once more when their MPI library has made its threads.
_LOOKS_S = (0.3, 2.0)
# A thread counts as outside its place when it is in the same wrong place in the first look and after each of these
# times: MPI_Init may move its thread over all CPUs for a moment (hwloc's x86 back end reads CPUID on each), which on
# cores that others keep busy takes over a second.
_CONFIRM_S = (0.2, 0.4, 0.8, 1.6, 3.2)
_SHOWN_FINDINGS = 10


class Checker:
    """Compares the ranks of one job with their plan.

    Args:
        plan: Where they should be.
        ranks: What is known of them; the threads that looking finds are noted there.
        mode: What a difference means.
        say: Tells the user about a difference when the job goes on.
        stop: Ends the job for this reason.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Sequence[RankProcess],
        *,
        mode: Verify,
        say: Callable[[str], None],
        stop: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._ranks = ranks
        self._mode = mode
        self._say = say
        self._stop = stop
        self._said: set[str] = set()
        self._stopped = False

    def report(self, services: Sequence[Service] = ()) -> Report:
        """Return what is known of every rank beside its plan."""
        seen = {rank.number: rank.seen for rank in self._ranks if rank.seen is not None}
        return verify(self._plan, seen, services=[service.to_dict() for service in services])

    def check_start(self) -> None:
        """Compare what the shims saw with the plan."""
        if self._mode is not Verify.OFF:
            self._judge(self.report())

    def look_later(self, loop: Loop) -> None:
        """Have the running ranks looked at when it is time."""
        for delay_s in _LOOKS_S if self._mode is not Verify.OFF else ():
            loop.call_after(delay_s, lambda: self._look(loop, ()))

    def _look(self, loop: Loop, earlier: tuple[frozenset[tuple[int, str]], ...]) -> None:
        """Look at the threads of the ranks that run; ``earlier`` is which were found where in the looks before."""
        before = [rank.seen for rank in self._ranks]
        for rank in self._ranks:
            if rank.seen is not None and not rank.ended:
                rank.seen = replace(rank.seen, threads=threads_of(rank.seen.pid) or rank.seen.threads)
        report = self.report()
        if report.verdict is not Verdict.MISMATCH:
            return
        looks = (*earlier, frozenset((number, finding.observed) for number, finding in report.errors()))
        stayed = frozenset.intersection(*looks)
        if stayed and len(looks) <= len(_CONFIRM_S):
            for rank, seen in zip(self._ranks, before, strict=True):  # not yet more than a suspicion
                rank.seen = seen
            loop.call_after(_CONFIRM_S[len(looks) - 1], lambda: self._look(loop, looks))
            return
        wrong = {number for number, _ in stayed}
        for rank, seen in zip(self._ranks, before, strict=True):
            if rank.number not in wrong:  # a moment's excursion
                rank.seen = seen
        self._judge(self.report())

    def _judge(self, report: Report) -> None:
        lines = [
            f"rank {number} ({finding.slug}): planned {finding.expected}, found {finding.observed}"
            for number, finding in report.errors()
        ]
        if self._mode is Verify.WARN:
            for line in lines:
                if line not in self._said:
                    self._say(line)
            self._said.update(lines)
        elif lines and not self._stopped:
            self._stopped = True
            more = len(lines) - _SHOWN_FINDINGS
            shown = lines[:_SHOWN_FINDINGS] + ([f"... and {more} more"] if more > 0 else [])
            self._stop("the ranks are not where the plan says, so the job was stopped:\n  " + "\n  ".join(shown))
