"""A job on this host alone: its ranks' hands work in the supervisor's own process."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rankmap.runtime.hands import Hands
from rankmap.runtime.hosts import Host, Hosts, Listening
from rankmap.runtime.rank_process import pump_stdin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.hands import Surroundings
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.rank_output import RankOutput
    from rankmap.runtime.wire import Connection, Message

__all__ = ["OneHost"]


class OneHost:
    """The ground of a job on one host; ManyHosts is that of others.

    Args:
        facts: This host.
    """

    def __init__(self, facts: HostFacts) -> None:
        self.facts: Sequence[HostFacts] = (facts,)
        self._hands: Hands | None = None
        self._head: Connection | None = None

    def start(self, loop: Loop, listening: Listening) -> None:
        """Make the host ready: it is."""
        self._loop, self._listening = loop, listening
        listening.on_ready()

    def add_environment(self, variables: Mapping[str, str]) -> None:
        """Do nothing: there are no other hosts."""

    def late(self) -> str:
        """Return the hosts that are not ready: none."""
        return ""

    def prepare(
        self, plan: Plan, output: RankOutput, around: Surroundings, job_of: Callable[[HostFacts, int, int], HostJob]
    ) -> Hosts:
        """Give the host its share of the job, and return it."""
        hands = self._hands = Hands(
            self._loop, around, output, tell=lambda message: hosts.hear(host, message), stdin=pump_stdin
        )
        host = Host(name=self.facts[0].name, node_index=0, do=hands.do)
        hosts = Hosts([host], self._listening.on_host)
        (node,) = plan.nodes
        job = job_of(self.facts[0], node.node_index, self._listening.head_pid)
        hands.do({"kind": "prepare", "job": job})
        return hosts

    def accept(self, connection: Connection, message: Message) -> None:
        """Take a shim in, or the head."""
        if message["kind"] == "shim":
            assert self._hands is not None  # noqa: S101 - a shim is started after the plan was made
            self._hands.take_in(connection, message)
            return
        self._head = connection
        self._loop.call_when_readable(connection, partial(self._on_head, connection))
        self._listening.on_head(message)

    def _on_head(self, connection: Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            self._listening.on_head(message)
        if messages is None:
            self._loop.forget(connection)
            connection.close()
            self._head = None
            self._listening.on_head(None)

    def tell_head(self, message: Message) -> None:
        """Say something to the head; when it is gone that is noticed elsewhere."""
        if self._head is not None:
            with suppress(OSError):
                self._head.send(message)

    def on_wake(self) -> None:
        """Read on where output waited for room."""
        if self._hands is not None:
            self._hands.on_wake()

    def after_step(self) -> None:
        """Look whether all that the ranks wrote has been passed on."""
        if self._hands is not None:
            self._hands.after_step()

    def clean_lost(self, *, hurry: Callable[[], bool]) -> list[str]:
        """Do nothing: there are no other hosts."""
        del hurry
        return []

    def end(self, *, gentle: bool, hurry: Callable[[], bool]) -> list[str]:
        """Watch the ranks no more; what is left on this host is the session's to end."""
        del gentle, hurry
        if self._hands is not None:
            self._hands.close()
        return []
