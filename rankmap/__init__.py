"""Puts every MPI rank on the right cores and NUMA domain, starts it through Dragon, and proves where it is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankmap.api import discover, launch, load, plan, whatif, why
    from rankmap.comparison import compare
    from rankmap.cpuset import CpuSet
    from rankmap.errors import RankmapError
    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan, RankPlacement
    from rankmap.replaying import replay
    from rankmap.report import Report
    from rankmap.runtime.job import JobResult
    from rankmap.scoring import score
    from rankmap.topology import Allocation, NodeTopology
    from rankmap.verification import verify

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "CpuSet",
    "JobResult",
    "LayoutSpec",
    "NodeTopology",
    "Plan",
    "RankPlacement",
    "RankmapError",
    "Report",
    "compare",
    "discover",
    "launch",
    "load",
    "plan",
    "replay",
    "score",
    "verify",
    "whatif",
    "why",
]

_HOMES = {
    "Allocation": "rankmap.topology",
    "CpuSet": "rankmap.cpuset",
    "JobResult": "rankmap.runtime.job",
    "LayoutSpec": "rankmap.layout",
    "NodeTopology": "rankmap.topology",
    "Plan": "rankmap.placement",
    "RankPlacement": "rankmap.placement",
    "RankmapError": "rankmap.errors",
    "Report": "rankmap.report",
    "compare": "rankmap.comparison",
    "discover": "rankmap.api",
    "launch": "rankmap.api",
    "load": "rankmap.api",
    "plan": "rankmap.api",
    "replay": "rankmap.replaying",
    "score": "rankmap.scoring",
    "verify": "rankmap.verification",
    "whatif": "rankmap.api",
    "why": "rankmap.api",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Import a public name when it is first used: ``rankmap --help`` needs none of them."""
    if name not in _HOMES:
        msg = f"module 'rankmap' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)
