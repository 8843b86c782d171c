"""The socket of a job on a host, at which its shims, its head and Dragon's launcher report."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from rankmap.runtime.wire import Connection, listen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.wire import Message

__all__ = ["Door"]

_BACKLOG = 4096
_SEND_TIMEOUT_S = 10.0


class Door:
    """Takes connections in, in a loop, and passes each on with its first message; a context manager.

    Args:
        loop: Of the process that listens.
        path: The socket; the directory must be the user's own.
        on_first: Called with a connection and what it has said first; what it says later is for whoever takes it.
    """

    def __init__(self, loop: Loop, path: Path, on_first: Callable[[Connection, Message], None]) -> None:
        self._loop = loop
        self._on_first = on_first
        self._listener = listen(path, _BACKLOG)
        self._newcomers: set[Connection] = set()

    def __enter__(self) -> Self:
        self._loop.call_when_readable(self._listener, self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take nobody in any more, nor those who have not said anything yet: they hear that nobody is here."""
        if self._listener.fileno() >= 0:
            self._loop.forget(self._listener)
            self._listener.close()
        for connection in self._newcomers:
            self._loop.forget(connection)
            connection.close()
        self._newcomers.clear()

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection = Connection(self._listener.accept()[0])
            connection.sock.settimeout(_SEND_TIMEOUT_S)
            self._newcomers.add(connection)
            self._loop.call_when_readable(connection, lambda: self._hear(connection))

    def _hear(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages != []:
            self._newcomers.discard(connection)
        if messages is None:
            self._loop.forget(connection)
            connection.close()
        for message in messages or ():
            self._on_first(connection, message)
