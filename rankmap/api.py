"""What ``import rankmap`` offers: discover, load, plan, launch. The command line offers the same and no more."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rankmap import planner
from rankmap.cpuset import CpuSet
from rankmap.discovery.machine import load_all, this_host, this_host_allocation
from rankmap.errors import PlacementError, RuntimeUnusableError, UsageError
from rankmap.layout import LayoutSpec
from rankmap.runtime.job import START_TIMEOUT_S, JobResult, OutputOptions, Pmi, Verify
from rankmap.runtime.launching import LaunchOptions, launch_job
from rankmap.runtime.live import live_allocation
from rankmap.runtime.session import in_runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rankmap.placement import Plan
    from rankmap.topology import Allocation

__all__ = ["discover", "launch", "load", "plan"]


def discover() -> Allocation:
    """Return the live allocation: the nodes of the Dragon runtime around this process, else this host alone.

    Raises:
        AllocationError: There is no libhwloc, or the runtime has other hosts than this one.
    """
    if not in_runtime(os.environ):
        return this_host_allocation(os.environ)
    from rankmap.runtime import dragon  # noqa: PLC0415 - only inside a runtime

    nodes = [{"name": node.name, "cpus": node.cpus, "gpus": node.gpus} for node in dragon.live_nodes()]
    return live_allocation(nodes, host=os.uname().nodename, topology=this_host(os.environ))[0]


def load(*machines: str) -> Allocation:
    """Return the allocation of these machines, as ``--machine`` takes them ("4xnode.xml", "synthetic:numa:2 core:8").

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
    oversubscribe: bool = False,
    reserve: str | CpuSet = "",
    hosts: Iterable[str] = (),
    exclude_hosts: Iterable[str] = (),
) -> Plan:
    """Return where every rank goes. The keywords are the options of ``rankmap plan``.

    Args:
        allocation: The nodes to use, from ``discover`` or ``load``.
        n_ranks: Ranks of the job; None: one per usable core, or what ``ranks_per_node`` makes it.
        ranks_per_node: Ranks on each node.
        cpus_per_rank: Cores of each rank; None: as many as divide evenly.
        oversubscribe: Whether ranks may share cores when there are more ranks than room.
        reserve: PU os indices kept free of ranks, as a Linux CPU list or a CpuSet.
        hosts: The only hosts to use; none named is all.
        exclude_hosts: Hosts not to use.

    Raises:
        RankmapError: No plan satisfies the request, or it cannot be understood.
    """
    spec = LayoutSpec(
        n_ranks=n_ranks,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=cpus_per_rank,
        oversubscribe=oversubscribe,
        reserve=reserve if isinstance(reserve, CpuSet) else CpuSet.parse(reserve),
        hosts=tuple(hosts),
        exclude_hosts=tuple(exclude_hosts),
    )
    return planner.plan(allocation, spec)


def launch(  # noqa: PLR0913 - the words of the command line, each optional
    plan: Plan,
    argv: Sequence[str],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    pmi: str = "auto",
    verify: str = "fail",
    label: bool = False,
    output_dir: str | Path | None = None,
    stdin_rank: int | None = None,
    timeout_s: float | None = None,
    kill_grace_s: float = 10.0,
    start_timeout_s: float = START_TIMEOUT_S,
) -> JobResult:
    """Run the application as planned, inside the Dragon runtime around this process, and return how it ended.

    Args:
        plan: A plan for the nodes of this runtime.
        argv: The application and its arguments.
        cwd: The ranks' working directory; None is this process's.
        env: Variables for the ranks (None: removed).
        pmi: "auto", "pmix", "cray" or "none".
        verify: "fail", "warn" or "off".
        label: Whether each line of output starts with ``[rank] ``.
        output_dir: Where each rank writes files of its own.
        stdin_rank: The rank that reads this process's standard input; None: no rank does.
        timeout_s: When the job is ended; None is never.
        kill_grace_s: How long the other ranks may go on after one has failed with an exit status.
        start_timeout_s: How long the job's first process in the runtime may take to start.

    Raises:
        RankmapError: This process is in no runtime, or the job was refused before it started. Once it has started,
            the result says how it ended.
    """
    if not in_runtime(os.environ):
        msg = "rankmap.launch needs a Dragon runtime around this program"
        raise RuntimeUnusableError(msg, hint=f"start it with: dragon -s {sys.argv[0]}, or use `rankmap launch`")
    return launch_job(
        argv,
        plan_for=lambda allocation: _still_fits(plan, allocation),
        topology=this_host(os.environ),
        reserve=plan.spec.reserve,
        options=LaunchOptions(
            cwd=None if cwd is None else Path(cwd),
            set_env=dict(env or {}),
            pmi=_choice("pmi", pmi, Pmi),
            verify=_choice("verify", verify, Verify),
            output=OutputOptions(label=label, directory=None if output_dir is None else Path(output_dir)),
            stdin_rank=stdin_rank,
            timeout_s=timeout_s,
            kill_grace_s=kill_grace_s,
            start_timeout_s=start_timeout_s,
        ),
        environ=os.environ,
        say=lambda _text: None,
    )


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(name: str, value: str, choices: type[_Choice]) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        msg = f"{name}={value!r}: there is {', '.join(choices)}"
        raise UsageError(msg) from None


def _still_fits(plan: Plan, live: Allocation) -> Plan:
    """Return the plan, whose hosts and CPUs the live allocation must have."""
    usable = {node.host: live.topology(index).usable for index, node in enumerate(live.nodes)}
    problems = []
    for rank in plan.iter_ranks():
        if rank.host not in usable:
            problems.append(f"rank {rank.rank} is planned on {rank.host}; there is {', '.join(usable)}")
        elif rank.cpus is not None and not rank.cpus.issubset(usable[rank.host]):
            missing = rank.cpus - usable[rank.host]
            problems.append(f"rank {rank.rank} is planned on CPUs {rank.cpus} of {rank.host}; {missing} are not usable")
    if problems:
        raise PlacementError("\n".join(problems), hint="make the plan from rankmap.discover() in this runtime")
    return plan
