"""Gives the shims leave to become the application: each its output, its command, its environment."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rankmap.errors import LaunchError
from rankmap.runtime.processes import JOB_VARIABLE
from rankmap.runtime.rank_process import go
from rankmap.runtime.rank_variables import rank_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.rank_pipes import RankPipes
    from rankmap.runtime.rank_process import RankProcess

__all__ = ["release_all"]


def release_all(ranks: Sequence[RankProcess], job: HostJob, pipes: RankPipes, stdin: Callable[[], int]) -> None:
    """Let every rank of a host go, once the output of all of them is open; a shim that has died is told by its end.

    Args:
        ranks: The host's.
        job: What they become.
        pipes: What they write to.
        stdin: Makes the descriptor that the rank which reads the caller's standard input gets.

    Raises:
        LaunchError: The output of a rank cannot be opened; no rank has gone.
    """
    with ExitStack() as opened:
        outputs = [_open(rank.number, job, pipes, stdin, opened) for rank in ranks]
        for rank, fds in zip(ranks, outputs, strict=True):
            placement = job.plan.rank(rank.number)
            own = rank_variables(
                rank=placement.rank,
                local_rank=placement.local_rank,
                n_local=len(ranks),
                inherited=job.inherited_ranks,
            )
            message = go(
                job.applications[job.plan.part_of(placement.rank)],
                placement,
                variables={**job.defaults, JOB_VARIABLE: job.name, **own},
                gpu_variables=job.gpu_variables,
                drop_paths=job.drop_paths,
                limits=job.limits,
            )
            rank.release(message, fds)


def _open(rank: int, job: HostJob, pipes: RankPipes, stdin: Callable[[], int], opened: ExitStack) -> list[int]:
    """Return the descriptors that become the rank's stdout and stderr, stdin in front where it reads ours."""
    try:
        fds = pipes.open(rank)
        for fd in fds:
            opened.callback(os.close, fd)
        if job.stdin_rank == rank:
            fds.insert(0, stdin())
            opened.callback(os.close, fds[0])
    except OSError as error:
        msg = f"rank {rank}'s output cannot be opened: {error}"
        raise LaunchError(msg, hint="check the limit on open files (ulimit -n), or --output-dir") from error
    return fds
