"""Compares a plan with what was seen: a pure function of the two."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.devices import GPU_MASKS, GPU_VARIABLES, gpu_ids
from rankmap.gathering import FULL_RANKS, Gathered, merged, report_of
from rankmap.node_plan import node_plans
from rankmap.report import Finding, NodeReport, RankReport, Report, Severity
from rankmap.running import pages_finding, thread_findings
from rankmap.visible_gpus import shown_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rankmap.node_plan import NodePlan
    from rankmap.observe import Observation
    from rankmap.placement import Plan, RankPlacement
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["SLUGS", "planned_uuids", "report_of_nodes", "verify", "verify_node"]

SLUGS = {
    "cpus-differ": "the rank may use other CPUs than planned",
    "gpus-differ": "the rank sees other GPUs than planned",
    "host-differs": "the rank runs on another host than planned",
    "memory-differs": "the rank's pages come from elsewhere than planned",
    "pages-remote": "most of the rank's memory is in NUMA domains far from its CPUs",
    "thread-outside-cpus": "a thread of the running rank may use CPUs outside the rank's own",
    "threads-on-one-core": "the rank has several cores, and all its threads that compute are on one of them",
    "threads-share-pu": "threads of several ranks are pinned to one CPU while others are free",
    "unobserved": "the rank was never looked at",
    "variables-differ": "the application was given another value of a variable than planned",
}
"""Every kind of finding and its meaning; docs/findings.md has an entry for each."""


def verify(
    plan: Plan | NodePlan, observations: Mapping[int, Observation], *, services: Sequence[Mapping[str, Any]] = ()
) -> Report:
    """Return the report on every rank of the plan: the sum of those on its nodes (``verify_node``).

    Args:
        plan: What was asked for; of a whole job, or of one of its nodes.
        observations: What was seen, by rank; a rank that is missing is reported as unobserved.
        services: Where Dragon's own processes run, passed on into the report.
    """
    ranks = [rank for node in node_plans(plan) for rank in verify_node(node, observations).ranks]
    return Report(ranks=tuple(sorted(ranks, key=lambda rank: rank.rank)), services=tuple(services))


def verify_node(
    node: NodePlan, observations: Mapping[int, Observation], *, services: Sequence[Mapping[str, Any]] = ()
) -> NodeReport:
    """Return the report on the ranks of one node, which depends on nothing that any other node has.

    Args:
        node: The node's part of the plan.
        observations: What was seen, by rank; others than the node's own are left alone.
        services: Where Dragon's own processes run on it, passed on into the report.
    """
    of_threads: dict[int, list[Finding]] = {}
    for found in thread_findings(node, observations):
        of_threads.setdefault(found.rank, []).append(found.finding)
    ranks = tuple(
        _rank_report(placement, node.allocation, observations.get(placement.rank), of_threads.get(placement.rank, []))
        for placement in node.iter_ranks()
    )
    return NodeReport(position=node.position, host=node.host, ranks=ranks, services=tuple(services))


def report_of_nodes(plan: Plan, parts: Iterable[Gathered]) -> Report:
    """Return the report of a whole job of what its nodes were found to be; nodes that said nothing are unobserved.

    Args:
        plan: What was asked for.
        parts: What was gathered, each node in one part at most.
    """
    found = list(parts)
    said = reduce(or_, (one.nodes for part in found for one in part.alike), CpuSet())
    silent: dict[int, list[NodePlan]] = {}
    for node, planned in zip(node_plans(plan), plan.nodes, strict=True):
        if node.position not in said:
            silent.setdefault(planned.layout_index, []).append(node)
    for nodes in silent.values():
        if plan.n_ranks <= FULL_RANKS:
            found += [Gathered.of(verify_node(node, {}), n_job_ranks=node.n_job_ranks) for node in nodes]
        else:  # one stands for all
            part = Gathered.of(verify_node(nodes[0], {}), n_job_ranks=plan.n_ranks)
            found.append(part.also_of(node.position for node in nodes))
    return report_of(plan, merged(found))


def _rank_report(
    planned: RankPlacement, allocation: Allocation, seen: Observation | None, of_threads: list[Finding]
) -> RankReport:
    topology = allocation.topology(planned.node_index)
    uuids = planned_uuids(planned, allocation)
    return RankReport(
        rank=planned.rank,
        planned={
            "host": planned.host,
            "cpus": None if planned.cpus is None else list(planned.cpus),
            "numa": list(planned.numa),
            "gpus": list(planned.gpus),
            **({"gpu_uuids": list(uuids)} if uuids else {}),
            "mem": planned.mem,
        },
        observed=None if seen is None else _observed(seen, topology, allocation.nodes[planned.node_index].gpu_uuids),
        findings=tuple(_findings(planned, topology, uuids, seen, of_threads)),
    )


def planned_uuids(planned: RankPlacement, allocation: Allocation) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that a rank is to have; empty where not all of them are known."""
    known = allocation.nodes[planned.node_index].gpu_uuids
    if not known or not planned.gpus:
        return ()
    of_id = dict(zip(gpu_ids(allocation.topology(planned.node_index)), known, strict=True))
    uuids = tuple(of_id.get(gpu, "") for gpu in planned.gpus)
    return uuids if all(uuids) else ()


