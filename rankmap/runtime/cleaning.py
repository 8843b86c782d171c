"""Hosts whose agents are gone and the job with them: another agent is started there, cleans up (kept.py), and goes."""

from __future__ import annotations

import selectors
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankmap.errors import LaunchError
from rankmap.runtime.ending import unreachable
from rankmap.runtime.kept import CLEANED
from rankmap.runtime.starting import agent_starts, begin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from rankmap.runtime.starting import Kind

__all__ = ["Cleaned", "clean"]

CLEAN_S = 10.0
_LOOK_S = 0.1
_LOG_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What has become of a host.

    Args:
        answered: Whether nothing of the job is left there, but for ``stuck``.
        failed: Whether its agent has ended by a mistake of its own, and so cleaned up itself.
        stuck: The pids of what cannot be ended.
        said: What ssh, srun or mpiexec said instead.
    """

    answered: bool
    failed: bool = False
    stuck: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    def text(self, host: str, *, last_words: Iterable[str]) -> str:
        """Return what the user has to know.

        Args:
            host: The host's name.
            last_words: What was said last by the command that had started the agent that is gone.
        """
        if self.answered:
            how = "has failed" if self.failed else "was killed"
            lines = [f"rankmap's agent on {host} {how}", *last_words, "nothing of the job is left there"]
        else:
            lines = [unreachable(host), *(self.said or last_words)]
        return "\n  ".join(lines)


def clean(
    kind: Kind, hosts: Mapping[str, str], control: Path, environ: Mapping[str, str], *, hurry: Callable[[], bool]
) -> dict[str, Cleaned]:
    """Return what has become of these hosts, when all of them are clean or 10 s are over.

    Args:
        kind: Who gets processes onto the hosts.
        hosts: What they call themselves, by their names in the job.
        control: The job's directory.
        environ: What the agents' starters have.
        hurry: Whether somebody does not want to wait any longer, asked again and again.
    """
    starts = agent_starts(kind, list(hosts), {"clean": str(control)}, environ, control) if hosts else []
    heard = [b"" for _ in starts]
    processes = {}
    end_s = time.monotonic() + CLEAN_S
    with selectors.DefaultSelector() as selector:
        for number, start in enumerate(starts):
            try:
                processes[number] = begin(start, environ)
            except LaunchError as error:  # the host that we are on is in trouble too
                heard[number] = error.message.encode()
            else:
                selector.register(_pipe(processes[number]), selectors.EVENT_READ, number)
        while selector.get_map() and time.monotonic() < end_s and not hurry():
            for key, _ in selector.select(_LOOK_S):
                data = _pipe(processes[key.data]).read()
                heard[key.data] += data or b""
                if data == b"":
                    selector.unregister(key.fileobj)
    for process in processes.values():
        process.kill()
        process.wait()
        _pipe(process).close()
    found: dict[str, Cleaned] = {}
    for start, text in zip(starts, heard, strict=True):
        lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
        answers = {words[1]: tuple(words[2:]) for line in lines if (words := line.split())[0] == CLEANED}
        said = tuple(line for line in lines if not line.startswith(CLEANED))[-_LOG_LINES:]
        for name in start.hosts:
            # The one host of a command has answered by whatever name.
            own_name = next(iter(answers), "") if len(start.hosts) == 1 else hosts[name]
            stuck = answers.get(own_name)
            found[name] = Cleaned(answered=stuck is not None, stuck=stuck or (), said=said)
    return found


def _pipe(process: Any) -> Any:  # noqa: ANN401 - a non-blocking one, whose read() returns None where nothing has come
    return process.stdout
