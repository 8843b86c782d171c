"""Where agents come in: at the supervisor, and at agents that stand between it and others (branch.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rankmap.runtime.link import Listener, own_addresses
from rankmap.runtime.wire import Frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.wire import Connection, Message

__all__ = ["OUTPUT", "Entrance"]

OUTPUT = "output"
"""What an agent says first on the connection that carries what its ranks write."""

_SEND_TIMEOUT_S = 10.0


class Entrance:
    """Takes agents in, each with its first message, and what their ranks write.

    Args:
        loop: Of the process that listens.
        secret: The job's; None makes one.
        network_prefix: Interfaces whose addresses come first.
        on_agent: Called with an agent's connection and what it has said so far.
        take: Called with what a rank writes: rank, end, data.
        crowded: Says whether no more of it should be read, until ``resume``.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        secret: bytes | None,
        network_prefix: str,
        on_agent: Callable[[Connection, list[Message]], None],
        take: Callable[[int, int, bytes], None],
        crowded: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._on_agent = on_agent
        self._take = take
        self._crowded = crowded
        self._listener = Listener(loop, self._on_connection, secret)
        self._newcomers: set[Connection] = set()
        self._outputs: set[Frames] = set()
        self._paused: list[Frames] = []
        self.secret = self._listener.secret
        addresses = (*own_addresses(network_prefix), "127.0.0.1")
        self.addresses: list[list[str | int]] = [[address, self._listener.port] for address in addresses]
        """Where it is, best first: address and port."""

    def _on_connection(self, connection: Connection) -> None:
        connection.sock.settimeout(_SEND_TIMEOUT_S)
        self._newcomers.add(connection)
        self._loop.call_when_readable(connection, lambda: self._on_first_messages(connection))

    def _on_first_messages(self, connection: Connection) -> None:
        messages = connection.receive(1)
        if messages == []:
            return
        self._newcomers.discard(connection)
        self._loop.forget(connection)
        if messages is None:
            connection.close()
        elif messages[0]["kind"] == OUTPUT:
            connection.sock.settimeout(0)
            frames = Frames(connection)
            self._outputs.add(frames)
            self._loop.call_when_readable(frames, partial(self._on_output, frames))
        else:
            self._on_agent(connection, messages + connection.complete())

    def _on_output(self, frames: Frames) -> None:
        if self._crowded():
            self._loop.forget(frames)
            self._paused.append(frames)
            return
        found = frames.read()
        for rank, end, data in found or ():
            self._take(rank, end, data)
        if found is None:
            self._loop.forget(frames)
            self._outputs.discard(frames)
            frames.close()

    @property
    def reading(self) -> bool:
        """Whether more of what ranks write may come."""
        return bool(self._outputs)

    def resume(self) -> None:
        """Read on where output waited for room."""
        paused, self._paused = self._paused, []
        for frames in paused:
            self._loop.call_when_readable(frames, partial(self._on_output, frames))

    def close(self) -> None:
        """Take nobody in any more, and read no more."""
        for connection in self._newcomers:
            self._loop.forget(connection)
            connection.close()
        for frames in self._outputs:
            self._loop.forget(frames)
            frames.close()
        self._newcomers.clear()
        self._outputs.clear()
        self._paused.clear()
        self._listener.close()
