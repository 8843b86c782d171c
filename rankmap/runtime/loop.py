"""The supervisor's event loop: descriptors, timers, signals. It sleeps when there is nothing to do."""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Self

__all__ = ["HasFileno", "Loop"]


_LONGEST_WAIT_S = 3600.0


class HasFileno(Protocol):
    """Something that has a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Loop:
    """Calls back when something can be read, when a time has come, and when a signal or ``wake`` came.

    As a context manager: signals are caught inside it only, and only in the main thread.

    Args:
        signals: The signals to catch.
        on_wake: Called after ``wake``, with the signals that came since.
    """

    def __init__(self, signals: Iterable[signal.Signals], on_wake: Callable[[list[int]], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._signals = tuple(signals)
        self._caught: list[int] = []
        self._on_wake = on_wake
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays ignored: nohup, and Ctrl-C in a background job of a script.
            heard = [number for number in self._signals if signal.getsignal(number) is not signal.SIG_IGN]
            self._old_handlers = {number: signal.signal(number, self._catch) for number in heard}
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._wake_write = -1  # a thread that wakes us too late must not write into another file of that number

    @property
    def caught(self) -> bool:
        """Whether a signal has come that was not handed to ``on_wake`` yet."""
        return bool(self._caught)

    def call_when_readable(self, readable: HasFileno | int, action: Callable[[], None]) -> None:
        """Call this whenever the descriptor can be read, instead of what was called before."""
        with suppress(KeyError):
            self._selector.unregister(readable)
        self._selector.register(readable, selectors.EVENT_READ, action)

    def forget(self, readable: HasFileno | int) -> None:
        """Watch this descriptor no more; nothing happens when it was not watched."""
        with suppress(KeyError):
            self._selector.unregister(readable)

    def call_after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call this once, after so many seconds."""
        self._timers.append((time.monotonic() + delay_s, action))

    def wake(self) -> None:
        """Have ``on_wake`` called in the loop; for other threads and signal handlers."""
        with suppress(OSError):  # full: it will wake anyway; closed: the job is over
            os.write(self._wake_write, b"w")

    def step(self) -> None:
        """Wait until there is something to do, and do it."""
        timeout_s = None
        if self._timers:
            # epoll's own limit is 24 days: a longer wait is cut up.
            timeout_s = min(_LONGEST_WAIT_S, max(0.0, min(due_s for due_s, _ in self._timers) - time.monotonic()))
        for key, _ in self._selector.select(timeout_s):
            # An earlier callback of this round may have closed it.
            if key.fd in self._selector.get_map() and self._selector.get_key(key.fileobj) == key:
                key.data()
        now_s = time.monotonic()
        due = [action for due_s, action in self._timers if due_s <= now_s]
        self._timers = [timer for timer in self._timers if timer[0] > now_s]
        for action in due:
            action()

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self._caught.append(number)
        self.wake()

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 1 << 16)
        caught, self._caught = self._caught, []
        self._on_wake(caught)
