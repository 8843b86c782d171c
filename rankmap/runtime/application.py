"""The application that a job runs: found, checked, and told apart from a wrong command, before anything starts."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rankmap.errors import ApplicationNotExecutableError, ApplicationNotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Application", "exec_failure", "interpreter_of", "resolve", "with_env"]

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
    cwd = Path(os.path.abspath(cwd))  # noqa: PTH100 - Path.resolve would follow links that the user wants kept
    if not cwd.is_dir():
        msg = f"the working directory {cwd} " + ("is not a directory" if cwd.exists() else "does not exist")
        raise UsageError(msg, hint="name a directory that exists on every node with --cwd")
    search_path = set_env.get("PATH") or environ.get("PATH", os.defpath)
    path = _find(argv[0], cwd=cwd, search_path=search_path)
    _check_format(path)
    return Application(path=str(path), argv=tuple(argv), cwd=str(cwd), set_env=dict(set_env))


def with_env(application: Application, extra: Mapping[str, str | None]) -> Application:
    """Return the same application with these variables too; what the user set wins."""
    return replace(application, set_env={**extra, **application.set_env})


def _find(name: str, *, cwd: Path, search_path: str) -> Path:
    if "/" not in name:
        found = shutil.which(name, path=search_path)
        if found is not None:
            return Path(os.path.abspath(found))  # noqa: PTH100
        if (cwd / name).is_file():
            msg = f"{name} is not on PATH; there is a file of that name in {cwd}"
            raise ApplicationNotFoundError(msg, hint=f"to run that one: ./{name}")
        msg = f"{name} is not on PATH ({search_path})"
        raise ApplicationNotFoundError(msg, hint="check the spelling, load its module, or give its path")
    path = Path(os.path.abspath(cwd / name))  # noqa: PTH100
    if path.is_dir():
        msg = f"{path} is a directory, not an application"
        raise ApplicationNotExecutableError(msg, hint="name the executable in it")
    if not path.exists():
        msg = f"{path} does not exist" + (" (it is a dangling link)" if path.is_symlink() else "")
        raise ApplicationNotFoundError(msg, hint="check the path; it is taken from the ranks' working directory")
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
    if not Path(interpreter).exists():
        msg = f"{path} is a script for {interpreter}, which does not exist"
        raise ApplicationNotFoundError(msg, hint="correct the first line of the script")


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
    words = start[2:].split(b"\n", 1)[0].split()
    return os.fsdecode(words[0]) if words else None


def exec_failure(path: str, number: int) -> tuple[int, str]:
    """Return the exit status and the words for an exec that failed with this errno on a node."""
    status = (
        ApplicationNotFoundError.exit_status if number == errno.ENOENT else ApplicationNotExecutableError.exit_status
    )
    return status, f"{path}: {os.strerror(number)}"
