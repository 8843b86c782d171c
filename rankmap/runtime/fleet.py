"""The agents of a job on several hosts, as the supervisor has them: started, heard, spoken to, ended, missed."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import AllocationError, LaunchError
from rankmap.hostlist import fold
from rankmap.runtime.cleaning import Cleaned, clean
from rankmap.runtime.ending import Outcome
from rankmap.runtime.entrance import Entrance
from rankmap.runtime.host_facts import HostFacts, facts_of
from rankmap.runtime.inside import ask_for_agents
from rankmap.runtime.link import own_addresses
from rankmap.runtime.member import Member
from rankmap.runtime.starters import Starters
from rankmap.runtime.starting import Kind, agent_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rankmap.runtime.inside import Asked
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.starters import Starter
    from rankmap.runtime.starting import AgentStart
    from rankmap.runtime.wire import Connection, Message
    from rankmap.topology import NodeTopology

__all__ = ["FANOUT", "Fleet"]

FANOUT = 64
"""How many agents one process speaks to; more hosts make a tree."""

_LOG_LINES = 5
# When one host has failed, how long to wait for what others have to say, so that all are named at once.
_OTHERS_S = 1.5
_COMING_S = 5.0
_END_S = 45.0  # what is left of the job has its time twice, and then is killed


class Fleet:
    """All agents of a job.

    Args:
        loop: The supervisor's.
        kind: Who gets processes onto the hosts.
        hosts: Their names, each once, in the order that the job has them.
        job: The job's name.
        look: What every agent is told to look at (host_facts.py).
        network_prefix: Interfaces whose addresses the agents try first.
        fanout: How many agents speak to the supervisor itself, and how many to each of these, and so on.
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
        fanout: int,
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
        self._fanout = fanout
        self._n_spares = n_spares
        self._say = say
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._on_message = on_message
        self._on_lost = on_lost
        self.members = [Member(name=name, index=index) for index, name in enumerate(hosts)]
        self._shapes: dict[str, NodeTopology] = {}
        self._starters = Starters(loop, self._on_starter_end)
        self._unlooked = set(self.members)
        self._own_names: dict[str, Member] = {}
        self._names: dict[str, Member] = {}
        # The first of a name has it, and a whole name is stronger than a short one.
        for member in reversed(self.members):
            self._names[member.name.partition(".")[0]] = member
        self._names |= {member.name: member for member in self.members}
        self._n_here = 0
        self._asked: Asked | None = None
        self._entrance: Entrance | None = None
        self._waiting: list[tuple[Member, Connection]] = []
        self._ready = self._failed = self._ending = False
        self.take: Callable[[int, int, bytes], None] = lambda _rank, _end, _data: None
        """Takes what ranks write."""
        self.crowded: Callable[[], bool] = lambda: False
        """Says whether no more of it should be read."""

    def start(self, environ: Mapping[str, str]) -> None:
        """Start an agent on every host."""
        self._environ = environ
        self._entrance = Entrance(
            self._loop,
            secret=None,
            network_prefix=self._prefix,
            on_agent=self._on_newcomer,
            take=lambda rank, end, data: self.take(rank, end, data),  # noqa: PLW0108 - another one later
            crowded=lambda: self.crowded(),  # noqa: PLW0108
        )
        ticket = {
            "addresses": self._entrance.addresses,
            "secret": self._entrance.secret.hex(),
            "job": self._job,
            "prefix": self._prefix,
            "stays": self._kind is Kind.DRAGON,
        }
        names = [one.name for one in self.members]
        starts = agent_starts(self._kind, names, ticket, environ, Path(self._look["control"]))
        if self._kind is Kind.DRAGON:
            self._asked = ask_for_agents(starts, self._loop.wake)
            return
        self._starters.begin(starts, environ)

    def missing(self) -> str:
        """Return the hosts that have not been looked at, folded; "" where there is none."""
        return fold(one.name for one in self.members if one in self._unlooked)

    def _on_starter_end(self, starter: Starter, status: int) -> None:
        hosts = set(starter.start.hosts)
        for member in self.members:
            if member.name in hosts and not member.here and not self._ready:
                said = "".join(f"\n  {line}" for line in starter.lines)
                why = f"{member.name}: `{_short(starter.start)}` ended with status {status}{said}"
                hint = _to_try(starter.start.argv[0], member.name)
                self._problem(member, LaunchError.exit_status, why, hint)

    # -- they come ------------------------------------------------------------------------------------------------

    def _on_newcomer(self, connection: Connection, messages: list[Message]) -> None:
        message = messages[0]
        member = self._member(message)
        if member is None:
            connection.close()
            return
        if member.own_name:
            connection.close()
            why = f"{member.name}: two agents have come that are there"
            hint = "the batch system has started two processes on one host: are its host names unique?"
            self._problem(member, AllocationError.exit_status, why, hint)
            return
        member.own_name, member.boot, member.address = message["host"], message["boot"], self._address(connection)
        self._seat(member, connection)
        for early in messages[1:] if member.connection is connection else ():
            self._hear(member, early)

    def _member(self, message: Message) -> Member | None:
        """Return the member that this agent is."""
        if message["index"] is not None:
            return self.members[message["index"]]
        own = (message["host"], *message["names"])
        for name in (*own, *(name.partition(".")[0] for name in own)):
            if name in self._names:
                return self._names[name]
        listed = fold(one.name for one in self.members)
        why = f"an agent came from {message['host']}, which is none of the job's hosts {listed}"
        self._fail(Outcome(status=AllocationError.exit_status, reason=why, hint="how does the batch system name them?"))
        return None

    def _seat(self, member: Member, connection: Connection) -> None:
        """Have an agent speak to us, or to the one that stands between it and us; that one may have to come first."""
        father = None if self._ending else self._father_of(member)
        word = {"index": member.index, "below": self._fanout * (member.index + 1) < len(self.members)}
        if father is None:
            member.connection = connection
            connection.say({"kind": "stay", **word})
            self._loop.call_when_readable(connection, partial(self._on_agent, member, connection))
            self._welcome(member)
        elif father.door is None:
            self._waiting.append((member, connection))
        else:
            member.father = father
            connection.say({"kind": "go", "addresses": father.door, **word})
            connection.close()

    def _father_of(self, member: Member) -> Member | None:
        """Return the agent that stands between this one and us, of those that are there or may still come."""
        index = member.index
        while index >= self._fanout:
            index = index // self._fanout - 1
            father = self.members[index]
            if father.here or father.problem is None:
                return father
        return None

    def _seat_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for member, connection in waiting:
            self._seat(member, connection)

    def _welcome(self, member: Member) -> None:
        """Have an agent that has come look at its host."""
        member.here = True
        self._n_here += 1
        other = self._own_names.setdefault(member.own_name, member)
        if other is member:
            member.send({"kind": "over", "gentle": True} if self._ending else self._look)
            return
        if other.boot == member.boot:
            are = "are the same host: both"
            hint = "a name resolves to another host's address (getent hosts NAME), or the list has it twice"
        else:
            are, hint = "both", "Dragon tells hosts apart by what they call themselves (hostname): rename one"
        why = f"{other.name} and {member.name} {are} call themselves {member.own_name}"
        self._problem(member, AllocationError.exit_status, why, hint)

    def _on_agent(self, member: Member, connection: Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            self._hear(member, message)
        if messages is None:
            self._miss(member)

    def _hear(self, member: Member, message: Message) -> None:
        match message["kind"]:
            case "below" if message["message"] is None:
                self._miss(self.members[message["index"]])
            case "below":
                self._hear(self.members[message["index"]], message["message"])
            case "agent":  # it has found the one that stands before it
                self._welcome(member)
            case "door":
                member.door = message["addresses"]
                self._seat_waiting()
            case "looked":
                member.facts = facts_of(member.name, message, self._shapes, address=member.address)
                self._unlooked.discard(member)
                self._look_whether_ready()
            case "trouble" if not self._ready:
                reason = f"{member.name}: {message['reason']}"
                self._problem(member, message["status"], reason, message["hint"])
            case "over" if message["stuck"]:
                member.over = self._ending
                self._say_stuck(member.name, message["stuck"])
            case "over":
                member.over = True
            case _:
                self._pass_on(member, message)

    def _pass_on(self, member: Member, message: Message) -> None:
        """Pass on what is not the fleet's own; reports of several come as one, which the first of them has then."""
        if message["kind"] != "reports":
            self._on_message(member, message)
            return
        first, *others = message["of"]
        self._on_message(self.members[first], {"kind": "report", "report": message["report"]})
        for index in others:
            self._on_message(self.members[index], {"kind": "report", "report": None})

    def _say_stuck(self, name: str, pids: Iterable[object]) -> None:
        listed = ", ".join(map(str, pids))
        self._say(f"{name}: processes {listed} cannot be ended: stuck in the kernel, or not ours")

    def _miss(self, member: Member) -> None:
        """Note that an agent is gone, and with it the way to those that it stood before."""
        self._drop(member)
        if not self._ready:
            why = f"{member.name}: rankmap's agent there has ended"
            self._problem(member, LaunchError.exit_status, why, "is there room for it (memory, processes)?")
        elif not (member.over and self._ending) and member.problem is None:  # by a mistake of its own, too
            self._on_lost(member)
        if member.door is not None:
            for other in self.members:
                # Before all are ready one may still be on its way to it.
                if other.father is member and (other.here or not self._ready):
                    self._miss(other)

    def _address(self, connection: Connection) -> str:
        """Return the address of a host; one that came over the loopback is this one."""
        peer: str = connection.sock.getpeername()[0]
        return (own_addresses(self._prefix) or (peer,))[0] if peer.startswith("127.") else peer

    def _drop(self, member: Member) -> None:
        self._n_here -= member.here
        member.here = False
        if member.connection is not None:
            self._loop.forget(member.connection)
            member.connection.close()
            member.connection = None

    def _look_whether_ready(self) -> None:
        if not self._ready and not self._failed and not self._unlooked:
            usable = [one.facts for one in self.members if one.facts is not None and one.problem is None]
            if len(usable) >= len(self.members) - self._n_spares:
                self._ready = True
                self._on_ready(usable)

    def _problem(self, member: Member, status: int, reason: str, hint: str) -> None:
        """Note that a host cannot be used; what others have to say is waited for a moment."""
        if member.problem is not None:
            return
        member.problem = status, reason, hint
        self._unlooked.discard(member)
        self._loop.call_after(0, self._seat_waiting)  # it may be one that they have waited for
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

    def on_wake(self) -> None:
        """Read on where output waited for room, and hear of agents that will not come."""
        if self._asked is not None and (error := self._asked.failure) is not None:
            self._fail(Outcome(status=error.exit_status, reason=error.message, hint=error.hint))
        if self._entrance is not None:
            self._entrance.resume()

    def send_all(self, message: Message) -> None:
        """Say something to every agent."""
        for member in self.members:
            if member.father is None:
                member.send({"kind": "all", "message": message})

    # -- the end --------------------------------------------------------------------------------------------------

    def clean_lost(self, *, hurry: Callable[[], bool]) -> list[str]:
        """Leave nothing on hosts whose agents are gone, where that can be; return what is known of each."""
        lost = {one.name: one for one in self.members if one.own_name and not one.here}
        own_names = {name: one.own_name for name, one in lost.items() if not one.over}
        if hurry() or not lost:
            return []
        failed = {name: Cleaned(answered=True, failed=True) for name in lost.keys() - own_names}
        if self._kind is Kind.DRAGON:  # it may not answer either
            killed = {name: Cleaned(answered=False) for name in own_names}
        else:
            killed = clean(self._kind, own_names, Path(self._look["control"]), self._environ, hurry=hurry)
        for name, one in killed.items():
            lost[name].over = one.answered
            if one.stuck:
                self._say_stuck(name, one.stuck)
        last_words = self._starters.last_words(lost)
        return [
            one.text(name, last_words=last_words.get(name, ()))
            for name, one in (killed | failed).items()
            if not (one.answered and lost[name].father in lost.values())  # it went with the one that stood before it
        ]

    def end(self, *, gentle: bool, hurry: Callable[[], bool]) -> list[str]:
        """Have every agent leave nothing behind and end; return the hosts that have not said that they did.

        Args:
            gentle: Whether what is left may end by itself.
            hurry: Whether somebody does not want to wait any longer, asked again and again.
        """
        self._ending = True
        self._starters.begin_no_more()
        if self._asked is not None:
            self._asked.wait()
        self.send_all({"kind": "over", "gentle": gentle})
        end_s = time.monotonic() + _END_S
        while (self._n_here or self._are_coming(end_s)) and time.monotonic() < end_s and not hurry():
            self._loop.call_after(0.1, lambda: None)
            self._loop.step()
        for member in self.members:
            self._drop(member)
        for _, connection in self._waiting:
            connection.close()
        if self._entrance is not None:
            self._entrance.close()
        self._starters.end(over={one.name for one in self.members if one.over}, end_s=end_s)
        return [one.name for one in self.members if not one.over and (one.own_name or one.facts)]

    def _are_coming(self, end_s: float) -> bool:
        """Return whether agents that Dragon has started are on their way: it ends none of them."""
        started = self._asked is not None and self._asked.failure is None
        in_time = time.monotonic() < end_s - _END_S + _COMING_S
        return started and in_time and not all(one.own_name for one in self.members)


def _to_try(command: str, host: str) -> str:
    if command == "ssh":
        return f"does `ssh {host}` work by hand, without a password?"
    return "" if command == "env" else f"does `{command} hostname` work by hand, in this job?"


def _short(start: AgentStart) -> str:
    text = str(start)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line has room for it
