"""The hosts that the job around this process has, as its scheduler says them in the environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from rankmap.errors import AllocationError, UsageError
from rankmap.hostfile import hosts_of
from rankmap.hostlist import expand
from rankmap.text_file import read_text_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AllocationKind", "HostAllocation", "allocated_hosts"]

_ALONE = "or name the hosts yourself: --hosts, --hostfile"


class AllocationKind(StrEnum):
    """Who has given the hosts, which is also what reaches them."""

    PBS = "pbs"
    SLURM = "slurm"
    DRUN = "drun"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAllocation:
    """The hosts of a job.

    Args:
        source: Where that stands, for messages: "SLURM_JOB_NODELIST", "PBS_NODEFILE /var/spool/pbs/aux/1.server".
        kind: Who has given them.
        hosts: Their names, each once, in the order given.
    """

    source: str
    kind: AllocationKind
    hosts: tuple[str, ...]


def allocated_hosts(
    environ: Mapping[str, str], *, say: Callable[[str], None] = lambda _: None
) -> HostAllocation | None:
    """Return the hosts of the job around this process; None where there is none.

    DRAGON_RUN_NODEFILE comes first: dhosts sets it inside jobs too, to use a part of their hosts, and Dragon itself
    goes by it first (dragon/launcher/util.py, detect_wlm, 0.15). A host list without a job, such as PBS_NODEFILE in
    a shell that has outlived its job or got its variables from one, is no allocation.

    Args:
        environ: The environment.
        say: Called with what is left unread and why.

    Raises:
        AllocationError: The hosts of the job cannot be read, or two schedulers claim this process.
    """
    if environ.get(_DRUN_FILE):
        return _of_dhosts(environ)
    found = [kind for kind, (job, _) in _READERS.items() if environ.get(job)]
    if len(found) > 1:
        jobs = [_READERS[kind][0] for kind in found]
        msg = f"{' and '.join(jobs)} are both set: this process cannot be in both jobs"
        raise AllocationError(msg, hint=f"unset the one of the job that this is not; {_ALONE}")
    if not found:
        for job, variables in _WITHOUT_JOB.items():
            for variable in variables:
                if environ.get(variable):
                    say(f"{variable} is set, but {job} is not: there is no job, and its hosts are not used")
        return None
    return _READERS[found[0]][1](environ)


_DRUN_FILE: Final = "DRAGON_RUN_NODEFILE"
_PBS_JOB: Final = "PBS_JOBID"
_PBS_FILE: Final = "PBS_NODEFILE"
_SLURM_JOB: Final = "SLURM_JOB_ID"
_SLURM_LISTS: Final = ("SLURM_JOB_NODELIST", "SLURM_NODELIST")
_WITHOUT_JOB: Final[Mapping[str, tuple[str, ...]]] = {_PBS_JOB: (_PBS_FILE,), _SLURM_JOB: _SLURM_LISTS[:1]}


def _of_dhosts(environ: Mapping[str, str]) -> HostAllocation:
    """Return the hosts of dhosts: one a line. Source: dragon/tools/dragon_run/dhosts.py, 0.15."""
    what = f"leave the shell of dhosts, or unset {_DRUN_FILE}"
    return _in_file(_DRUN_FILE, environ[_DRUN_FILE], AllocationKind.DRUN, what)


def _of_pbs(environ: Mapping[str, str]) -> HostAllocation:
    """Return the hosts of a PBS job: a line for each slot, so hosts are repeated.

    Source: OpenPBS, "pbs_environment(7B)", PBS_NODEFILE; qsub(1B), "mpiprocs".
    """
    file = environ.get(_PBS_FILE, "")
    if not file:
        msg = f"{_PBS_JOB} is {environ[_PBS_JOB]!r}, but {_PBS_FILE} is not set: which hosts has the job?"
        raise AllocationError(msg, hint=f"run this on the first host of the job, or unset {_PBS_JOB}; {_ALONE}")
    what = f"run this on the first host of the job, where PBS has that file, or unset {_PBS_JOB}"
    return _in_file(_PBS_FILE, file, AllocationKind.PBS, what)


def _of_slurm(environ: Mapping[str, str]) -> HostAllocation:
    """Return the hosts of a Slurm job. Source: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES"."""
    name = next((name for name in _SLURM_LISTS if environ.get(name)), "")
    unset = f"unset {_SLURM_JOB}, if this is no job; {_ALONE}"
    if not name:
        msg = f"{_SLURM_JOB} is {environ[_SLURM_JOB]!r}, but {_SLURM_LISTS[0]} is not set: which hosts has the job?"
        raise AllocationError(msg, hint=f"run this inside sbatch or salloc, or {unset}")
    try:
        hosts = tuple(dict.fromkeys(expand(environ[name])))
    except UsageError as error:
        msg = f"{name}: {error.message}"
        raise AllocationError(msg, hint=unset) from error
    return HostAllocation(source=name, kind=AllocationKind.SLURM, hosts=hosts)


_READERS: Final[Mapping[AllocationKind, tuple[str, Callable[[Mapping[str, str]], HostAllocation]]]] = {
    AllocationKind.PBS: (_PBS_JOB, _of_pbs),
    AllocationKind.SLURM: (_SLURM_JOB, _of_slurm),
}
"""Scheduler -> the variable that says that there is a job, and what reads its hosts."""


def _in_file(variable: str, name: str, kind: AllocationKind, what_to_do: str) -> HostAllocation:
    source = f"{variable} {name}"
    hint = f"{what_to_do}; {_ALONE}"
    try:
        file = read_text_file(name, called=source, what="list of hosts", hint="")
        hosts, _ = hosts_of(replace(file, name=source), sharing=False)
    except UsageError as error:
        raise AllocationError(error.message, hint=hint) from error
    return HostAllocation(source=source, kind=kind, hosts=tuple(hosts))
