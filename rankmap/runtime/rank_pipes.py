"""The pipes that the ranks of one host write to, and what comes out of them, in order per rank."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rankmap.runtime.loop import Loop

__all__ = ["ENDS", "RankPipes", "Taker"]

ENDS = 2
"""What a rank writes to: 0 is its stdout, 1 its stderr."""

_READ_BYTES = 1 << 16
_PIPE_READS = 16


class Taker(Protocol):
    """Who takes what the ranks write: the caller's own output (rank_output.py), or the way to it (agent.py)."""

    def feed(self, rank: int, end: int, data: bytes) -> None:
        """Take what a rank has written to one of its ends; nothing (b"") says that it has closed it."""

    def full(self, rank: int, end: int) -> bool:
        """Return whether no more should be read there until there is room again."""

    def taken(self) -> bool:
        """Return whether nothing waits to be passed on."""


@dataclass(slots=True)
class _Pipe:
    rank: int
    end: int
    fd: int


class RankPipes:
    """Reads what ranks write, in a loop.

    Memory is bounded: what the taker has no room for is not read, and the ranks wait in write(2).

    Args:
        loop: The supervisor's or an agent's.
        taker: Gets what comes.
    """

    def __init__(self, loop: Loop, taker: Taker) -> None:
        self._loop = loop
        self._taker = taker
        self._pipes: dict[int, _Pipe] = {}
        self._paused: list[_Pipe] = []
        self._n_read = 0
        self.opened: set[int] = set()
        """The ranks whose pipes were made."""

    def open(self, rank: int) -> list[int]:
        """Return the file descriptors that become this rank's stdout and stderr; the caller closes them.

        Raises:
            OSError: No more descriptors.
        """
        fds = [self._open(rank, end) for end in range(ENDS)]
        self.opened.add(rank)
        return fds

    def _open(self, rank: int, end: int) -> int:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        pipe = self._pipes[read_end] = _Pipe(rank=rank, end=end, fd=read_end)
        self._loop.call_when_readable(read_end, partial(self._read, pipe))
        return write_end

    def _read(self, pipe: _Pipe) -> None:
        if self._taker.full(pipe.rank, pipe.end):
            self._loop.forget(pipe.fd)
            self._paused.append(pipe)
            return
        try:
            data = os.read(pipe.fd, _READ_BYTES)
        except BlockingIOError:
            return
        self._n_read += len(data)
        self._taker.feed(pipe.rank, pipe.end, data)
        if not data:
            self._forget(pipe)

    def _forget(self, pipe: _Pipe) -> None:
        self._loop.forget(pipe.fd)
        os.close(pipe.fd)
        del self._pipes[pipe.fd]

    def resume(self) -> None:
        """Read on where output waited for room."""
        paused, self._paused = self._paused, []
        for pipe in paused:
            self._loop.call_when_readable(pipe.fd, partial(self._read, pipe))

    def drained(self) -> bool:
        """Return whether every rank has closed its output, and all of it was taken."""
        return not self._pipes and self._taker.taken()

    def stalled(self) -> bool:
        """Return whether what is still open is held open by somebody who is no rank, all ranks having ended.

        So it is when all that has come was taken, and when more came since ``count_from_here`` than pipes hold.
        """
        if self._n_read > _PIPE_READS * _READ_BYTES * len(self._pipes):
            return True
        return not self._paused and self._taker.taken()

    def count_from_here(self) -> None:
        """Count what comes from now on, for ``stalled``."""
        self._n_read = 0

    def close(self) -> None:
        """Pass on what is left, and read no more; whoever writes on and on is not waited for."""
        for pipe in list(self._pipes.values()):
            with suppress(BlockingIOError):
                for _ in range(_PIPE_READS):  # more than a pipe holds
                    if not (data := os.read(pipe.fd, _READ_BYTES)):
                        break
                    self._taker.feed(pipe.rank, pipe.end, data)
            self._taker.feed(pipe.rank, pipe.end, b"")
            self._forget(pipe)
        self._paused.clear()
