"""The agents below an agent: where a job has so many hosts that they do not all speak to the supervisor (fleet.py).

What they say goes up as ``below``, and what is said to one of them comes down as ``for``, each with its index; None
says that it has gone. What is for all comes down as ``all``, and goes on to everybody here. Who is below one of ours
is wrapped once more. What their ranks write goes up as it comes; their reports are made one first (gatherer.py).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rankmap.runtime.entrance import Entrance
from rankmap.runtime.gatherer import Gatherer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.wire import Connection, Message

__all__ = ["Branch"]


class Branch:
    """The agents below this one.

    Args:
        loop: This agent's.
        secret: The job's.
        network_prefix: Interfaces whose addresses they try first.
        tell: Says something to the supervisor, or to who is between it and us.
        take: Takes what ranks write: rank, end, data.
        crowded: Says whether no more of that should be read, until ``resume``.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        secret: bytes,
        network_prefix: str,
        tell: Callable[[Message], None],
        take: Callable[[int, int, bytes], None],
        crowded: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._connections: dict[int, Connection] = {}
        self._entrance = Entrance(
            loop, secret=secret, network_prefix=network_prefix, on_agent=self._on_agent, take=take, crowded=crowded
        )
        self._gatherer = Gatherer(loop, tell)
        self.resume = self._entrance.resume
        self._tell({"kind": "door", "addresses": self._entrance.addresses})

    @property
    def empty(self) -> bool:
        """Whether nobody is below, and nothing more of what ranks there write will come."""
        return not self._connections and not self._entrance.reading

    def _on_agent(self, connection: Connection, messages: list[Message]) -> None:
        index = messages[0]["index"]
        self._connections[index] = connection
        self._loop.call_when_readable(connection, partial(self._hear, index, connection))
        for message in messages:
            self._tell({"kind": "below", "index": index, "message": message})

    def _hear(self, index: int, connection: Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            match message["kind"]:
                case "report":
                    self._gatherer.take([index], message["report"])
                case "reports":
                    self._gatherer.take(message["of"], message["report"])
                case _:
                    self._tell({"kind": "below", "index": index, "message": message})
        if messages is None:
            self._gatherer.lose(index)
            self._loop.forget(connection)
            connection.close()
            del self._connections[index]
            self._tell({"kind": "below", "index": index, "message": None})

    def say(self, message: Message) -> None:
        """Say what came down to whom it is for."""
        if message["kind"] == "all":
            for connection in self._connections.values():
                connection.say(message)
        elif message["index"] in self._connections:
            self._connections[message["index"]].say(message["message"])
            index, inner = message["index"], message["message"]
            while inner["kind"] == "for":
                index, inner = inner["index"], inner["message"]
            if inner["kind"] == "report":
                self._gatherer.ask(index)

    def close(self) -> None:
        """Leave those that are still there alone; they clear up, as when the supervisor is gone."""
        self._entrance.close()
        for connection in self._connections.values():
            self._loop.forget(connection)
            connection.close()
        self._connections.clear()
