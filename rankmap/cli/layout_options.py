"""LAYOUT: the options that say how many ranks go where. ``plan`` and ``launch`` share them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from rankmap.cpuset import CpuSet
from rankmap.hostlist import expand
from rankmap.layout import LayoutSpec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["layout_options"]

_OPTIONS = (
    click.option("-n", "-np", "--np", "n_ranks", type=int, metavar="N", help="Ranks of the job."),
    click.option("-N", "--ppn", "ranks_per_node", type=int, metavar="N", help="Ranks on each node."),
    click.option("-c", "--cpus-per-rank", "cpus_per_rank", type=int, metavar="N", help="Cores of each rank."),
    click.option("--oversubscribe", is_flag=True, help="Allow more ranks than cores."),
    click.option("--reserve", default="", metavar="LIST", help="CPUs to keep free of ranks, such as 0,64."),
    click.option("--hosts", multiple=True, metavar="LIST", help="Use only these hosts, such as n[0-3],n7."),
    click.option("--exclude-hosts", multiple=True, metavar="LIST", help="Do not use these hosts."),
)


def layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the LAYOUT options, called with one LayoutSpec as its keyword ``spec``.

    The command raises UsageError where an option's value cannot be understood.
    """

    @functools.wraps(command)
    def with_spec(  # noqa: PLR0913 - one argument per option
        *,
        n_ranks: int | None,
        ranks_per_node: int | None,
        cpus_per_rank: int | None,
        oversubscribe: bool,
        reserve: str,
        hosts: tuple[str, ...],
        exclude_hosts: tuple[str, ...],
        **others: object,
    ) -> object:
        spec = LayoutSpec(
            n_ranks=n_ranks,
            ranks_per_node=ranks_per_node,
            cpus_per_rank=cpus_per_rank,
            oversubscribe=oversubscribe,
            reserve=CpuSet.parse(reserve),
            hosts=_host_names(hosts),
            exclude_hosts=_host_names(exclude_hosts),
        )
        return command(spec=spec, **others)

    # the last decorator applied is the first option shown
    for option in reversed(_OPTIONS):
        with_spec = option(with_spec)
    return with_spec


def _host_names(lists: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(host for text in lists for host in expand(text)))
