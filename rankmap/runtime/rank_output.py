"""Takes every rank's stdout and stderr, from whichever host, to the caller or to files of the rank's own."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.errors import LaunchError, UsageError
from rankmap.runtime.output import LONGEST_LINE_BYTES, LineAssembler, Outlet, Writer
from rankmap.runtime.rank_pipes import ENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from rankmap.runtime.job import OutputOptions

__all__ = [
    "RankOutput",
    "prepare_directory",
    "require_writable",
    "tell",
]

_PROBE_BYTES = 1 << 16
# Unfinished lines of all ranks together.
_ALL_LINES_BYTES = 64 << 20
_NAMES = ("stdout", "stderr")
_ENDS = ("out", "err")


@dataclass(slots=True)
class _Stream:
    """What one rank writes to one of its two ends (0: stdout, 1: stderr), and where that goes."""

    rank: int
    end: int
    lines: LineAssembler
    outlet: Outlet
    path: Path | None = None
    ended: bool = False


def prepare_directory(directory: Path) -> None:
    """Make the directory for the ranks' files where it is missing, and make sure that it can be written to.

    Raises:
        UsageError: It cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else f"it cannot be made: {error.strerror}"
        msg = f"--output-dir {directory}: {reason}"
        raise UsageError(msg, hint="name a directory that can be made or written to") from error
    require_writable(directory, what=f"--output-dir {directory}")


