"""Gives the shims leave to become the application: each its output, its command, its environment."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.errors import LaunchError
from rankmap.runs import length
from rankmap.runtime.processes import JOB_VARIABLE
from rankmap.runtime.rank_process import go, pump_stdin
from rankmap.runtime.rank_variables import rank_variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.job import JobRequest
    from rankmap.runtime.rank_output import RankOutput
    from rankmap.runtime.rank_process import RankProcess

__all__ = ["Job", "release_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the ranks of a job become: its name, where they are, the request, the timer slack that they get."""

    name: str
    plan: Plan
    request: JobRequest
    slack_ns: int


def release_all(ranks: Sequence[RankProcess], job: Job, output: RankOutput) -> None:
    """Let every rank go, once the output of all of them is open; a shim that has died is told by its exit code.

    Raises:
        LaunchError: The output of a rank cannot be opened; no rank has gone.
    """
    request = job.request
    with ExitStack() as opened:
        outputs = [_open(rank.number, request, output, opened) for rank in ranks]
        n_local = {node.node_index: length(node.runs) for node in job.plan.nodes}
        for rank, placement, fds in zip(ranks, job.plan.iter_ranks(), outputs, strict=True):
            own = rank_variables(
                rank=placement.rank,
                local_rank=placement.local_rank,
                n_local=n_local[placement.node_index],
                inherited=request.inherited_ranks,
            )
            application = request.applications[job.plan.part_of(placement.rank)]
            message = go(
                application,
                placement,
                variables={**request.defaults, JOB_VARIABLE: job.name, **own},
                gpu_variables=request.gpu_variables,
                drop_paths=request.drop_paths,
                slack_ns=job.slack_ns,
            )
            rank.release(message, fds)


def _open(rank: int, request: JobRequest, output: RankOutput, opened: ExitStack) -> list[int]:
    """Return the descriptors that become the rank's stdout and stderr, stdin in front where it reads ours."""
    try:
        fds = output.open(rank)
        for fd in fds:
            opened.callback(os.close, fd)
        if request.stdin_rank == rank:
            fds.insert(0, pump_stdin())
            opened.callback(os.close, fds[0])
    except OSError as error:
        msg = f"rank {rank}'s output cannot be opened: {error}"
        raise LaunchError(msg, hint="check the limit on open files (ulimit -n), or --output-dir") from error
    return fds
