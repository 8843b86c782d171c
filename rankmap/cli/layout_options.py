"""LAYOUT: the options that say how many ranks go where. Commands share them; ``:`` begins the next part of a job."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from rankmap.errors import UsageError
from rankmap.placement import Plan
from rankmap.requests import request

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.layout import LayoutSpec

__all__ = ["LayoutCommand", "layout_of", "layout_options", "load_plan"]

_MAP_HELP = (
    "Where ranks go: auto (default), slot, node, gpu, nic, an object (hwthread, core, l1cache, l2cache, l3cache, numa, "
    "die, package), ppr:N:OBJECT, plane:K, rs:a=RANKS,c=CORES[,g=GPUS], manual:LIST:LIST..., seq:FILE, rankfile:FILE; "
    "with PE=N, SPAN, HWTCPUS, CORECPUS, PACK, SCATTER, OVERSUBSCRIBE, NOOVERSUBSCRIBE, pe-list=LIST."
)
_RANK_HELP = "How they are numbered: slot, node, fill, span, object, plane:K, file:FILE."
_BIND_HELP = "What each may use: none, explicit, or an object as for --map-by; with overload-allowed."
_PART_SEPARATOR = ":"
_PLAN = "plan_file"

_OPTIONS = (
    click.option("-n", "-np", "--np", "n_ranks", type=int, metavar="N", help="Ranks of the job."),
    click.option("-N", "--ppn", "ranks_per_node", type=int, metavar="N", help="Ranks on each node."),
    click.option("-c", "--cpus-per-rank", "cpus_per_rank", type=int, metavar="N", help="Cores of each rank."),
    click.option("--map-by", default="auto", metavar="PATTERN[:MODIFIER]...", help=_MAP_HELP),
    click.option("--rank-by", default="", metavar="ORDER", help=_RANK_HELP),
    click.option("--bind-to", default="", metavar="OBJECT", help=_BIND_HELP),
    click.option("--smt", type=int, metavar="K", help="Use the first K hardware threads of each core."),
    click.option("--oversubscribe", is_flag=True, help="Allow more ranks than cores, or than slots."),
    click.option(
        "--reserve",
        default="",
        metavar="LIST",
        help="CPUs to keep free of ranks, such as 0,64; none: use what the site keeps free.",
    ),
    click.option(
        "--reserve-per",
        default="",
        metavar="OBJECT:N",
        help="Keep the first N cores of each such object free, such as l3cache:1.",
    ),
    click.option("--gpus-per-rank", metavar="G", help="GPUs of each rank, the nearest; 1/2: two ranks share one."),
    click.option("--ranks-per-gpu", type=int, metavar="K", help="As many ranks may share a GPU."),
    click.option(
        "--gpu-bind", default="", metavar="RULE", help="Which GPUs: closest, round-robin, list:IDS:IDS..., none."
    ),
    click.option("--share-gpus", is_flag=True, help="Let more ranks than there are GPUs share them evenly."),
    click.option("--nics-per-rank", type=int, metavar="K", help="High-speed NICs of each rank, the nearest."),
    click.option(
        "--mem-bind",
        default="",
        metavar="RULE",
        help="Where pages come from: local, none, hbm, dram, or bind:LIST, preferred:LIST, interleave:LIST.",
    ),
    click.option(
        "--threads", "threads_per_rank", type=int, metavar="T", help="Threads of each rank: sets OpenMP's variables."
    ),
    click.option(
        "--hosts", multiple=True, metavar="LIST", help="Use only these hosts, such as n[0-3],n7; with slots n[0-3]:8."
    ),
    click.option("--exclude-hosts", multiple=True, metavar="LIST", help="Do not use these hosts."),
    click.option(
        "--hostfile",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Use only the hosts of this file, a host and maybe slots=N a line.",
    ),
)
_NAMES = frozenset(
    {"n_ranks", "ranks_per_node", "cpus_per_rank", "map_by", "rank_by", "bind_to", "smt", "oversubscribe", "reserve"}
    | {"reserve_per", "hosts", "exclude_hosts", "hostfile"}
    | {"gpus_per_rank", "ranks_per_gpu", "gpu_bind", "share_gpus", "nics_per_rank", "mem_bind", "threads_per_rank"}
)


class LayoutCommand(click.Command):
    """A command whose words may have several parts, with ``:`` between them: ``-n 4 ./a : -n 8 ./b``.

    The first part has the command's own options; later ones have LAYOUT, and the command's arguments if it has any.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of every part."""
        parts: list[list[str]] = [[]]
        for word in args:
            if word == _PART_SEPARATOR:
                parts.append([])
            else:
                parts[-1].append(word)
        own = [one for one in self.params if isinstance(one, click.Argument) and one.nargs == -1]
        ctx.meta[__name__] = [
            self._parsed(ctx, number, words, [*_layout_params(), *own]) for number, words in enumerate(parts[1:], 2)
        ]
        return super().parse_args(ctx, parts[0])

    def _parsed(
        self, ctx: click.Context, number: int, words: list[str], params: list[click.Parameter]
    ) -> click.Context:
        part = click.Command(self.name, params=params, context_settings=self.context_settings)
        try:
            return part.make_context(ctx.info_name, words, parent=ctx.parent)
        except click.UsageError as error:
            msg = f"part {number} of the job (after `:`): {error.format_message()}"
            raise UsageError(msg, hint="later parts have LAYOUT only; all else goes before the first `:`") from error


def _layout_params() -> list[click.Parameter]:
    def holder() -> None:
        """Carry the options."""

    for option in reversed(_OPTIONS):
        holder = option(holder)
    return list(reversed(cast("Any", holder).__click_params__))


def layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the LAYOUT options and ``--plan``.

    It is called with ``specs``, a LayoutSpec for each part, and ``saved``, the plan of ``--plan`` or None; one of them
    is empty. The arguments of later parts, where the command has any, arrive as ``more``: one dict of them a part.
    Use it with ``click.command(cls=LayoutCommand)``. The command raises UsageError where a value cannot be understood.
    """
    with_plan = click.option(
        "--plan",
        _PLAN,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Use the plan that `rankmap plan --format json -o FILE` has written, and no other LAYOUT option.",
    )

    @functools.wraps(command)
    def with_specs(**words: Any) -> object:  # noqa: ANN401 - whatever click has parsed
        specs, saved, more = layout_of(click.get_current_context())
        own = {name: value for name, value in words.items() if name not in _NAMES and name != _PLAN}
        if any(more):
            own["more"] = more
        return command(specs=specs, saved=saved, **own)

    # the last decorator applied is the first option shown
    for option in reversed((*_OPTIONS, with_plan)):
        with_specs = option(with_specs)
    return with_specs


