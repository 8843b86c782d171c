"""``rankmap topo``: what the nodes are made of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from rankmap.api import discover
from rankmap.cli.options import machine_option, output_option, write_result
from rankmap.discovery import machine as machines
from rankmap.errors import UsageError
from rankmap.exporters import topology as exporter

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.topology import Allocation

__all__ = ["topo"]


@click.command()
@machine_option
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "xml"]), default="table", show_default=True, help="Output."
)
@output_option
def topo(machine: tuple[str, ...], form: str, output: Path | None) -> None:
    """Show what the nodes are made of: packages, NUMA domains, CPUs, memory, GPUs, NICs.

    Without --machine: all hosts of the Dragon runtime around this command, else this host, with the CPUs that this
    process may use.
    """
    allocation = machines.load_all(machine, environ=os.environ) if machine else discover()
    if form == "table":
        text = exporter.table(allocation)
    elif form == "json":
        text = exporter.as_json(allocation)
    else:
        text = _xml(machine, allocation)
    write_result(text, output)


def _xml(machine: tuple[str, ...], allocation: Allocation) -> str:
    if len(allocation.shapes) > 1:
        msg = f"--format xml describes one kind of node, but there are {len(allocation.shapes)} kinds here"
        raise UsageError(msg, hint="ask for one --machine at a time, or use --format json")
    if not machine:
        return machines.this_host_xml(os.environ)
    if kept := allocation.shapes[0].reserved:
        click.echo(f"rankmap: note: XML has no word for CPUs that the site keeps: --reserve {kept}", err=True)
    return machines.machine_xml(machines.MachineSpec.parse(machine[0]), environ=os.environ)
