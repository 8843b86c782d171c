"""Runs one job: starts the runtime, lets the ranks go when they are where the plan says, and ends everything.

This is the outer process, plain Python without Dragon, so signals work and nothing here can hang in Dragon's C code.
One loop waits for everything: the head's messages, what the hands of each host tell (hands.py), signals and timers.
docs/design/0006-supervisor.md draws it.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import LaunchError, RankmapError
from rankmap.node_plan import NodePlan
from rankmap.runtime.application import start_failure
from rankmap.runtime.checking import shortened
from rankmap.runtime.door import Door
from rankmap.runtime.ending import GIVE_UP_S, Ending, Outcome, no_start, perhaps_left, runtime_gone
from rankmap.runtime.host_job import HostJob
from rankmap.runtime.hosts import Hosts
from rankmap.runtime.job import MISMATCH_STATUS, TIMEOUT_STATUS, JobRequest, JobResult
from rankmap.runtime.limits import Limits, raised_descriptor_limit
from rankmap.runtime.live import live_plan
from rankmap.runtime.loop import Loop
from rankmap.runtime.rank_output import RankOutput, tell
from rankmap.runtime.rank_state import RankState
from rankmap.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.placement import Plan
    from rankmap.runtime.application import Application
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.hosts import Ground, Host
    from rankmap.runtime.inside import InsideSession
    from rankmap.runtime.session import ControlDirectory
    from rankmap.runtime.wire import Message

__all__ = ["Supervisor"]

_SHIMS_TIMEOUT_S = 120.0
_OUTPUT_GRACE_S = 2.0
_SIGNAL_WAIT_S = 0.3
_PROGRESS_S = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """One job from start to end; ``run`` is called once."""

    def __init__(
        self,
        request: JobRequest,
        control: ControlDirectory,
        ground: Ground,
        start: Callable[[Callable[[], None]], Session | InsideSession],
    ) -> None:
        self.request = request
        self.ground = ground
        self.control = control
        self.start_session = start
        self.loop = Loop(_SIGNALS, self._on_wake)
        self.ending = Ending(
            self.loop,
            kill_grace_s=request.kill_grace_s,
            send=lambda number: self.hosts.tell({"kind": "signal", "number": int(number)}),
            ask_mpi=lambda then: self.hosts.ask_mpi(then),  # noqa: PLW0108 - the hosts come with the plan
            give_up=self._give_up,
        )
        self.session: Session | InsideSession | None = None
        self.head_pid = 0
        self.plan: Plan | None = None
        self.applications: tuple[Application, ...] = ()
        self.ranks: list[RankState] = []
        self.hosts = Hosts([], self.on_host)
        self.output: RankOutput | None = None
        self.limits = Limits.own()
        self.interrupted = self.draining = self.runtime_gone = self.finishing = self.done = self.by_force = False
        self.hurried = False

    @property
    def _session(self) -> Session | InsideSession:
        assert self.session is not None  # noqa: S101 - started first of all
        return self.session

    def run(self) -> JobResult:
        """Run the job; return how it ended when nothing of it is left."""
        with (
            raised_descriptor_limit(),
            self.loop,
            Door(self.loop, self.control.socket, self.ground.accept) as self.door,
            ExitStack() as at_end,
        ):
            at_end.callback(self._end_output)
            at_end.callback(self._end_session)
            at_end.callback(self.ending.kill_ranks)
            self.loop.call_after(self.request.start_timeout_s, self._check_head_came)
            self.loop.call_after(_PROGRESS_S, lambda: self._tell_progress(_PROGRESS_S))
            if self.request.timeout_s is not None:
                self.loop.call_after(self.request.timeout_s, self._on_timeout)
            self._step(lambda: self.ground.start(self.loop, self))
            while not self.done:
                self._step(self.loop.step)
            self.hosts.gather_reports(self.loop)
            for known in self.ending.explain(self.ground.clean_lost(hurry=self._in_a_hurry)):
                self.say(known)
        return self._result()

    def _tell_progress(self, waited_s: float) -> None:
        """Say what a start that takes long waits for, twice as late each time."""
        if self.plan is None and not self.done:
            waits_for = "Dragon" if self.session is not None else self.ground.late()
            self.say(f"still starting after {waited_s:.0f} s, waiting for {waits_for}")
            self.loop.call_after(waited_s, lambda: self._tell_progress(2 * waited_s))

    def on_ready(self) -> None:
        """Start the runtime, now that the hosts are ready."""
        self.session = self.start_session(self.loop.wake)
        if isinstance(self.session, Session):
            self.loop.call_when_readable(self.session, self._on_log)
            self.loop.call_when_readable(self.session.link, self._on_keeper)

    def _in_a_hurry(self) -> bool:
        """Return whether a signal has come since the end began."""
        return self.hurried or self.loop.caught

    def _end_session(self) -> None:
        if self.session is not None:
            if self.session.runtime_stays:
                self.door.close()  # a head that comes now has nobody to serve
                if not self.finishing:
                    self.ground.tell_head({"kind": "finish"})
            stuck = self.session.end(head_pid=self.head_pid, force=self.by_force, hurry=self._in_a_hurry)
            if stuck:
                self.say(f"processes {', '.join(map(str, stuck))} cannot be ended: stuck in the kernel, or not ours")
        unknown = self.ground.end(gentle=not self.by_force, hurry=self._in_a_hurry)
        if unknown:
            self.say(perhaps_left(unknown, self.control.path))

    def _end_output(self) -> None:
        taken = self.output is None or self.output.close(timeout_s=_OUTPUT_GRACE_S)
        if self.session is not None and taken:  # else somebody still writes to it
            self.session.release()

    def _step(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RankmapError as error:
            self._end(Outcome(status=error.exit_status, reason=error.message, hint=error.hint))
        except OSError as error:  # no descriptor left, no memory: not a reason to leave anything behind
            self._end(Outcome(status=LaunchError.exit_status, reason=f"rankmap cannot go on: {error}"))
        self._finish_when_over()
        self.ground.after_step()

    def _on_wake(self, signals: list[int]) -> None:
        if self.session is not None and self.session.failure is not None and self.plan is None:
            raise self.session.failure
        if self.output is not None:
            self.output.on_wake()
        self.ground.on_wake()
        if self.output is not None and self.output.unwanted and self.ending.outcome is None:
            # As for any program in a pipeline whose reader has had enough: no word about it.
            self._end(Outcome(status=128 + signal.SIGPIPE, reason=""))
        self.hurried |= bool(signals) and self.done
        for number in signals:
            if self.interrupted or not self.ranks or any(rank.pid is None for rank in self.ranks):
                self._give_up()  # asked twice, or nothing of the application has run: no reason to wait
            else:
                self.loop.call_after(self._session.interrupt_timeout_s, self._give_up)
            self.interrupted = True
            self._end(Outcome(status=128 + number, reason=f"ended by {signal.Signals(number).name}"))

    def say(self, text: str) -> None:
        """Tell the user something on stderr, between whole lines of the ranks' own."""
        (tell if self.output is None else self.output.say)(text)

    # -- the runtime and its head ---------------------------------------------------------------------------------

    def _on_log(self) -> None:
        assert isinstance(self.session, Session)  # noqa: S101
        lines = self.session.read_log()
        if lines is None:
            self.loop.forget(self.session)
        for line in lines or () if self.request.verbose else ():
            self.say("dragon: " + line.decode(errors="replace"))

    def _on_keeper(self) -> None:
        assert isinstance(self.session, Session)  # noqa: S101
        if what := self.session.read_link():
            self.loop.forget(self.session.link)
            while self.session.read_log():  # what it said last may explain it
                pass
            self._on_runtime_end(what)

    def _on_runtime_end(self, what: str) -> None:
        """A process without which there is no runtime has ended: so does the job."""
        if self.finishing:
            self.done = True
        elif not self.runtime_gone:
            self.runtime_gone = True
            self.loop.call_after(_SIGNAL_WAIT_S, lambda: self._judge_runtime_end(what))

    def _judge_runtime_end(self, what: str) -> None:
        if self.interrupted:
            return  # a batch system sends SIGTERM to all of a job; the ranks have their time to end all the same
        self.ending.settle(runtime_gone(what, started=bool(self.head_pid), log_tail=self._session.log_tail()))
        self._give_up()

    def _check_head_came(self) -> None:
        if self.plan is None:
            self.by_force = True
            self._end(no_start(self.request.start_timeout_s, late=self.ground.late(), log_tail=self._log_tail()))

    def on_head(self, message: Message | None) -> None:
        """Take what the head says; None when it is gone."""
        if message is not None:
            self._on_head_message(message)
        elif not self.finishing or self._session.runtime_stays:  # else the runtime's own end is waited for
            self._on_runtime_end(f"rankmap's head (pid {self.head_pid}) ended")

    def on_failure(self, outcome: Outcome) -> None:
        """End the job because a host is of no use to it, or was told to end it."""
        self.by_force |= self.plan is None
        self._end(outcome)

    def on_lost(self, name: str) -> None:
        """End the job because a host cannot be reached any more, and the others by force: Dragon would wait for it."""
        if not self.finishing:
            self.ending.lose(name)
        self.ending.kill_ranks()
        self._give_up()

    def _log_tail(self) -> str:
        return "" if self.session is None else self.session.log_tail()

    def _on_head_message(self, message: Message) -> None:
        match message["kind"]:
            case "head":
                self.head_pid = message["pid"]
            case "nodes":
                self._plan_and_start(message["nodes"])
            case "ended":
                self.ending.on_exit_codes(message["codes"], log_tail=self._session.log_tail())
            case "error" if self.finishing:
                self.say(f"the job is over, and tidying up after it failed: {message['message']}")
                self.done = True
            case "error":
                text = message["message"] + (f"\n{message['traceback']}" if self.request.verbose else "")
                reason = text + self._session.log_tail()
                self.ending.settle(Outcome(status=LaunchError.exit_status, reason=reason, hint=message["hint"]))
                self.done = True
            case other:
                msg = f"the head sent an unknown message {other!r}"
                raise LaunchError(msg)

    def _plan_and_start(self, nodes: list[dict[str, object]]) -> None:
        request = self.request
        self.plan, starts, remarks = live_plan(request, self.ground.facts, nodes)
        plan = self.plan
        for remark in remarks:
            self.say(remark)
        self.applications = request.applications_for(plan)
        self.ranks = self.ending.ranks = [RankState(number=one.rank, host=one.host) for one in plan.iter_ranks()]
        targets = self._session.output_descriptors
        self.output = RankOutput(self.loop.wake, request.output, n_ranks=plan.n_ranks, targets=targets)
        self.hosts = self.ground.prepare(plan, self.output, self._session, self._share)
        socket = str(self.control.door)
        self.ground.tell_head({"kind": "start", "starts": starts, "backend": request.backend, "socket": socket})
        self.loop.call_after(_SHIMS_TIMEOUT_S, self._check_shims_came)

    def _share(self, facts: HostFacts, node_index: int, head_pid: int) -> HostJob:
        """Return what a host has to do of the job."""
        assert self.plan is not None  # noqa: S101
        pairs = zip(self.applications, facts.paths, strict=True)
        return HostJob.of(
            self.request,
            name=self.control.path.name,
            plan=NodePlan.of(self.plan, node_index),
            applications=[replace(one, path=path or one.path) for one, path in pairs],
            head_pid=head_pid,
            limits=self.limits,
        )

    def _check_shims_came(self) -> None:
        missing = CpuSet.of(rank.number for rank in self.ranks if rank.pid is None and not rank.ended)
        self._give_up_on(missing, f"ranks {missing} did not start within {_SHIMS_TIMEOUT_S:.0f} s")

    def _check_code_came(self, rank: RankState) -> None:
        if rank.exit_code is None:
            self._give_up_on(CpuSet.of([rank.number]), f"Dragon does not say how rank {rank.number} ended")

    def _give_up_on(self, ranks: CpuSet, reason: str) -> None:
        if ranks:
            self.ending.settle(Outcome(status=LaunchError.exit_status, reason=reason + self._session.log_tail()))
            self._give_up()

    # -- the ranks ------------------------------------------------------------------------------------------------

    def on_host(self, host: Host, message: Message) -> None:
        """Take what the hands of a host tell."""
        match message["kind"]:
            case "shims":
                self._on_shims(message["ranks"])
            case "checked":
                self._start_applications()
            case "misplaced":
                self._on_mismatch(message["lines"])
            case "failed":
                self._on_failed_start(message)
            case "ended":
                self._on_rank_end(self.ranks[message["rank"]])
            case "drained":
                self._finish_when_over()
            case "service" if not self.finishing:
                where = f" on {host.name}" if len(self.hosts) > 1 else ""
                self._on_runtime_end(f"its {message['name']} (pid {message['pid']}){where} ended")
            case "say":
                self.say(message["text"])
            case "trouble":
                self._end(Outcome(status=message["status"], reason=message["reason"], hint=message["hint"]))
            case _:  # an answer that hosts.py has noted
                pass

    def _on_failed_start(self, message: Message) -> None:
        rank = self.ranks[message["rank"]]
        status, why, hint = start_failure(message["what"], message["path"], message["errno"])
        rank.ended_by_us = True
        self._end(Outcome(status=status, reason=f"rank {rank.number} on {rank.host}: {why}", hint=hint))

    def _on_shims(self, pids: list[list[int]]) -> None:
        for number, pid in pids:
            self.ranks[number].pid = pid
        if self.ending.outcome is None and all(rank.pid is not None for rank in self.ranks):
            self.ground.tell_head({"kind": "quiet"})
            self.hosts.tell({"kind": "check"})

    def _start_applications(self) -> None:
        """Give the ranks leave to go, if all of them are where the plan says."""
        if self.ending.outcome is None and self.hosts.checked:
            if lines := self.hosts.lines():
                self._on_mismatch(lines)
            else:
                assert self.output is not None  # noqa: S101
                self.output.open_all(rank.number for rank in self.ranks)
                self.hosts.tell({"kind": "release"})

    def _on_mismatch(self, lines: list[str]) -> None:
        text = "\n  ".join(shortened(lines))
        reason = f"the ranks are not where the plan says, so the job was stopped:\n  {text}"
        hint = "docs/findings.md has causes and cures; --verify warn goes on all the same"
        self._end(Outcome(status=MISMATCH_STATUS, reason=reason, hint=hint))

    def _on_rank_end(self, rank: RankState) -> None:
        rank.ended = True
        rank.end_order = sum(other.ended for other in self.ranks)
        if rank.exit_code is None:
            self.ground.tell_head({"kind": "reap", "ranks": [rank.number]})
            self.loop.call_after(GIVE_UP_S, lambda: self._check_code_came(rank))
        if self.runtime_gone and rank.end_order == len(self.ranks):
            self._give_up()  # nobody will tell how they ended

    # -- the end --------------------------------------------------------------------------------------------------

    def _end(self, outcome: Outcome) -> None:
        """End the job for this reason."""
        if self.plan is None:
            self.ending.settle(outcome)
            self.done = True
        else:
            self.ending.end(outcome)

    def _on_timeout(self) -> None:
        assert self.request.timeout_s is not None  # noqa: S101
        outcome = self.ending.on_timeout(self.request.timeout_s, TIMEOUT_STATUS)
        if outcome is not None:
            self._end(outcome)

    def _finish_when_over(self) -> None:
        if self.finishing or not self.ranks or any(rank.exit_code is None for rank in self.ranks):
            return
        if not self.draining:
            self.draining = True
            self.hosts.tell({"kind": "drain"})
        assert self.output is not None  # noqa: S101
        if self.interrupted or (self.hosts.drained and self.output.drained()):
            self._finish()

    def _finish(self) -> None:
        if not self.finishing:
            self.finishing = True
            self.ground.tell_head({"kind": "finish"})
            self.loop.call_after(self._session.finish_timeout_s, self._give_up)

    def _give_up(self) -> None:
        """Wait no longer for Dragon to end by itself."""
        self.done = self.by_force = True

    def _result(self) -> JobResult:
        outcome = self.ending.outcome or Outcome(status=0, reason="")
        if self.output is not None and self.output.failed and outcome.status == 0:
            reason = "the ranks ended well, but some output could not be written where it was asked for"
            outcome = Outcome(status=RankmapError.exit_status, reason=reason)
        return JobResult(
            status=outcome.status,
            reason=outcome.reason,
            hint=outcome.hint,
            plan=self.plan,
            report=None if self.plan is None else self.hosts.report(self.plan),
            exit_codes={rank.number: rank.exit_code for rank in self.ranks if rank.exit_code is not None},
        )
