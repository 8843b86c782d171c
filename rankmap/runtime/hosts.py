"""The hosts of a job, as the supervisor sees them: it speaks to the hands on each (hands.py), and hears from them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rankmap.gathering import Gathered
from rankmap.verification import report_of_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.report import Report
    from rankmap.runtime.ending import Outcome
    from rankmap.runtime.hands import Surroundings
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.rank_output import RankOutput
    from rankmap.runtime.wire import Connection, Message

__all__ = ["Ground", "Host", "Hosts", "Listening"]

_REPORT_WAIT_S = 10.0


class Listening(Protocol):
    """Who hears of what happens on the hosts: the supervisor."""

    head_pid: int

    def on_ready(self) -> None:
        """Hear that all hosts are ready, and known."""

    def on_failure(self, outcome: Outcome) -> None:
        """Hear that a host is of no use to the job, or was told to end it."""

    def on_head(self, message: Message | None) -> None:
        """Hear what the head says; None when it is gone."""

    def on_host(self, host: Host, message: Message) -> None:
        """Hear what the hands of a host tell, noted in ``host`` already."""

    def on_lost(self, name: str) -> None:
        """Hear that a host cannot be reached any more."""

    def say(self, text: str) -> None:
        """Tell the user something."""


class Ground(Protocol):
    """The hosts that a job stands on: one (one_host.py) or several (many_hosts.py)."""

    @property
    def facts(self) -> Sequence[HostFacts]:
        """The hosts of the job, once they are known."""

    def start(self, loop: Loop, listening: Listening) -> None:
        """Get the hosts ready, in this loop."""

    def add_environment(self, variables: Mapping[str, str]) -> None:
        """Give these variables to what Dragon's launcher starts on other hosts."""

    def late(self) -> str:
        """Return the hosts that are not ready, folded; "" where all are."""

    def prepare(
        self, plan: Plan, output: RankOutput, around: Surroundings, job_of: Callable[[HostFacts, int, int], HostJob]
    ) -> Hosts:
        """Give every host that has ranks its share of the job, and return these hosts.

        Args:
            plan: Where the ranks go.
            output: Takes what they write.
            around: What is around them where that is known here.
            job_of: Returns the share of a host: of its facts, its position in the plan, and the head's pid there.
        """

    def accept(self, connection: Connection, message: Message) -> None:
        """Take in who has connected to the supervisor's socket, and its first message."""

    def tell_head(self, message: Message) -> None:
        """Say something to the head; when it is gone that is noticed elsewhere."""

    def on_wake(self) -> None:
        """Read on where output waited for room."""

    def after_step(self) -> None:
        """Do what there is to do after each step of the loop."""

    def clean_lost(self, *, hurry: Callable[[], bool]) -> list[str]:
        """Leave nothing of the job on hosts that were lost, where that can be; return what is known of each.

        Args:
            hurry: See ``end``.
        """

    def end(self, *, gentle: bool, hurry: Callable[[], bool]) -> list[str]:
        """Leave nothing of the job on other hosts; return those of which nobody knows whether that came about.

        Args:
            gentle: Whether what is left may end by itself.
            hurry: Whether somebody does not want to wait any longer, asked again and again.
        """


@dataclass(slots=True, kw_only=True)
class Host:
    """One host that has ranks.

    Args:
        name: Its name in the plan.
        node_index: Its position in the plan's allocation.
        do: Says something to the hands there.
        lines: How its ranks differ from the plan, once they were looked at before the start; None before that.
        drained: Whether all that its ranks wrote has been passed on.
        reported: Whether it has said what is known of its ranks in the end.
        report: That; or what is known of several hosts' ranks, whose other hosts have None.
        gone: Whether it cannot be reached any more.
    """

    name: str
    node_index: int
    do: Callable[[Message], None]
    lines: list[str] | None = None
    drained: bool = False
    reported: bool = False
    report: Gathered | None = None
    gone: bool = False


@dataclass(slots=True)
class _Question:
    """What was asked of the hosts, which of them have not answered yet, and the ranks of the answers."""

    then: Callable[[frozenset[int]], None]
    waiting: set[str] = field(default_factory=set)
    ranks: set[int] = field(default_factory=set)


class Hosts:
    """All hosts of a job.

    Args:
        hosts: Those that have ranks, in the plan's order.
        on_message: Called with what the hands of a host tell, after it was noted here.
    """

    def __init__(self, hosts: Iterable[Host], on_message: Callable[[Host, Message], None]) -> None:
        self.hosts = list(hosts)
        self._on_message = on_message
        self._question = _Question(lambda _ranks: None)

    def tell(self, message: Message) -> None:
        """Say this to every host that can be reached."""
        for host in self.hosts:
            if not host.gone:
                host.do(message)

    def __len__(self) -> int:
        return len(self.hosts)

    def hear(self, host: Host, message: Message) -> None:
        """Note what the hands of a host tell, and pass it on."""
        match message["kind"]:
            case "checked":
                host.lines = message["lines"]
            case "drained":
                host.drained = True
            case "report":
                host.reported = True
                if message["report"] is not None:
                    host.report = Gathered.from_values(message["report"])
            case "mpi":
                self._answer(host, message["ranks"])
            case _:
                pass
        self._on_message(host, message)

    def ask_mpi(self, then: Callable[[frozenset[int]], None]) -> None:
        """Have this called with the ranks that are in MPI; a question that was not answered yet is dropped."""
        self._question = _Question(then, {host.name for host in self.hosts if not host.gone})
        if self._question.waiting:
            self.tell({"kind": "mpi"})
        else:
            then(frozenset())

    def _answer(self, host: Host, ranks: Iterable[int]) -> None:
        question = self._question
        if host.name in question.waiting:
            question.waiting.discard(host.name)
            question.ranks.update(ranks)
            if not question.waiting:
                question.then(frozenset(question.ranks))

    def lose(self, host: Host) -> None:
        """Note that a host cannot be reached any more."""
        host.gone = True
        self._answer(host, ())

    @property
    def checked(self) -> bool:
        """Whether the ranks of all hosts were looked at before the start."""
        return all(host.lines is not None for host in self.hosts)

    def lines(self) -> list[str]:
        """Return how ranks differ from the plan, by host."""
        return [line for host in self.hosts for line in host.lines or ()]

    @property
    def drained(self) -> bool:
        """Whether nothing more of what ranks wrote will come."""
        return all(host.drained or host.gone for host in self.hosts)

    def gather_reports(self, loop: Loop) -> None:
        """Ask every host that can be reached what its ranks are like in the end, and wait for it a while."""
        self.tell({"kind": "report"})
        end_s = time.monotonic() + _REPORT_WAIT_S
        loop.call_after(_REPORT_WAIT_S, lambda: None)
        while time.monotonic() < end_s and not all(host.reported or host.gone for host in self.hosts):
            loop.step()

    def report(self, plan: Plan) -> Report:
        """Return what is known of all ranks; those of hosts that have said nothing are unobserved."""
        return report_of_nodes(plan, [host.report for host in self.hosts if host.report is not None])
