"""The ranks' output on its way to the user: complete, in order per rank, lines whole, memory bounded."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONGEST_LINE_BYTES", "LineAssembler", "Outlet", "Writer"]

LONGEST_LINE_BYTES = 1 << 20
_HIGH_WATER_BYTES = 4 << 20


class LineAssembler:
    """Turns the pieces that a rank writes into whole lines, each with a prefix.

    A line of more than ``longest_bytes`` is passed on in parts, between which other ranks' output may come; only the
    first part has the prefix.

    Args:
        prefix: What goes in front of each line.
        whole_lines: False passes every piece on at once (one rank, no prefix: nothing can be torn).
        longest_bytes: How much of a line is kept until its end comes.
    """

    def __init__(
        self, prefix: bytes = b"", *, whole_lines: bool = True, longest_bytes: int = LONGEST_LINE_BYTES
    ) -> None:
        self._longest_bytes = longest_bytes
        self._prefix = prefix
        self._whole_lines = whole_lines
        self._rest = b""
        self._inside_line = False

    def feed(self, data: bytes) -> bytes:
        """Return what may be written now that the rank has written this."""
        if not self._whole_lines:
            return data
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        ready, self._rest = data[:cut], data[cut:]
        result = self._labelled(ready) if ready else b""
        if len(self._rest) > self._longest_bytes:
            result += self._part(self._rest)
            self._rest, self._inside_line = b"", True
        return result

    def end(self) -> bytes:
        """Return what is left when the rank has closed its output."""
        rest, self._rest = self._rest, b""
        return self._part(rest) if rest else b""

    def _labelled(self, lines: bytes) -> bytes:
        head = b"" if self._inside_line else self._prefix
        self._inside_line = False
        if not self._prefix:
            return lines
        return head + lines[:-1].replace(b"\n", b"\n" + self._prefix) + b"\n"

    def _part(self, data: bytes) -> bytes:
        return data if self._inside_line else self._prefix + data


class Writer:
    """A thread that writes for its outlets, so that a slow reader or file system holds up nothing but output.

    Args:
        wake: Called from the thread when there is room again after ``full``, when all is written, and when writing
            failed.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._pieces: dict[Outlet, list[bytes]] = {}
        self._pending_bytes = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="rankmap-writer", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that no more should be read from the ranks."""
        return self._pending_bytes > _HIGH_WATER_BYTES

    @property
    def empty(self) -> bool:
        """Whether all that was given was written, or could not be."""
        return not self._pending_bytes

    def put(self, outlet: Outlet, data: bytes) -> None:
        """Let this be written to the outlet after all that it was given before."""
        with self._changed:
            if outlet.error is not None:
                outlet.keep_unwritten(data)
                return
            self._pieces.setdefault(outlet, []).append(data)
            self._pending_bytes += len(data)
            self._changed.notify()

    def close(self, *, timeout_s: float | None = None) -> int:
        """Return when everything was written, writing has failed, or the time is over (None: never).

        Returns how many bytes nobody has taken in that time; the thread then still holds the outlets' descriptors.
        """
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return self._pending_bytes if self._thread.is_alive() else 0

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._pieces and not self._ended:
                    self._changed.wait()
                if not self._pieces:
                    return
                outlet, pieces = next(iter(self._pieces.items()))
                del self._pieces[outlet]
            self._write(outlet, b"".join(pieces))

    def _write(self, outlet: Outlet, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            try:
                written = os.write(outlet.fd, view[: 1 << 18])
            except BlockingIOError:  # whoever shares this pipe or terminal with us made it non-blocking
                outlet.wait_for_room()
                continue
            except OSError as error:
                self._fail(outlet, error, bytes(view))
                return
            view = view[written:]
            with self._changed:
                was_full = self.full
                self._pending_bytes -= written
                worth_telling = (was_full and not self.full) or not self._pending_bytes
            if worth_telling:
                self._wake()

    def _fail(self, outlet: Outlet, error: OSError, rest: bytes) -> None:
        with self._changed:
            unwritten = [rest, *self._pieces.pop(outlet, [])]
            self._pending_bytes -= sum(map(len, unwritten))
            outlet.unwritten = unwritten
            outlet.error = error  # last: the other thread looks at it without the lock, and takes the rest then
        self._wake()


class Outlet:
    """One file descriptor that a writer writes to.

    Args:
        fd: Where to write: the caller's stdout or stderr, or a file.
        writer: The thread that does it.
    """

    def __init__(self, fd: int, writer: Writer) -> None:
        self.fd = fd
        self.writer = writer
        self.error: OSError | None = None
        """What writing ended with, if it did."""
        self.unwritten: list[bytes] = []
        """What was given and could not be written, once there is an error."""
        self._dropping = False

    def write(self, data: bytes) -> None:
        """Let this be written after all that was given before."""
        if data:
            self.writer.put(self, data)

    def keep_unwritten(self, data: bytes) -> None:
        """Keep what came after the error, until ``drop``."""
        if not self._dropping:
            self.unwritten.append(data)

    def drop(self) -> None:
        """Keep no more of what cannot be written."""
        self._dropping = True
        self.unwritten.clear()

    def wait_for_room(self) -> None:
        """Return when this can be written to again."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.poll()
