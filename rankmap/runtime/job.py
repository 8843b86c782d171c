"""What a job is asked to do, and what came of it: values between the command line, the API and the supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rankmap.cpuset import CpuSet
    from rankmap.placement import Plan
    from rankmap.report import Report
    from rankmap.runtime.application import Application
    from rankmap.topology import Allocation, Gpu

__all__ = [
    "MISMATCH_STATUS",
    "START_TIMEOUT_HOST_S",
    "START_TIMEOUT_S",
    "START_TIMEOUT_SEVERAL_S",
    "TIMEOUT_STATUS",
    "JobRequest",
    "JobResult",
    "OutputOptions",
    "Pmi",
    "Verify",
]

# Statuses of jobs that have run, beside those of errors.py and the application's own.
TIMEOUT_STATUS = 124
MISMATCH_STATUS = 125

# The Dragon runtime takes 4 s to start on 2 idle cores, and over a minute on an emulated machine.
START_TIMEOUT_S = 50.0
# On several hosts, in all and for each: 25 s for two of them that share 2 cores, with Slurm.
START_TIMEOUT_SEVERAL_S = 120.0
START_TIMEOUT_HOST_S = 0.5


class Verify(StrEnum):
    """What a rank that is not where the plan says does: stop the job, be reported, or go unchecked."""

    FAIL = "fail"
    WARN = "warn"
    OFF = "off"


class Pmi(StrEnum):
    """How the ranks find each other: by the application's MPI library, by a PMI that is named, or not at all."""

    AUTO = "auto"
    PMIX = "pmix"
    CRAY = "cray"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Where the ranks' output goes.

    Args:
        label: Whether each line starts with ``[rank] ``.
        directory: Where each rank writes files of its own (rank-N.out, rank-N.err) instead; None is to the caller.
    """

    label: bool = False
    directory: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One job.

    Args:
        plan_for: Makes the plan from the live allocation; raises RankmapError where it does not fit.
        applications_for: Says of a plan what every rank of each part of the job becomes.
        backend: Dragon's PMI back end, "pmix" or "cray"; "" starts the ranks without one.
        drop_paths: Directories that are in LD_LIBRARY_PATH for Dragon's sake only, and go before the ranks start.
        reserve: PU os indices that Dragon's services are bound to; empty leaves them where they are.
        gpu_variables: Those of the variables of GPUs that the caller has set; so has a rank without GPUs of its own.
        all_gpus: Returns a vendor's GPUs on this host, as they are when it is called; none where nobody can tell.
        verify: What to do about ranks that are not where the plan says.
        watch_s: How often running ranks are looked at, beside twice at their start; None is not.
        output: Where the ranks' output goes.
        stdin_rank: The rank that gets the caller's standard input; None: no rank does.
        timeout_s: When the job is ended; None is never.
        kill_grace_s: How long other ranks may go on after one has failed with an exit status.
        start_timeout_s: How long the runtime and the job's first process in it may take to start.
        verbose: Whether Dragon's own output is passed on to stderr.
        inherited_ranks: Variables with a rank number that is another's (rank_variables.py): each rank gets its own.
        defaults: Variables of the machine for every rank, where neither plan nor user sets them: a runtime that is
            around us was started without them.
    """

    plan_for: Callable[[Allocation], Plan]
    applications_for: Callable[[Plan], tuple[Application, ...]]
    backend: str
    drop_paths: tuple[str, ...]
    reserve: CpuSet
    gpu_variables: Mapping[str, str]
    all_gpus: Callable[[str], tuple[Gpu, ...]]
    verify: Verify = Verify.FAIL
    watch_s: float | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    stdin_rank: int | None = None
    timeout_s: float | None = None
    kill_grace_s: float = 10.0
    start_timeout_s: float = START_TIMEOUT_S
    verbose: bool = False
    inherited_ranks: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended.

    Args:
        status: The exit status for the caller (docs/guide.md, "Exit status").
        reason: Why the status is not 0, "" where it is.
        hint: What to do next, "" where there is nothing to say.
        plan: The plan that was launched; None when the job ended before there was one.
        report: Planned beside observed; None when the job ended before there was a plan.
        exit_codes: By rank; negative -N means killed by signal N. Ranks that never started are missing.
    """

    status: int
    reason: str
    hint: str
    plan: Plan | None
    report: Report | None
    exit_codes: Mapping[int, int]
