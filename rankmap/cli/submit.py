"""``rankmap submit``: a batch script whose job is a ``rankmap launch``."""

from __future__ import annotations

import os
import shlex
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rankmap.cli.launch import launch
from rankmap.cli.layout_options import layout_of
from rankmap.discovery.machine import load, required_preset
from rankmap.errors import PlacementError, UsageError
from rankmap.layout_parts import Pattern
from rankmap.mapping.refusal import counted
from rankmap.planner import plan
from rankmap.runtime.host_choice import HostChoice
from rankmap.schedulers.batch import BatchJob, file_systems, job_name, name_for, overriding, walltime, word
from rankmap.schedulers.script import batch_script
from rankmap.schedulers.submitting import read_set_up, require_command, write_script
from rankmap.schedulers.submitting import submit as submit_script
from rankmap.schedulers.table import SCHEDULERS

if TYPE_CHECKING:
    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan
    from rankmap.preset import Preset
    from rankmap.schedulers.batch import Scheduler

__all__ = ["submit"]

_FILE = click.Path(path_type=Path)
_NO_PATH = "none"
_MOST_NODES = 100_000  # as many as --machine takes
_SYSTEM = ("/bin", "/usr/bin", "/usr/local/bin")


@click.command(context_settings={"allow_interspersed_args": True})
@click.argument("scheduler", type=click.Choice(list(SCHEDULERS)), metavar="|".join(SCHEDULERS))
@click.option("--machine", metavar="NAME", help="The machine that the job is for (`rankmap machines`).")
@click.option(
    "--nodes", type=click.IntRange(1, _MOST_NODES), required=True, metavar="N", help="Whole nodes of the job."
)
@click.option("--account", required=True, metavar="A", help="The project that pays.")
@click.option(
    "--queue", required=True, metavar="Q", help="The queue; of Slurm the partition, or QOS where sites do so."
)
@click.option("--walltime", "time", required=True, metavar="[H:]MM:SS", help="How long the job may run.")
@click.option("--filesystems", default="", metavar="F", help="File systems that the job needs (PBS): home:eagle.")
@click.option("--job-name", "name", metavar="NAME", help="The job's name; without it, the application's.")
@click.option(
    "--directive",
    "directives",
    multiple=True,
    metavar="OPTION",
    help="One more option, as it stands behind #PBS or #SBATCH; it replaces one of rankmap's own.",
)
@click.option(
    "--setup",
    "setup_file",
    type=_FILE,
    metavar="FILE",
    help="Shell commands that make the environment of the job, instead of what the machine's preset has.",
)
@click.option(
    "--path",
    metavar="DIR|none",
    help="Put DIR in front of PATH in the job; without it, where this rankmap is, or none with --setup.",
)
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write to FILE; without it, NAME.pbs or NAME.sbatch.")
@click.option("--print", "to_stdout", is_flag=True, help="Print the script, write none.")
@click.option("--submit", "at_once", is_flag=True, help="Give the script to qsub or sbatch, and print the job's id.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- [LAYOUT] [OPTIONS] APP [ARGS]...")
@click.pass_context
def submit(  # noqa: PLR0913 - one argument per option
    ctx: click.Context,
    *,
    scheduler: str,
    machine: str | None,
    nodes: int,
    account: str,
    queue: str,
    time: str,
    filesystems: str,
    name: str | None,
    directives: tuple[str, ...],
    setup_file: Path | None,
    path: str | None,
    output: Path | None,
    to_stdout: bool,
    at_once: bool,
    force: bool,
    words: tuple[str, ...],
) -> None:
    """Write a batch script that launches APP on whole nodes, and submit it with --submit.

    What stands behind `--` is what stands behind `rankmap launch`. With --machine it is planned now, on that
    machine's nodes, so that what does not fit is refused before it waits in a queue.

    The exit status is that of qsub or sbatch with --submit, and 0 when the script is written.
    """
    _refuse_together(output, to_stdout=to_stdout, at_once=at_once)
    member = SCHEDULERS[scheduler]
    asked = launch.make_context("rankmap launch", list(words))
    preset = _preset(machine, asked.params["machine"], scheduler)
    specs, saved, _ = layout_of(asked)
    job = BatchJob(
        name=job_name(name) if name is not None else name_for(asked.params["command"][0]),
        n_nodes=nodes,
        account=word("--account", account),
        queue=word("--queue", queue),
        walltime_s=walltime(time),
        filesystems=file_systems(filesystems) if filesystems else "",
        directives=directives,
        preset=preset,
    )
    text = batch_script(
        job,
        member,
        [*_machine_words(machine, preset, asked), *words],
        setup=read_set_up(setup_file) if setup_file is not None else None,
        path=_path(path, has_setup=setup_file is not None),
    )
    n_used = _n_used(asked, nodes)
    _check_layout(specs, saved, preset.name if machine is None and preset else machine, n_used)
    if (timeout_s := asked.params["timeout_s"]) is not None and timeout_s >= job.walltime_s:
        _note(f"--timeout is not below --walltime {time}: the scheduler ends the job first")
    asks = any("gpu" in one or "gres" in one for one in directives)
    if preset is None and not asks and any(spec.n_gpus for spec in specs):
        _note("the ranks want GPUs, and the script asks for none: --directive does, with what the site says")
    if to_stdout:
        click.echo(os.fsencode(text), nl=False)
        return
    file = output or Path(f"{job.name}{member.suffix}")
    if at_once:
        require_command(member)
    write_script(text, file, force=force)
    over = overriding(job, member, os.environ)
    if at_once:
        ctx.exit(_submitted(file, member, over))
    click.echo(f"rankmap: wrote {file}; `{shlex.join([member.submit[0], str(file)])}` submits it", err=True)
    if over:
        _note(f"{member.submit[0]} would take {', '.join(over)} of the environment instead of what the script says")


