"""The commands that start agents on hosts (starting.py): ssh for each host, or one srun or mpiexec for all."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rankmap.runtime.starting import begin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.starting import AgentStart

__all__ = ["Starter", "Starters"]

_LOG_LINES = 5
_LAST_WORDS_S = 0.5
_PATIENCE_S = 2.0
_AT_ONCE = 32


@dataclass(slots=True, eq=False)
class Starter:
    """A process that starts agents, and the last lines that it said."""

    start: AgentStart
    process: subprocess.Popen[bytes]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))


class Starters:
    """All of a job's.

    Args:
        loop: The supervisor's.
        on_end: Called with one that has ended, and its exit status.
    """

    def __init__(self, loop: Loop, on_end: Callable[[Starter, int], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self.running: list[Starter] = []
        self._no_more = False

    def begin(self, starts: Sequence[AgentStart], environ: Mapping[str, str]) -> None:
        """Run these commands, so many now and the others in the loop.

        An agent that has come waits a few seconds only for somebody to take it in (link.py): not for all the others.

        Raises:
            LaunchError: One cannot be started; the loop raises it where that is a later one.
        """
        if self._no_more:
            return
        for start in starts[:_AT_ONCE]:
            process = begin(start, environ)
            starter = Starter(start=start, process=process)
            self.running.append(starter)
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            self._loop.call_when_readable(process.stdout, partial(self._hear, starter))
        if rest := starts[_AT_ONCE:]:
            self._loop.call_after(0, lambda: self.begin(rest, environ))

    def begin_no_more(self) -> None:
        """Run none of those commands that are still to be run: the job ends."""
        self._no_more = True

    def _hear(self, starter: Starter) -> None:
        pipe = starter.process.stdout
        assert pipe is not None  # noqa: S101
        data = pipe.read()
        if data is None:
            return
        starter.lines.extend(line for line in data.decode(errors="replace").splitlines() if line.strip())
        if not data:
            self._loop.forget(pipe)
            pipe.close()
            self._on_end(starter, starter.process.wait())

    def last_words(self, hosts: Collection[str]) -> dict[str, list[str]]:
        """Return the last lines of the commands that had started the agents of these hosts, which are gone."""
        said = dict[str, list[str]]()
        for starter in self.running:
            if set(starter.start.hosts).isdisjoint(hosts):
                continue
            with suppress(subprocess.TimeoutExpired):
                starter.process.wait(timeout=_LAST_WORDS_S)
            if starter.process.stdout is not None and not starter.process.stdout.closed:
                self._hear(starter)
            said |= {name: [*starter.lines] for name in starter.start.hosts}
        return said

    def end(self, *, over: Collection[str], end_s: float) -> None:
        """End them all.

        Args:
            over: Hosts whose agents have ended: their starters will by themselves, ssh to a dead host does not.
            end_s: By when, on the monotonic clock.
        """
        for starter in self.running:
            patience_s = 0.0 if set(over).isdisjoint(starter.start.hosts) else _PATIENCE_S
            with suppress(subprocess.TimeoutExpired):
                starter.process.wait(timeout=max(0.0, min(patience_s, end_s - time.monotonic())))
            if starter.process.poll() is None:
                starter.process.kill()
                starter.process.wait()
            if starter.process.stdout is not None and not starter.process.stdout.closed:
                self._loop.forget(starter.process.stdout)
                starter.process.stdout.close()
