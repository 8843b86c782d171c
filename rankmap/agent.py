"""``python -m rankmap.agent``: rankmap's process on each host of a job that has several (runtime/agent.py)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rankmap.discovery.accelerators import all_gpus
from rankmap.discovery.machine import this_host
from rankmap.runtime.agent import serve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.cpuset import CpuSet
    from rankmap.topology import NodeTopology

__all__: list[str] = []


def _here(environ: Mapping[str, str], kept: CpuSet) -> NodeTopology:
    return this_host(environ, kept=kept)


if __name__ == "__main__":
    sys.exit(serve(_here, all_gpus))