def _observed(seen: Observation, topology: NodeTopology, uuids: Sequence[str]) -> dict[str, Any]:
    return {
        "host": seen.host,
        "pid": seen.pid,
        "cpus": list(seen.cpus),
        "numa": [
            domain.os_index
            for domain in topology.numa_domains
            if domain.local and not domain.cpus.isdisjoint(seen.cpus)
        ],
        "gpus": shown_ids(topology, uuids, seen.variables or {}),
        **({} if seen.gpu_uuids is None else {"gpu_uuids": list(seen.gpu_uuids)}),
        "mem": seen.mem if seen.mem not in {"", "default"} else None,
        "threads": len(seen.threads),
        "thread_cpus": [thread.last_cpu for thread in seen.threads],
        "pages": None if seen.pages is None else {str(i): size for i, size in sorted(seen.pages.resident.items())},
    }


def _findings(
    planned: RankPlacement,
    topology: NodeTopology,
    uuids: tuple[str, ...],
    seen: Observation | None,
    of_threads: list[Finding],
) -> list[Finding]:
    if seen is None:
        return [Finding(slug="unobserved", severity=Severity.WARNING, expected=f"on {planned.host}", observed="-")]
    found = []
    if seen.host != planned.host:
        found.append(_error("host-differs", planned.host, seen.host))
    if planned.cpus is not None and seen.cpus != planned.cpus:
        found.append(_error("cpus-differ", f"CPUs {planned.cpus}", f"CPUs {seen.cpus}"))
    found += of_threads
    found += _variable_findings(planned, seen.variables)
    if uuids and seen.gpu_uuids is not None and seen.gpu_uuids != uuids:
        shown = ",".join(planned.gpus)
        found.append(_error("gpus-differ", f"GPU {shown} ({','.join(uuids)})", ",".join(seen.gpu_uuids) or "none"))
    if planned.mem is not None and seen.mem not in {"", planned.mem}:
        found.append(_error("memory-differs", planned.mem, seen.mem))
    pages = pages_finding(planned, topology, seen)
    return found if pages is None else [*found, pages]


def _variable_findings(planned: RankPlacement, variables: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield each planned variable that the rank got otherwise, and each that would show it other GPUs than its own.

    ``variables`` None: it has not been started.
    """
    if variables is None:
        return
    own = dict(planned.env)
    for name, value in own.items():
        if variables.get(name) != value:
            slug = "gpus-differ" if name in GPU_VARIABLES else "variables-differ"
            yield _error(slug, f"{name}={value}", f"{name}={variables[name]}" if name in variables else f"no {name}")
    for name in GPU_MASKS if planned.gpus else ():
        if name in variables and name not in own:
            yield _error("gpus-differ", f"no {name}", f"{name}={variables[name]}")


def _error(slug: str, expected: str, observed: str) -> Finding:
    return Finding(slug=slug, severity=Severity.ERROR, expected=expected, observed=observed)
