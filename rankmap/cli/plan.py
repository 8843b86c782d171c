"""``rankmap plan``: where the ranks would go, without starting anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from rankmap.api import discover
from rankmap.cli.layout_options import layout_options
from rankmap.cli.options import machine_option, output_option, write_result
from rankmap.discovery import machine as machines
from rankmap.exporters import plan as exporter
from rankmap.planner import plan as make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan

__all__ = ["plan"]


@click.command()
@layout_options
@machine_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "ranks"]),
    default="table",
    show_default=True,
    help="A table, the plan as one JSON object, or one JSON object per rank.",
)
@output_option
def plan(*, spec: LayoutSpec, machine: tuple[str, ...], form: str, output: Path | None) -> None:
    """Show where the ranks would go, without starting anything.

    Nothing asked is one rank per usable core. Without --machine the ranks are planned for the Dragon runtime around
    this command, or for this host, on the CPUs that this process may use.
    """
    allocation = machines.load_all(machine, environ=os.environ) if machine else discover()
    made = make_plan(allocation, spec)
    write_result(_text(made, form), output)
    for note in made.notes:
        click.echo(f"rankmap: note: {note}", err=True)


def _text(made: Plan, form: str) -> str:
    if form == "json":
        return made.to_json() + "\n"
    if form == "ranks":
        return "".join(f"{line}\n" for line in exporter.ranks_lines(made))
    return exporter.table(made) + "\n"
