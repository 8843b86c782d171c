"""``rankmap doctor``: what rankmap needs, what is there, what to do."""

from __future__ import annotations

import os
import textwrap

import click

from rankmap.discovery import hwloc
from rankmap.discovery.machine import this_host
from rankmap.errors import RankmapError, RuntimeUnusableError
from rankmap.exporters import tables
from rankmap.runtime.doctor import Check, State, examine

__all__ = ["doctor"]

_WIDTH = 92


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] [APP [ARGS]...]")
@click.pass_context
def doctor(ctx: click.Context, *, command: tuple[str, ...]) -> None:
    """Show in one screen what rankmap needs, what is there, and what to do about what is not.

    With APP: which MPI library it loads and whether that can be launched. The exit status is 122 when something is
    in the way of a launch, else 0.
    """
    libhwloc = ""
    failures: list[str] = []
    try:
        library = hwloc.find(os.environ, live=True)
        libhwloc = f"API {'.'.join(map(str, library.api_version))} ({library.path})"
        topology = this_host(os.environ, say=failures.append)
    except RankmapError as error:
        checks = examine(command, topology=error, libhwloc=libhwloc, environ=os.environ)
    else:
        checks = examine(command, topology=topology, libhwloc=libhwloc, environ=os.environ, failures=failures)
    click.echo(tables.plain([_row(check) for check in checks]))
    ctx.exit(RuntimeUnusableError.exit_status if any(check.state is State.MISSING for check in checks) else 0)


def _row(check: Check) -> tuple[str, str, str]:
    lines = [line for part in check.found.splitlines() for line in textwrap.wrap(part, _WIDTH)]
    if check.todo:
        lines += [line for part in check.todo.splitlines() for line in textwrap.wrap(f"-> {part}", _WIDTH)]
    return check.what, str(check.state), "\n".join(lines)
