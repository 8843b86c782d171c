"""``rankmap machines``: the presets, and what is known of each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from rankmap.cli.options import output_option, write_result
from rankmap.discovery.machine import load, required_preset
from rankmap.discovery.preset_files import names
from rankmap.exporters import machines as exporter

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["machines"]


@click.command()
@click.argument("name", required=False)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Output."
)
@output_option
def machines(*, name: str | None, form: str, output: Path | None) -> None:
    """List the machines that plans can be made for without being there; with NAME: all that is known of it.

    NAME is one of the list, or a TOML file of your own (docs/machines.md).
    """
    found = [required_preset(one) for one in ([name] if name is not None else names())]
    if form == "json":
        text = exporter.as_json(found)
    elif name is None:
        text = exporter.table((one, load(one.name, environ=os.environ).shapes[0]) for one in found)
    else:
        text = exporter.details(found[0], load(name, environ=os.environ))
    write_result(text, output)
