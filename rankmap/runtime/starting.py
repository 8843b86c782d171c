"""How rankmap's agents get onto the hosts of a job, and how Dragon is told to start there: the words of each way.

| kind | the agents | Dragon |
|---|---|---|
| ssh | one ``ssh HOST`` each; this host's own is started directly | ``--wlm ssh``, over the agents (relay.py) |
| drun | the same, hosts from DRAGON_RUN_NODEFILE | the same |
| slurm | one ``srun --overlap``, a task on each host | ``--wlm slurm`` |
| pbs | one ``mpiexec``, a process on each host | ``--wlm pbs+pals`` |
| dragon | a Dragon process on each host of the runtime around us (dragon.py) | it runs already |

A job that was submitted with ``--export=NONE`` has SLURM_EXPORT_ENV=NONE, by which srun would hand on nothing either.

Source: ssh(1); srun(1), --overlap; sbatch(1), --export; PALS, mpiexec(1); ``dragon --help``; measured
(docs/design/0011-many-hosts.md).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import LaunchError, UsageError
from rankmap.runtime.agent import TICKET_VARIABLE
from rankmap.runtime.host_words import host_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "OVER_AGENTS",
    "AgentStart",
    "Fabric",
    "Kind",
    "Reach",
    "agent_starts",
    "begin",
    "dragon_words",
    "dragons_launcher",
    "hosts_environment",
]


class Kind(StrEnum):
    """Who gives us the hosts, and gets processes onto them."""

    SSH = "ssh"
    DRUN = "drun"
    SLURM = "slurm"
    PBS = "pbs"
    DRAGON = "dragon"


OVER_AGENTS = "ssh"
"""What Dragon calls the launcher whose place the agents take (relay.py)."""

_WLM = {Kind.SSH: OVER_AGENTS, Kind.DRUN: OVER_AGENTS, Kind.SLURM: "slurm", Kind.PBS: "pbs+pals"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """What Dragon is told of the network.

    Args:
        transport: "tcp" or "hsta"; "" where the user has named none.
        network_prefix: A regular expression for names of interfaces; "" leaves it to Dragon.
        words: Anything else for ``dragon``, as given with ``--dragon-arg``.

    Raises:
        UsageError: ``network_prefix`` is no regular expression.
    """

    transport: str = ""
    network_prefix: str = ""
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            re.compile(self.network_prefix)
        except re.error as error:
            msg = f"--network-prefix {self.network_prefix!r} is no regular expression: {error}"
            raise UsageError(msg, hint="write what names of interfaces begin with: '^hsn'") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The hosts of a job, and how they are reached.

    Args:
        kind: Who gets processes onto them.
        hosts: Their names, each once, in the job's order.
        source: Where the names come from, for messages.
        whole: Whether they are all that the batch system has given.
        named: All that the batch system or the user has named, those too that are left out.
        fabric: What Dragon is told of the network.
    """

    kind: Kind
    hosts: tuple[str, ...]
    source: str
    whole: bool = True
    named: tuple[str, ...] = ()
    fabric: Fabric = Fabric(transport="tcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStart:
    """One command that starts agents.

    Args:
        hosts: The hosts that it starts them on.
        argv: The command.
        stdin: What it reads.
        variables: What it has in its environment beside ours.
    """

    hosts: tuple[str, ...]
    argv: tuple[str, ...]
    stdin: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.argv)


def is_here(host: str) -> bool:
    """Return whether this is a name of the host that we are on."""
    own = os.uname().nodename
    return host in {own, own.partition(".")[0], "localhost"} or host.partition(".")[0] == own


def mpiexec(environ: Mapping[str, str]) -> str:
    """Return PALS's mpiexec: the first on PATH that is in a directory of that name, else the first there is.

    A virtual environment with an MPI library has one too, and comes first on PATH when it was activated last.
    """
    found = [Path(folder, "mpiexec") for folder in environ.get("PATH", os.defpath).split(":")]
    there = [str(path) for path in found if os.access(path, os.X_OK)]
    return next((path for path in there if "/pals/" in os.path.realpath(path) + path), *there[:1] or ["mpiexec"])