def layout_of(ctx: click.Context) -> tuple[tuple[LayoutSpec, ...], Plan | None, list[dict[str, Any]]]:
    """Return what the parsed words of a LayoutCommand ask for: a request for each part, or a saved plan.

    The last is what later parts have besides their layout, a dict a part.

    Raises:
        UsageError: A value cannot be understood.
    """
    parts: list[click.Context] = ctx.meta[__name__]
    file: Path | None = ctx.params[_PLAN]
    saved = _saved(file, [ctx, *parts]) if file is not None else None
    rest = [dict(part.params) for part in parts]
    specs = tuple(_spec(part, number=i + 1 if rest else 0) for i, part in enumerate((dict(ctx.params), *rest)))
    return (() if saved else specs), saved, rest


def _saved(file: Path, parts: list[click.Context]) -> Plan:
    """Return the saved plan.

    Raises:
        UsageError: It cannot be read, or options ask for another layout.
    """
    given = [
        parameter.opts[0]
        for part in parts
        for parameter in part.command.params
        if parameter.name in _NAMES and part.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        msg = f"--plan {file} and {', '.join(given)}: the plan says where every rank goes"
        raise UsageError(msg, hint="leave one of them out")
    return load_plan(file)


def load_plan(file: Path) -> Plan:
    """Return the plan that a file holds.

    Raises:
        UsageError: It cannot be read, or is no plan.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        msg = f"the plan {file} cannot be read: {reason}"
        raise UsageError(msg, hint="`rankmap plan --format json -o FILE` writes one") from error
    try:
        return Plan.from_json(text)
    except UsageError as error:
        msg = f"{file}: {error.message}"
        raise UsageError(msg, hint=error.hint) from error


def _spec(words: dict[str, Any], *, number: int) -> LayoutSpec:
    """Return the request of one part, and take its words out; ``number`` is the part's for messages, 0 for none."""
    try:
        return request(**{name: words.pop(name) for name in _NAMES})
    except UsageError as error:
        if not number:
            raise
        msg = f"part {number} of the job: {error.message}"
        raise UsageError(msg, hint=error.hint) from error
