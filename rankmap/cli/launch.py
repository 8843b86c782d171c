"""``rankmap launch``: run an MPI application, every rank bound and verified."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rankmap.cli.layout_options import LayoutCommand, layout_options
from rankmap.cli.reaching import reach_of, without_left_out
from rankmap.differences import differences
from rankmap.discovery.accelerators import all_gpus
from rankmap.discovery.machine import load, required_preset, this_host
from rankmap.errors import RankmapError, UsageError
from rankmap.exporters.report import table
from rankmap.gpu_makers import of_one_maker
from rankmap.planner import plan
from rankmap.replaying import replay
from rankmap.runtime.dry_run import dry_run_text
from rankmap.runtime.host_choice import HostChoice
from rankmap.runtime.inside import wait_until_read
from rankmap.runtime.job import START_TIMEOUT_S, JobResult, OutputOptions, Pmi, Verify
from rankmap.runtime.launching import LaunchOptions, launch_job
from rankmap.runtime.rank_output import require_writable
from rankmap.runtime.session import in_runtime
from rankmap.runtime.starting import Fabric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan
    from rankmap.report import Report
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["launch"]

_DRAIN_TIMEOUT_S = 10.0
_DURATION = re.compile(r"(?:(\d{1,9}):)?(?:(\d{1,9}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)
_RANK = re.compile(r"\d{1,9}", re.ASCII)


class _Duration(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.4
    """Seconds, or [H:]M:S.

    Args:
        least_s: What is less is refused.
    """

    name = "duration"

    def __init__(self, least_s: float = 1e-3) -> None:
        self._least_s = least_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.fail(f"{value!r} is not a time; write seconds (90) or [H:]M:S (1:30)", param, ctx)
        first, second, seconds_s = match[1], match[2], float(match[3])
        hours, minutes = (first, second) if second is not None else (0, first)
        total_s = int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds_s
        if total_s < self._least_s:
            self.fail(f"{value!r}: a time is more than 0", param, ctx)
        return total_s


@click.command(cls=LayoutCommand, context_settings={"allow_interspersed_args": False})
@layout_options
@click.option(
    "--verify",
    type=click.Choice([str(v) for v in Verify]),
    default="fail",
    show_default=True,
    help="When a rank is not where the plan says: stop the job, only report it, or do not look.",
)
@click.option(
    "--watch",
    "watch_s",
    type=_Duration(),
    metavar="TIME",
    help="Look where the ranks' threads and memory are every so many seconds, or [H:]M:S, while the job runs; without "
    "it, twice at the start.",
)
@click.option("--report-bindings", is_flag=True, help="Show planned and observed places per rank at the end.")
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write planned and observed places per rank as JSON.",
)
@click.option("--label", is_flag=True, help="Start each line of output with [rank].")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write each rank's output to files rank-N.out and rank-N.err there.",
)
@click.option(
    "--stdin",
    "stdin_rank",
    default="none",
    show_default=True,
    metavar="RANK|none",
    help="The rank that reads standard input; all others get /dev/null.",
)
@click.option(
    "--env",
    "env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable for the ranks; without a value: hand on this shell's, which must be set.",
)
@click.option("--unset", multiple=True, metavar="NAME", help="Take a variable out of the ranks' environment.")
@click.option("--cwd", type=click.Path(path_type=Path), metavar="DIR", help="Working directory of the ranks.")
@click.option(
    "--timeout",
    "timeout_s",
    type=_Duration(),
    metavar="TIME",
    help="End the job so many seconds, or [H:]M:S, from now, starting included; status 124.",
)
@click.option(
    "--kill-grace",
    "kill_grace_s",
    type=_Duration(least_s=0),
    default="10",
    show_default=True,
    metavar="TIME",
    help="How long the others may go on after a rank has exited with a status other than 0; those that are still in "
    "MPI then, 2 seconds.",
)
@click.option(
    "--start-timeout",
    "start_timeout_s",
    type=_Duration(),
    metavar="TIME",
    help="How long the Dragon runtime may take to start; status 122 after that. Without it 50 seconds, on several "
    "hosts 2 minutes and half a second for each.",
)
@click.option(
    "--pmi",
    type=click.Choice([str(pmi) for pmi in Pmi]),
    default="auto",
    show_default=True,
    help="How the ranks find each other; auto goes by the application's MPI library.",
)
@click.option(
    "--transport",
    type=click.Choice(["tcp", "hsta"]),
    help="What Dragon's own messages between hosts go by; without it hsta where dragon-config has been told of a "
    "fabric's library, else tcp.",
)
@click.option(
    "--network-prefix",
    default="",
    metavar="PATTERN",
    help="The network interfaces for Dragon and rankmap, as a regular expression for their names, such as ^hsn; "
    "without it hsn0, ipogif0, ib0 and their like, else any.",
)
@click.option(
    "--dragon-arg",
    "dragon_words",
    multiple=True,
    metavar="WORD",
    help="Another word for the dragon command, on several hosts; repeat it for more.",
)
@click.option("--nodes", "n_nodes", type=int, metavar="N", help="Use N of the hosts; without it, all.")
@click.option(
    "--spares",
    "n_spares",
    type=int,
    default=0,
    metavar="N",
    help="Look at N hosts more than --nodes, and leave out those that are of no use, or odd.",
)
@click.option("--require-equal", is_flag=True, help="Refuse hosts that are not all alike.")
@click.option("--drop-odd", is_flag=True, help="Leave out hosts that are not as most are.")
@click.option(
    "--preload",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Give every host a copy of FILE first, in its /tmp, for the ranks: APP, or a script that it runs.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be run, and run nothing.")
@click.option(
    "--machine",
    metavar="NAME",
    help="The machine that this is (`rankmap machines`): keep free what its site keeps, set its environment, and say "
    "where this node differs.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say what is decided and why, and pass on what Dragon prints.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] APP [ARGS]...", required=True)
@click.pass_context
def launch(  # noqa: PLR0913 - one argument per option
    ctx: click.Context,
    *,
    specs: tuple[LayoutSpec, ...],
    saved: Plan | None,
    verify: str,
    watch_s: float | None,
    report_bindings: bool,
    report_file: Path | None,
    label: bool,
    output_dir: Path | None,
    stdin_rank: str,
    env: tuple[str, ...],
    unset: tuple[str, ...],
    cwd: Path | None,
    timeout_s: float | None,
    kill_grace_s: float,
    start_timeout_s: float | None,
    pmi: str,
    transport: str | None,
    network_prefix: str,
    dragon_words: tuple[str, ...],
    n_nodes: int | None,
    n_spares: int,
    require_equal: bool,
    drop_odd: bool,
    preload: Path | None,
    dry_run: bool,
    machine: str | None,
    verbose: bool,
    command: tuple[str, ...],
    more: list[dict[str, tuple[str, ...]]] | None = None,
) -> None:
    """Start APP as an MPI job, every rank bound to its own cores, and prove where each one is.

    Without any option: one rank per usable core. Dragon is started and ended for the job; inside a runtime
    (dragon -s rankmap launch ...) that one is used, with all of its hosts.

    The exit status is the application's; 125 means that a rank was not where the plan says.
    """
    commands = [command, *(part["command"] for part in more or ())]
    if saved is not None and len(saved.parts) != len(commands):
        msg = f"--plan is for a job of {len(saved.parts)} parts, and there are {len(commands)} applications"
        raise UsageError(msg, hint="write an application for each part, with `:` between them")
    say = _say if verbose else _nothing
    environ, topology = _machine_at_hand(machine, say)
    options = LaunchOptions(
        cwd=cwd,
        set_env=_variables(env, unset),
        pmi=Pmi(pmi),
        verify=Verify(verify),
        watch_s=watch_s,
        output=OutputOptions(label=label, directory=output_dir),
        stdin_rank=_stdin_rank(stdin_rank),
        timeout_s=timeout_s,
        kill_grace_s=kill_grace_s,
        start_timeout_s=start_timeout_s,
        verbose=verbose,
        preload=preload,
        choice=HostChoice(n_nodes=n_nodes, n_spares=n_spares, equal=require_equal, drop_odd=drop_odd),
    )
    _check_writable(report_file)
    fabric = Fabric(transport=transport or "", network_prefix=network_prefix, words=dragon_words)
    reach = reach_of(
        specs,
        saved,
        environ=os.environ,
        fabric=fabric,
        choice=options.choice,
        say=say,
        timeout_s=start_timeout_s or START_TIMEOUT_S,
    )
    if dry_run:
        shown = dry_run_text(commands, reach=reach, options=options, environ=environ)
        click.echo(shown)
        return
    result = launch_job(
        commands,
        plan_for=lambda allocation: _planned(
            allocation, without_left_out(specs, allocation, reach), saved=saved, stdin_rank=options.stdin_rank
        ),
        topology=topology,
        reserve=saved.reserve if saved is not None else reduce(or_, (spec.reserve for spec in specs)),
        options=options,
        environ=environ,
        all_gpus=all_gpus,
        say=say,
        reach=reach,
    )
    written = 0
    if report_file is not None:
        written = _write_report(result.report, report_file)
    with suppress(OSError):  # a terminal that is gone, a full disk: the status says it all the same
        _tell(result, verify=options.verify, report_bindings=report_bindings, verbose=verbose)
    if in_runtime(os.environ):
        for fd in (1, 2):
            wait_until_read(fd, timeout_s=_DRAIN_TIMEOUT_S)
    ctx.exit(result.status or written)


def _machine_at_hand(name: str | None, say: Callable[[str], None]) -> tuple[Mapping[str, str], NodeTopology]:
    """Return the environment and this node, with what is published about the machine where it is named."""
    if name is None:
        return os.environ, this_host(os.environ, say=say)
    preset = required_preset(name)
    environ = preset.completed(os.environ)
    node = this_host(environ, kept=preset.reserved, say=say)
    for what in differences(load(name, environ=environ).shapes[0], of_one_maker(node), "published"):
        _say(f"note: this node is not as {preset.name} is published: {what}")
    return environ, node


def _tell(result: JobResult, *, verify: Verify, report_bindings: bool, verbose: bool) -> None:
    if result.reason:
        _say(result.reason)
    if result.hint:
        click.echo(f"  {result.hint}", err=True)
    if result.report is None or result.plan is None or _nobody_listens(result):
        return
    if report_bindings:
        click.echo(table(result.report), err=True)
    if report_bindings or verbose:
        for note in result.plan.notes:
            _say(f"note: {note}")
    _say(result.report.summary() if verify is not Verify.OFF else "placement: not verified (--verify off)")


def _nobody_listens(result: JobResult) -> bool:
    """Return whether the job ended because the reader of its output has had enough, of which nothing is said."""
    return result.status == 128 + signal.SIGPIPE and not result.reason


def _write_report(report: Report | None, path: Path) -> int:
    """Write the report; return 0, or the status of a job that went well and whose report could not be written."""
    if report is None:
        _say(f"--report {path} was not written: the job ended before there was a plan")
        return RankmapError.exit_status
    try:
        path.write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        _say(f"--report {path} could not be written: {error.strerror}")
        return RankmapError.exit_status
    return 0


def _say(text: str) -> None:
    with suppress(OSError):
        click.echo(f"rankmap: {text}", err=True)


def _nothing(text: str) -> None:
    del text


def _variables(env: tuple[str, ...], unset: tuple[str, ...]) -> dict[str, str | None]:
    variables: dict[str, str | None] = dict.fromkeys(unset)
    for text in env:
        name, equals, value = text.partition("=")
        if not name or "\0" in text:
            msg = f"--env {text!r}: there is no variable name in front of the ="
            raise UsageError(msg, hint="write --env NAME=VALUE")
        if not equals and name not in os.environ:
            msg = f"--env {name}: there is no such variable here to hand on"
            raise UsageError(msg, hint=f"write --env {name}=VALUE, or --unset {name} to take it out")
        variables[name] = value if equals else os.environ[name]
    return variables


def _stdin_rank(text: str) -> int | None:
    if text == "none":
        return None
    if not _RANK.fullmatch(text):
        msg = f"--stdin {text}: not the number of a rank"
        raise UsageError(msg, hint="write --stdin 0, or none")
    return int(text)


def _planned(
    allocation: Allocation, specs: Sequence[LayoutSpec], *, saved: Plan | None, stdin_rank: int | None
) -> Plan:
    made = plan(allocation, *specs) if saved is None else replay(saved, allocation)
    if stdin_rank is not None and stdin_rank >= made.n_ranks:
        msg = f"--stdin {stdin_rank}: the job has ranks 0 to {made.n_ranks - 1}"
        raise UsageError(msg, hint="write --stdin 0, or none")
    return made


def _check_writable(path: Path | None) -> None:
    """Refuse a report file that could not be written, before the job has run for hours."""
    if path is None:
        return
    folder = path.parent
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where a name is too long
        msg = f"--report {path}: there is no directory {folder}"
        raise UsageError(msg, hint="make it, or name another file")
    if os.path.lexists(path) and not os.access(path, os.W_OK):
        msg = f"--report {path}: no permission to write it"
        raise UsageError(msg, hint="name a file that can be written")
    special = os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 - /dev/stdout, a pipe; as above
    if not special and (os.access(folder, os.W_OK) or not os.path.lexists(path)):
        require_writable(folder, what=f"--report {path}")
