"""The hands: all that is done on one host of a job. They do what the supervisor says, and tell it what happens.

They take the ranks' shims in, check where these are, let them go, read what the ranks write, look at them while they
run, send them signals, see them end, and clear away what they leave behind. On the supervisor's own host they work in
its process and loop; on another one in that host's agent (agent.py). Both are spoken to in the same messages:

| the supervisor says | and the hands answer, then or later |
|---|---|
| prepare: this is your share (HostJob) | shims: these have come, with these pids |
| check | checked: these are the differences (``lines``) |
| release | failed: a rank could not start; misplaced: found later; ended: a rank has |
| signal: this one, to all ranks | |
| mpi: who is in MPI? | mpi |
| drain: all ranks have ended | drained: and all that they wrote has been passed on |
| report | report |

``say`` is for the user, ``service`` tells that a process of Dragon's has ended that should not, ``trouble`` that a
command could not be obeyed.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from rankmap.errors import RankmapError
from rankmap.gathering import Gathered
from rankmap.report import NodeReport
from rankmap.runtime import pmi_link, processes, services
from rankmap.runtime.checking import Checker
from rankmap.runtime.draining import Drain
from rankmap.runtime.job import MISMATCH_STATUS
from rankmap.runtime.rank_pipes import ENDS, RankPipes
from rankmap.runtime.rank_process import RankProcess
from rankmap.runtime.releasing import release_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.processes import Found
    from rankmap.runtime.rank_pipes import Taker
    from rankmap.runtime.services import Service
    from rankmap.runtime.wire import Connection, Message

__all__ = ["Hands", "Surroundings"]


class Surroundings(Protocol):
    """What is around the ranks of a host: Session, InsideSession or, on another host, Kept."""

    runtime_stays: bool

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return the pids of the runtime's and rankmap's own processes, ranks excluded."""

    def vital(self, services: Iterable[Service]) -> list[Service]:
        """Return those whose end nobody else notices, and without which there is no job."""

    def left_by_ranks(self, services: Collection[int]) -> list[Found]:
        """Return what belongs to the job and is no service."""


