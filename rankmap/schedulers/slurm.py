"""Slurm: the directives of a batch script.

Source: sbatch(1) of Slurm 24.11; https://docs.olcf.ornl.gov/systems/frontier_user_guide.html and
https://docs.nersc.gov/jobs/policy/, 2026-11.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from rankmap.errors import UsageError
from rankmap.schedulers.batch import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.schedulers.batch import BatchJob

__all__ = ["SLURM"]

_REFUSED: Final[Mapping[str, str]] = {
    "--account": "the account is --account",
    "--chdir": "the job runs where it is submitted; --cwd of rankmap launch is for the ranks",
    "--job-name": "the name of the job is --job-name",
    "--nodes": "the nodes are --nodes",
    "--time": "the time is --walltime",
}


def _long(names: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in names.split())


_WITH_VALUE: Final = _long(
    "account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container "
    "container-id core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency "
    "distribution error exclude export export-file extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node "
    "gpus-per-socket gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep licenses mail-type "
    "mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile nodelist nodes ntasks "
    "ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket oom-kill-step open-mode output partition "
    "power prefer priority profile qos reservation segment signal sockets-per-node switches tasks tasks-per-node "
    "thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid wait-all-nodes wckey"
)
_MAYBE_WITH_VALUE: Final = _long("exclusive get-user-env nice no-kill propagate resv-ports")
_ALONE: Final = _long(
    "contiguous hold ignore-pbs no-requeue overcommit oversubscribe quiet reboot requeue spread-job "
    "stepmgr use-min-nodes verbose wait"
)
"""Options of a batch script, in full: sbatch takes the beginning of a name too, which would hide it from us."""

_LETTERS: Final[Mapping[str, str]] = {
    "A": "--account",
    "B": "--extra-node-info",
    "C": "--constraint",
    "D": "--chdir",
    "F": "--nodefile",
    "G": "--gpus",
    "H": "--hold",
    "J": "--job-name",
    "L": "--licenses",
    "M": "--clusters",
    "N": "--nodes",
    "O": "--overcommit",
    "Q": "--quiet",
    "S": "--core-spec",
    "W": "--wait",
    "a": "--array",
    "b": "--begin",
    "c": "--cpus-per-task",
    "d": "--dependency",
    "e": "--error",
    "i": "--input",
    "k": "--no-kill",
    "m": "--distribution",
    "n": "--ntasks",
    "o": "--output",
    "p": "--partition",
    "q": "--qos",
    "s": "--oversubscribe",
    "t": "--time",
    "v": "--verbose",
    "w": "--nodelist",
    "x": "--exclude",
}
_OPTION: Final = re.compile(r"(?:(--[a-z][a-z0-9-]*)(?:=(.*))?|-([A-Za-z])(.*))", re.ASCII)
_VARIABLES: Final[Mapping[str, str]] = {
    "--account": "SBATCH_ACCOUNT",
    "--constraint": "SBATCH_CONSTRAINT",
    "--exclusive": "SBATCH_EXCLUSIVE",
    "--gpus-per-node": "SBATCH_GPUS_PER_NODE",
    "--job-name": "SBATCH_JOB_NAME",
    "--mem": "SBATCH_MEM_PER_NODE",
    "--output": "SBATCH_OUTPUT",
    "--partition": "SBATCH_PARTITION",
    "--qos": "SBATCH_QOS",
    "--threads-per-core": "SBATCH_THREADS_PER_CORE",
    "--time": "SBATCH_TIMELIMIT",
}
"""Source: sbatch(1), "INPUT ENVIRONMENT VARIABLES": they "will override any options set in a batch script"."""


def _options_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return the option of a directive by its long name."""
    match = _OPTION.fullmatch(words[0]) if words else None
    if match is None:
        return ()
    name = match[1] or _LETTERS.get(match[3], "")
    values = [value for value in (match[2], match[4], *words[1:]) if value]
    fits = (
        (name in _WITH_VALUE and len(values) == 1)
        or (name in _MAYBE_WITH_VALUE and len(words) == 1)
        or (name in _ALONE and not values)
    )
    return (name,) if fits else ()


def _base(job: BatchJob) -> tuple[str, ...]:
    """Return the directives of a job: whole nodes, both streams in a file that is named after the job and its id.

    An exclusive job has all CPUs of a node, but not its memory: ``--mem=0``, where nothing is known of the site.

    Raises:
        UsageError: ``--filesystems``, or a directive that says the queue.
    """
    if job.filesystems:
        msg = f"--filesystems {job.filesystems}: Slurm has no such resource"
        raise UsageError(msg, hint="leave it out; a site that has licenses for them: --directive --licenses=NAME")
    batch = job.preset.batch if job.preset is not None else None
    queue = f"--{(batch.queue if batch is not None else '') or 'partition'}"
    for text in job.directives:
        if queue in _options_of(shlex.split(text)):
            msg = f"--directive {text!r}: the {queue.removeprefix('--')} is --queue"
            raise UsageError(msg)
    return (
        f"--job-name={job.name}",
        f"--account={job.account}",
        f"{queue}={job.queue}",
        f"--nodes={job.n_nodes}",
        f"--time={job.walltime}",
        "--exclusive",
        *(["--mem=0"] if batch is None else []),
        "--output=%x-%j.out",
    )


SLURM: Final = Scheduler(
    prefix="#SBATCH",
    example="--mail-type=END",
    suffix=".sbatch",
    submit=("sbatch", "--parsable"),
    directory="SLURM_SUBMIT_DIR",
    refused=_REFUSED,
    variables=_VARIABLES,
    options_of=_options_of,
    base=_base,
)
