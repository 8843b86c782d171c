"""What one host has to do of a job: a value that the supervisor makes and the host's hands (hands.py) work by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rankmap.runtime.job import Verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rankmap.cpuset import CpuSet
    from rankmap.node_plan import NodePlan
    from rankmap.runtime.application import Application
    from rankmap.topology import Gpu

__all__ = ["HostJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJob:
    """One host's share of a job.

    Args:
        name: The job's, in the environment of all that belongs to it.
        plan: Where its ranks go.
        applications: What the ranks of each part of the job become.
        head_pid: The head's pid where it is on this host, else 0.
        slack_ns: The timer slack that the ranks get.
        drop_paths: See JobRequest, as for the fields below.
    """

    name: str
    plan: NodePlan
    applications: tuple[Application, ...]
    head_pid: int
    slack_ns: int
    drop_paths: tuple[str, ...]
    reserve: CpuSet
    gpu_variables: Mapping[str, str]
    all_gpus: Callable[[str], tuple[Gpu, ...]]
    verify: Verify = Verify.FAIL
    watch_s: float | None = None
    stdin_rank: int | None = None
    inherited_ranks: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict)
