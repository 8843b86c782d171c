"""Whether the ranks are where the plan says: before the application runs, and looked at again while it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.report import Finding, Severity
from rankmap.running import thread_findings
from rankmap.runtime.job import Verify
from rankmap.runtime.observer import memory_policy_of, pages_of, threads_of
from rankmap.runtime.seen_gpus import note_uuids
from rankmap.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rankmap.node_plan import NodePlan
    from rankmap.observe import Observation, ThreadObservation
    from rankmap.report import Report
    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.rank_process import RankProcess
    from rankmap.runtime.services import Service

__all__ = ["Checker", "shortened"]

# When running ranks are looked at: soon, and once more when their MPI library has made its threads.
_LOOKS_S = (0.3, 2.0)
# A thread counts as out of place when a look finds it there and it is in the same place after each of these times, and
# lives there: it sleeps, or it has run. MPI_Init may move its thread over all CPUs (hwloc's x86 back end reads CPUID
# on each); on cores that others keep busy it waits there for its turn, for seconds.
_CONFIRM_S = (0.2, 0.4, 0.8, 1.6, 3.2)
_SLEEPS = "S"
_HAS_RUN_TICKS = 2
_SHOWN_FINDINGS = 10
_OUTSIDE = "thread-outside-cpus"
_WORTH_A_WORD = 2

_Suspect = tuple[int, int, CpuSet]
"""A rank, one of its threads, and the CPUs that this was found on."""


class Checker:
    """Compares the ranks of one host with their plan.

    Args:
        plan: Where they should be.
        ranks: What is known of them; what looking finds is noted there.
        job: What a difference means, how often to look, and how GPUs are looked up (seen_gpus.py).
        say: Tells the user about a finding when the job goes on.
        stop: Ends the job because of these differences.
    """

    def __init__(
        self,
        plan: NodePlan,
        ranks: Sequence[RankProcess],
        job: HostJob,
        *,
        say: Callable[[str], None],
        stop: Callable[[list[str]], None],
    ) -> None:
        self._plan = plan
        self._ranks = ranks
        self._by_number = {rank.number: rank for rank in ranks}
        self._mode = job.verify
        self._watch_s = job.watch_s
        self._all_gpus = job.all_gpus
        self._say = say
        self._stop = stop
        # How often each suspect lived where it was found, and for how many ticks it had run by then.
        self._lived: dict[_Suspect, tuple[int, int]] = {}
        # The same of those whose rank ended before anybody could be sure.
        self._in_doubt: dict[_Suspect, int] = {}
        self._found: dict[int, dict[str, list[Finding]]] = {}
        self._said: set[object] = set()
        self._looks = self._stopped = False

    def report(self, services: Sequence[Service] = ()) -> Report:
        """Return what is known of every rank beside its plan, and all that was found on the way."""
        seen = {rank.number: replace(rank.seen, ended=rank.ended) for rank in self._ranks if rank.seen is not None}
        report = verify(self._plan, seen, services=[service.to_dict() for service in services])
        return report.with_earlier(self._found).with_earlier(self._doubts())

    def _doubts(self) -> dict[int, dict[str, list[Finding]]]:
        """Return what was seen of ranks that ended too soon to be sure: more than once, so that it is worth a word."""
        found: dict[int, dict[str, list[Finding]]] = {}
        for (number, tid, cpus), n_lived in (self._in_doubt | {one: n for one, (n, _) in self._lived.items()}).items():
            own = self._plan.rank(number).cpus
            if own is None or cpus.issubset(own) or n_lived < _WORTH_A_WORD or not self._by_number[number].ended:
                continue
            seen = f"thread {tid} on CPUs {cpus}, and the rank ended before that was certain"
            finding = Finding(slug=_OUTSIDE, severity=Severity.WARNING, expected=f"CPUs {own}", observed=seen)
            found.setdefault(number, {}).setdefault(_OUTSIDE, []).append(finding)
        return found

    def check(self) -> None:
        """Compare what is known of the ranks with the plan."""
        if self._mode is not Verify.OFF:
            note_uuids(self._plan, self._ranks, self._all_gpus)
            self._judge()

    def look_later(self, loop: Loop) -> None:
        """Have the running ranks looked at when it is time; a second call changes nothing."""
        if self._mode is Verify.OFF or self._looks:
            return
        self._looks = True
        soon_s, last_s = _LOOKS_S
        loop.call_after(soon_s, lambda: self._look(loop))
        loop.call_after(last_s, lambda: self._look_at_all(loop, then=lambda: None))
        self._watch(loop)

    def _watch(self, loop: Loop) -> None:
        """Look at everything when it is time, again and again while there are ranks."""
        if self._watch_s is not None and not all(rank.ended for rank in self._ranks):
            loop.call_after(self._watch_s, lambda: self._look_at_all(loop, then=lambda: self._watch(loop)))

    def _look_at_all(self, loop: Loop, *, then: Callable[[], None]) -> None:
        self._look(loop)
        self._look_at_pages(loop, [rank for rank in self._ranks if self._has_choice(rank)], then)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _has_choice(self, rank: RankProcess) -> bool:
        """Return whether the rank's memory could be in another NUMA domain."""
        node_index = self._plan.rank(rank.number).node_index
        return len(self._plan.allocation.topology(node_index).numa_domains) > 1

    def _look_at_pages(self, loop: Loop, ranks: Sequence[RankProcess], then: Callable[[], None]) -> None:
        """Look where the memory of these ranks is, one a step of the loop: output and signals come in between."""
        if not ranks:
            self._judge()
            then()
            return
        rank, *rest = ranks
        if rank.seen is not None and not rank.ended:
            rank.seen = replace(rank.seen, pages=pages_of(rank.seen.pid) or rank.seen.pages)
        loop.call_after(0, lambda: self._look_at_pages(loop, rest, then))

    # -- threads --------------------------------------------------------------------------------------------------

    def _look(self, loop: Loop) -> None:
        """Look at the threads and the memory policies of the ranks that run, and be sure of what seems wrong."""
        looked, suspects = self._observe()
        new = [suspect for suspect in suspects if suspect not in self._lived]
        self._lived.update({suspect: (0, suspects[suspect].ticks) for suspect in new})
        self._take_over(looked, suspects)
        self._be_sure(loop, new, 0)

    def _be_sure(self, loop: Loop, suspects: Iterable[_Suspect], n_before: int) -> None:
        """Look again, in a while, at those of these suspects that are still in doubt after so many looks."""
        doubtful = [suspect for suspect in suspects if suspect in self._lived and not self._is_sure(suspect)]
        if doubtful:
            delay_s = _CONFIRM_S[min(n_before, len(_CONFIRM_S) - 1)]
            loop.call_after(delay_s, lambda: self._look_again(loop, doubtful, n_before + 1))

    def _is_sure(self, suspect: _Suspect) -> bool:
        return suspect in self._lived and self._lived[suspect][0] >= len(_CONFIRM_S)

    def _look_again(self, loop: Loop, doubtful: Sequence[_Suspect], n_before: int) -> None:
        looked, suspects = self._observe()
        for suspect in doubtful:
            n_lived, ticks = self._lived.pop(suspect)
            thread = suspects.get(suspect)
            if thread is None and self._by_number[suspect[0]].ended:
                self._in_doubt[suspect] = n_lived
            elif thread is not None:
                lives = thread.state == _SLEEPS or thread.ticks - ticks >= _HAS_RUN_TICKS
                self._lived[suspect] = (n_lived + 1, thread.ticks) if lives else (n_lived, ticks)
        self._take_over(looked, suspects)
        self._be_sure(loop, doubtful, n_before)

    def _observe(self) -> tuple[dict[int, Observation], dict[_Suspect, ThreadObservation]]:
        """Return the ranks that run as they are now, and the threads that would be findings."""
        looked = {
            rank.number: replace(
                one, threads=threads_of(one.pid) or one.threads, mem=memory_policy_of(one.pid) or one.mem
            )
            for rank in self._ranks
            if (one := rank.seen) is not None and not rank.ended
        }
        suspects = {
            (found.rank, thread.tid, thread.cpus): thread
            for found in thread_findings(self._plan, looked)
            for thread in found.threads
        }
        return looked, suspects

    def _take_over(self, looked: Mapping[int, Observation], suspects: Iterable[_Suspect]) -> None:
        """Note what was seen, of a rank that is only suspected not yet its threads, and judge it."""
        suspected, sure = {number for number, _, _ in suspects}, {one[0] for one in suspects if self._is_sure(one)}
        for rank in self._ranks:
            if rank.number in looked and rank.seen is not None:
                one = looked[rank.number]
                in_doubt = rank.number in suspected - sure
                rank.seen = replace(one, threads=rank.seen.threads) if in_doubt else one
        self._judge()

    # -- what comes of it -----------------------------------------------------------------------------------------

    def _judge(self) -> None:
        report = self.report()
        for rank in report.ranks:
            if rank.observed is not None and rank.findings:
                of_rank = self._found[rank.rank] = dict[str, "list[Finding]"]()
                for finding in rank.findings:
                    of_rank.setdefault(finding.slug, []).append(finding)
        new = [one for one in report.warnings() if (one[0], one[1].slug) not in self._said]
        self._said.update((number, finding.slug) for number, finding in new)
        for line in shortened([f"warning: {_line(number, finding)}" for number, finding in new]):
            self._say(line)
        lines = [_line(number, finding) for number, finding in report.errors()]
        if self._mode is Verify.WARN:
            for line in lines:
                if line not in self._said:
                    self._say(line)
            self._said.update(lines)
        elif lines and not self._stopped:
            self._stopped = True
            self._stop(lines)


def _line(number: int, finding: Finding) -> str:
    return f"rank {number} ({finding.slug}): planned {finding.expected}, found {finding.observed}"


def shortened(lines: Sequence[str]) -> list[str]:
    """Return the first of these lines, and how many more there are."""
    n_more = len(lines) - _SHOWN_FINDINGS
    return [*lines[:_SHOWN_FINDINGS], *([f"... and {n_more} more"] if n_more > 0 else [])]
