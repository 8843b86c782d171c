"""From the last rank's end to the end of its output: what ranks have left behind and holds it open has to go."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from rankmap.runtime.processes import send_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.runtime.loop import Loop
    from rankmap.runtime.processes import Found
    from rankmap.runtime.rank_pipes import RankPipes

__all__ = ["Drain"]

_GRACE_S = 2.0
_MOST_KILLS = 5


class Drain:
    """Waits for the end of the ranks' output; a slow reader of ours is waited for, others are not.

    Args:
        loop: Of the process that reads it.
        output: What the ranks write.
        left: Finds what ranks have left behind.
        on_end: Called, maybe more than once, when there is nothing to wait for any more.
    """

    def __init__(
        self, loop: Loop, output: RankPipes, *, left: Callable[[], list[Found]], on_end: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._output = output
        self._left = left
        self._on_end = on_end
        self._waiting = False
        self._n_kills = 0

    def check(self) -> None:
        """Look whether all output has come and was written; called whenever something has happened."""
        if self._output.drained():
            self._on_end()
        elif not self._waiting:
            self._waiting = True
            self._output.count_from_here()
            self._loop.call_after(_GRACE_S, self._end_leftovers)

    def _end_leftovers(self) -> None:
        self._waiting = False
        left = self._left()
        for process in left:
            send_signal(process, signal.SIGKILL)
        self._n_kills += bool(left)
        # What cannot be killed (it waits in the kernel, it belongs to another user) is not waited for for ever.
        if (not left or self._n_kills > _MOST_KILLS) and self._output.stalled():
            self._on_end()
