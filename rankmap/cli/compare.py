"""``rankmap compare``: what differs between two saved plans."""

from __future__ import annotations

from pathlib import Path

import click

from rankmap.cli.layout_options import load_plan
from rankmap.comparison import compare as compared

__all__ = ["compare"]

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("one", type=_FILE)
@click.argument("other", type=_FILE)
def compare(*, one: Path, other: Path) -> int:
    """Say what differs between two plans that `rankmap plan --format json -o FILE` has written.

    The exit status is 0 when every rank is in the same place of the same kind of node, 1 when not.
    """
    found = compared(load_plan(one), load_plan(other))
    for sentence in (*found.requests, *found.places, *found.scores):
        click.echo(sentence)
    if not found.places:
        click.echo("every rank is in the same place")
    return int(bool(found.places))
