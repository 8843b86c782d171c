"""The agents of a job on several hosts, as the supervisor has them: started, heard, spoken to, ended, missed."""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rankmap.errors import AllocationError, LaunchError
from rankmap.hostlist import fold
from rankmap.runtime.ending import Outcome
from rankmap.runtime.host_facts import HostFacts, facts_of
from rankmap.runtime.inside import ask_for_agents
from rankmap.runtime.link import Listener, own_addresses
from rankmap.runtime.starting import Kind, agent_starts
from rankmap.runtime.wire import Frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.runtime.inside import Asked
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.starting import AgentStart
    from rankmap.runtime.wire import Connection, Message
    from rankmap.topology import NodeTopology

__all__ = ["Fleet", "Member"]

_LOG_LINES = 5
_SEND_TIMEOUT_S = 10.0
# When one host has failed, how long to wait for what others have to say, so that all are named at once.
_OTHERS_S = 1.5
_COMING_S = 5.0
_END_S = 45.0  # what is left of the job has its time twice, and then is killed


@dataclass(slots=True, eq=False)
class Member:
    """One host's agent: what is known of it."""

    name: str
    index: int
    connection: Connection | None = None
    output: Frames | None = None
    own_name: str = ""
    boot: str = ""
    facts: HostFacts | None = None
    problem: tuple[int, str, str] | None = None
    over: bool = False

    def send(self, message: Message) -> None:
        """Say something to it; when it is gone the loop hears of that."""
        if self.connection is not None:
            with suppress(OSError):
                self.connection.send(message)


@dataclass(slots=True, eq=False)
class _Starter:
    """A process that starts agents, and the last lines that it said."""

    start: AgentStart
    process: subprocess.Popen[bytes]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))


