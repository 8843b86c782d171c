"""One rank of a running job, as the supervisor knows it: on which host, whether it came, whether and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RankState"]


@dataclass(slots=True, kw_only=True)
class RankState:
    """What is known of one rank.

    Args:
        number: Its MPI rank.
        host: The host that it is planned on.
        pid: Its pid there; None before its shim has reported.
        ended: Whether the process has ended; its exit code may not be known yet.
        end_order: Which rank of the job it was to end: 1 is the first; 0 while it lives.
        exit_code: As Dragon reports it; negative -N is signal N.
        ended_by_us: Whether its end is our doing: its exit code then says nothing about the job.
    """

    number: int
    host: str
    pid: int | None = None
    ended: bool = False
    end_order: int = 0
    exit_code: int | None = None
    ended_by_us: bool = False
