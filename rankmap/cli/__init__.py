"""The command line: the group of commands, and the one place where errors become messages and exit statuses."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

from rankmap import __version__
from rankmap.errors import RankmapError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["main", "rankmap"]

_COMMANDS: Final[Mapping[str, str]] = {
    "launch": "rankmap.cli.launch",
    "submit": "rankmap.cli.submit",
    "plan": "rankmap.cli.plan",
    "why": "rankmap.cli.why",
    "whatif": "rankmap.cli.whatif",
    "compare": "rankmap.cli.compare",
    "topo": "rankmap.cli.topo",
    "machines": "rankmap.cli.machines",
    "doctor": "rankmap.cli.doctor",
}
"""Command -> module with a click command of that name; imported when it is used, so that ``--help`` is quick."""

_SUMMARIES: Final[Mapping[str, str]] = {
    "launch": "Start an MPI application, every rank bound and verified.",
    "submit": "Write a batch script for PBS or Slurm that launches it, or submit it.",
    "plan": "Show where the ranks would go, without starting anything.",
    "why": "Say why a rank is where it is.",
    "whatif": "Try the sensible layouts of so many ranks, the best first.",
    "compare": "Say what differs between two saved plans.",
    "topo": "Show what the nodes are made of.",
    "machines": "List the machines that plans can be made for without being there.",
    "doctor": "Show what rankmap needs, what is there, and what to do.",
}


_ELSEWHERE = {
    "--ntasks": "ranks are -n",
    "--tasks": "ranks are -n",
    "--ntasks-per-node": "ranks on each node are -N",
    "--tasks-per-node": "ranks on each node are -N",
    "--ntasks-per-socket": "--map-by ppr:N:package",
    "--nodes": "--hosts names the nodes to use; without it all are used",
    "--cpus-per-task": "cores of each rank are -c",
    "--depth": "cores of each rank are -c",
    "--cpu-bind": "--bind-to, or --map-by manual:LIST:LIST",
    "--cc": "--bind-to, or --map-by manual:LIST:LIST",
    "--distribution": "--map-by says where ranks go, --rank-by how they are numbered",
    "--threads-per-core": "--smt K",
    "--hint": "--smt 1 uses one hardware thread of each core",
    "--core-spec": "--reserve LIST, or --reserve-per OBJECT:N",
    "--gpus-per-task": "--gpus-per-rank G",
    "--gpus-per-node": "--gpus-per-rank G, and -N ranks on each node",
    "--gpus": "--gpus-per-rank G, and -n ranks",
    "--ntasks-per-gpu": "--ranks-per-gpu K",
    "--membind": "--mem-bind bind:LIST",
    "--interleave": "--mem-bind interleave:LIST",
    "-G": "--gpus-per-rank G, and -n ranks",
    "-g": "--gpus-per-rank G; of resource sets --map-by rs:a=RANKS,c=CORES,g=GPUS",
    "--nodelist": "--hosts",
    "--host": "--hosts",
    "--exclude": "--exclude-hosts",
    "--machinefile": "--hostfile",
    "--rankfile": "--map-by rankfile:FILE",
    "-m": "--map-by and --rank-by, with two dashes",
    "-b": "--bind-to, with two dashes",
    "-w": "--hosts",
    "-S": "--reserve LIST, or --reserve-per OBJECT:N",
    "-d": "cores of each rank are -c",
    "-r": "--rank-by, with two dashes",
}
"""Options of mpirun, srun, aprun and PALS, and what they are here."""

_OF_SUBMIT = {
    "-A": "--account",
    "-p": "--queue",
    "--partition": "--queue",
    "-q": "--queue; a QOS beside a partition is --directive --qos=NAME",
    "--qos": "--queue; a QOS beside a partition is --directive --qos=NAME",
    "-t": "--walltime",
    "--time": "--walltime",
    "-J": "--job-name",
    "-l": "--nodes and --walltime; other resources are --directive '-l NAME=VALUE'",
}
"""Options of sbatch and qsub, and what they are for ``rankmap submit``."""

_NEW_OBJECTS = 20_000
"""After how many Python looks for cycles; with its own 700 that is 8 % of the time of ``rankmap plan``."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version=__version__, prog_name="rankmap")
def rankmap() -> None:
    """Put every MPI rank on the right cores and NUMA domain, start it through Dragon, and prove where it is.

    rankmap launch -n 4 ./app        run it here

    rankmap COMMAND --help           all options of a command
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit status."""
    gc.set_threshold(_NEW_OBJECTS)
    try:
        status = rankmap.main(args=args, prog_name="rankmap", standalone_mode=False)
    except RankmapError as error:
        status = _complain(error.message, error.hint, error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:  # its message is the whole help
        click.echo(error.format_message(), err=True)
        status = error.exit_code
    except click.ClickException as error:
        status = _complain(error.format_message(), _hint(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever reads our stdout has had enough; Python must not complain when it flushes at exit.
        _drop_stdout()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EIO, errno.EDQUOT}:
            raise
        # A full disk under stdout; what reads and writes other files says so in words of its own.
        _drop_stdout()
        status = _complain(f"the output could not be written: {error.strerror}", "", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _hint(error: click.ClickException) -> str:
    """Return what to write instead, where the words are another launcher's, or where help is."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "rankmap"
    if isinstance(error, click.NoSuchOption) and context is not None and context.info_name == "submit":
        if error.option_name in _OF_SUBMIT:
            return f"{_OF_SUBMIT[error.option_name]} (`{path} --help` shows what there is)"
        return (
            f"what is for launch stands behind `--`, what is for the scheduler is --directive; `{path} --help` has all"
        )
    if isinstance(error, click.NoSuchOption) and error.option_name in _ELSEWHERE:
        return f"{_ELSEWHERE[error.option_name]} (docs/launchers.md; `{path} --help` shows what there is)"
    if context is not None and context.info_name in {"plan", "whatif"} and "extra argument" in error.format_message():
        return f"`{path}` takes no application, it only plans; `rankmap launch` starts one"
    return f"`{path} --help` shows what there is"


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(message: str, hint: str, status: int) -> int:
    with suppress(OSError):  # nobody can be told
        click.echo(f"rankmap: error: {message}", err=True)
        if hint:
            click.echo(f"  {hint}", err=True)
    return status
