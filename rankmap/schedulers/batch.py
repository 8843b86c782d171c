"""A batch job as it is asked for: its words are checked here, once, whatever scheduler they go to."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rankmap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.preset import Preset

__all__ = [
    "BatchJob",
    "Scheduler",
    "directives",
    "file_systems",
    "job_name",
    "name_for",
    "overriding",
    "walltime",
    "word",
]

_WALLTIME: Final = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):(\d\d)", re.ASCII)
_SIXTY: Final = 60
_NAME: Final = re.compile(r"[A-Za-z][\w.+-]{0,63}", re.ASCII)
_FILE_SYSTEMS: Final = re.compile(r"[\w-]+(:[\w-]+)*", re.ASCII)
_WORD: Final = re.compile(r"\w[\w.,@+=:/-]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What a scheduler is asked for; every text is one that its directives can carry as it is.

    Args:
        name: What queue listings and output files call it.
        n_nodes: How many whole nodes.
        account: The project that pays.
        queue: The queue: of PBS a queue, of Slurm a partition or a QOS.
        walltime_s: How long it may run.
        filesystems: What the job needs, "home:eagle"; "" where nothing is said.
        directives: Options of the user's own, "-m abe"; those that say what rankmap would say replace that.
        preset: The machine, None where none was named.
    """

    name: str
    n_nodes: int
    account: str
    queue: str
    walltime_s: int
    filesystems: str = ""
    directives: tuple[str, ...] = ()
    preset: Preset | None = None

    @property
    def walltime(self) -> str:
        """Return the time as H:MM:SS, which PBS and Slurm read alike."""
        minutes, seconds = divmod(self.walltime_s, _SIXTY)
        return f"{minutes // _SIXTY}:{minutes % _SIXTY:02}:{seconds:02}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """A member of this family: what its scripts are made of; schedulers/table.py lists them.

    Args:
        prefix: What a directive begins with.
        example: A directive without its prefix, for messages.
        suffix: How the name of a script ends.
        submit: The command that is given a script, and prints the job's id and nothing else.
        directory: The variable of a job that has the directory it was submitted from.
        refused: Options that are not for ``--directive``, with the reason.
        variables: Variables of the environment that go before an option of a script, by the option.
        options_of: Returns the option, of ``-l`` the resources, that the words of a directive say; () where they are
            not one option that the scheduler has, with its value and nothing else.
        base: Returns the directives that say what is asked for, an option each; raises UsageError where the scheduler
            has no word for something.
    """

    prefix: str
    example: str
    suffix: str
    submit: tuple[str, ...]
    directory: str
    refused: Mapping[str, str]
    variables: Mapping[str, str]
    options_of: Callable[[Sequence[str]], tuple[str, ...]]
    base: Callable[[BatchJob], tuple[str, ...]]


def directives(job: BatchJob, scheduler: Scheduler) -> tuple[str, ...]:
    """Return all directives of a job: what is asked for, what its machine needs, and the user's own.

    The user's own replace those that say the same option.

    Raises:
        UsageError: The scheduler has no word for something, or a directive cannot be one.
    """
    own = [_checked(text, job, scheduler) for text in job.directives]
    said = {option for text in own for option in _options(text, job, scheduler)}
    needed = [one.text for one in job.preset.directive] if job.preset is not None else []
    base = [text for text in (*scheduler.base(job), *needed) if said.isdisjoint(_options(text, job, scheduler))]
    return tuple(f"{scheduler.prefix} {text}" for text in (*base, *own))


def overriding(job: BatchJob, scheduler: Scheduler, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that are set and that the scheduler's command takes instead of what a script says."""
    texts = [line.removeprefix(f"{scheduler.prefix} ") for line in directives(job, scheduler)]
    options = [option for text in texts for option in _options(text, job, scheduler)]
    return tuple(name for option in options if (name := scheduler.variables.get(option, "")) in environ)


