"""The application that a job runs: found, checked, and told apart from a wrong command, before anything starts."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rankmap.errors import ApplicationNotExecutableError, ApplicationNotFoundError, LaunchError, UsageError
from rankmap.runtime.memory_policies import refusal_hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Application", "interpreter_of", "resolve", "start_failure", "with_env"]

_SHEBANG_BYTES = 256
_ELF_MAGIC = b"\x7fELF"
# e_machine of the ELF header for what os.uname().machine says. Source: elf(5), linux/elf-em.h.
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64le": 21, "riscv64": 243, "s390x": 22}


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A command that can be executed.

    Args:
        path: The executable, absolute.
        argv: The command as the user typed it; ``argv[0]`` is kept.
        cwd: The working directory of every rank, absolute.
        set_env: Variables set on top of the environment that the ranks get anyway (None: removed).
    """

    path: str
    argv: tuple[str, ...]
    cwd: str
    set_env: Mapping[str, str | None]


def resolve(
    argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str], set_env: Mapping[str, str | None]
) -> Application:
    """Return the application that execvp(3) would start from this directory with this PATH.

    Raises:
        UsageError: There is no command, or the working directory is none.
        ApplicationNotFoundError: The command does not exist, or its interpreter does not.
        ApplicationNotExecutableError: It is a directory, has no execute permission, or is for another machine.
    """
    if not argv or not argv[0]:
        msg = "there is no application to launch"
        raise UsageError(msg, hint="rankmap launch [OPTIONS] -- APP [ARGS]...")
    try:
        cwd = Path(os.path.abspath(cwd))  # noqa: PTH100 - Path.resolve would follow links that the user wants kept
    except FileNotFoundError as error:
        msg = "the current directory does not exist any more"
        raise UsageError(msg, hint="cd to one that does, or name one with --cwd") from error
    if (why := _no_directory(cwd)) is not None:
        msg = f"the working directory {cwd}: {why}"
        raise UsageError(msg, hint="name a directory that exists on every node with --cwd")
    # without a PATH, execvp(3) has a default one
    search_path = {**environ, **set_env}.get("PATH") or os.defpath
    path = _find(argv[0], cwd=cwd, search_path=search_path)
    _check_format(path)
    return Application(path=str(path), argv=tuple(argv), cwd=str(cwd), set_env=dict(set_env))


def with_env(application: Application, extra: Mapping[str, str | None]) -> Application:
    """Return the same application with these variables too; what the user set wins."""
    return replace(application, set_env={**extra, **application.set_env})


def _no_directory(path: Path) -> str | None:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return None
    except OSError as error:
        return error.strerror
    return os.strerror(errno.ENOTDIR)


def _find(name: str, *, cwd: Path, search_path: str) -> Path:
    if "/" not in name:
        found = shutil.which(name, path=search_path)
        if found is not None:
            return Path(os.path.abspath(found))  # noqa: PTH100
        if os.path.isfile(cwd / name):  # noqa: PTH113 - Path.is_file raises where a name is too long
            msg = f"{name} is not on PATH; there is a file of that name in {cwd}"
            raise ApplicationNotFoundError(msg, hint=f"to run that one: ./{name}")
        msg = f"{name} is not on PATH ({search_path})"
        raise ApplicationNotFoundError(msg, hint="check the spelling, load its module, or give its path")
    path = Path(os.path.abspath(cwd / name))  # noqa: PTH100
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        msg = f"{path}: {error.strerror}"
        raise ApplicationNotExecutableError(msg, hint="a directory on the way to it may not be entered") from error
    except OSError as error:
        msg = f"{path}: {error.strerror}" + (" (it is a dangling link)" if os.path.islink(path) else "")  # noqa: PTH114
        hint = "check the path; it is taken from the ranks' working directory"
        raise ApplicationNotFoundError(msg, hint=hint) from error
    if stat.S_ISDIR(mode):
        msg = f"{path} is a directory, not an application"
        raise ApplicationNotExecutableError(msg, hint="name the executable in it")
    if not stat.S_ISREG(mode):
        msg = f"{path} is a device, a pipe or a socket, not an application"
        raise ApplicationNotExecutableError(msg, hint="name a program or a script")
    if not os.access(path, os.X_OK):
        msg = f"{path} has no execute permission"
        raise ApplicationNotExecutableError(msg, hint=f"chmod +x {path}, or name its interpreter in front of it")
    return path


def _check_format(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(_SHEBANG_BYTES)
    except PermissionError:
        return  # executable but not readable is legal; the kernel will judge
    if start.startswith(_ELF_MAGIC):
        _check_machine(path, start)
        return
    interpreter = interpreter_of(start)
    if interpreter is None:
        msg = f"{path} is neither a program for this machine nor a script that starts with #!"
        raise ApplicationNotExecutableError(msg, hint="for a script, put #!/bin/sh or the like in its first line")
    if not os.path.exists(interpreter):  # noqa: PTH110 - Path.exists raises where a name is too long
        msg = f"{path} is a script for {interpreter!r}, which does not exist"
        hint = "correct the first line of the script"
        if interpreter.endswith("\r"):
            hint = f"the script has the line ends of Windows: sed -i 's/\\r$//' {path}"
        raise ApplicationNotFoundError(msg, hint=hint)
    if os.path.isdir(interpreter) or not os.access(interpreter, os.X_OK):  # noqa: PTH112 - likewise
        msg = f"{path} is a script for {interpreter}, which cannot be executed"
        raise ApplicationNotExecutableError(msg, hint="correct the first line of the script")


def _check_machine(path: Path, start: bytes) -> None:
    machine = os.uname().machine
    order: Literal["big", "little"] = "big" if start[5:6] == b"\x02" else "little"
    found = int.from_bytes(start[18:20], order)
    expected = _ELF_MACHINES.get(machine)
    if expected is not None and found != expected:
        names = {number: name for name, number in _ELF_MACHINES.items()}
        msg = f"{path} is a program for {names.get(found, f'ELF machine {found}')}; this machine is {machine}"
        raise ApplicationNotExecutableError(msg, hint="build it for this machine")


def interpreter_of(start: bytes) -> str | None:
    """Return the interpreter that a script's first bytes name, None when they name none.

    Source: execve(2), "Interpreter scripts".
    """
    if not start.startswith(b"#!"):
        return None
    line = start[2:].split(b"\n", 1)[0].replace(b"\t", b" ").strip(b" ")
    return os.fsdecode(line.split(b" ", 1)[0]) or None


def start_failure(what: str, path: str, number: int) -> tuple[int, str, str]:
    """Return the exit status, the words and a hint ("" where there is none) for a shim that could not start it.

    Args:
        what: "directory" when the working directory could not be entered, "memory" when the kernel refuses the memory
            policy, else "application".
        path: Which one.
        number: The errno.
    """
    why = f"{path}: {os.strerror(number)}"
    if what == "directory":
        return LaunchError.exit_status, f"the working directory cannot be entered: {why}", ""
    if what == "memory":
        return LaunchError.exit_status, f"the kernel refuses the memory policy {why}", refusal_hint(path, number)
    missing = number == errno.ENOENT
    kind = ApplicationNotFoundError if missing else ApplicationNotExecutableError
    return kind.exit_status, f"the application cannot be started: {why}", ""
