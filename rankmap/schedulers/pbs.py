"""PBS Professional and OpenPBS: the directives of a batch script.

Source: qsub(1B), pbs_resources(7B) and src/cmds/qsub.c of OpenPBS 23; https://docs.alcf.anl.gov/running-jobs/, 2026-11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rankmap.errors import UsageError
from rankmap.schedulers.batch import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.schedulers.batch import BatchJob

__all__ = ["PBS"]

_REFUSED: Final[Mapping[str, str]] = {
    "-A": "the account is --account",
    "-C": "what a directive begins with stays #PBS",
    "-I": "an interactive job runs no script",
    "-N": "the name of the job is --job-name",
    "-S": "the script is one of bash",
    "-q": "the queue is --queue",
    "-z": "the job's id is what --submit prints",
    "-l filesystems": "the file systems are --filesystems",
    "-l nodes": "the nodes are --nodes",
    "-l walltime": "the time is --walltime",
}

_WITH_VALUE: Final = frozenset("aAcCeJjklmMNopPqrRSuvW")
_ALONE: Final = frozenset("fhIVXz")
_OPTION: Final = re.compile(r"-([A-Za-z])(.*)", re.ASCII)
_RESOURCE: Final = re.compile(r"(\w+)=.+", re.ASCII)
_COUNT: Final = re.compile(r"(\d{1,9})(?::.*)?", re.ASCII)


def _options_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return the option of a directive, ``-l select`` where it is one of resources, whose names may be in capitals."""
    match = _OPTION.fullmatch(words[0]) if words else None
    if match is None:
        return ()
    letter, values = match[1], [value for value in (match[2], *words[1:]) if value]
    if letter in _ALONE and not values:
        return (f"-{letter}",)
    if letter not in _WITH_VALUE or len(values) != 1:
        return ()
    if letter != "l":
        return (f"-{letter}",)
    resources = [_RESOURCE.fullmatch(part) for part in values[0].split(",")]
    return tuple(f"-l {one[1].lower()}" for one in resources if one is not None) if all(resources) else ()


def _base(job: BatchJob) -> tuple[str, ...]:
    """Return the directives of a job.

    Output goes straight to its file, both streams to one (``-k doe``, ``-j oe``); each chunk is a node of its own.

    Raises:
        UsageError: The machine wants to know the file systems, or ``-l select`` asks for another number of nodes.
    """
    batch = job.preset.batch if job.preset is not None else None
    if batch is not None and batch.needs_filesystems and not job.filesystems:
        msg = f"--filesystems is missing: {job.preset.title if job.preset else ''} refuses jobs that do not say theirs"
        raise UsageError(msg, hint="write those that the job reads or writes, such as --filesystems home:eagle")
    _check_select(job)
    chunk = f":{batch.chunk}" if batch is not None and batch.chunk else ""
    return (
        f"-N {job.name}",
        f"-A {job.account}",
        f"-q {job.queue}",
        f"-l select={job.n_nodes}{chunk}",
        "-l place=scatter" if batch is not None else "-l place=scatter:exclhost",
        f"-l walltime={job.walltime}",
        *([f"-l filesystems={job.filesystems}"] if job.filesystems else []),
        "-k doe",
        "-j oe",
    )


def _check_select(job: BatchJob) -> None:
    for text in job.directives:
        for part in text.removeprefix("-l").split(","):
            name, _, select = part.strip().partition("=")
            if name.lower() == "select":
                counts = [_COUNT.fullmatch(chunk) for chunk in select.split("+")]
                n_nodes = sum(int(count[1]) if count is not None else 1 for count in counts)
                if n_nodes != job.n_nodes:
                    msg = f"--directive {text!r} asks for {n_nodes} nodes, --nodes for {job.n_nodes}"
                    raise UsageError(msg, hint="write the same number twice; each chunk is a node")


PBS: Final = Scheduler(
    prefix="#PBS",
    example="-m abe",
    suffix=".pbs",
    submit=("qsub",),
    directory="PBS_O_WORKDIR",
    refused=_REFUSED,
    variables={},
    options_of=_options_of,
    base=_base,
)
