"""``rankmap why``: why a rank is where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rankmap.cli.layout_options import LayoutCommand, layout_options
from rankmap.cli.options import allocation_of, machine_option, refuse_both
from rankmap.explain import why as explained
from rankmap.planner import decide, decide_again

if TYPE_CHECKING:
    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan

__all__ = ["why"]


@click.command(cls=LayoutCommand)
@click.argument("rank", type=click.IntRange(min=0))
@layout_options
@machine_option
def why(*, rank: int, specs: tuple[LayoutSpec, ...], saved: Plan | None, machine: tuple[str, ...]) -> None:
    """Say why RANK is where it is: each decision, by which rule, and who has the places beside it.

    Give the same LAYOUT and --machine as to plan, or a saved plan.
    """
    refuse_both(saved, machine)
    decisions = decide(allocation_of(machine), *specs) if saved is None else decide_again(saved)
    place = decisions.plan.rank(rank)
    cpus = "unbound" if place.cpus is None else f"CPUs {place.cpus}"
    click.echo(f"rank {rank} is local rank {place.local_rank} on {place.host}: {cpus}")
    for sentence in explained(decisions, rank):
        click.echo(f"  {sentence}")
