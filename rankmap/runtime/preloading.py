"""``--preload``: a copy of a file on every host before the ranks start, so that they do not all read it from one disk.

The supervisor reads the file once and sends it in pieces to the agents, which pass it on to those below them.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rankmap.runtime.application import Application
    from rankmap.runtime.member import Member
    from rankmap.runtime.wire import Message

__all__ = ["FOLDER", "Copying", "all_preloaded", "preloaded", "write_piece"]

FOLDER = "preload"
"""Where the copies are, in the job's directory on each host."""

_PIECE_BYTES = 4 << 20
_HINT = "name a program or a script"


class Copying:
    """Copies one file to several hosts: a piece to all at once, the next one when all have written it.

    Args:
        source: The file.
        target: The name of the copy, the same on every host.
        members: The hosts' agents.
        send_all: Says something to every agent of the job; those that were not told of the copy take no pieces.
        then: Called when all have it.

    Raises:
        UsageError: It cannot be read.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        members: Sequence[Member],
        send_all: Callable[[Message], None],
        *,
        then: Callable[[], None],
    ) -> None:
        self._source = source
        self._send_all = send_all
        self._then = then
        self._members = frozenset(members)
        self._waiting = set(members)
        self._n_sent = 0
        try:
            mode = source.stat().st_mode
            if not stat.S_ISREG(mode):  # a pipe would be waited for, /dev/zero has no end
                msg = f"--preload {source}: it is a directory, a device, a pipe or a socket"
                raise UsageError(msg, hint=_HINT)
            self._file = source.open("rb")
        except OSError as error:
            raise _unreadable(source, error) from error
        for member in members:
            member.send({"kind": "copy", "path": str(target), "mode": stat.S_IMODE(mode)})

    def note(self, member: Member) -> None:
        """Note that an agent has written what it was sent."""
        self._waiting.discard(member)
        if not self._waiting:
            self._send_next()

    def _send_next(self) -> None:
        try:
            data = os.pread(self._file.fileno(), _PIECE_BYTES, self._n_sent)
        except OSError as error:
            raise _unreadable(self._source, error) from error
        if not data:
            self._file.close()
            self._then()
            return
        self._waiting = set(self._members)
        self._send_all({"kind": "piece", "start": self._n_sent, "data": data})
        self._n_sent += len(data)


def write_piece(path: str, mode: int, start: int = 0, data: bytes = b"") -> None:
    """Write a piece of a file, on the host that it was sent to.

    Raises:
        RuntimeUnusableError: There is no room for it.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, mode | stat.S_IWUSR)
        try:
            n_written = 0
            while n_written < len(data):  # on a disk that gets full the first write is short, and only the next fails
                n_written += os.pwrite(descriptor, data[n_written:], start + n_written)
        finally:
            os.close(descriptor)
    except OSError as error:
        msg = f"--preload: {path} cannot be written: {error.strerror}"
        raise RuntimeUnusableError(
            msg, hint="make room there, set TMPDIR to another place, or leave --preload out"
        ) from error


def preloaded(application: Application, file: Path, copy: Path) -> Application:
    """Return the application with the copy in place of the file: as what is executed, and wherever a word names it."""
    wanted = os.path.realpath(file)
    words = (
        str(copy) if os.path.realpath(os.path.join(application.cwd, word)) == wanted else word  # noqa: PTH118
        for word in application.argv[1:]
    )
    path = str(copy) if os.path.realpath(application.path) == wanted else application.path
    return replace(application, path=path, argv=(application.argv[0], *words))


def all_preloaded(applications: Sequence[Application], file: Path, copy: Path) -> list[Application]:
    """Return the applications with the copy in place of the file.

    Raises:
        UsageError: None of them names it.
    """
    changed = [preloaded(one, file, copy) for one in applications]
    if changed == list(applications):
        msg = f"--preload {file}: neither the application nor an argument of it is that file"
        raise UsageError(msg, hint="name the file as the command does")
    return changed


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"--preload {path}: it cannot be read: {error.strerror}", hint=_HINT)
