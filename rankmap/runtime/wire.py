"""Messages between the supervisor, the head inside the Dragon runtime, the shims and the agents of other hosts.

One message is a 4-byte length (big endian) and a dict in Python's marshal format; file descriptors may travel beside
it (SCM_RIGHTS). Marshal, because the shim runs once per rank in front of the application and importing json costs it
12 ms of CPU, as much as starting Python. Both ends are the same version of Python, and nobody else
can write there (a socket in a directory that only its owner can enter; link.py), which is what marshal needs.

What ranks write goes from an agent to the supervisor in frames, on a connection of its own: rank, end (0 stdout, 1
stderr) and length, then so many bytes; none says that the rank has closed it.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rankmap.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Connection", "Frames", "Message", "frame", "listen"]

Message = dict[str, Any]
"""One message: ``kind`` says which; the rest is its data: None, bool, int, float, str, and lists and dicts of them."""

_CHUNK_BYTES = 1 << 16
_FRAME_CHUNK_BYTES = 1 << 18
_FRAME = struct.Struct("!IBI")
_LENGTH_BYTES = 4
_MAX_MESSAGE_BYTES = 64 << 20


class Connection:
    """One end of a socket that carries messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    @classmethod
    def connect(cls, path: str) -> Connection:
        """Return a connection to the supervisor that listens at this path.

        Raises:
            OSError: Nobody listens there.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        return cls(sock)

    def fileno(self) -> int:
        """Return the socket's file descriptor, for selectors."""
        return self.sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send one message, and duplicates of these file descriptors with its first byte.

        Raises:
            OSError: The other end is gone.
        """
        body = marshal.dumps(message)
        data = len(body).to_bytes(_LENGTH_BYTES, "big") + body
        sent = socket.send_fds(self.sock, [data], list(fds)) if fds else 0
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def say(self, message: Message) -> None:
        """Send one message; when it cannot be sent whole, whoever reads from here sees that the other end is gone."""
        try:
            self.send(message)
        except OSError:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def receive(self, n_most: int | None = None) -> list[Message] | None:
        """Read once and return the messages, at most so many, that are now complete; None when the other end is gone.

        A non-blocking socket that has nothing to read gives an empty list; a blocking one waits.

        Raises:
            LaunchError: What came is not a message.
        """
        try:
            data = self.sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return []
        except OSError:  # it was killed, or its host or network has died: whatever the kernel calls that
            return None
        if not data:
            return None
        self._buffer += data
        return self.complete(n_most)

    def complete(self, n_most: int | None = None) -> list[Message]:
        """Return the messages, at most so many, that have come whole and were not returned yet.

        Raises:
            LaunchError: What came is not a message.
        """
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH_BYTES and len(messages) != n_most:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if end > _MAX_MESSAGE_BYTES:
                msg = f"a message of {end} bytes came over rankmap's socket; the most is {_MAX_MESSAGE_BYTES}"
                raise LaunchError(msg)
            if len(self._buffer) < end:
                break
            messages.append(_parse(bytes(self._buffer[_LENGTH_BYTES:end])))
            del self._buffer[:end]
        return messages

    def take_rest(self) -> bytes:
        """Return what has come and is no message yet, for who reads on without messages."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream."""
        self.sock.close()


def _parse(body: bytes) -> Message:
    try:
        message = marshal.loads(body)  # noqa: S302 - from our own processes, over a socket only its owner can reach
    except (ValueError, EOFError, TypeError) as error:
        msg = f"rankmap's socket carried something that is not a message: {body[:200]!r}"
        raise LaunchError(msg) from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        msg = f"rankmap's socket carried a message without a kind: {body[:200]!r}"
        raise LaunchError(msg)
    return message


def frame(rank: int, end: int, data: bytes) -> bytes:
    """Return what says that this rank wrote this to stdout (0) or stderr (1)."""
    return _FRAME.pack(rank, end, len(data)) + data


class Frames:
    """Reads frames from a connection that carries nothing else.

    Args:
        connection: A non-blocking one; what it has read already is the beginning.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = connection.take_rest()

    def fileno(self) -> int:
        """Return the socket's file descriptor, for selectors."""
        return self._connection.fileno()

    def read(self) -> list[tuple[int, int, bytes]] | None:
        """Read once, and return (rank, end, data) of what has come whole; None when the other end is gone."""
        try:
            data = self._connection.sock.recv(_FRAME_CHUNK_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        buffer = self._buffer + data
        frames, start = [], 0
        while len(buffer) - start >= _FRAME.size:
            rank, end, length = _FRAME.unpack_from(buffer, start)
            stop = start + _FRAME.size + length
            if stop > len(buffer):
                break
            frames.append((rank, end, buffer[start + _FRAME.size : stop]))
            start = stop
        self._buffer = buffer[start:]
        return frames if data or frames else None

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def listen(path: Path, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens at this path; the directory must be the user's own."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(os.fspath(path))
    sock.listen(backlog)
    sock.settimeout(0)
    return sock