def walltime(text: str) -> int:
    """Return a wall-clock time in seconds from ``[H:]M:S``, as PBS and Slurm read it.

    A number alone is refused: PBS takes it for seconds, Slurm for minutes.
    Source: pbs_resources(7B), "walltime"; sbatch(1), ``--time``.

    Raises:
        UsageError: The text is no such time, or is 0.
    """
    match = _WALLTIME.fullmatch(text)
    hint = "write [H:]MM:SS: 0:30:00 is half an hour"
    if match is None:
        msg = f"--walltime {text!r} is no wall-clock time"
        raise UsageError(msg, hint=hint)
    minutes, seconds = int(match[2]), int(match[3])
    if seconds >= _SIXTY or (match[1] is not None and minutes >= _SIXTY):
        msg = f"--walltime {text}: an hour has {_SIXTY} minutes, a minute {_SIXTY} seconds"
        raise UsageError(msg, hint=hint)
    total_s = (int(match[1] or 0) * _SIXTY + minutes) * _SIXTY + seconds
    if not total_s:
        msg = f"--walltime {text}: a job needs some time"
        raise UsageError(msg, hint=hint)
    return total_s


def word(option: str, text: str) -> str:
    """Return an account or a queue: one word of letters, digits and ``_.,@+=:/-``, because a directive has no quotes.

    Raises:
        UsageError: It is empty or has other characters.
    """
    if not _WORD.fullmatch(text):
        msg = f"{option} {text!r}: " + ("it is empty" if not text.strip() else "a directive cannot carry that")
        raise UsageError(msg, hint="write one word of letters, digits and _ . , @ + = : / -")
    return text


def job_name(text: str) -> str:
    """Return the name of a job that PBS and Slurm both take, and that is a file name too.

    Raises:
        UsageError: It is no such name.
    """
    if not _NAME.fullmatch(text):
        msg = f"--job-name {text!r} is no name of a job"
        raise UsageError(msg, hint="begin with a letter; then letters, digits and . _ + -, 64 characters at most")
    return text


def name_for(application: str) -> str:
    """Return the name that a job gets from the path of its application; "rankmap" where nothing of it is left."""
    kept = re.sub(r"[^\w.+-]+", "_", application.rpartition("/")[2], flags=re.ASCII).lstrip("0123456789._+-")[:64]
    return kept if _NAME.fullmatch(kept) else "rankmap"


def file_systems(text: str) -> str:
    """Return the file systems ``home:eagle``, as PBS's resource has them.

    Raises:
        UsageError: The text is no such list.
    """
    if not _FILE_SYSTEMS.fullmatch(text):
        msg = f"--filesystems {text!r} is no list of file systems"
        raise UsageError(msg, hint="write their names with `:` between them, such as home:eagle")
    return text


def _checked(text: str, job: BatchJob, scheduler: Scheduler) -> str:
    what = f"--directive {text!r}"
    if not (text.isprintable() and text.isascii()) or text.endswith("\\"):
        msg = f"{what}: a directive is one line of printable ASCII"
        raise UsageError(msg, hint=f"give --directive once for each line of {scheduler.prefix}")
    options = _options(text, job, scheduler)
    if not options:
        msg = f"{what} is no option of {scheduler.submit[0]} with its value, or more than one"
        hint = f"write one as it stands behind {scheduler.prefix}, such as '{scheduler.example}'; [batch] options of a "
        raise UsageError(msg, hint=f"{hint}machine's file names those that a site has added")
    for option in options:
        if option in scheduler.refused:
            msg = f"{what}: {scheduler.refused[option]}"
            raise UsageError(msg)
    return text


def _options(text: str, job: BatchJob, scheduler: Scheduler) -> tuple[str, ...]:
    """Return what a directive says: schedulers read several options of a line, of which one could hide another."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote is open
        return ()
    batch = job.preset.batch if job.preset is not None else None
    if batch is not None and len(words) == 1 and (name := words[0].partition("=")[0]) in batch.options:
        return (name,)
    return scheduler.options_of(words)
