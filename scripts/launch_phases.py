"""Runs ``rankmap launch`` with the arguments given, and says on stderr when each phase of the job begins and ends.

On two fake hosts (root): ``tests/rig/fakehosts.sh up 2``, then ``tests/rig/fakehosts.sh run python
scripts/launch_phases.py --hosts node0,node1 -N 1 -- mpi_examples/hello_affinity``.
"""

from __future__ import annotations

import os
import sys
import time
from functools import wraps
from typing import Any

START_S = time.monotonic()

from rankmap.cli import main  # noqa: E402 - what it takes to import rankmap is a phase too
from rankmap.runtime.supervisor import Supervisor  # noqa: E402

PHASES = {
    "run": "the supervisor",
    "on_ready": "the agents have looked: Dragon is started",
    "_plan_and_start": "Dragon's head is there: the plan, and what is sent to it",
    "_on_shims": "the shims of a host are there",
    "_start_applications": "a host has checked",
    "_finish": "the ranks have ended: Dragon is told to finish",
    "_end_session": "Dragon has finished: what is left of it",
}


def mark(text: str) -> None:
    """Say how many seconds have gone, and what happens."""
    os.write(2, f"{time.monotonic() - START_S:7.2f} s  {text}\n".encode())


def timed(name: str, what: str) -> None:
    """Have the supervisor say when this method of it begins and ends."""
    method = getattr(Supervisor, name)

    @wraps(method)
    def call(self: Supervisor, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the method has
        mark(what)
        result = method(self, *arguments)
        mark(f"{what}: done")
        return result

    setattr(Supervisor, name, call)


if __name__ == "__main__":
    for method_name, phase in PHASES.items():
        timed(method_name, phase)
    mark("rankmap is imported")
    try:
        main(["launch", *sys.argv[1:]])
    finally:
        mark("the end")