def agent_starts(
    kind: Kind,
    hosts: Sequence[str],
    ticket: Mapping[str, object],
    environ: Mapping[str, str],
    folder: Path | None = None,
) -> list[AgentStart]:
    """Return the commands that start an agent on each of these hosts.

    The ticket is a secret: it goes through standard input or the environment, which nobody else can read.

    Args:
        kind: Who gets processes onto the hosts.
        hosts: Their names, each once.
        ticket: What an agent has to know to find us; each gets its own ``index`` where we can tell them apart.
        environ: Where commands are looked for.
        folder: Where a list of hosts is written that is too long for a word; None: nothing is written.
    """
    if kind in {Kind.SSH, Kind.DRUN}:
        return [
            AgentStart(
                hosts=(host,),
                argv=(*(() if is_here(host) else _ssh(host)), *_agent(quoted=not is_here(host))),
                stdin=json.dumps({**ticket, "index": index}) + "\n",
            )
            for index, host in enumerate(hosts)
        ]
    if kind is Kind.DRAGON:
        return [
            AgentStart(
                hosts=(host,),
                argv=_agent(quoted=False),
                variables=((TICKET_VARIABLE, json.dumps({**ticket, "index": index})),),
            )
            for index, host in enumerate(hosts)
        ]
    n_hosts = str(len(hosts))
    if kind is Kind.SLURM:
        words = [f"--nodes={n_hosts}", f"--ntasks={n_hosts}", "--ntasks-per-node=1", "--export=ALL", "--cpu-bind=none"]
        names = host_words(hosts, folder, listed="--nodelist", filed="--nodelist")  # with a slash it is a file
        words += ["=".join(names), "--mem=0", "--mpi=none", "--input=none", "--wait=0"]
        launcher = ("srun", "--overlap", *words)
    else:
        names = host_words(hosts, folder, listed="--hosts", filed="--hostfile")
        launcher = (mpiexec(environ), "--np", n_hosts, "--ppn", "1", "--cpu-bind", "none", *names)
    variables = ((TICKET_VARIABLE, json.dumps(dict(ticket))),)
    return [AgentStart(hosts=tuple(hosts), argv=(*launcher, *_agent(quoted=False)), variables=variables)]


def begin(start: AgentStart, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Return the process of this command, with what it reads written; what it says can be read without waiting.

    Raises:
        LaunchError: There is no such command.
    """
    try:
        process = subprocess.Popen(
            start.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environ, **dict(start.variables)},
            process_group=0,  # Ctrl-C must reach rankmap only
        )
    except OSError as error:
        msg = f"{start.argv[0]} cannot be started: {error.strerror}"
        raise LaunchError(msg, hint="it is what gets processes onto the hosts: load its module") from error
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    with suppress(BrokenPipeError):
        process.stdin.write(start.stdin.encode())
        process.stdin.close()
    os.set_blocking(process.stdout.fileno(), False)
    return process


def _ssh(host: str) -> tuple[str, ...]:
    return ("ssh", "-oBatchMode=yes", "-oConnectTimeout=15", host)


def _agent(*, quoted: bool) -> tuple[str, ...]:
    """Return the command of an agent; for ssh as one word, which a shell reads on the other side."""
    package = str(Path(__file__).parents[2])
    # -u: what it says before it ends must not be lost.
    words = ("env", f"PYTHONPATH={package}", sys.executable, "-u", "-m", "rankmap.agent")
    return (shlex.join(words),) if quoted else words


def dragon_words(
    reach: Reach,
    used: Sequence[str],
    *,
    network_config: str = "",
    ports: Sequence[int] = (),
    folder: Path | None = None,
) -> tuple[str, ...]:
    """Return the options of ``dragon`` for a runtime on those of the hosts that are used.

    A batch system's own launcher starts Dragon on all hosts of the allocation; on some of them only the agents can.

    Args:
        reach: The hosts.
        used: Those that are used.
        network_config: A file that says what Dragon would else ask a helper on every host (network_config.py).
        ports: Three TCP ports that are free on all hosts: Dragon's own are the same for every job of every user.
        folder: Where a list of hosts is written that is too long for a word; None: nothing is written.
    """
    wlm, fabric = dragons_launcher(reach, used), reach.fabric
    options = ("--port", "--overlay-port", "--frontend-port")
    return (
        "--wlm",
        wlm,
        *(host_words(used, folder, listed="--hostlist", filed="--hostfile") if wlm == OVER_AGENTS else ()),
        *(("--network-config", network_config) if wlm == OVER_AGENTS and network_config else ()),
        *(word for option, port in zip(options, ports, strict=False) for word in (option, str(port))),
        *("--transport", fabric.transport),
        *(("--network-prefix", fabric.network_prefix) if fabric.network_prefix else ()),
        *fabric.words,
    )


def dragons_launcher(reach: Reach, used: Sequence[str]) -> str:
    """Return what Dragon calls the launcher that starts it on these hosts."""
    return _WLM[reach.kind] if reach.whole and tuple(used) == reach.hosts else OVER_AGENTS


def hosts_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that goes to all hosts: without what is one host's, login's or batch task's own."""
    return {name: value for name, value in environ.items() if not name.startswith(_OWN)}


_OWN = (
    *(
        "HOSTNAME",
        "HOST",
        "SSH_",
        "XDG_RUNTIME_DIR",
        "XDG_SESSION",
        "DBUS_SESSION",
        "DISPLAY",
        "XAUTHORITY",
        "WINDOWID",
    ),
    *(
        "SLURMD_",
        "SLURM_NODEID",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_TASK_PID",
        "SLURM_GTIDS",
        "SLURM_TOPOLOGY_ADDR",
    ),
    *("SLURM_STEP", "SLURM_SRUN", "SLURM_LAUNCH", "SLURM_CPU_BIND", "PALS_NODEID", "PALS_RANKID", "PALS_LOCAL_RANKID"),
    *("PMI_", "PMIX_", "SLINGSHOT_", "BASH_FUNC_"),
)
