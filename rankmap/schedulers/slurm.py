"""Slurm: the directives of a batch script.

Source: sbatch(1) of Slurm 24.11; https://docs.olcf.ornl.gov/systems/frontier_user_guide.html and
https://docs.nersc.gov/jobs/policy/, 2026-11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rankmap.errors import UsageError
from rankmap.schedulers.batch import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.schedulers.batch import BatchJob

__all__ = ["SLURM"]

_REFUSED: Final[Mapping[str, str]] = {
    "--account": "the account is --account",
    "--chdir": "the job runs where it is submitted; --cwd of rankmap launch is for the ranks",
    "--job-name": "the name of the job is --job-name",
    "--nodes": "the nodes are --nodes",
    "--time": "the time is --walltime",
    "--wrap": "the script is the one that rankmap writes",
}

_LONG: Final = re.compile(r"(--[a-z][a-z0-9-]*)(?:(?:=|\s+)\S.*)?", re.ASCII)
_SHORT: Final = re.compile(r"(-[A-Za-z])(?:[=\s]*\S.*)?", re.ASCII)
_LONG_OF: Final[Mapping[str, str]] = {
    "-A": "--account",
    "-C": "--constraint",
    "-D": "--chdir",
    "-J": "--job-name",
    "-N": "--nodes",
    "-o": "--output",
    "-p": "--partition",
    "-q": "--qos",
    "-t": "--time",
}


def _options_of(text: str) -> tuple[str, ...]:
    """Return the option of a directive by its long name; which there are differs from site to site (plugins)."""
    match = _LONG.fullmatch(text) or _SHORT.fullmatch(text)
    return (_LONG_OF.get(match[1], match[1]),) if match is not None else ()


def _base(job: BatchJob) -> tuple[str, ...]:
    """Return the directives of a job: whole nodes, both streams in a file that is named after the job and its id.

    Raises:
        UsageError: ``--filesystems``, or a directive that says the queue.
    """
    if job.filesystems:
        msg = f"--filesystems {job.filesystems}: Slurm has no such resource"
        raise UsageError(msg, hint="leave it out; a site that has licenses for them: --directive --licenses=NAME")
    batch = job.preset.batch if job.preset is not None else None
    queue = f"--{(batch.queue if batch is not None else '') or 'partition'}"
    for text in job.directives:
        if queue in _options_of(text):
            msg = f"--directive {text!r}: the {queue.removeprefix('--')} is --queue"
            raise UsageError(msg)
    return (
        f"--job-name={job.name}",
        f"--account={job.account}",
        f"{queue}={job.queue}",
        f"--nodes={job.n_nodes}",
        f"--time={job.walltime}",
        "--exclusive",
        "--output=%x-%j.out",
    )


SLURM: Final = Scheduler(
    prefix="#SBATCH",
    example="--mail-type=END",
    suffix=".sbatch",
    submit=("sbatch", "--parsable"),
    directory="SLURM_SUBMIT_DIR",
    refused=_REFUSED,
    options_of=_options_of,
    base=_base,
)
