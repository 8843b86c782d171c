"""``rankmap whatif``: the sensible layouts of so many ranks, the best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rankmap.alternatives import alternatives
from rankmap.cli.layout_options import LayoutCommand, layout_options
from rankmap.cli.options import allocation_of, machine_option
from rankmap.errors import UsageError
from rankmap.exporters.plan import alternatives_table
from rankmap.layout_parts import MapBy

if TYPE_CHECKING:
    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan

__all__ = ["whatif"]


@click.command(cls=LayoutCommand)
@layout_options
@machine_option
def whatif(*, specs: tuple[LayoutSpec, ...], saved: Plan | None, machine: tuple[str, ...]) -> None:
    """Try the sensible layouts of so many ranks, and show them, the best first, with the reason.

    --map-by is what is tried; all other LAYOUT options hold for each. Layouts that put every rank in the same place
    are shown once.
    """
    if saved is not None or len(specs) != 1:
        msg = "whatif tries layouts for one part of a job that has no plan yet"
        raise UsageError(msg, hint="rankmap whatif -n N, without --plan and without `:`")
    (spec,) = specs
    if spec.map_by != MapBy():
        msg = f"--map-by {spec.map_by}: whatif tries them all"
        raise UsageError(msg, hint="leave it out; `rankmap plan` shows one layout")
    click.echo(alternatives_table(alternatives(allocation_of(machine), spec)))
