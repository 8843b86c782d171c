"""``rankmap plan``: where the ranks would go, without starting anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rankmap.cli.layout_options import LayoutCommand, layout_options
from rankmap.cli.options import allocation_of, machine_option, output_option, refuse_both, write_result
from rankmap.errors import UsageError
from rankmap.exporters import plan as exporter
from rankmap.planner import plan as make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan

__all__ = ["plan"]


@click.command(cls=LayoutCommand)
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
@click.option("--score", "show_score", is_flag=True, help="Show how good the plan is, in a few numbers, not the plan.")
@output_option
def plan(
    *,
    specs: tuple[LayoutSpec, ...],
    saved: Plan | None,
    machine: tuple[str, ...],
    form: str,
    show_score: bool,
    output: Path | None,
) -> None:
    """Show where the ranks would go, without starting anything.

    Nothing asked is one rank per usable core. Without --machine the ranks are planned for the Dragon runtime around
    this command, or for this host, on the CPUs that this process may use.
    """
    refuse_both(saved, machine)
    if show_score and form == "ranks":
        msg = "--score and --format ranks: a score is of the whole plan"
        raise UsageError(msg, hint="--score with --format table or json")
    made = saved or make_plan(allocation_of(machine), *specs)
    write_result(_score_text(made, form) if show_score else _text(made, form), output)
    for note in made.notes:
        click.echo(f"rankmap: note: {note}", err=True)


def _score_text(made: Plan, form: str) -> str:
    from rankmap.scoring import score  # noqa: PLC0415 - seldom asked for

    found = score(made)
    return (exporter.score_json(found) if form == "json" else exporter.score_table(found)) + "\n"


def _text(made: Plan, form: str) -> str:
    if form == "json":
        return made.to_json() + "\n"
    if form == "ranks":
        return "".join(f"{line}\n" for line in exporter.ranks_lines(made))
    return exporter.table(made) + "\n"
