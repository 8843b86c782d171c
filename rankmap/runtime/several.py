"""What a launch on several hosts needs beside one on this host: their ground, Dragon's environment, time to start."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import UsageError
from rankmap.runtime.agent import DOOR
from rankmap.runtime.fleet import FANOUT
from rankmap.runtime.host_choice import chosen
from rankmap.runtime.job import START_TIMEOUT_HOST_S, START_TIMEOUT_S, START_TIMEOUT_SEVERAL_S
from rankmap.runtime.link import PREFERRED
from rankmap.runtime.many_hosts import ManyHosts
from rankmap.runtime.processes import JOB_VARIABLE
from rankmap.runtime.rank_output import tell
from rankmap.runtime.starting import Kind, mpiexec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.application import Application
    from rankmap.runtime.host_choice import HostChoice
    from rankmap.runtime.session import ControlDirectory
    from rankmap.runtime.starting import Reach
    from rankmap.runtime.wire import Message
    from rankmap.topology import Allocation

__all__ = ["dragons_environment", "fanout_of", "looked_for", "several", "start_timeout_s"]

FANOUT_VARIABLE = "RANKMAP_FANOUT"


def start_timeout_s(reach: Reach | None) -> float:
    """Return how long a runtime on so many hosts may take to start."""
    return START_TIMEOUT_S if reach is None else START_TIMEOUT_SEVERAL_S + START_TIMEOUT_HOST_S * len(reach.hosts)


def dragons_environment(
    dragons: Mapping[str, str], control: ControlDirectory, reach: Reach, *, user: Mapping[str, str]
) -> dict[str, str]:
    """Return Dragon's environment for several hosts, and make ready what it names; the user's in a runtime of theirs.

    Under Slurm: srun, which Dragon calls, hands the environment on (see starting.py).
    Under PBS: PBS_NODEFILE has a line for each slot, and Dragon takes every line for a node (launcher/wlm/pbs.py,
    0.15); and its ``mpiexec`` must not be that of an MPI library beside Dragon.

    Args:
        dragons: That for one host.
        control: The job's directory.
        reach: The hosts.
        user: The user's own environment.
    """
    control.door = control.path / DOOR
    if reach.kind is Kind.DRAGON:
        return dict(user)
    always, _ = control.offer_commands()
    names = {"PATH": f"{always}:{dragons['PATH']}", JOB_VARIABLE: control.path.name}
    if reach.kind is Kind.SLURM:
        names["SLURM_EXPORT_ENV"] = "ALL"
    if reach.kind is Kind.PBS:
        nodes = control.path / "nodes"
        nodes.write_text("".join(f"{host}\n" for host in reach.hosts))
        names["PBS_NODEFILE"] = str(nodes)
        control.offer_command("mpiexec", f'{shlex.quote(mpiexec(user))} "$@"')
    return {**dragons, **names}


def looked_for(
    commands: Sequence[Sequence[str]], applications: Sequence[Application], copy: Path | None
) -> list[list[str]]:
    """Return the commands that every host is asked for: not those of which it gets a copy."""
    pairs = zip(commands, applications, strict=True)
    return [[] if one.path == str(copy) else list(argv) for argv, one in pairs]


def fanout_of(environ: Mapping[str, str]) -> int:
    """Return how many agents one process speaks to: what the user's environment says, else FANOUT.

    Raises:
        UsageError: That is no number, or none that makes a tree.
    """
    text = environ.get(FANOUT_VARIABLE, str(FANOUT))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        msg = f"{FANOUT_VARIABLE}={text!r} in the environment: it is a whole number from 1 on"
        raise UsageError(msg, hint=f"unset it for {FANOUT}")
    return int(text)


def several(
    reach: Reach,
    look: Message,
    choice: HostChoice,
    *,
    plan_for: Callable[[Allocation], Plan],
    environ: Mapping[str, str],
    preload: tuple[Path | None, Path | None],
) -> ManyHosts:
    """Return the ground of a job on several hosts.

    Args:
        reach: The hosts.
        look: What every agent is told to look at.
        choice: Which of them the job uses.
        plan_for: Makes the plan.
        environ: The user's environment.
        preload: A file that every host gets a copy of, and the copy's name; two None where there is none.
    """
    file, copy = preload
    return ManyHosts(
        kind=reach.kind,
        hosts=reach.hosts,
        job=Path(look["control"]).name,
        look=look,
        network_prefix=reach.fabric.network_prefix or PREFERRED,
        fanout=fanout_of(environ),
        n_spares=choice.n_spares,
        preload=None if file is None or copy is None else (file, copy),
        environ=environ,
        choose=lambda facts: chosen(facts, choice, plan_for, tell),
    )
