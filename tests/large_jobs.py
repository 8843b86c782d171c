"""Jobs on many nodes for tests: their plans, and what nodes would say of them, without as much work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.gathering import Gathered, merged
from rankmap.node_plan import NodePlan, node_plans
from rankmap.observe import Observation, ThreadObservation
from rankmap.topology import Allocation
from rankmap.verification import verify_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rankmap.placement import Plan, RankPlacement
    from rankmap.topology import NodeTopology

SERVICES = (
    {"pid": 41, "name": "Dragon local services", "cpus": [0], "idle": True},
    {"pid": 42, "name": "rankmap agent", "cpus": [0], "idle": False},
)


def hosts(n_nodes: int, node: NodeTopology, prefix: str = "x") -> Allocation:
    """Return an allocation of x0001, x0002, ..."""
    return Allocation.of(tuple((f"{prefix}{i:04}", node) for i in range(1, n_nodes + 1)))


def as_planned(rank: RankPlacement) -> Observation:
    """Return what is seen of a rank that is where the plan says; pids and thread ids differ on every node."""
    cpus = rank.cpus or CpuSet()
    threads = tuple(ThreadObservation(tid=10_000 + 8 * rank.rank + i, cpus=cpus) for i in range(2))
    return Observation(rank=rank.rank, host=rank.host, pid=10_000 + 8 * rank.rank, cpus=cpus, threads=threads)


def seen_on(node: NodePlan) -> dict[int, Observation]:
    """Return what is seen of a node's ranks that are where the plan says."""
    return {rank.rank: as_planned(rank) for rank in node.iter_ranks()}


def gathered(plan: Plan, changed: Mapping[int, Callable[[Observation], Observation | None]]) -> list[Gathered]:
    """Return what every node says; of some ranks something else is seen, or nothing."""
    said = []
    for node in node_plans(plan):
        seen = seen_on(node)
        for number in changed.keys() & seen.keys():
            other = changed[number](seen.pop(number))
            if other is not None:
                seen[number] = other
        report = verify_node(node, seen, services=SERVICES)
        said.append(Gathered.of(report, n_job_ranks=node.n_job_ranks))
    return said


def as_tree(parts: Iterable[Gathered], width: int = 32) -> Gathered:
    """Return what comes out where everyone merges what so many others have."""
    left = list(parts)
    while len(left) > 1:
        left = [merged(left[i : i + width]) for i in range(0, len(left), width)]
    return left[0]


def elsewhere(cpus: str) -> Callable[[Observation], Observation]:
    """Return what makes a rank be seen on these CPUs."""
    return lambda seen: replace(seen, cpus=CpuSet.parse(cpus), threads=())
