"""Stops Dragon's own processes from spinning on the ranks' cores.

Causes (Dragon 0.15.0), both in the processes that Dragon makes for a group of PMIx ranks:

* ``Queue.poll(timeout)`` returns at once instead of waiting, so the thread in which every ProcessGroup with
  ``ignore_error_on_exit=False`` waits for an exception (``_exq_monitor``) takes a whole core. Our own group is made
  with True and has no such thread; but for a PMIx group Dragon makes a distributed dictionary whose orchestrator
  process has a group of its own, made with False: that one spins for the life of the job.
* ``Queue.get(timeout)`` begins every wait by spinning. The manager process of a group calls it every 0.3 s for the life
  of the job, which takes 20 % of a core and 6,800 context switches a second; a PMIx job has two such managers.

Cure: these processes run functions of ours in place of Dragon's; they mend ``Queue`` in that process and then call
Dragon's own function. Nothing is changed in any other process of the runtime, and nothing in the ranks.
"""

from __future__ import annotations

import queue
import time
from typing import Any

from dragon.native import process_group
from dragon.native.queue import Queue

__all__ = ["install", "run_manager", "run_orchestrator"]

# How often a waiting process looks: often when something has just come, else seldom.
_SHORTEST_S = 0.001
_LONGEST_S = 0.05

_dragon_run_manager = process_group._run_manager  # noqa: SLF001 - the only way in; tests/e2e sees when it is gone


def install() -> None:
    """Make every ProcessGroup that this process starts from now on a quiet one."""
    process_group._run_manager = run_manager  # noqa: SLF001


def run_manager(*args: Any) -> None:  # noqa: ANN401 - Dragon's own arguments, passed through
    """Run Dragon's manager of a process group, in the process that Dragon made for it, without spinning."""
    from dragon.data.ddict import orchestrator  # noqa: PLC0415 - only the manager's process needs it

    mend_queue()
    orchestrator.start = run_orchestrator
    _dragon_run_manager(*args)


def run_orchestrator(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
    """Run Dragon's orchestrator of a distributed dictionary without spinning; its group's manager too."""
    from dragon.data.ddict import orchestrator  # noqa: PLC0415

    mend_queue()
    install()
    orchestrator.start(*args, **kwargs)


def mend_queue() -> None:
    """Let ``Queue.poll`` and ``Queue.get`` sleep while they wait, in this process."""
    poll_now, get_now = Queue.poll, Queue.get
    pause_s = _SHORTEST_S

    def poll(self: Queue, timeout: float | None = 0) -> bool:
        nonlocal pause_s
        end_s = None if timeout is None else time.monotonic() + timeout
        while not poll_now(self, 0):
            if end_s is not None and time.monotonic() >= end_s:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_S)
        pause_s = _SHORTEST_S
        return True

    def get(self: Queue, block: bool = True, timeout: float | None = None, **others: Any) -> Any:  # noqa: ANN401, FBT001, FBT002 - Dragon's signature
        if not poll(self, timeout if block else 0):
            raise queue.Empty
        return get_now(self, block, timeout, **others)

    Queue.poll, Queue.get = poll, get
