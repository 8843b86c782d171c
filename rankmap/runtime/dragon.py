"""Everything that rankmap asks of Dragon: what nodes there are, start these ranks, how did they end.

This is the only module that imports dragon, and it runs inside the runtime: in the head process (head.py) or in a
user's own program that calls ``rankmap.launch``. What is mended in Dragon itself is in mending.py.

Facts about Dragon 0.15.0 that this module rests on are in docs/design/0005-dragon-faults.md, each with the test
that shows when it has changed.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dragon import in_dragon
from dragon.globalservices import api_setup
from dragon.globalservices.process import multi_join
from dragon.infrastructure.facts import PMIBackend
from dragon.infrastructure.parameters import this_process
from dragon.infrastructure.policy import Policy
from dragon.native.machine import Node, System
from dragon.native.process import Process, ProcessTemplate
from dragon.native.process_group import ProcessGroup

from rankmap.errors import LaunchError, RuntimeUnusableError
from rankmap.runtime import head
from rankmap.runtime.live import rank_places
from rankmap.runtime.mending import python_path
from rankmap.runtime.processes import JOB_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.starting import AgentStart

__all__ = ["Group", "LiveNode", "RankStart", "live_nodes", "start_agents", "start_head"]

_SHIM = Path(__file__).with_name("shim.py")
# Dragon's own default of 5 s raises on a loaded machine.
_CLOSE_PATIENCE_S = 60.0
_HANDSHAKE_S = 1.0
_FIRST_HANDSHAKE_S = 5.0
_ALONE_S = 60.0
_KEPT: list[object] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNode:
    """One node as Dragon reports it.

    Args:
        name: Dragon's name of it.
        cpus: PU os indices.
        gpus: Ids in Dragon's own numbering and of its own types: a Policy's have to be equal to them (of a tile it may
            be 0.1, a float).
        gpu_variable: The variable with which Dragon shows GPUs to a process; "" where there are none.
        is_primary: Whether it is the first of the runtime.
    """

    name: str
    cpus: tuple[int, ...]
    gpus: tuple[int | float | str, ...]
    gpu_variable: str
    is_primary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStart:
    """Where one rank starts: Dragon's name of the node, PU os indices (never empty: Dragon reads that as all), GPUs.

    ``gpus`` are ids of the node's as Dragon has them; empty leaves the rank all that there are.
    """

    node_name: str
    cpus: tuple[int, ...]
    gpus: tuple[str, ...] = ()


def connect() -> None:
    """Connect this process to the runtime around it, also where another process of its identity has been before.

    What a Dragon process starts by itself (a shell script under ``dragon`` each of its commands) has the identity of
    its parent. Dragon sends each identity one handshake, for which the second to connect would wait for ever: be it
    another command, or the program that has run ``rankmap launch`` before it called ``rankmap`` itself.
    """
    if api_setup._INFRASTRUCTURE_CONNECTED:  # noqa: SLF001
        return
    by_dragon = os.getppid() == os.getpgid(0)  # then it may be on its way
    answers = api_setup._connect_gs_return()  # noqa: SLF001 - there is no public way to look before one leaps
    _KEPT.append(answers)  # its end would take the connection's own queue with it
    deadline_s = time.monotonic() + (_FIRST_HANDSHAKE_S if by_dragon else _HANDSHAKE_S)
    while not (there := answers.poll(0)) and time.monotonic() < deadline_s:
        time.sleep(_HANDSHAKE_S / 100)
    api_setup.connect_to_infrastructure(force=not there)


@contextmanager
def alone() -> Iterator[None]:
    """Keep other processes of this one's identity from talking to Dragon meanwhile: they would read its answers.

    Raises:
        RuntimeUnusableError: Another one does so for a minute.
    """
    deadline_s = time.monotonic() + _ALONE_S
    with socket.socket(socket.AF_UNIX) as lock:
        while True:
            try:
                # A name that no file has, and that goes with the process (unix(7), abstract sockets).
                lock.bind(f"\0rankmap-{os.getpgid(0)}-{this_process.my_puid}")
                break
            except OSError as error:
                if time.monotonic() > deadline_s:
                    msg = f"another program of this Dragon process has been talking to Dragon for {_ALONE_S:.0f} s"
                    raise RuntimeUnusableError(msg, hint="run them one after the other") from error
                time.sleep(_HANDSHAKE_S / 100)
        connect()
        yield


def live_nodes() -> tuple[LiveNode, ...]:
    """Return the nodes of the runtime that this process is in, the primary node first, then by name."""
    with alone():
        nodes = [Node(h_uid) for h_uid in System().nodes]
    return tuple(
        sorted(
            (
                LiveNode(
                    name=node.hostname,
                    cpus=tuple(node.cpus),
                    gpus=tuple(node.gpus or ()),
                    gpu_variable=str(node.gpu_env_str or ""),
                    is_primary=bool(node.is_primary),
                )
                for node in nodes
            ),
            key=lambda node: (not node.is_primary, node.name),
        )
    )


def check_starts(starts: Iterable[RankStart], nodes: Iterable[LiveNode]) -> None:
    """Raise unless Dragon has every node, CPU and GPU that is asked for.

    A wrong node name ends the whole runtime, and CPUs or GPUs that a node does not have are dropped in silence, the
    rank then being allowed on all.

    Raises:
        LaunchError: A start names a node, a CPU or a GPU that Dragon does not have, or no CPU at all.
    """
    there = {node.name: node for node in nodes}
    cpus_of = {name: set(node.cpus) for name, node in there.items()}
    for rank, start in enumerate(starts):
        if start.node_name not in cpus_of:
            msg = f"rank {rank} is planned on {start.node_name}; Dragon has {', '.join(sorted(cpus_of))}"
            raise LaunchError(msg, hint="plan again inside this allocation")
        missing = sorted(set(start.cpus) - cpus_of[start.node_name])
        if missing or not start.cpus:
            msg = (
                f"rank {rank} is planned on CPUs {list(start.cpus)} of {start.node_name}, "
                f"where Dragon may use {sorted(cpus_of[start.node_name])}"
            )
            raise LaunchError(msg, hint="plan again inside this allocation")
        known = list(map(str, there[start.node_name].gpus))
        if absent := [gpu for gpu in start.gpus if gpu not in known]:
            msg = f"rank {rank} is planned with GPU {','.join(absent)} of {start.node_name}, where Dragon has {known}"
            raise LaunchError(msg, hint="plan again inside this allocation")


def policy(start: RankStart, nodes: Iterable[LiveNode] = ()) -> Policy:
    """Return the explicit Dragon Policy of one rank: this node, these CPUs, nothing left to Dragon's choice.

    Args:
        start: Where it starts.
        nodes: Those of the runtime, which know the types of their GPUs' ids; without them ids are numbers.
    """
    own = {str(gpu): gpu for node in nodes if node.name == start.node_name for gpu in node.gpus}
    return Policy(
        placement=Policy.Placement.HOST_NAME,
        host_name=start.node_name,
        cpu_affinity=list(start.cpus),
        # Empty: all that there are.
        gpu_affinity=[own.get(gpu, int(gpu) if gpu.isdecimal() else gpu) for gpu in start.gpus],
    )


def policies(plan: Plan) -> list[Policy]:
    """Return one explicit Policy per rank of the plan, in rank order.

    Raises:
        LaunchError: Inside a runtime: it lacks a host or a CPU of the plan.
    """
    nodes = live_nodes() if in_dragon() else ()
    # On one node Dragon calls the host "localhost", whatever its name.
    names = {os.uname().nodename: nodes[0].name} if len(nodes) == 1 else {}
    starts = [
        RankStart(node_name=name, cpus=tuple(cpus), gpus=tuple(gpus)) for name, cpus, gpus in rank_places(plan, names)
    ]
    if nodes:
        check_starts(starts, nodes)
    return [policy(start, nodes) for start in starts]


class Group:
    """The ranks of one job as one PMI-enabled ProcessGroup, rank i being the i-th process."""

    def __init__(self, group: ProcessGroup, puids: tuple[int, ...]) -> None:
        self._group = group
        self._rank_of = {puid: rank for rank, puid in enumerate(puids)}

    @classmethod
    def start(cls, starts: Sequence[RankStart], *, backend: str, socket_path: str, python: str) -> Group:
        """Return the group after all shims were started, each with its rank number and the supervisor's socket.

        Args:
            starts: One per rank, in rank order.
            backend: "pmix", "cray", or "" for ranks that are no MPI job.
            socket_path: Where the supervisor listens.
            python: The interpreter that runs the shims.

        Raises:
            LaunchError: A start is not one that Dragon can honour, or Dragon started another number of processes.
        """
        nodes = live_nodes()
        check_starts(starts, nodes)
        # ignore_error_on_exit: without it one failing rank makes nearly every later call raise.
        pmi = PMIBackend.from_str(backend) if backend else None
        group = ProcessGroup(restart=False, ignore_error_on_exit=True, pmi=pmi)
        for rank, start in enumerate(starts):
            # A cwd that does not exist wedges a ProcessGroup for good: the shim changes directory, and can say so.
            template = ProcessTemplate(
                target=python,
                args=["-I", "-S", "-B", str(_SHIM), socket_path, str(rank)],
                cwd="/",
                policy=policy(start, nodes),
            )
            group.add_process(1, template)
        group.init()
        group.start()
        puids = sorted(set(group.puids) | {puid for puid, _ in group.inactive_puids})
        if len(puids) != len(starts):
            msg = f"Dragon started {len(puids)} processes for {len(starts)} ranks"
            raise LaunchError(msg)
        return cls(group, tuple(puids))

    @property
    def alive(self) -> bool:
        """Whether a rank has not been reported by ``ended`` yet."""
        return bool(self._rank_of)

    def ended(self, timeout_s: float) -> dict[int, int]:
        """Return {rank: exit code} of ranks newly found ended, waiting at most this long for the first.

        A negative code -N means killed by signal N.
        """
        if not self._rank_of:
            return {}
        found, _ = multi_join(list(self._rank_of), timeout=timeout_s, join_all=False)
        return {self._rank_of.pop(puid): code for puid, code in found or []}

    def kill(self) -> None:
        """End all ranks with SIGKILL; ProcessGroup.stop never gets as far."""
        self._group.kill()

    def close(self) -> None:
        """End what Dragon keeps for the group; all ranks must have ended."""
        self._group.join(timeout=_CLOSE_PATIENCE_S)
        self._group.close(patience=_CLOSE_PATIENCE_S)


def start_head(socket_path: str, *, job: str, host: str = "") -> None:
    """Start the head as a process of the runtime that this process is in; it reports to the socket by itself.

    A process of its own, because two processes with one Dragon identity would read each other's messages. It and all
    that Dragon starts for it have the job's name in their environment, and are mended (mending.py).

    Args:
        socket_path: Where it reports.
        job: The job's name.
        host: Dragon's name of the host that it is for; "" where there is only one.
    """
    environment = {JOB_VARIABLE: job, "PYTHONPATH": python_path(os.environ)}
    place = Policy(placement=Policy.Placement.HOST_NAME, host_name=host) if host else None
    with alone():
        Process(target=head.main, args=(socket_path, job), env=environment, policy=place).start()


def start_agents(starts: Iterable[AgentStart]) -> None:
    """Start agents as processes of the runtime that this process is in, on all the CPUs that Dragon has there.

    Dragon lets a process that is given no CPUs have all of the machine, outside of the runtime's own too.
    """
    cpus_of = {node.name: node.cpus for node in live_nodes()}
    for start in starts:
        program, *words = start.argv
        for host in start.hosts:
            place = policy(RankStart(node_name=host, cpus=cpus_of[host]))
            with alone():
                Process(target=program, args=words, env=dict(start.variables), cwd="/", policy=place).start()
