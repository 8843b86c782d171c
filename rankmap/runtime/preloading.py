"""``--preload``: a copy of a file on every host before the ranks start, so that they do not all read it from one disk.

The supervisor reads the file once and sends it to each agent in pieces, the next one when the last has been written.
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
    from rankmap.runtime.fleet import Member
    from rankmap.runtime.wire import Message

__all__ = ["FOLDER", "Copying", "preloaded", "take_piece"]

FOLDER = "preload"
"""Where the copies are, in the job's directory on each host."""

_PIECE_BYTES = 4 << 20
_HINT = "name a program or a script"


class Copying:
    """Copies one file to several hosts.

    Args:
        source: The file.
        target: The name of the copy, the same on every host.
        members: The hosts' agents.
        then: Called when all have it.

    Raises:
        UsageError: It cannot be read.
    """

    def __init__(self, source: Path, target: Path, members: Sequence[Member], *, then: Callable[[], None]) -> None:
        self._source = source
        self._target = target
        self._then = then
        self._sent: dict[Member, int | None] = dict.fromkeys(members)
        try:
            mode = source.stat().st_mode
            if not stat.S_ISREG(mode):  # a pipe would be waited for, /dev/zero has no end
                msg = f"--preload {source}: it is a directory, a device, a pipe or a socket"
                raise UsageError(msg, hint=_HINT)
            self._file = source.open("rb")
        except OSError as error:
            raise _unreadable(source, error) from error
        self._mode = stat.S_IMODE(mode)
        for member in members:
            self.send_next(member)

    def send_next(self, member: Member) -> None:
        """Send the next piece to this one, which has written the last."""
        start = self._sent[member]
        try:
            data = os.pread(self._file.fileno(), _PIECE_BYTES, start or 0)
        except OSError as error:
            raise _unreadable(self._source, error) from error
        if not data and start is not None:  # also an empty file is one piece
            del self._sent[member]
            if not self._sent:
                self._file.close()
                self._then()
            return
        at = start or 0
        self._sent[member] = at + len(data)
        member.send({"kind": "file", "path": str(self._target), "mode": self._mode, "start": at, "data": data})


def take_piece(message: Message) -> None:
    """Write a piece of a file, on the host that it was sent to.

    Raises:
        RuntimeUnusableError: There is no room for it.
    """
    path = message["path"]
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, message["mode"] | stat.S_IWUSR)
        try:
            os.pwrite(descriptor, message["data"], message["start"])
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


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"--preload {path}: it cannot be read: {error.strerror}", hint=_HINT)
