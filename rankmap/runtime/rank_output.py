"""Takes every rank's stdout and stderr to the caller, or to files of the rank's own."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rankmap.errors import UsageError
from rankmap.runtime.output import LineAssembler, Outlet

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.runtime.job import OutputOptions
    from rankmap.runtime.loop import Loop

__all__ = ["RankOutput", "prepare_directory"]

_READ_BYTES = 1 << 16


@dataclass(slots=True)
class _Stream:
    fd: int
    lines: LineAssembler
    outlet: Outlet


def prepare_directory(directory: Path) -> None:
    """Make the directory for the ranks' files where it is missing, and make sure that it can be written to.

    Raises:
        UsageError: It cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"--output-dir {directory}: {error.strerror}"
        raise UsageError(msg, hint="name a directory that can be made or written to") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        msg = f"--output-dir {directory}: no permission to write there"
        raise UsageError(msg, hint="name a directory that can be written to")


class RankOutput:
    """The ranks' output, read in the supervisor's loop.

    Memory is bounded: what the caller does not take is not read from the ranks, which then wait in write(2).

    Args:
        loop: The supervisor's.
        options: Labels, or files.
        n_ranks: Ranks of the job; a single rank's output is passed on as it comes.
        targets: File descriptors that take stdout and stderr.
    """

    def __init__(self, loop: Loop, options: OutputOptions, *, n_ranks: int, targets: tuple[int, int]) -> None:
        self._loop = loop
        self._options = options
        self._n_ranks = n_ranks
        self._outlets = tuple(Outlet(fd, loop.wake) for fd in targets)
        self._paused: list[_Stream] = []
        self._streams: dict[int, _Stream] = {}

    def open(self, rank: int) -> list[int]:
        """Return the file descriptors that become this rank's stdout and stderr; the caller closes them.

        Raises:
            OSError: No more descriptors, or a file cannot be made.
        """
        if self._options.directory is not None:
            names = (self._options.directory / f"rank-{rank}.{end}" for end in ("out", "err"))
            return [os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666) for name in names]
        return [self._pipe(rank, outlet) for outlet in self._outlets]

    def _pipe(self, rank: int, outlet: Outlet) -> int:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        prefix = f"[{rank}] ".encode() if self._options.label else b""
        lines = LineAssembler(prefix, whole_lines=bool(prefix) or self._n_ranks > 1)
        stream = _Stream(fd=read_end, lines=lines, outlet=outlet)
        self._streams[read_end] = stream
        self._loop.call_when_readable(read_end, partial(self._read, stream))
        return write_end

    def _read(self, stream: _Stream) -> None:
        if stream.outlet.full:
            self._loop.forget(stream.fd)
            self._paused.append(stream)
            return
        try:
            data = os.read(stream.fd, _READ_BYTES)
        except BlockingIOError:
            return
        stream.outlet.write(stream.lines.feed(data) if data else stream.lines.end())
        if not data:
            self._close(stream)

    def _close(self, stream: _Stream) -> None:
        self._loop.forget(stream.fd)
        os.close(stream.fd)
        del self._streams[stream.fd]

    def resume(self) -> None:
        """Read on where output waited for room; called after ``wake``."""
        paused, self._paused = self._paused, []
        for stream in paused:
            self._loop.call_when_readable(stream.fd, partial(self._read, stream))

    def drained(self) -> bool:
        """Return whether every rank has closed its output, and all of it was written."""
        return not self._streams and all(outlet.empty for outlet in self._outlets)

    def stalled(self) -> bool:
        """Return whether all that has come was written, and what is still open is held open by somebody else."""
        return not self._paused and all(outlet.empty for outlet in self._outlets)

    def broken(self) -> OSError | None:
        """Return the error that writing to the caller ended with, if it did."""
        return next((outlet.error for outlet in self._outlets if outlet.error is not None), None)

    def say(self, text: str) -> None:
        """Write rankmap's own words to stderr, between whole lines of the ranks."""
        self._outlets[1].write(f"rankmap: {text}\n".encode())

    def close(self, *, timeout_s: float | None) -> None:
        """Pass on what is left, and return when it is written, or after this long (None: never)."""
        for stream in list(self._streams.values()):
            with suppress(BlockingIOError):
                while data := os.read(stream.fd, _READ_BYTES):
                    stream.outlet.write(stream.lines.feed(data))
            stream.outlet.write(stream.lines.end())
            self._close(stream)
        for outlet in self._outlets:
            outlet.close(timeout_s=timeout_s)