def _refuse_together(output: Path | None, *, to_stdout: bool, at_once: bool) -> None:
    if str(output) == "-":
        msg = "-o -: a batch script is a file"
        raise UsageError(msg, hint="--print prints it")
    if to_stdout and (output is not None or at_once):
        msg = f"--print and {'--submit' if at_once else f'-o {output}'}: the script goes to one place"
        raise UsageError(msg, hint="leave one of them out")


def _preset(machine: str | None, launched: str | None, scheduler: str) -> Preset | None:
    """Return the machine that ``--machine`` names, here or among the words for launch."""
    if machine is not None and launched is not None and machine != launched:
        msg = f"--machine {machine} and, behind `--`, --machine {launched}: a job is for one machine"
        raise UsageError(msg, hint="leave the second one out")
    if (name := machine or launched) is None:
        return None
    preset = required_preset(name)
    there = preset.site.scheduler if preset.site is not None else ""
    if there and there != scheduler:
        msg = f"rankmap submit {scheduler} --machine {name}: the scheduler of {preset.title} is {there}"
        known = (
            f"rankmap submit {there} ..."
            if there in SCHEDULERS
            else f"rankmap writes scripts for {', '.join(SCHEDULERS)}"
        )
        raise UsageError(msg, hint=known)
    return preset


def _machine_words(machine: str | None, preset: Preset | None, asked: click.Context) -> list[str]:
    """Return what launch is told of the machine besides the user's own words."""
    words = ["--machine", machine] if machine is not None and asked.params["machine"] is None else []
    if preset is not None and preset.dragon is not None and asked.params.get("transport") is None:
        words += ["--transport", preset.dragon.transport]
    return words


def _path(asked: str | None, *, has_setup: bool) -> str:
    if asked is None:
        here = sysconfig.get_path("scripts")
        return "" if has_setup or here in _SYSTEM else here
    if asked == _NO_PATH:
        return ""
    if not asked or ":" in asked or not asked.isprintable():
        msg = f"--path {asked!r} is no directory that PATH can have"
        raise UsageError(msg, hint="name the directory of rankmap, dragon and python, or none")
    return asked


def _n_used(asked: click.Context, nodes: int) -> int:
    """Return how many of the job's nodes the launch uses.

    Raises:
        UsageError: Its options for nodes do not go together.
        PlacementError: It wants more than the job has.
    """
    choice = HostChoice(
        n_nodes=asked.params["n_nodes"],
        n_spares=asked.params["n_spares"],
        equal=asked.params["require_equal"],
        drop_odd=asked.params["drop_odd"],
    )
    if choice.n_looked_at is not None and choice.n_looked_at > nodes:
        spares = f" --spares {choice.n_spares}" if choice.n_spares else ""
        msg = f"--nodes {choice.n_nodes}{spares} behind `--`: the job has {counted(nodes, 'node')}"
        raise PlacementError(msg, hint=f"--nodes {choice.n_looked_at} before `--` makes the job so large")
    return choice.n_nodes or nodes


def _check_layout(specs: tuple[LayoutSpec, ...], saved: Plan | None, machine: str | None, nodes: int) -> None:
    """Refuse what cannot be placed on these nodes.

    Raises:
        PlacementError: There is no plan for it.
    """
    if saved is not None:
        if len(saved.nodes) > nodes:
            msg = f"--plan has ranks on {len(saved.nodes)} nodes, and --nodes is {nodes}"
            raise PlacementError(msg, hint=f"--nodes {len(saved.nodes)}")
        return
    for spec in specs:
        most = (spec.ranks_per_node or 0) * nodes
        if spec.n_ranks is not None and spec.ranks_per_node is not None and spec.n_ranks > most:
            msg = f"-n {spec.n_ranks} -N {spec.ranks_per_node} --nodes {nodes}: the nodes have room for {most} ranks"
            raise PlacementError(msg, hint=f"--nodes {-(-spec.n_ranks // spec.ranks_per_node)}")
    if machine is None:
        return
    if any(
        spec.hosts or spec.exclude_hosts or spec.map_by.pattern in {Pattern.SEQ, Pattern.RANKFILE} for spec in specs
    ):
        _note("the layout names hosts, which are known when the job runs: it is not checked now")
        return
    made = plan(load(f"{nodes}x{machine}", environ=os.environ), *specs)
    for note in made.notes:
        _note(note)
    if len(made.nodes) < nodes:
        _note(f"{nodes - len(made.nodes)} of {nodes} nodes have no ranks")


def _note(text: str) -> None:
    click.echo(f"rankmap: note: {text}", err=True)


def _submitted(file: Path, scheduler: Scheduler, over: tuple[str, ...]) -> int:
    for name in over:
        _note(f"{name}={os.environ[name]} is not used: the script says what was asked for")
    environ = {name: value for name, value in os.environ.items() if name not in over}
    if status := submit_script(file, scheduler, environ=environ):
        click.echo(
            f"rankmap: error: `{scheduler.submit[0]} {shlex.quote(str(file))}` ended with status {status}", err=True
        )
    return status