def require_writable(directory: Path, *, what: str) -> None:
    """Raise unless a file can be made in this directory and 64 KiB written to it: by doing it.

    Args:
        directory: Where; nothing of the file stays.
        what: The option and its value, for the message.

    Raises:
        UsageError: It cannot: no permission, a full disk, a quota that is used up.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError as error:
        msg = f"{what}: nothing can be written there: {error.strerror}"
        raise UsageError(msg, hint="make room or get permission, or name another place") from error


class RankOutput:
    """The ranks' output, on its way to the caller.

    Memory is bounded: what the caller does not take is not read from the ranks (``full``), which then wait in
    write(2). What cannot be written to a rank's file goes to the caller's stdout or stderr, labelled; what cannot be
    written to stdout goes to stderr. Either is said, once.

    Args:
        wake: Called, from another thread, when ``on_wake`` should be.
        options: Labels, or files.
        n_ranks: Ranks of the job; a single rank's output is passed on as it comes.
        targets: File descriptors that take stdout and stderr.
    """

    def __init__(
        self, wake: Callable[[], None], options: OutputOptions, *, n_ranks: int, targets: tuple[int, int]
    ) -> None:
        self._wake = wake
        self._options = options
        self._n_ranks = n_ranks
        self._outlets = [Outlet(fd, Writer(wake)) for fd in targets]
        self._stderr = self._outlets[1]
        self._writers = [outlet.writer for outlet in self._outlets]
        self._file_writer: Writer | None = None
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._files: list[_Stream] = []
        self.failed = False
        """Whether something could not be written where it was asked for."""
        self.unwanted = False
        """Whether the reader of stdout or stderr has had enough (EPIPE)."""

    def open_all(self, ranks: Iterable[int]) -> None:
        """Make ready for what these ranks write, before any of them does.

        Raises:
            LaunchError: A file cannot be made.
        """
        for rank in ranks:
            try:
                self.open(rank)
            except OSError as error:
                msg = f"rank {rank}'s output cannot be opened: {error}"
                raise LaunchError(msg, hint="check the limit on open files (ulimit -n), or --output-dir") from error

    def open(self, rank: int) -> None:
        """Make ready for what this rank writes.

        Raises:
            OSError: A file cannot be made.
        """
        for end in range(ENDS):
            self._streams[rank, end] = self._opened(rank, end)

    def _opened(self, rank: int, end: int) -> _Stream:
        directory = self._options.directory
        if directory is None:
            lines = self._assembler(rank, label=self._options.label)
            return _Stream(rank=rank, end=end, lines=lines, outlet=self._outlets[end])
        path = directory / f"rank-{rank}.{_ENDS[end]}"
        lines = LineAssembler(whole_lines=False)
        stream = _Stream(rank=rank, end=end, lines=lines, outlet=self._file(path), path=path)
        self._files.append(stream)
        return stream

    def _assembler(self, rank: int, *, label: bool) -> LineAssembler:
        prefix = f"[{rank}] ".encode() if label else b""
        longest_bytes = min(LONGEST_LINE_BYTES, _ALL_LINES_BYTES // (len(_NAMES) * self._n_ranks))
        return LineAssembler(prefix, whole_lines=label or self._n_ranks > 1, longest_bytes=longest_bytes)

    def _file(self, path: Path) -> Outlet:
        if self._file_writer is None:
            self._file_writer = Writer(self._wake)
            self._writers.append(self._file_writer)
        return Outlet(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), self._file_writer)

    def feed(self, rank: int, end: int, data: bytes) -> None:
        """Take what a rank has written to stdout (0) or stderr (1); nothing (b"") says that it has closed it."""
        stream = self._streams[rank, end]
        stream.outlet.write(stream.lines.feed(data) if data else stream.lines.end())
        if not data:
            stream.ended = True
            del self._streams[rank, end]

    def full(self, rank: int, end: int) -> bool:
        """Return whether no more should be read there until there is room again."""
        return self._streams[rank, end].outlet.writer.full

    @property
    def crowded(self) -> bool:
        """Whether any way out is full: of several hosts nobody knows whose output is the next to come."""
        return any(writer.full for writer in self._writers)

    def taken(self) -> bool:
        """Return whether all that was given was written, or could not be."""
        return all(writer.empty for writer in self._writers)

    def on_wake(self) -> None:
        """Find another way for what could not be written."""
        self._mend()

    def _mend(self) -> None:
        for stream in self._files:
            if stream.path is not None and (error := stream.outlet.error) is not None:
                self.say(
                    f"{stream.path} cannot be written: {error.strerror}; "
                    f"the rest of rank {stream.rank}'s {_NAMES[stream.end]} comes here"
                )
                unwritten, stream.outlet.unwritten = stream.outlet.unwritten, []
                with suppress(OSError):
                    os.close(stream.outlet.fd)
                stream.path, stream.outlet = None, self._outlets[stream.end]
                stream.lines = LineAssembler(f"[{stream.rank}] ".encode())
                stream.outlet.write(stream.lines.feed(b"".join(unwritten)))
                if stream.ended:
                    stream.outlet.write(stream.lines.end())
                self.failed = True
        for number, outlet in enumerate(self._outlets):
            if outlet.error is None:
                continue
            if outlet.error.errno == errno.EPIPE:
                self.unwanted = True
            elif outlet is not self._stderr:
                self.say(f"{_NAMES[number]} cannot be written: {outlet.error.strerror}; the rest of it comes here")
                self._stderr.write(b"".join(outlet.unwritten))
                for stream in (*self._streams.values(), *self._files):
                    if stream.outlet is outlet:
                        stream.outlet = self._stderr
                self._outlets[number] = self._stderr
                self.failed = True
            else:
                self.failed = True
            outlet.drop()

    def drained(self) -> bool:
        """Return whether every rank has closed its output, and all of it was written."""
        return not self._streams and self.taken()

    def say(self, text: str) -> None:
        """Write rankmap's own words to stderr, between whole lines of the ranks."""
        self._stderr.write(f"rankmap: {text}\n".encode())

    def close(self, *, timeout_s: float | None) -> bool:
        """End what is open, and return when all is written, or after this long per way out (None: never).

        Returns whether all was taken; else threads of ours still wait to write to the targets.
        """
        for stream in list(self._streams.values()):
            self.feed(stream.rank, stream.end, b"")
        # The files first: what they do not take goes to stdout, and that to stderr.
        lost = {}
        for writer in self._writers[2:] + self._writers[:2]:
            lost[writer] = writer.close(timeout_s=timeout_s)
            self._mend()
        if n_lost := sum(lost.values()):
            self.failed = True
            tell(f"{n_lost} bytes of output were not taken in time, and are lost")
        for stream in self._files:
            if stream.path is not None and not lost[stream.outlet.writer]:
                try:
                    os.close(stream.outlet.fd)
                except OSError as error:  # a quota on a network file system may be noticed only here
                    self.failed = True
                    tell(f"{stream.path} is not complete: {error.strerror}")
        return not n_lost


def tell(text: str) -> None:
    """Write rankmap's own words to stderr, where it can be written to."""
    with suppress(OSError):
        os.write(2, f"rankmap: {text}\n".encode())