class Fleet:
    """All agents of a job.

    Args:
        loop: The supervisor's.
        kind: Who gets processes onto the hosts.
        hosts: Their names, each once, in the order that the job has them.
        job: The job's name.
        look: What every agent is told to look at (host_facts.py).
        network_prefix: Interfaces whose addresses the agents try first.
        n_spares: How many hosts may turn out to be of no use.
        on_ready: Called when every host has been looked at, with those that can be used.
        on_failure: Called when more cannot be used than may.
        say: Tells the user of one that cannot be used, and need not.
        on_message: Called with what an agent says later.
        on_lost: Called when an agent is gone that was not told to go.
    """

    def __init__(  # noqa: PLR0913 - what a fleet needs to know, and whom to tell
        self,
        loop: Loop,
        *,
        kind: Kind,
        hosts: Sequence[str],
        job: str,
        look: Message,
        network_prefix: str,
        n_spares: int,
        say: Callable[[str], None],
        on_ready: Callable[[list[HostFacts]], None],
        on_failure: Callable[[Outcome], None],
        on_message: Callable[[Member, Message], None],
        on_lost: Callable[[Member], None],
    ) -> None:
        self._loop = loop
        self._kind = kind
        self._job = job
        self._look = look
        self._prefix = network_prefix
        self._n_spares = n_spares
        self._say = say
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._on_message = on_message
        self._on_lost = on_lost
        self.members = [Member(name=name, index=index) for index, name in enumerate(hosts)]
        self._shapes: dict[str, NodeTopology] = {}
        self._starters: list[_Starter] = []
        self._asked: Asked | None = None
        self._newcomers: set[Connection] = set()
        self._listener: Listener | None = None
        self._ready = self._failed = self._ending = False
        self.take: Callable[[int, int, bytes], None] = lambda _rank, _end, _data: None
        """Takes what ranks write."""
        self.crowded: Callable[[], bool] = lambda: False
        """Says whether no more of it should be read."""
        self._paused: list[Frames] = []

    def start(self, environ: Mapping[str, str]) -> None:
        """Start an agent on every host."""
        self._listener = Listener(self._loop, self._on_connection)
        addresses = [[address, self._listener.port] for address in (*own_addresses(self._prefix), "127.0.0.1")]
        ticket = {
            "addresses": addresses,
            "secret": self._listener.secret.hex(),
            "job": self._job,
            "stays": self._kind is Kind.DRAGON,
        }
        starts = agent_starts(self._kind, [one.name for one in self.members], ticket, environ)
        if self._kind is Kind.DRAGON:
            self._asked = ask_for_agents(starts, self._loop.wake)
            return
        for start in starts:
            try:
                process = subprocess.Popen(
                    start.argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**environ, **dict(start.variables)},
                    process_group=0,  # Ctrl-C must reach rankmap only
                )
            except OSError as error:
                msg = f"{start.argv[0]} cannot be started: {error.strerror}"
                raise LaunchError(msg, hint="it is what gets processes onto the hosts: load its module") from error
            assert process.stdin is not None  # noqa: S101
            assert process.stdout is not None  # noqa: S101
            with suppress(BrokenPipeError):
                process.stdin.write(start.stdin.encode())
                process.stdin.close()
            os.set_blocking(process.stdout.fileno(), False)
            starter = _Starter(start=start, process=process)
            self._starters.append(starter)
            self._loop.call_when_readable(process.stdout, partial(self._on_starter, starter))

    def missing(self) -> str:
        """Return the hosts that have not been looked at, folded; "" where there is none."""
        return fold(one.name for one in self.members if one.facts is None and one.problem is None)

    def _on_starter(self, starter: _Starter) -> None:
        pipe = starter.process.stdout
        assert pipe is not None  # noqa: S101
        data = pipe.read()
        if data is None:
            return
        starter.lines.extend(line for line in data.decode(errors="replace").splitlines() if line.strip())
        if data:
            return
        self._loop.forget(pipe)
        pipe.close()
        status = starter.process.wait()
        for member in self.members:
            if member.name in starter.start.hosts and member.connection is None and not self._ready:
                said = "".join(f"\n  {line}" for line in starter.lines)
                why = f"{member.name}: `{_short(starter.start)}` ended with status {status}{said}"
                hint = f"does `{starter.start.argv[0]} ... {member.name}` work by hand, without a password?"
                self._problem(member, LaunchError.exit_status, why, hint)

    # -- they come ------------------------------------------------------------------------------------------------

    def _on_connection(self, connection: Connection) -> None:
        connection.sock.settimeout(_SEND_TIMEOUT_S)
        self._newcomers.add(connection)
        self._loop.call_when_readable(connection, lambda: self._on_first_message(connection))

    def _on_first_message(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages == []:
            return
        self._newcomers.discard(connection)
        self._loop.forget(connection)
        if messages is None:
            connection.close()
            return
        message = messages[0]
        member = self._member(message)
        if member is None:
            connection.close()
        elif message["kind"] == "output":
            connection.sock.settimeout(0)
            member.output = Frames(connection)
            self._loop.call_when_readable(member.output, partial(self._on_output, member.output))
        else:
            self._welcome(member, connection, message)

    def _member(self, message: Message) -> Member | None:
        """Return the member that this agent is."""
        if message["index"] is not None:
            return self.members[message["index"]]
        own = (message["host"], *message["names"])
        for name in (*own, *(name.partition(".")[0] for name in own)):
            for member in self.members:
                if name in (member.name, member.name.partition(".")[0]):
                    return member
        listed = fold(one.name for one in self.members)
        why = f"an agent came from {message['host']}, which is none of the job's hosts {listed}"
        self._fail(Outcome(status=AllocationError.exit_status, reason=why, hint="how does the batch system name them?"))
        return None

    def _welcome(self, member: Member, connection: Connection, message: Message) -> None:
        if member.connection is not None:
            connection.close()
            why = f"{member.name}: two agents have come that are there"
            hint = "the batch system has started two processes on one host: are its host names unique?"
            self._problem(member, AllocationError.exit_status, why, hint)
            return
        member.connection, member.own_name, member.boot = connection, message["host"], message["boot"]
        self._loop.call_when_readable(connection, partial(self._on_agent, member))
        for other in self.members:
            if other is not member and (other.own_name, other.boot) == (member.own_name, member.boot):
                why = f"{other.name} and {member.name} are the same host: both call themselves {member.own_name}"
                hint = "a name resolves to another host's address (getent hosts NAME), or the list has it twice"
                self._problem(member, AllocationError.exit_status, why, hint)
                return
        member.send({"kind": "over", "gentle": True} if self._ending else self._look)

    def _on_agent(self, member: Member) -> None:
        assert member.connection is not None  # noqa: S101
        try:
            messages = member.connection.receive()
        except OSError:
            messages = None
        for message in messages or ():
            match message["kind"]:
                case "looked":
                    member.facts = facts_of(member.name, message, self._shapes, address=self._address(member))
                    self._look_whether_ready()
                case "trouble" if not self._ready:
                    reason = f"{member.name}: {message['reason']}"
                    self._problem(member, message["status"], reason, message["hint"])
                case "over" if message["stuck"]:
                    member.over = self._ending
                    pids = ", ".join(map(str, message["stuck"]))
                    self._say(f"{member.name}: processes {pids} cannot be ended: stuck in the kernel, or not ours")
                case "over":
                    member.over = True
                case _:
                    self._on_message(member, message)
        if messages is None:
            self._drop(member)
            if not self._ready:
                why = f"{member.name}: rankmap's agent there has ended"
                self._problem(member, LaunchError.exit_status, why, "is there room for it (memory, processes)?")
            elif not (member.over and self._ending) and member.problem is None:  # by a mistake of its own, too
                self._on_lost(member)

    def _address(self, member: Member) -> str:
        """Return the address of a host; one that came over the loopback is this one."""
        assert member.connection is not None  # noqa: S101
        peer: str = member.connection.sock.getpeername()[0].removeprefix("::ffff:")
        return (own_addresses(self._prefix) or (peer,))[0] if peer.startswith("127.") else peer

    def _drop(self, member: Member) -> None:
        if member.connection is not None:
            self._loop.forget(member.connection)
            member.connection.close()
            member.connection = None

    def _look_whether_ready(self) -> None:
        if not self._ready and not self._failed and all(one.facts or one.problem for one in self.members):
            usable = [one.facts for one in self.members if one.facts is not None and one.problem is None]
            if len(usable) >= len(self.members) - self._n_spares:
                self._ready = True
                self._on_ready(usable)

    def _problem(self, member: Member, status: int, reason: str, hint: str) -> None:
        """Note that a host cannot be used; what others have to say is waited for a moment."""
        if member.problem is not None:
            return
        member.problem = status, reason, hint
        n_problems = sum(one.problem is not None for one in self.members)
        if n_problems <= self._n_spares:
            self._say(f"not used: {reason}")
            self._look_whether_ready()
        elif n_problems == self._n_spares + 1:
            self._loop.call_after(_OTHERS_S, self._tell_problems)

    def _tell_problems(self) -> None:
        problems = [one.problem for one in self.members if one.problem is not None]
        reasons = [reason for _, reason, _ in problems]
        shown = "\n  ".join(reasons[:_LOG_LINES])
        more = f"\n  ... and {len(reasons) - _LOG_LINES} more" if len(reasons) > _LOG_LINES else ""
        of_all = "" if len(reasons) == 1 else f"{len(reasons)} of {len(self.members)} hosts cannot be used:\n  "
        status, _, hint = problems[0]
        self._fail(Outcome(status=status, reason=of_all + shown + more, hint=hint))

    def _fail(self, outcome: Outcome) -> None:
        if not self._failed:
            self._failed = True
            self._on_failure(outcome)

    # -- what ranks write -----------------------------------------------------------------------------------------

    def _on_output(self, frames: Frames) -> None:
        if self.crowded():
            self._loop.forget(frames)
            self._paused.append(frames)
            return
        found = frames.read()
        for rank, end, data in found or ():
            self.take(rank, end, data)
        if found is None:
            self._loop.forget(frames)
            frames.close()

    def on_wake(self) -> None:
        """Read on where output waited for room, and hear of agents that will not come."""
        if self._asked is not None and (error := self._asked.failure) is not None:
            self._fail(Outcome(status=error.exit_status, reason=error.message, hint=error.hint))
        paused, self._paused = self._paused, []
        for frames in paused:
            self._loop.call_when_readable(frames, partial(self._on_output, frames))

    # -- the end --------------------------------------------------------------------------------------------------

    def end(self, *, gentle: bool, hurry: Callable[[], bool]) -> list[str]:
        """Have every agent leave nothing behind and end; return the hosts that have not said that they did.

        Args:
            gentle: Whether what is left may end by itself.
            hurry: Whether somebody does not want to wait any longer, asked again and again.
        """
        self._ending = True
        if self._asked is not None:
            self._asked.wait()
        for member in self.members:
            member.send({"kind": "over", "gentle": gentle})
        end_s = time.monotonic() + _END_S
        while (self._are_there() or self._are_coming(end_s)) and time.monotonic() < end_s and not hurry():
            self._loop.call_after(0.1, lambda: None)
            self._loop.step()
        for member in self.members:
            self._drop(member)
            if member.output is not None and member.output.fileno() >= 0:
                self._loop.forget(member.output)
                member.output.close()
        for connection in self._newcomers:
            self._loop.forget(connection)
            connection.close()
        if self._listener is not None:
            self._listener.close()
        self._end_starters(end_s)
        return [one.name for one in self.members if not one.over and (one.own_name or one.facts)]

    def _are_there(self) -> bool:
        return any(one.connection is not None for one in self.members)

    def _are_coming(self, end_s: float) -> bool:
        """Return whether agents that Dragon has started are on their way: it ends none of them."""
        started = self._asked is not None and self._asked.failure is None
        in_time = time.monotonic() < end_s - _END_S + _COMING_S
        return started and in_time and not all(one.own_name for one in self.members)

    def _end_starters(self, end_s: float) -> None:
        for starter in self._starters:
            with suppress(subprocess.TimeoutExpired):
                starter.process.wait(timeout=max(0.0, min(2.0, end_s - time.monotonic())))
            if starter.process.poll() is None:
                starter.process.kill()
                starter.process.wait()
            if starter.process.stdout is not None and not starter.process.stdout.closed:
                self._loop.forget(starter.process.stdout)
                starter.process.stdout.close()


def _short(start: AgentStart) -> str:
    text = str(start)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line has room for it
