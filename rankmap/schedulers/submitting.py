"""Batch scripts as files, and their way to the scheduler."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import LaunchError, UsageError
from rankmap.schedulers.script import OwnSetUp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.schedulers.batch import Scheduler

__all__ = ["read_set_up", "require_command", "submit", "write_script"]

_LOOK_TIMEOUT_S = 20.0
_ELSEWHERE = "name another file with -o, or use --print"


def read_set_up(file: Path) -> OwnSetUp:
    """Return the lines of shell that ``--setup`` names.

    Raises:
        UsageError: The file cannot be read, or a shell does not understand it: what is open at its end, a quote or a
            here-document, would swallow the launch.
    """
    name = str(file)
    if not name.isprintable():
        msg = f"--setup {name!r}: the name of the file goes into a comment of the script, and cannot"
        raise UsageError(msg, hint="give it a name of printable characters")
    try:
        data = file.read_bytes()
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        msg = f"--setup {name} cannot be read: {reason}"
        raise UsageError(msg, hint="name a file of shell commands, such as `module load cray-python`") from error
    if wrong := next((char for char in "\r\0" if char in text), ""):
        msg = f"--setup {name} has the character {wrong!r}, which no shell command has"
        raise UsageError(msg, hint="a file from Windows? dos2unix mends it")
    if bash := shutil.which("bash"):
        try:
            looked = subprocess.run([bash, "-n"], input=data, capture_output=True, timeout=_LOOK_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            msg = f"--setup {name}: `bash -n` does not read it within {_LOOK_TIMEOUT_S:.0f} s"
            raise UsageError(msg, hint="write the few commands that the job needs") from error
        if looked.returncode or looked.stderr:
            msg = f"--setup {name} is not complete for a shell: {looked.stderr.decode(errors='replace').strip()}"
            raise UsageError(msg, hint=f"`bash -n {shlex.quote(name)}` says the same")
    return OwnSetUp(name=name, text=text)


def write_script(text: str, file: Path, *, force: bool) -> None:
    """Write a script: all of it or nothing; a file that is there is replaced with ``force`` only.

    It is no program: started by hand it would run on the login node. What is behind a symbolic link is written, and
    the link stays.

    Raises:
        UsageError: There is such a file, or it cannot be written.
    """
    try:
        target = Path(os.path.realpath(file)) if force else file
        there = target.lstat() if force and os.path.lexists(target) else None
        if there is not None and not stat.S_ISREG(there.st_mode):
            msg = f"{file} is no file that can be replaced"
            raise UsageError(msg, hint=_ELSEWHERE)
        _write(text, target, mode=stat.S_IMODE(there.st_mode) if there is not None else None, force=force)
    except FileExistsError as error:
        if file.is_dir():
            msg = f"{file} is a directory"
            raise UsageError(msg, hint=_ELSEWHERE) from error
        msg = f"{file} is already there"
        raise UsageError(msg, hint=f"--force replaces it; or {_ELSEWHERE}") from error
    except OSError as error:
        msg = f"the script cannot be written to {file}: {error.strerror}"
        raise UsageError(msg, hint=_ELSEWHERE) from error


def _write(text: str, target: Path, *, mode: int | None, force: bool) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(os.fsencode(text))
            os.fchmod(descriptor, 0o666 & ~_umask() if mode is None else mode)
        if force:
            os.replace(name, target)  # noqa: PTH105 - a name, as from mkstemp
        else:
            os.link(name, target)  # unlike a rename it never replaces what somebody else makes at this moment
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - as above


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_command(scheduler: Scheduler) -> None:
    """Return if the scheduler's command is there.

    Raises:
        LaunchError: It is not on PATH.
    """
    command = scheduler.submit[0]
    if shutil.which(command) is None:
        msg = f"--submit: {command} is not on PATH here"
        raise LaunchError(
            msg, hint="submit where the scheduler is, usually a login node; without --submit the script is written"
        )


def submit(file: Path, scheduler: Scheduler, *, environ: Mapping[str, str]) -> int:
    """Give a script to its scheduler, whose command prints the job's id; return the status of that command.

    The id is there at once, also where a directive has the command wait for the job's end. How long it takes is the
    scheduler's business: a submission that is given up may have been made.

    Args:
        file: The script.
        scheduler: Whom.
        environ: What the command has, and what schedulers hand on to the job.

    Raises:
        LaunchError: The command cannot be started.
    """
    command = [*scheduler.submit, os.path.abspath(file)]  # noqa: PTH100 - never an option, and links stay
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, env=environ, check=False).returncode
    except OSError as error:
        msg = f"{command[0]} cannot be started: {error.strerror}"
        raise LaunchError(msg, hint=f"the script is there: {file}") from error
    return status if status >= 0 else 128 - status
