"""Makes one report of those that come from the agents below an agent (branch.py), so that the supervisor gets few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankmap.gathering import Gathered, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.wire import Message

__all__ = ["Gatherer"]

# Questions and answers come in bursts; who has not answered in so long is not waited for with the others.
_QUIET_S = 0.05
_LONGEST_S = 3.0


class Gatherer:
    """The reports that have been asked for and have come, until they go up as one (``reports``).

    Args:
        loop: The agent's.
        tell: Says something to the supervisor, or to who is between it and us.
    """

    def __init__(self, loop: Loop, tell: Callable[[Message], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._asked: set[int] = set()
        self._answered: set[int] = set()
        self._parts: list[Gathered] = []
        self._n_changes = 0

    def ask(self, index: int) -> None:
        """Note that the agent with this index was asked for its report."""
        self._asked.add(index)
        self._change()

    def take(self, indices: Iterable[int], values: Mapping[str, Any] | None) -> None:
        """Take what these agents have reported together; None: nothing."""
        if not self._answered:
            self._loop.call_after(_LONGEST_S, self._send)
        self._answered.update(indices)
        if values is not None:
            self._parts.append(Gathered.from_values(values))
        self._change()

    def lose(self, index: int) -> None:
        """Expect nothing of this one any more."""
        self._asked.discard(index)
        self._change()

    def _change(self) -> None:
        self._n_changes += 1
        n_changes = self._n_changes
        self._loop.call_after(_QUIET_S, lambda: self._settle(n_changes))

    def _settle(self, n_changes: int) -> None:
        if n_changes == self._n_changes and self._asked <= self._answered:
            self._send()

    def _send(self) -> None:
        if not self._answered:
            return
        report = merged(self._parts).to_values() if self._parts else None
        self._tell({"kind": "reports", "of": sorted(self._answered), "report": report})
        self._asked -= self._answered
        self._answered.clear()
        self._parts.clear()
