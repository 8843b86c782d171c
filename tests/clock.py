"""Time that passes when a test says so."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """The part of a Loop that keeps time: what is to be called is called as time passes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._count = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []

    def call_after(self, delay_s: float, action: Callable[[], None]) -> None:
        """As Loop does; those of the same moment come in the order in which they were asked for."""
        self._timers.append((self.now_s + delay_s, next(self._count), action))

    def advance_to(self, time_s: float) -> None:
        """Let time pass until then."""
        while self._timers and min(self._timers)[0] <= time_s:
            timer = min(self._timers)
            self._timers.remove(timer)
            self.now_s = timer[0]
            timer[2]()
        self.now_s = time_s
