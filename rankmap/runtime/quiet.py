"""Stops two of Dragon's own processes from spinning on the ranks' cores.

Cause (Dragon 0.15.0): ``Queue.poll(timeout)`` returns at once instead of waiting, so the thread in which every
ProcessGroup with ``ignore_error_on_exit=False`` waits for an exception (``_exq_monitor``) takes a whole core. Our
own group is made with True and has no such thread; but for a PMIx group Dragon makes a distributed dictionary whose
orchestrator process has a group of its own, made with False: that one spins for the life of the job.

Cure: the two processes on the way there (the group's manager, and the orchestrator that it starts) run these
functions of ours in place of Dragon's; they mend ``Queue.poll`` in that process and then call Dragon's own function.
Nothing is changed in any other process of the runtime, and nothing in the ranks.
"""

from __future__ import annotations

import time
from typing import Any

from dragon.native import process_group
from dragon.native.queue import Queue

__all__ = ["install", "run_manager", "run_orchestrator"]

_PERIOD_S = 0.05

_dragon_run_manager = process_group._run_manager  # noqa: SLF001 - the only way in; checked by tests/e2e


def install() -> None:
    """Make every ProcessGroup that this process starts from now on a quiet one."""
    process_group._run_manager = run_manager  # noqa: SLF001


def run_manager(*args: Any) -> None:  # noqa: ANN401 - Dragon's own arguments, passed through
    """Run Dragon's manager of a process group, in the process that Dragon made for it, without spinning."""
    from dragon.data.ddict import orchestrator  # noqa: PLC0415 - only the manager's process needs it

    mend_poll()
    orchestrator.start = run_orchestrator
    _dragon_run_manager(*args)


def run_orchestrator(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
    """Run Dragon's orchestrator of a distributed dictionary without spinning."""
    from dragon.data.ddict import orchestrator  # noqa: PLC0415

    mend_poll()
    orchestrator.start(*args, **kwargs)


def mend_poll() -> None:
    """Let ``Queue.poll`` wait, in this process, for as long as it is asked to."""
    poll_now = Queue.poll

    def poll(self: Queue, timeout: float | None = 0) -> bool:
        end_s = None if timeout is None else time.monotonic() + timeout
        while not (ready := poll_now(self, 0)) and (end_s is None or time.monotonic() < end_s):
            time.sleep(_PERIOD_S)
        return bool(ready)

    Queue.poll = poll
