"""A job on several hosts: an agent on each is the hands there, and this speaks to them through the fleet (fleet.py)."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rankmap.runtime.ending import Outcome
from rankmap.runtime.fleet import Fleet
from rankmap.runtime.hosts import Host, Hosts, Listening
from rankmap.runtime.preloading import Copying
from rankmap.runtime.rank_process import pump_stdin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rankmap.placement import Plan
    from rankmap.runtime.hands import Surroundings
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.member import Member
    from rankmap.runtime.rank_output import RankOutput
    from rankmap.runtime.starting import Kind
    from rankmap.runtime.wire import Connection, Message

__all__ = ["ManyHosts"]

_STDIN_BYTES = 1 << 16


class ManyHosts:
    """The ground of a job on several hosts; OneHost is that of others.

    Args:
        kind: Who gets processes onto the hosts.
        hosts: Their names, in the job's order.
        job: The job's name.
        look: What every agent is told to look at.
        network_prefix: Interfaces whose addresses agents try first.
        fanout: How many agents one process speaks to (fleet.py).
        n_spares: How many hosts may turn out to be of no use.
        preload: A file that every host gets a copy of, and where (preloading.py); None: nothing.
        environ: What the agents' starters have.
        choose: Says which of the hosts that were looked at the job uses; raises RankmapError where it cannot.
    """

    def __init__(  # noqa: PLR0913 - see Fleet
        self,
        *,
        kind: Kind,
        hosts: Sequence[str],
        job: str,
        look: Message,
        network_prefix: str,
        fanout: int,
        n_spares: int,
        preload: tuple[Path, Path] | None,
        environ: Mapping[str, str],
        choose: Callable[[Sequence[HostFacts]], Sequence[HostFacts]],
    ) -> None:
        self.facts: Sequence[HostFacts] = ()
        self._choose = choose
        self._environ = environ
        self._words = {
            "kind": kind,
            "hosts": hosts,
            "job": job,
            "look": look,
            "network_prefix": network_prefix,
            "fanout": fanout,
        }
        self._n_spares = n_spares
        self._preload = preload
        self._fleet: Fleet | None = None
        self._used = frozenset[str]()
        self._head: Member | None = None
        self._by_member: dict[Member, Host] = {}
        self._relays: dict[int, Connection] = {}
        self._n_relays = 0
        self._variables: dict[str, str] = {}
        self._stdin: int | None = None
        self._copying: Copying | None = None

    def start(self, loop: Loop, listening: Listening) -> None:
        """Start an agent on every host; on_ready is called when all are there."""
        self._loop, self._listening = loop, listening
        self._hosts = Hosts((), listening.on_host)
        self._fleet = Fleet(
            loop,
            on_ready=self._on_ready,
            n_spares=self._n_spares,
            say=listening.say,
            on_failure=listening.on_failure,
            on_message=self._on_message,
            on_lost=self._on_lost,
            **self._words,  # type: ignore[arg-type]
        )
        self._fleet.start(self._environ)

    @property
    def _members(self) -> Sequence[Member]:
        return () if self._fleet is None else self._fleet.members

    def add_environment(self, variables: Mapping[str, str]) -> None:
        """Give these variables to what Dragon's launcher starts on the hosts."""
        self._variables.update(variables)

    def late(self) -> str:
        """Return the hosts that are not ready, folded; "" where all are."""
        return "" if self._fleet is None or self.facts else self._fleet.missing()

    def _on_ready(self, facts: Sequence[HostFacts]) -> None:
        self.facts = tuple(self._choose(facts))
        self._used = frozenset(one.name for one in self.facts)
        members = [one for one in self._members if one.name in self._used]
        if self._preload is None:
            self._listening.on_ready()
            return
        source, target = self._preload
        assert self._fleet is not None  # noqa: S101
        self._copying = Copying(source, target, members, self._fleet.send_all, then=self._listening.on_ready)

    def prepare(
        self, plan: Plan, output: RankOutput, around: Surroundings, job_of: Callable[[HostFacts, int, int], HostJob]
    ) -> Hosts:
        """Give every host that has ranks its share of the job, and return these hosts."""
        del around
        assert self._fleet is not None  # noqa: S101
        self._fleet.take, self._fleet.crowded = output.feed, lambda: output.crowded
        by_name = {member.name: member for member in self._members}
        for node in plan.nodes:
            name = plan.allocation.nodes[node.node_index].host
            member = by_name[name]
            assert member.facts is not None  # noqa: S101
            self._by_member[member] = Host(name=name, node_index=node.node_index, do=member.send)
            head_pid = self._listening.head_pid if member is self._head else 0
            job = job_of(member.facts, node.node_index, head_pid)
            member.send({"kind": "prepare", "job": job.to_values()})
        self._hosts = Hosts(self._by_member.values(), self._listening.on_host)
        return self._hosts

    # -- what the agents say --------------------------------------------------------------------------------------

    def _on_message(self, member: Member, message: Message) -> None:
        match message["kind"]:
            case "head":
                self._head = member
                self._listening.on_head(message["message"])
            case "said" | "exited":
                self._answer_relay(message)
            case "copied":
                assert self._copying is not None  # noqa: S101 - it answers a piece of a file
                self._copying.note(member)
            case "stdin":
                self._read_stdin(member)
            case "signalled":  # by the batch system, which sends it to all of a job
                number = message["number"]
                reason = f"{member.name} was sent {signal.Signals(number).name}"
                self._listening.on_failure(Outcome(status=128 + number, reason=reason))
            case "say":
                self._listening.say(f"{member.name}: {message['text']}")
            case _ if member in self._by_member:
                if message.get("lines"):  # of ranks that are not where they should be
                    message = {**message, "lines": [f"{member.name}: {line}" for line in message["lines"]]}
                self._hosts.hear(self._by_member[member], message)
            case "trouble":
                reason = f"{member.name}: {message['reason']}"
                self._listening.on_failure(Outcome(status=message["status"], reason=reason, hint=message["hint"]))
            case _:
                pass

    def _on_lost(self, member: Member) -> None:
        if member.name not in self._used:
            self._listening.say(f"{member.name} is lost, which the job does not use")
            return
        if member in self._by_member:
            self._hosts.lose(self._by_member[member])
        self._listening.on_lost(member.name)

    def tell_head(self, message: Message) -> None:
        """Say something to the head; when it is gone that is noticed elsewhere."""
        if self._head is not None:
            self._head.send({"kind": "head", "message": message})

    # -- what Dragon's launcher wants on other hosts (relay.py) ---------------------------------------------------

    def accept(self, connection: Connection, message: Message) -> None:
        """Have an agent run what Dragon's launcher wants to run on its host."""
        host = message["host"]
        member = next((one for one in self._members if host in (one.name, one.own_name)), None)
        if member is None:
            text = f"rankmap: {host} is none of the job's hosts\n".encode()
            with suppress(OSError):  # it did not wait for the answer
                connection.send({"kind": "said", "end": 2, "data": text})
                connection.send({"kind": "exited", "status": 255})
            self._loop.forget(connection)
            connection.close()
            return
        self._n_relays += 1
        self._relays[self._n_relays] = connection
        self._loop.call_when_readable(connection, partial(self._on_relay, self._n_relays))
        member.send({"kind": "spawn", "number": self._n_relays, "command": message["command"], "set": self._variables})

    def _on_relay(self, number: int) -> None:
        if number in self._relays and self._relays[number].receive() is None:
            self._drop_relay(number)

    def _drop_relay(self, number: int) -> None:
        connection = self._relays.pop(number)
        self._loop.forget(connection)
        connection.close()

    def _answer_relay(self, message: Message) -> None:
        number = message["number"]
        if number in self._relays:
            with suppress(OSError):
                self._relays[number].send(message)
            if message["kind"] == "exited":
                self._drop_relay(number)

    # -- standard input -------------------------------------------------------------------------------------------

    def _read_stdin(self, member: Member) -> None:
        """Send the next piece of our input to the rank that reads it; it asks again when it has taken that."""
        if self._stdin is None:
            self._stdin = pump_stdin()
        self._loop.call_when_readable(self._stdin, partial(self._send_stdin, member, self._stdin))

    def _send_stdin(self, member: Member, stdin: int) -> None:
        self._loop.forget(stdin)
        data = os.read(stdin, _STDIN_BYTES)
        member.send({"kind": "stdin", "data": data})
        if not data:
            os.close(stdin)

    # -- the loop, and the end ------------------------------------------------------------------------------------

    def on_wake(self) -> None:
        """Read on where output waited for room, and hear of agents that will not come."""
        if self._fleet is not None:
            self._fleet.on_wake()

    def after_step(self) -> None:
        """Do nothing: the agents look after what their ranks write."""

    def clean_lost(self, *, hurry: Callable[[], bool]) -> list[str]:
        """Leave nothing of the job on hosts whose agents are gone, where that can be; return what is known of each."""
        return [] if self._fleet is None else self._fleet.clean_lost(hurry=hurry)

    def end(self, *, gentle: bool, hurry: Callable[[], bool]) -> list[str]:
        """Have every agent leave nothing behind; return the hosts of which nobody knows whether it did."""
        return [] if self._fleet is None else self._fleet.end(gentle=gentle, hurry=hurry)
