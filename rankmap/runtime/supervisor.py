"""Runs one job: starts the runtime, lets the ranks go when they are where the plan says, and ends everything.

This is the outer process, plain Python without Dragon, so signals work and nothing here can hang in Dragon's C code.
One loop waits for everything: the head's messages, the shims, the ranks' output, their end (pidfd_open(2)), signals
and timers; it sleeps when there is nothing. docs/design/0006-supervisor.md draws it.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import LaunchError, RankmapError, RuntimeUnusableError
from rankmap.observe import Observation
from rankmap.report import Report, Verdict
from rankmap.runtime import services
from rankmap.runtime.application import exec_failure
from rankmap.runtime.job import JobRequest, JobResult, Verify
from rankmap.runtime.live import live_allocation
from rankmap.runtime.observer import threads_of
from rankmap.runtime.rank_output import RankOutput
from rankmap.runtime.session import Session
from rankmap.runtime.wire import Connection, Message, listen
from rankmap.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.placement import Plan
    from rankmap.runtime.inside import InsideSession
    from rankmap.runtime.session import ControlDirectory

__all__ = ["Supervisor"]

_HEAD_TIMEOUT_S = 60.0
_SHIMS_TIMEOUT_S = 120.0
_TERM_GRACE_S = 2.0
_OUTPUT_GRACE_S = 2.0
_FINISH_TIMEOUT_S = 60.0
# When running ranks are looked at: soon, and once more when their MPI library has made its threads.
_LOOKS_S = (0.3, 2.0)
# A thread counts as outside its place when it is there in so many looks in a row, so far apart: MPI_Init may move
# its thread over all CPUs for a moment (hwloc's x86 back end reads CPUID on each).
_LOOKS_TO_CONFIRM = 3
_CONFIRM_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class _Rank:
    """What is known of one rank while the job runs."""

    number: int
    connection: Connection | None = None
    seen: Observation | None = None
    pidfd: int | None = None
    running: bool = False
    ended: bool = False
    exit_code: int | None = None
    ended_by_us: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """Why the job ends as it does: the exit status and the words for it."""

    status: int
    reason: str
    hint: str = ""


class Supervisor:
    """One job from start to end; ``run`` is called once."""

    def __init__(
        self, request: JobRequest, control: ControlDirectory, start: Callable[[], Session | InsideSession]
    ) -> None:
        self.request = request
        self.control = control
        self.start_session = start
        self.selector = selectors.DefaultSelector()
        self.session: Session | InsideSession | None = None
        self.head: Connection | None = None
        self.head_pid = 0
        self.plan: Plan | None = None
        self.dragon_names: dict[str, str] = {}
        self.ranks: list[_Rank] = []
        self.outcome: _Outcome | None = None
        self.finishing = False
        self.done = False
        self.services: tuple[services.Service, ...] = ()
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals: list[int] = []
        self.said: set[str] = set()
        self.output: RankOutput | None = None

    def run(self) -> JobResult:
        """Run the job; return how it ended when nothing of it is left."""
        old_handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        listener = listen(self.control.socket, 4096)
        try:
            self.selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener.accept()[0]))
            self.selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
            self.session = self.start_session()
            raise_descriptor_limit()
            if isinstance(self.session, Session):
                self.selector.register(self.session, selectors.EVENT_READ, self._on_log)
            self._after(_HEAD_TIMEOUT_S, self._check_head_came)
            if self.request.timeout_s is not None:
                self._after(self.request.timeout_s, self._on_timeout)
            while not self.done:
                self._wait()
        finally:
            listener.close()
            if self.session is not None:
                self.session.end(head_pid=self.head_pid)
            if self.output is not None:
                self.output.close()
            for number, handler in old_handlers.items():
                signal.signal(number, handler)
            self.selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
        return self._result()

    # -- the loop -----------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        now_s = time.monotonic()
        timeout_s = max(0.0, min(due_s for due_s, _ in self.timers) - now_s) if self.timers else None
        for key, _ in self.selector.select(timeout_s):
            try:
                key.data()
            except RankmapError as error:
                self._end(error.exit_status, error.message, error.hint)
        now_s = time.monotonic()
        due = [timer for timer in self.timers if timer[0] <= now_s]
        self.timers = [timer for timer in self.timers if timer[0] > now_s]
        for _, action in due:
            action()
        self._finish_when_over()

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.timers.append((time.monotonic() + delay_s, action))

    def wake(self) -> None:
        """Wake the loop from another thread or a signal handler."""
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 1 << 16)
        if self.output is not None:
            self.output.resume()
            if self.output.broken() is not None and self.outcome is None:
                # As for any program in a pipeline whose reader has had enough.
                self._end(128 + signal.SIGPIPE, "")
        signals, self._signals = self._signals, []
        for number in signals:
            self._end(128 + number, f"ended by {signal.Signals(number).name}")

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)
        self.wake()

    def say(self, text: str) -> None:
        """Tell the user something on stderr, between whole lines of the ranks' own."""
        if self.output is not None:
            self.output.say(text)
        else:
            os.write(2, f"rankmap: {text}\n".encode())

    # -- the runtime and its head ---------------------------------------------------------------------------------

    def _on_log(self) -> None:
        assert isinstance(self.session, Session)  # noqa: S101
        lines = self.session.read_log()
        if lines is None:
            self.selector.unregister(self.session)
            self._on_runtime_end()
        elif self.request.verbose:
            for line in lines:
                self.say("dragon: " + line.decode(errors="replace"))

    def _on_runtime_end(self) -> None:
        if not self.finishing:
            started = self.head is not None or self.head_pid
            status = LaunchError.exit_status if started else RuntimeUnusableError.exit_status
            what = "the Dragon runtime ended under the job" if started else "the Dragon runtime did not start"
            self._settle(_Outcome(status=status, reason=what + self._log_tail()))
        self.done = True

    def _log_tail(self) -> str:
        assert self.session is not None  # noqa: S101
        lines = [line.decode(errors="replace") for line in list(self.session.log)[-15:]]
        return "".join(f"\n  dragon: {line}" for line in lines)

    def _check_head_came(self) -> None:
        if self.plan is None and not self.done:
            reason = f"the Dragon runtime was not ready after {_HEAD_TIMEOUT_S:.0f} s" + self._log_tail()
            self._settle(_Outcome(status=RuntimeUnusableError.exit_status, reason=reason))
            self.done = True

    def _accept(self, sock: object) -> None:
        connection = Connection(sock)  # type: ignore[arg-type]
        self.selector.register(connection, selectors.EVENT_READ, lambda: self._on_first_message(connection))

    def _on_first_message(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages is None:
            self._drop(connection)
        for message in messages or ():
            match message["kind"]:
                case "head":
                    self.head, self.head_pid = connection, message["pid"]
                    self.selector.modify(connection, selectors.EVENT_READ, lambda: self._on_head(connection))
                case "shim":
                    self._on_shim(connection, message)
                case _:
                    self._on_head_message(message)

    def _drop(self, connection: Connection) -> None:
        self.selector.unregister(connection)
        connection.close()

    def _on_head(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages is None:
            self._drop(connection)
            self.head = None
            if self.session is not None and self.session.ends_with_head:
                self._on_runtime_end()
            return
        for message in messages:
            self._on_head_message(message)

    def _on_head_message(self, message: Message) -> None:
        match message["kind"]:
            case "nodes":
                self._plan_and_start(message["nodes"])
            case "ended":
                for number, code in message["codes"].items():
                    self._on_exit_code(self.ranks[number], code)
            case "error":
                text = message["message"] + (f"\n{message['traceback']}" if self.request.verbose else "")
                self._end(LaunchError.exit_status, text + self._log_tail(), message["hint"])
                self._abandon()
            case other:
                msg = f"the head sent an unknown message {other!r}"
                raise LaunchError(msg)

    def _tell_head(self, message: Message) -> None:
        if self.head is not None:
            with suppress(OSError):  # its end is noticed by _on_runtime_end
                self.head.send(message)

    def _plan_and_start(self, nodes: list[dict[str, object]]) -> None:
        if self.outcome is not None:
            self._finish()
            return
        allocation, self.dragon_names = live_allocation(nodes, host=self.request.host, topology=self.request.topology)
        plan = self.request.plan_for(allocation)
        self.plan = plan
        self.ranks = [_Rank(number) for number in range(plan.n_ranks)]
        assert self.session is not None  # noqa: S101
        self.output = RankOutput(
            self.selector,
            self.request.output,
            n_ranks=plan.n_ranks,
            targets=self.session.output_descriptors,
            wake=self.wake,
        )
        starts = [
            (self.dragon_names[placement.host], list(placement.cpus or allocation.topology(0).usable))
            for placement in plan.ranks
        ]
        self._tell_head(
            {"kind": "start", "starts": starts, "backend": self.request.backend, "socket": str(self.control.socket)}
        )
        self._after(_SHIMS_TIMEOUT_S, self._check_shims_came)

    def _keep_services_aside(self) -> None:
        """Now that every rank's pid is known, all else in the runtime is Dragon's own."""
        assert self.session is not None  # noqa: S101
        self.session.remember_shared_memory()
        ranks = {rank.seen.pid for rank in self.ranks if rank.seen is not None}
        self.services = services.keep_aside(
            self.session.services(ranks), head_pid=self.head_pid, reserve=self.request.reserve
        )

    def _check_shims_came(self) -> None:
        missing = [rank.number for rank in self.ranks if rank.seen is None and not rank.ended]
        if missing and self.outcome is None:
            text = CpuSet.of(missing)
            self._end(LaunchError.exit_status, f"ranks {text} did not start within {_SHIMS_TIMEOUT_S:.0f} s")
            self._abandon()

    # -- the ranks ------------------------------------------------------------------------------------------------

    def _on_shim(self, connection: Connection, message: Message) -> None:
        rank = self.ranks[message["rank"]]
        rank.connection = connection
        rank.seen = Observation(
            rank=rank.number,
            host=message["host"],
            pid=message["pid"],
            cpus=CpuSet.of(message["cpus"]),
            gpu_variables=message["gpus"],
        )
        with suppress(ProcessLookupError):
            rank.pidfd = os.pidfd_open(message["pid"])
            self.selector.register(rank.pidfd, selectors.EVENT_READ, lambda: self._on_rank_end(rank))
        self.selector.modify(connection, selectors.EVENT_READ, lambda: self._on_rank_message(rank))
        if self.outcome is not None:
            self._stop_shim(rank)
        elif all(rank.seen is not None for rank in self.ranks):
            self._tell_head({"kind": "quiet"})
            self._keep_services_aside()
            self._check_placement()

    def _check_placement(self) -> None:
        report = self.report()
        if report.verdict is Verdict.MISMATCH and self.request.verify is not Verify.OFF:
            self._complain(report)
        if self.outcome is None:
            for rank in self.ranks:
                self._release(rank)

    def _complain(self, report: Report) -> None:
        lines = [
            f"rank {number} ({finding.slug}): planned {finding.expected}, found {finding.observed}"
            for number, finding in report.errors()
        ]
        if self.request.verify is Verify.WARN:
            for line in lines:
                if line not in self.said:
                    self.say(line)
            self.said.update(lines)
            return
        shown = "\n  ".join(lines[:10] + ([f"... and {len(lines) - 10} more"] if len(lines) > 10 else []))  # noqa: PLR2004
        self._end(
            125,
            f"the ranks are not where the plan says, so the job was stopped:\n  {shown}",
            "look for a second binding (the application's or its wrapper's); --verify warn goes on all the same",
        )

    def _stop_shim(self, rank: _Rank) -> None:
        rank.ended_by_us = True
        if rank.connection is not None:
            with suppress(OSError):
                rank.connection.send({"kind": "stop"})

    def _release(self, rank: _Rank) -> None:
        """Give a rank leave to become the application."""
        assert self.output is not None  # noqa: S101
        assert self.plan is not None  # noqa: S101
        assert rank.connection is not None  # noqa: S101
        application = self.request.application
        placement = self.plan.rank(rank.number)
        row = {
            "kind": "go",
            "path": application.path,
            "argv": list(application.argv),
            "cwd": application.cwd,
            "env": {
                "drop_paths": list(self.request.library_dirs),
                "set": {
                    "RANKMAP_RANK": str(rank.number),
                    "RANKMAP_LOCAL_RANK": str(placement.local_rank),
                    **dict(placement.env),
                    **application.set_env,
                },
            },
        }
        fds = self.output.open(rank.number)
        try:
            if self.request.stdin_rank == rank.number:
                fds.insert(0, pump_stdin())
            rank.connection.send(row, fds)
        except (BrokenPipeError, ConnectionResetError):
            return  # it died: its pidfd tells
        finally:
            for fd in fds:
                os.close(fd)

    def _on_rank_message(self, rank: _Rank) -> None:
        assert rank.connection is not None  # noqa: S101
        messages = rank.connection.receive()
        for message in messages or ():
            status, why = exec_failure(message["path"], message["errno"])
            rank.ended_by_us = True
            self._end(status, f"rank {rank.number} could not start the application: {why}")
        if messages is None:
            self._drop(rank.connection)
            rank.connection = None
            if not rank.ended_by_us and not rank.ended:
                rank.running = True
                if all(other.running or other.ended for other in self.ranks):
                    for delay_s in _LOOKS_S if self.request.verify is not Verify.OFF else ():
                        self._after(delay_s, self._look)

    def _look(self, earlier: tuple[frozenset[int], ...] = ()) -> None:
        """Look at the threads of the ranks that run; ``earlier`` are the ranks found wrong in the looks before."""
        if self.outcome is not None:
            return
        before = {rank.number: rank.seen for rank in self.ranks}
        for rank in self.ranks:
            if rank.seen is not None and not rank.ended:
                rank.seen = replace(rank.seen, threads=threads_of(rank.seen.pid) or rank.seen.threads)
        report = self.report()
        looks = (*earlier, frozenset(number for number, _ in report.errors()))
        if report.verdict is not Verdict.MISMATCH:
            return
        if len(looks) < _LOOKS_TO_CONFIRM:
            for rank in self.ranks:  # not yet more than a suspicion
                rank.seen = before[rank.number]
            self._after(_CONFIRM_S, lambda: self._look(looks))
        elif frozenset.intersection(*looks):
            self._complain(report)

    def _on_rank_end(self, rank: _Rank) -> None:
        assert rank.pidfd is not None  # noqa: S101
        self.selector.unregister(rank.pidfd)
        os.close(rank.pidfd)
        rank.pidfd = None
        rank.ended = True
        if rank.exit_code is None:
            self._tell_head({"kind": "reap", "count": 1})

    def _on_exit_code(self, rank: _Rank, code: int) -> None:
        rank.ended, rank.exit_code = True, code
        if (code == 0 and rank.running) or rank.ended_by_us:
            return
        where = f"rank {rank.number} on {self.request.host}"
        if not rank.running and rank.connection is None and rank.seen is None:
            self._end(LaunchError.exit_status, f"{where} ended with status {code} before the application started")
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            pid = rank.seen.pid if rank.seen is not None else "?"
            self._end(128 - code, f"{where} (pid {pid}) was killed by {name}")
        elif code and self.outcome is None:
            grace_s = self.request.kill_grace_s
            self._settle(_Outcome(status=code, reason=f"{where} exited with status {code}"))
            self._after(grace_s, self._end_ranks)

    # -- the end --------------------------------------------------------------------------------------------------

    def _settle(self, outcome: _Outcome) -> None:
        """The first reason for a status other than 0 is the job's."""
        if self.outcome is None:
            self.outcome = outcome

    def _end(self, status: int, reason: str, hint: str = "") -> None:
        """End the job for this reason."""
        self._settle(_Outcome(status=status, reason=reason, hint=hint))
        if self.plan is None:
            self._abandon()
        else:
            self._end_ranks()

    def _end_ranks(self) -> None:
        self._signal_ranks(signal.SIGTERM)
        self._after(_TERM_GRACE_S, lambda: self._signal_ranks(signal.SIGKILL))

    def _signal_ranks(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            if rank.running and not rank.ended and rank.pidfd is not None:
                rank.ended_by_us = True
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(rank.pidfd, number)
            elif rank.connection is not None and not rank.ended:
                self._stop_shim(rank)

    def _on_timeout(self) -> None:
        running = [str(rank.number) for rank in self.ranks if not rank.ended]
        what = f"ranks {', '.join(running)} still ran on {self.request.host}" if running else "no rank ran yet"
        self._end(124, f"--timeout {self.request.timeout_s:g} s reached: {what}")

    def _finish_when_over(self) -> None:
        if self.finishing or not self.ranks or any(rank.exit_code is None for rank in self.ranks):
            return
        assert self.output is not None  # noqa: S101
        if self.output.drained():
            self._finish()
        elif all(action != self._finish for _, action in self.timers):
            # Children of a rank that live on may hold its output open.
            self._after(_OUTPUT_GRACE_S, self._finish)

    def _finish(self) -> None:
        if not self.finishing:
            self.finishing = True
            self._tell_head({"kind": "finish"})
            self._after(_FINISH_TIMEOUT_S, self._abandon)

    def _abandon(self) -> None:
        """Stop waiting; ``run`` then ends the runtime by force."""
        self.done = True

    def report(self) -> Report:
        """Return what is known of every rank beside its plan."""
        assert self.plan is not None  # noqa: S101
        seen = {rank.number: rank.seen for rank in self.ranks if rank.seen is not None}
        return verify(self.plan, seen, services=[service.to_dict() for service in self.services])

    def _result(self) -> JobResult:
        outcome = self.outcome or _Outcome(status=0, reason="")
        return JobResult(
            status=outcome.status,
            reason=outcome.reason,
            hint=outcome.hint,
            plan=self.plan,
            report=None if self.plan is None else self.report(),
            exit_codes={rank.number: rank.exit_code for rank in self.ranks if rank.exit_code is not None},
        )


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: three per rank are needed. What it started is not affected."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pump_stdin() -> int:
    """Return the read end of a pipe into which a thread copies this process's standard input."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def copy() -> None:
        with suppress(OSError):  # the rank has had enough, or the terminal is gone
            while data := os.read(0, 1 << 16):
                view = memoryview(data)
                while view:
                    view = view[os.write(write_end, view) :]
        os.close(write_end)

    threading.Thread(target=copy, name="rankmap-stdin", daemon=True).start()
    return read_end
