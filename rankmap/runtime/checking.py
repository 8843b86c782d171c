"""Whether the ranks are where the plan says: before the application runs, and looked at again while it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.runtime.job import Verify
from rankmap.runtime.observer import activity_of, memory_policy_of, threads_of
from rankmap.runtime.seen_gpus import note_uuids
from rankmap.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.report import Report
    from rankmap.runtime.job import JobRequest
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.rank_process import RankProcess
    from rankmap.runtime.services import Service

__all__ = ["Checker"]

# When running ranks are looked at: soon, and once more when their MPI library has made its threads.
_LOOKS_S = (0.3, 2.0)
# A thread counts as outside its place when it is in the same wrong place in the first look and after each of these
# times, and lives there: it sleeps, or it has run. MPI_Init may move its thread over all CPUs (hwloc's x86 back end
# reads CPUID on each); on cores that others keep busy it waits there for its turn, for seconds.
_CONFIRM_S = (0.2, 0.4, 0.8, 1.6, 3.2)
_SLEEPS = "S"
_HAS_RUN_TICKS = 2
_SHOWN_FINDINGS = 10

_Suspect = tuple[int, int, CpuSet]
"""A rank, one of its threads, and the CPUs outside the rank's own that this was found on."""


class Checker:
    """Compares the ranks of one job with their plan.

    Args:
        plan: Where they should be.
        ranks: What is known of them; the threads that looking finds are noted there.
        request: What a difference means, and how GPUs are looked up (seen_gpus.py).
        say: Tells the user about a difference when the job goes on.
        stop: Ends the job for this reason.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Sequence[RankProcess],
        request: JobRequest,
        *,
        say: Callable[[str], None],
        stop: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._ranks = ranks
        self._mode = request.verify
        self._all_gpus = request.all_gpus
        self._say = say
        self._stop = stop
        self._said: set[str] = set()
        self._stopped = False

    def report(self, services: Sequence[Service] = ()) -> Report:
        """Return what is known of every rank beside its plan."""
        seen = {rank.number: rank.seen for rank in self._ranks if rank.seen is not None}
        return verify(self._plan, seen, services=[service.to_dict() for service in services])

    def check(self) -> None:
        """Compare what is known of the ranks with the plan."""
        if self._mode is not Verify.OFF:
            note_uuids(self._plan, self._ranks, self._all_gpus)
            self._judge(self.report())

    def look_later(self, loop: Loop) -> None:
        """Have the running ranks looked at when it is time."""
        for delay_s in _LOOKS_S if self._mode is not Verify.OFF else ():
            loop.call_after(delay_s, lambda: self._look(loop, 0, {}))

    def _look(self, loop: Loop, n_before: int, before: Mapping[_Suspect, tuple[int, int]]) -> None:
        """Look at the threads of the ranks that run.

        Args:
            loop: Where to look again.
            n_before: How many looks were made because of a suspicion.
            before: In how many of them each suspect lived in the wrong place, and how many ticks it had run by then.
        """
        seen = {rank.number: rank.seen for rank in self._ranks if rank.seen is not None and not rank.ended}
        looked = {
            number: replace(one, threads=threads_of(one.pid) or one.threads, mem=memory_policy_of(one.pid) or one.mem)
            for number, one in seen.items()
        }
        suspects: dict[_Suspect, tuple[int, int]] = {}
        for number, one in looked.items():
            allowed = self._plan.rank(number).cpus
            for thread in one.threads if allowed is not None else ():
                if allowed is not None and not thread.cpus.issubset(allowed):
                    state, ticks = activity_of(one.pid, thread.tid)
                    suspect = number, thread.tid, thread.cpus
                    n_lived, ticks_then = before.get(suspect, (0, ticks))
                    lives = state == _SLEEPS or ticks - ticks_then >= _HAS_RUN_TICKS
                    suspects[suspect] = (n_lived + 1, ticks) if lives else (n_lived, ticks_then)
        guilty = {number for (number, _, _), (n_lived, _) in suspects.items() if n_lived > len(_CONFIRM_S)}
        doubtful = {number for number, _, _ in suspects} - guilty
        for rank in self._ranks:
            if rank.number in looked and rank.number not in doubtful:
                rank.seen = looked[rank.number]
        if guilty or any(self._plan.rank(number).mem for number in looked):
            self._judge(self.report())
        stayed = {suspect: known for suspect, known in suspects.items() if n_before == 0 or suspect in before}
        if doubtful and stayed:
            delay_s = _CONFIRM_S[min(n_before, len(_CONFIRM_S) - 1)]
            loop.call_after(delay_s, lambda: self._look(loop, n_before + 1, stayed))

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
