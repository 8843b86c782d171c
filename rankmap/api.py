"""What ``import rankmap`` offers: what the command line does, as functions. Neither does more than the other."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rankmap import explain, planner
from rankmap.alternatives import alternatives
from rankmap.discovery.accelerators import all_gpus
from rankmap.discovery.machine import load_all, required_preset, this_host
from rankmap.errors import RuntimeUnusableError, UsageError
from rankmap.gpu_makers import of_one_maker
from rankmap.replaying import replay
from rankmap.requests import request
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.inside import runtime_around
from rankmap.runtime.job import JobResult, OutputOptions, Pmi, Verify
from rankmap.runtime.launching import LaunchOptions, launch_job
from rankmap.runtime.live import live_allocation
from rankmap.runtime.looking import hosts_looked_at
from rankmap.runtime.session import in_runtime
from rankmap.topology import Allocation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rankmap.alternatives import Alternative
    from rankmap.cpuset import CpuSet
    from rankmap.placement import Plan
    from rankmap.topology import NodeTopology

__all__ = ["discover", "launch", "load", "plan", "whatif", "why"]


def discover(machine: str = "") -> Allocation:
    """Return the live allocation: the nodes of the Dragon runtime around this process, else this host alone.

    Args:
        machine: The preset of the machine that this is; ranks are then kept off the CPUs that its site keeps.

    Raises:
        UsageError: There is no such preset, or RANKMAP_FANOUT is no number.
        AllocationError: There is no libhwloc, or a host of the runtime cannot be looked at.
    """
    environ, here = _at_hand(machine)
    if not in_runtime(os.environ):
        return Allocation.of(((os.uname().nodename, of_one_maker(here)),))
    from rankmap.runtime import dragon  # noqa: PLC0415 - only inside a runtime

    nodes = [asdict(node) for node in dragon.live_nodes()]
    name = os.uname().nodename
    facts = [HostFacts(name=name, own_name=name, topology=here, paths=())]
    if reach := runtime_around():
        facts = hosts_looked_at(reach, environ=environ, kept=here.reserved)
    return live_allocation(nodes, facts, environ=environ)[0]


def _at_hand(machine: str) -> tuple[Mapping[str, str], NodeTopology]:
    """Return the environment and this host, of the machine whose preset is named; errors as ``discover``."""
    if not machine:
        return os.environ, this_host(os.environ)
    preset = required_preset(machine)
    environ = preset.completed(os.environ)
    return environ, this_host(environ, kept=preset.reserved)


def load(*machines: str) -> Allocation:
    """Return the allocation of these machines, as ``--machine`` takes them ("64xaurora", "4xnode.xml").

    Raises:
        RankmapError: A machine does not exist or cannot be read.
    """
    return load_all(machines, environ=os.environ)


def plan(  # noqa: PLR0913 - the words of the command line, each optional
    allocation: Allocation,
    *,
    n_ranks: int | None = None,
    ranks_per_node: int | None = None,
    cpus_per_rank: int | None = None,
    map_by: str = "auto",
    rank_by: str = "",
    bind_to: str = "",
    smt: int | None = None,
    oversubscribe: bool = False,
    reserve: str | CpuSet = "",
    reserve_per: str = "",
    hosts: Iterable[str] = (),
    exclude_hosts: Iterable[str] = (),
    hostfile: str | Path | None = None,
    gpus_per_rank: int | str | None = None,
    ranks_per_gpu: int | None = None,
    gpu_bind: str = "",
    share_gpus: bool = False,
    nics_per_rank: int | None = None,
    mem_bind: str = "",
    threads_per_rank: int | None = None,
    then: Sequence[Mapping[str, Any]] = (),
) -> Plan:
    """Return where every rank goes. The keywords are the options of ``rankmap plan``.

    Args:
        allocation: The nodes to use, from ``discover`` or ``load``.
        n_ranks: Ranks of the job; None: one per usable core, or what the other words make it.
        ranks_per_node: Ranks on each node.
        cpus_per_rank: Cores of each rank; None: as many as divide evenly.
        map_by: Where ranks go, as ``--map-by`` takes it ("numa:PE=2").
        rank_by: How they are numbered, as ``--rank-by`` takes it; "" is what the mapping makes natural.
        bind_to: What each may use, as ``--bind-to`` takes it; "" is what it was mapped to.
        smt: How many hardware threads of each core are used; None is all.
        oversubscribe: Whether there may be more ranks than cores, or than slots.
        reserve: PU os indices kept free of ranks, as a Linux CPU list or a CpuSet; "none" uses those that the site of
            a preset keeps free.
        reserve_per: Cores kept free in each object of a kind, as ``--reserve-per`` takes it ("l3cache:1").
        hosts: The only hosts to use, hostlist text each, with slots or without ("n[0-3]:8"); none named is all.
        exclude_hosts: Hosts not to use.
        hostfile: A file with the only hosts to use.
        gpus_per_rank: GPUs of each rank: 1, 2, or "1/2" where two ranks share one.
        ranks_per_gpu: How many ranks may share a GPU.
        gpu_bind: Which GPUs a rank gets, as ``--gpu-bind`` takes it ("closest", "list:0:1").
        share_gpus: Whether more ranks than there are GPUs share them evenly.
        nics_per_rank: High-speed NICs of each rank, the nearest; ranks share them evenly.
        mem_bind: Which memory pages come from, as ``--mem-bind`` takes it ("local", "bind:0-1", "hbm").
        threads_per_rank: Threads of each rank, for the variables of OpenMP.
        then: The other parts of the job (MPMD), each as keywords of its own.

    Raises:
        RankmapError: No plan satisfies the request, or it cannot be understood.
    """
    spec = request(
        n_ranks=n_ranks,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=cpus_per_rank,
        map_by=map_by,
        rank_by=rank_by,
        bind_to=bind_to,
        smt=smt,
        oversubscribe=oversubscribe,
        reserve=reserve,
        reserve_per=reserve_per,
        hosts=hosts,
        exclude_hosts=exclude_hosts,
        hostfile=hostfile,
        gpus_per_rank=gpus_per_rank,
        ranks_per_gpu=ranks_per_gpu,
        gpu_bind=gpu_bind,
        share_gpus=share_gpus,
        nics_per_rank=nics_per_rank,
        mem_bind=mem_bind,
        threads_per_rank=threads_per_rank,
    )
    return planner.plan(allocation, spec, *(request(**words) for words in then))


def why(plan: Plan, rank: int) -> tuple[str, ...]:
    """Return, a sentence each, the decisions that put this rank of the plan where it is.

    Raises:
        UsageError: The job has no such rank, or the plan is not what its request leads to.
    """
    return explain.why(planner.decide_again(plan), rank)


def whatif(allocation: Allocation, **words: Any) -> tuple[Alternative, ...]:  # noqa: ANN401 - those of plan
    """Return the sensible layouts of so many ranks, the best first.

    Args:
        allocation: The nodes.
        words: Those of ``plan``, without ``map_by`` and ``then``.

    Raises:
        RankmapError: None fits.
    """
    return alternatives(allocation, request(**words))


def launch(  # noqa: PLR0913 - the words of the command line, each optional
    plan: Plan,
    *commands: Sequence[str],
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    pmi: str = "auto",
    verify: str = "fail",
    watch_s: float | None = None,
    label: bool = False,
    output_dir: str | Path | None = None,
    stdin_rank: int | None = None,
    timeout_s: float | None = None,
    kill_grace_s: float = 10.0,
    start_timeout_s: float | None = None,
    machine: str = "",
) -> JobResult:
    """Run the application as planned, inside the Dragon runtime around this process, and return how it ended.

    Args:
        plan: A plan for the nodes of this runtime.
        commands: The application and its arguments; of a job of several parts one for each.
        cwd: The ranks' working directory; None is this process's.
        env: Variables for the ranks (None: removed).
        pmi: "auto", "pmix", "cray" or "none".
        verify: "fail", "warn" or "off".
        watch_s: How often the running ranks are looked at, beside twice at their start; None is not.
        label: Whether each line of output starts with ``[rank] ``.
        output_dir: Where each rank writes files of its own.
        stdin_rank: The rank that reads this process's standard input; None: no rank does.
        timeout_s: When the job is ended; None is never.
        kill_grace_s: How long the other ranks may go on after one has failed with an exit status.
        start_timeout_s: How long the job's first process in the runtime may take to start; None is as long as so many
            hosts take.
        machine: The preset of the machine that this is: ranks get its variables where neither ``env`` nor this
            process's environment has them.

    Raises:
        RankmapError: This process is in no runtime, or the job was refused before it started. Once it has started,
            the result says how it ended.
    """
    if len(commands) != len(plan.parts):
        msg = f"the plan is for a job of {len(plan.parts)} parts, and there are {len(commands)} applications"
        raise UsageError(msg)
    if not in_runtime(os.environ):
        msg = "rankmap.launch needs a Dragon runtime around this program"
        raise RuntimeUnusableError(msg, hint=f"start it with: dragon -s {sys.argv[0]}, or use `rankmap launch`")
    environ, here = _at_hand(machine)
    return launch_job(
        commands,
        plan_for=lambda allocation: replay(plan, allocation),
        topology=here,
        reserve=plan.reserve,
        options=LaunchOptions(
            cwd=None if cwd is None else Path(cwd),
            set_env=dict(env or {}),
            pmi=_choice("pmi", pmi, Pmi),
            verify=_choice("verify", verify, Verify),
            watch_s=watch_s,
            output=OutputOptions(label=label, directory=None if output_dir is None else Path(output_dir)),
            stdin_rank=stdin_rank,
            timeout_s=timeout_s,
            kill_grace_s=kill_grace_s,
            start_timeout_s=start_timeout_s,
        ),
        environ=environ,
        all_gpus=all_gpus,
        say=lambda _text: None,
        reach=runtime_around(),
    )


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(name: str, value: str, choices: type[_Choice]) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        msg = f"{name}={value!r}: there is {', '.join(choices)}"
        raise UsageError(msg) from None
