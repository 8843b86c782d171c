"""Processes that a test starts, talks to by lines, and leaves nothing of."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.runtime.processes import Found, descendants, everything

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["CHECKOUT", "LIMIT_S", "Child", "Lines", "child", "family", "has_ended", "python", "read_some"]

CHECKOUT = Path(__file__).parents[1]
LIMIT_S = 30.0


def family(pid: int) -> list[Found]:
    """Return this process and all below it, as far as they run."""
    return [found for found in everything() if found.pid == pid] + descendants(pid)


class Lines:
    """The lines that come out of a descriptor, waited for until a limit."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def next(self) -> str:
        """Return the next line without its end, "" at the end of all."""
        while b"\n" not in self._rest:
            if not (data := read_some(self._fd)):
                break
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def rest(self) -> list[str]:
        """Return all lines to the end."""
        while data := read_some(self._fd):
            self._rest += data
        lines, self._rest = self._rest.decode().splitlines(), b""
        return lines


def read_some(fd: int) -> bytes:
    """Return what can be read within the limit, b"" at the end."""
    if not select.select([fd], [], [], LIMIT_S)[0]:
        msg = f"nothing came for {LIMIT_S:g} s"
        raise TimeoutError(msg)
    return os.read(fd, 1 << 16)


class Child:
    """A process in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.pid = process.pid
        self._stdin = process.stdin
        self._lines = Lines(process.stdout.fileno())

    def hear(self) -> str:
        """Return the next line that it says, "" at the end."""
        return self._lines.next()

    def say(self, line: str) -> None:
        """Say this line to it."""
        self._stdin.write(f"{line}\n".encode())

    def end(self) -> int:
        """Close its stdin, and return what it ends with: ``subprocess.Popen.returncode``."""
        self._stdin.close()
        return self.process.wait(LIMIT_S)


@contextmanager
def child(*command: str, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Start a process; end it with its group."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=env, process_group=0
    )
    try:
        yield Child(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # closes the pipes and waits
            pass


@contextmanager
def python(code: str, *arguments: str) -> Iterator[Child]:
    """Start a Python process that runs this code and can import rankmap."""
    with child(sys.executable, "-c", code, *arguments, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}) as started:
        yield started


def has_ended(pidfds: Sequence[int], *, limit_s: float = LIMIT_S) -> bool:
    """Return whether the processes of all these pidfd_open(2) descriptors end within the limit."""
    deadline_s = time.monotonic() + limit_s
    return all(select.select([pidfd], [], [], max(0.0, deadline_s - time.monotonic()))[0] for pidfd in pidfds)
