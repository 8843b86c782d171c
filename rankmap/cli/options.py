"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from rankmap.discovery.machine import load_all
from rankmap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.placement import Plan
    from rankmap.topology import Allocation

__all__ = ["allocation_of", "machine_option", "output_option", "refuse_both", "write_result"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def machine_option(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Give a command ``--machine [Nx]NAME``, repeatable; it arrives as ``machine: tuple[str, ...]``."""
    return click.option(
        "--machine",
        multiple=True,
        metavar="[Nx]NAME",
        help="Use this machine instead of the one at hand: a preset (`rankmap machines`), an hwloc XML file or "
        "'synthetic:DESCRIPTION', with a node count in front or not (4xaurora). Repeat it for unequal nodes.",
    )(command)


def allocation_of(machine: tuple[str, ...]) -> Allocation:
    """Return the allocation of ``--machine``, or of the runtime around this command, or this host.

    Raises:
        RankmapError: It cannot be read.
    """
    if machine:
        return load_all(machine, environ=os.environ)
    from rankmap.api import discover  # noqa: PLC0415 - it brings the runtime along, which a recorded machine needs not

    return discover()


def refuse_both(saved: Plan | None, machine: tuple[str, ...]) -> None:
    """Return unless both ``--plan`` and ``--machine`` were given.

    Raises:
        UsageError: They were.
    """
    if saved is not None and machine:
        msg = f"--machine {machine[0]} and --plan: the plan has its nodes with it"
        raise UsageError(msg, hint="leave one of them out")


def output_option(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Give a command ``-o/--output FILE``; it arrives as ``output: Path | None`` and goes to ``write_result``."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="Write the result to FILE, not stdout (-).",
    )(command)


def write_result(text: str, output: Path | None) -> None:
    """Write a command's result to its file, or to stdout where none was named.

    Raises:
        UsageError: The file cannot be written.
    """
    if output is None or str(output) == "-":
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"the result cannot be written to {output}: {error.strerror}"
        raise UsageError(msg, hint="name a file in a directory that exists and that you may write to") from error
