"""Agents as Dragon starts them in a runtime, for tests without one: processes of this host, asked for in a thread."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from rankmap.runtime.inside import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rankmap.runtime.starting import AgentStart

__all__ = ["AgentsByHand"]


class AgentsByHand:
    """Takes the place of ``ask_for_agents``; ``agents`` are those that it has started."""

    def __init__(self) -> None:
        self.agents: list[subprocess.Popen[bytes]] = []

    def __call__(self, starts: Sequence[AgentStart], on_failure: Callable[[], None]) -> Asked:
        """Start them."""
        return Asked(lambda: self.agents.extend(map(_start, starts)), on_failure)


def _start(start: AgentStart) -> subprocess.Popen[bytes]:
    return subprocess.Popen(start.argv, env={**os.environ, **dict(start.variables)})