class Hands:
    """What is known and done on one host.

    Args:
        loop: Of the process that they work in.
        around: What is around the ranks there.
        taker: Gets what the ranks write.
        tell: Tells the supervisor.
        stdin: Makes the descriptor for the rank that reads the caller's standard input.
    """

    def __init__(
        self,
        loop: Loop,
        around: Surroundings,
        taker: Taker,
        *,
        tell: Callable[[Message], None],
        stdin: Callable[[], int],
    ) -> None:
        self._loop = loop
        self._around = around
        self._tell = tell
        self._stdin = stdin
        self._job: HostJob | None = None
        self._early: list[tuple[Connection, Message]] = []
        self._services: tuple[Service, ...] = ()
        self._watch: services.Watch | None = None
        self._checker: Checker | None = None
        self._misplacements: list[str] = []
        self._ending = self._released = self._draining = self._drained = False
        self.ranks: dict[int, RankProcess] = {}
        self._taker = taker
        self.pipes = RankPipes(loop, taker)
        self._drain = Drain(loop, self.pipes, left=self._left_by_ranks, on_end=self._on_drained)

    def do(self, message: Message) -> None:
        """Obey the supervisor."""
        try:
            self._do(message)
        except RankmapError as error:
            self._tell({"kind": "trouble", "status": error.exit_status, "reason": error.message, "hint": error.hint})

    def _do(self, message: Message) -> None:
        match message["kind"]:
            case "prepare":
                self._prepare(message["job"])
            case "check":
                assert self._checker is not None  # noqa: S101
                self._keep_services_aside()
                self._checker.check()
                self._tell({"kind": "checked", "lines": self._misplacements})
            case "release":
                assert self._job is not None  # noqa: S101
                self._released = True
                release_all(list(self.ranks.values()), self._job, self.pipes, self._stdin)
            case "signal":
                self._signal(signal.Signals(message["number"]))
            case "mpi":
                self._tell({"kind": "mpi", "ranks": sorted(self._in_mpi())})
            case "drain":
                self._wind_down()
                self._draining = True
                self.after_step()
            case "report":
                self._tell({"kind": "report", "report": self._report()})
            case other:
                msg = f"rankmap's hands do not know the command {other!r}"
                raise ValueError(msg)

    # -- the ranks come -------------------------------------------------------------------------------------------

    def _prepare(self, job: HostJob) -> None:
        self._job = job
        self.ranks = {rank.rank: RankProcess(rank.rank) for rank in job.plan.iter_ranks()}
        self._checker = Checker(job.plan, list(self.ranks.values()), job, say=self._say, stop=self._misplaced)
        early, self._early = self._early, []
        for connection, message in early:
            self.take_in(connection, message)

    def take_in(self, connection: Connection, message: Message) -> None:
        """Take in a shim that has connected and said what it sees."""
        if self._job is None:  # on another host the ranks may be quicker than the plan
            self._early.append((connection, message))
            return
        number, here = message["rank"], message["host"] == os.uname().nodename
        if number not in self.ranks:
            what = f"rank {number} was started on {self._job.plan.host}, where it is not planned (host-differs)"
            hint = "docs/findings.md has causes and cures"
            self._tell({"kind": "trouble", "status": MISMATCH_STATUS, "reason": what, "hint": hint})
            with suppress(OSError):
                connection.send({"kind": "stop"})
            return
        rank = self.ranks[number]
        # The job may have another name for this host.
        rank.report(connection, message | ({"host": self._job.plan.host} if here else {}))
        self._tell({"kind": "shims", "ranks": [[rank.number, message["pid"]]]})
        if rank.pidfd is not None:
            self._loop.call_when_readable(rank.pidfd, lambda: self._on_rank_end(rank))
        else:
            self._on_rank_end(rank)
        self._loop.call_when_readable(connection, lambda: self._on_rank_message(rank, connection))
        if self._ending:
            rank.end(signal.SIGTERM)

    def _on_rank_message(self, rank: RankProcess, connection: Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            if message["kind"] == "goes":
                rank.goes(message)
                continue
            rank.ended_by_us = True
            self._tell({**message, "kind": "failed", "rank": rank.number})
        if messages is None:
            self._loop.forget(connection)
            connection.close()
            rank.connection = None
            rank.running = rank.released and not rank.ended_by_us
            if all(other.running or other.ended for other in self.ranks.values()):
                self._all_run()

    def _all_run(self) -> None:
        if self._checker is not None:
            self._checker.check()
            self._checker.look_later(self._loop)

    def _on_rank_end(self, rank: RankProcess) -> None:
        if rank.pidfd is not None:
            self._loop.forget(rank.pidfd)
            rank.close_pidfd()
        self._wind_down()
        rank.ended = True
        self._tell({"kind": "ended", "rank": rank.number})

    def _wind_down(self) -> None:
        """Let Dragon's services be quick again: the end has begun."""
        if self._services and not self._around.runtime_stays and not any(one.ended for one in self.ranks.values()):
            services.hurry(self._services)

    # -- they are looked at ---------------------------------------------------------------------------------------

    def _keep_services_aside(self) -> None:
        """Now that every rank's pid is known, all else in the runtime is Dragon's own."""
        assert self._job is not None  # noqa: S101
        ranks = {rank.seen.pid for rank in self.ranks.values() if rank.seen is not None}
        self._services = services.keep_aside(
            self._around.services(ranks),
            head_pid=self._job.head_pid,
            reserve=self._job.reserve,
            lower=not self._around.runtime_stays,
        )
        self._watch = services.Watch(self._loop, self._around.vital(self._services), self._on_service_end)

    def _on_service_end(self, service: Service) -> None:
        self._tell({"kind": "service", "name": service.name, "pid": service.pid})

    def _misplaced(self, lines: list[str]) -> None:
        if self._released:
            self._tell({"kind": "misplaced", "lines": lines})
        self._misplacements = lines

    def _say(self, text: str) -> None:
        self._tell({"kind": "say", "text": text})

    def _report(self) -> dict[str, Any] | None:
        """Return what is known of the ranks beside their plan (gathering.py); None before there was one."""
        if self._job is None or self._checker is None:
            return None
        plan, report = self._job.plan, self._checker.report(self._services)
        node = NodeReport(position=plan.position, host=plan.host, ranks=report.ranks, services=report.services)
        return Gathered.of(node, n_job_ranks=plan.n_job_ranks).to_values()

    def _in_mpi(self) -> frozenset[int]:
        return pmi_link.connected(
            {
                rank.number: (rank.seen.pid, rank.pmi_ports)
                for rank in self.ranks.values()
                if rank.seen is not None and not rank.ended
            }
        )

    # -- they end -------------------------------------------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the ranks, and to what they have started: a shell does not pass it on."""
        self._ending = True
        running = processes.everything() if self.ranks else []
        for rank in self.ranks.values():
            below = [] if rank.ended or rank.seen is None else processes.descendants(rank.seen.pid, running)
            rank.end(number)
            for process in below:
                processes.send_signal(process, number)

    def _left_by_ranks(self) -> list[Found]:
        return self._around.left_by_ranks({service.pid for service in self._services}) if self._services else []

    def after_step(self) -> None:
        """Look whether all that the ranks wrote has been passed on; called when the loop has done something."""
        if self._draining and not self._drained:
            self._drain.check()

    def _on_drained(self) -> None:
        if not self._drained:
            self._drained = True
            self.pipes.close()
            for number in self.ranks.keys() - self.pipes.opened if self._released else ():
                for end in range(ENDS):  # it was to write something, and never got as far
                    self._taker.feed(number, end, b"")
            self._tell({"kind": "drained"})

    def on_wake(self) -> None:
        """Read on where output waited for room."""
        self.pipes.resume()

    def close(self) -> None:
        """Watch and read no more."""
        if self._watch is not None:
            self._watch.close()
        with suppress(OSError):
            self.pipes.close()
