"""Which hosts a launch is for, and how they are reached: from the batch job around it, or from --hosts."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.errors import AllocationError, UsageError
from rankmap.hostlist import fold
from rankmap.runtime.dragon_network import usual_transport
from rankmap.runtime.inside import runtime_around
from rankmap.runtime.job import START_TIMEOUT_S
from rankmap.runtime.session import in_runtime
from rankmap.runtime.starting import Fabric, Kind, Reach, is_here
from rankmap.schedulers.allocation import allocated_hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from rankmap.layout import LayoutSpec
    from rankmap.placement import Plan
    from rankmap.runtime.host_choice import HostChoice
    from rankmap.topology import Allocation

__all__ = ["reach_of", "without_left_out"]

_AMONG = "choose among these hosts, by these names"


def reach_of(  # noqa: PLR0913 - what is known of the hosts, and of the time for them
    specs: Sequence[LayoutSpec],
    saved: Plan | None,
    *,
    environ: Mapping[str, str],
    fabric: Fabric,
    choice: HostChoice,
    say: Callable[[str], None],
    timeout_s: float = START_TIMEOUT_S,
) -> Reach | None:
    """Return the hosts of the job and how to get onto them; None where that is this host alone.

    In a Dragon runtime or a batch job ``--hosts`` and ``--exclude-hosts`` choose among its hosts; where there is none
    ``--hosts`` names them, and ssh reaches them.

    Args:
        specs: The parts of the job; none where there is a plan of it.
        saved: The plan, whose hosts are the job's.
        environ: The environment.
        fabric: What Dragon is told of the network.
        choice: How many hosts are asked for.
        say: Called with what is left unread and why.
        timeout_s: How long a runtime around this process may take to say which hosts it has.

    Raises:
        RuntimeUnusableError: It does not say.
        AllocationError: The hosts of the batch job cannot be read, are fewer than asked for, or are all left out.
        UsageError: Something is asked of the network of a runtime that is there already.
    """
    reach = _reach(specs, saved, environ=environ, fabric=fabric, say=say, timeout_s=timeout_s)
    n_hosts = 1 if reach is None else len(reach.hosts)
    if choice.n_looked_at is not None and choice.n_looked_at > n_hosts:
        spares = f" --spares {choice.n_spares}" if choice.n_spares else ""
        where = f"{os.uname().nodename} alone" if reach is None else f"{fold(reach.hosts)} ({reach.source})"
        msg = f"--nodes {choice.n_nodes}{spares}: there {'is' if n_hosts == 1 else 'are'} {n_hosts}: {where}"
        hint = "run this in a batch job of as many nodes, or name them with --hosts"
        raise AllocationError(msg, hint="start Dragon on as many nodes" if in_runtime(environ) else hint)
    if reach is None or choice.n_looked_at in {None, n_hosts}:
        return reach
    return replace(reach, hosts=reach.hosts[: choice.n_looked_at], whole=False)


def _reach(
    specs: Sequence[LayoutSpec],
    saved: Plan | None,
    *,
    environ: Mapping[str, str],
    fabric: Fabric,
    say: Callable[[str], None],
    timeout_s: float,
) -> Reach | None:
    if in_runtime(environ):
        if fabric != Fabric():
            given = (
                "--transport" if fabric.transport else "--network-prefix" if fabric.network_prefix else "--dragon-arg"
            )
            msg = f"{given}: the Dragon runtime around this command has been started already"
            raise UsageError(msg, hint=f"leave {given} out; `dragon` itself takes such options")
        around = runtime_around(timeout_s)
        return None if around is None else _among(around, specs)
    fabric = replace(fabric, transport=fabric.transport or usual_transport())
    allocated = allocated_hosts(environ, say=say)
    if allocated is None:
        named = tuple(dict.fromkeys(host for spec in specs for host in spec.hosts))
        if saved is not None and len(saved.nodes) > 1:  # a plan of one host may be for this one, by another name
            named = tuple(saved.allocation.nodes[node.node_index].host for node in saved.nodes)
        files = {spec.hostfile for spec in specs if spec.hosts}
        source = "--plan" if saved is not None else f"--hostfile {files.pop()}" if files and all(files) else "--hosts"
        if all(is_here(host) for host in named):
            return None
        return _among(Reach(kind=Kind.SSH, hosts=named, source=source, named=named, fabric=fabric), specs)
    kind, hosts = Kind(str(allocated.kind)), allocated.hosts
    if len(hosts) == 1 and is_here(hosts[0]):  # a shell of salloc may be on another host than its job
        return None
    return _among(Reach(kind=kind, hosts=hosts, source=allocated.source, named=hosts, fabric=fabric), specs)


def _among(reach: Reach, specs: Sequence[LayoutSpec]) -> Reach:
    """Return those of the hosts that the parts of the job allow.

    Raises:
        AllocationError: This is none, or they name others.
    """
    for spec in specs:
        for strange in spec.strangers(reach.named):
            msg = f"{strange}: the job has {fold(reach.named)} ({reach.source})"
            raise AllocationError(msg, hint=_AMONG)
    allowed = set[str]().union(*(spec.allowed(reach.hosts) for spec in specs)) if specs else set(reach.hosts)
    hosts = tuple(host for host in reach.hosts if host in allowed)
    if not hosts:
        raise _none_left(specs, reach)
    return replace(reach, hosts=hosts, whole=hosts == reach.hosts)


def _named(spec: LayoutSpec) -> str:
    return f"--hostfile {spec.hostfile}" if spec.hostfile else f"--hosts {fold(spec.hosts)}"


def _none_left(specs: Sequence[LayoutSpec], reach: Reach) -> AllocationError:
    limits: list[str] = []
    for spec in specs:
        if spec.hosts and not set(spec.hosts) >= set(reach.hosts):
            limits.append(_named(spec))
        if spec.exclude_hosts:
            limits.append(f"--exclude-hosts {fold(spec.exclude_hosts)}")
    leave = "leaves" if len(limits) == 1 else "leave"
    msg = f"{' and '.join(limits)} {leave} no host of {fold(reach.hosts)} ({reach.source})"
    return AllocationError(msg, hint=_AMONG)


def without_left_out(specs: Sequence[LayoutSpec], allocation: Allocation, reach: Reach | None) -> list[LayoutSpec]:
    """Return the parts without those of their hosts that the job leaves out, which the planner does not know.

    Raises:
        AllocationError: A part has none left.
    """
    there = {node.host for node in allocation.nodes}
    out = set[str]() if reach is None else set(reach.named) - there
    return [_without(spec, out) for spec in specs]


def _without(spec: LayoutSpec, out: AbstractSet[str]) -> LayoutSpec:
    hosts, excluded = (tuple(host for host in names if host not in out) for names in (spec.hosts, spec.exclude_hosts))
    if spec.hosts and not hosts:
        msg = f"{_named(spec)}: the job uses none of them"
        raise AllocationError(msg, hint="--nodes, --spares, --drop-odd and --exclude-hosts leave hosts out")
    return replace(spec, hosts=hosts, exclude_hosts=excluded)
