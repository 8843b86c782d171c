"""What the threads and the memory of running ranks say against their plan: pure rules, one for each finding.

Only threads that compute are judged for sharing a CPU or a core: MPI libraries, OpenMP and Python have helper threads
that sleep nearly all the time, and may do so anywhere (docs/design/0010-devices.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.layout_memory import named_domains
from rankmap.report import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rankmap.node_plan import NodePlan
    from rankmap.observe import Observation, ThreadObservation
    from rankmap.placement import Plan, RankPlacement
    from rankmap.topology import NodeTopology

__all__ = ["ThreadFinding", "pages_finding", "thread_findings"]

# A thread computes when it has run for 0.1 s (clock ticks are 10 ms) and for a tenth of what the rank's busiest has.
_COMPUTES_TICKS = 10
_COMPUTES_SHARE = 0.1
# Less than that is the program itself and its libraries.
_FLOOR_BYTES = 16 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFinding:
    """A finding about a rank, and the threads of it that it is about."""

    rank: int
    finding: Finding
    threads: tuple[ThreadObservation, ...]


def thread_findings(plan: Plan | NodePlan, observations: Mapping[int, Observation]) -> Iterator[ThreadFinding]:
    """Yield what the ranks' threads are found to do, by node, kind and rank.

    Args:
        plan: Where the ranks should be; of a whole job, or of one of its nodes.
        observations: What was seen, by rank; a rank that is missing has no threads.
    """
    for node in plan.nodes:
        planned = [rank for rank in plan.ranks_on(node.node_index) if rank.rank in observations]
        inside = {}
        for rank in planned:
            threads = observations[rank.rank].threads
            outside = [thread for thread in threads if rank.cpus is not None and not thread.cpus.issubset(rank.cpus)]
            inside[rank.rank] = [thread for thread in threads if thread not in outside]
            yield from (_outside(rank, thread) for thread in outside)
        topology = plan.allocation.topology(node.node_index)
        places = _places(planned, topology)
        computing = {number: _computing(threads) for number, threads in inside.items()}
        alive = {number: threads for number, threads in computing.items() if not observations[number].ended}
        yield from _sharing_pus(alive, places)
        yield from _on_one_core(computing, places, topology)


def _outside(rank: RankPlacement, thread: ThreadObservation) -> ThreadFinding:
    finding = Finding(
        slug="thread-outside-cpus",
        severity=Severity.ERROR,
        expected=f"CPUs {rank.cpus}",
        observed=f"thread {thread.tid} on CPUs {thread.cpus}",
    )
    return ThreadFinding(rank=rank.rank, finding=finding, threads=(thread,))


def _places(planned: Sequence[RankPlacement], topology: NodeTopology) -> dict[int, CpuSet]:
    """Return the PUs that each rank has; an unbound one those that no bound one has, where there are any."""
    taken = reduce(or_, (rank.cpus for rank in planned if rank.cpus is not None), CpuSet())
    left = topology.usable - taken or topology.usable
    return {rank.rank: left if rank.cpus is None else rank.cpus for rank in planned}


def _computing(threads: Sequence[ThreadObservation]) -> tuple[ThreadObservation, ...]:
    least = max(_COMPUTES_TICKS, _COMPUTES_SHARE * max((thread.ticks for thread in threads), default=0))
    return tuple(thread for thread in threads if thread.ticks >= least)


def _sharing_pus(
    computing: Mapping[int, Sequence[ThreadObservation]], places: Mapping[int, CpuSet]
) -> Iterator[ThreadFinding]:
    """Yield each rank with a thread that is pinned to the PU of another rank's, while a PU of theirs has none.

    A thread is pinned where it may use one PU only. Ranks that were planned on the same PUs and fill them are not
    found: nothing could be better.
    """
    pinned: dict[int, dict[int, list[ThreadObservation]]] = {}
    for number, threads in computing.items():
        for thread in threads:
            if len(thread.cpus) == 1:
                pinned.setdefault(next(iter(thread.cpus)), {}).setdefault(number, []).append(thread)
    with_threads = CpuSet.of(pinned)
    for number in sorted(computing):
        mine = {pu: ranks for pu, ranks in pinned.items() if number in ranks and len(ranks) > 1}
        others = {other for ranks in mine.values() for other in ranks}
        free = reduce(or_, (places[other] for other in others), CpuSet()) - with_threads
        if mine and free:
            finding = Finding(
                slug="threads-share-pu",
                severity=Severity.WARNING,
                expected=f"a CPU of its own ({free} free)",
                observed=f"threads of ranks {CpuSet.of(others)} each pinned to CPU {CpuSet.of(mine)}",
            )
            threads = tuple(thread for ranks in mine.values() for thread in ranks[number])
            yield ThreadFinding(rank=number, finding=finding, threads=threads)


def _on_one_core(
    computing: Mapping[int, Sequence[ThreadObservation]], places: Mapping[int, CpuSet], topology: NodeTopology
) -> Iterator[ThreadFinding]:
    """Yield each rank that has several cores and several threads that compute, all of them in one of these cores."""
    for number, threads in computing.items():
        used = reduce(or_, (thread.cpus for thread in threads), CpuSet())
        if len(threads) > 1 and _n_cores(used, topology) == 1 < _n_cores(places[number], topology):
            finding = Finding(
                slug="threads-on-one-core",
                severity=Severity.WARNING,
                expected=f"threads on CPUs {places[number]}",
                observed=f"{len(threads)} threads that compute, all on CPUs {used}: one core",
            )
            yield ThreadFinding(rank=number, finding=finding, threads=tuple(threads))


def _n_cores(cpus: CpuSet, topology: NodeTopology) -> int:
    return sum(not core.cpus.isdisjoint(cpus) for core in topology.cores)


def pages_finding(planned: RankPlacement, topology: NodeTopology, seen: Observation) -> Finding | None:
    """Return the finding that most of a rank's memory is far from it; None where it is not, or nobody can say.

    Near are the domains that its CPUs are in, those that a memory policy names, and those without CPUs of their own
    (HBM, CXL, GPU memory): what is there was put there by a policy, the kernel's tiering or a driver.
    """
    near = CpuSet.of(planned.numa) | named_domains(planned.mem or "") | named_domains(seen.mem)
    far = CpuSet.of(domain.os_index for domain in topology.numa_domains if domain.local) - near
    with_memory = {domain.os_index for domain in topology.numa_domains if domain.memory_bytes and domain.allowed}
    if seen.pages is None or not planned.numa or with_memory.isdisjoint(near):
        return None
    remote = {domain: seen.pages.resident.get(domain, 0) - seen.pages.chosen.get(domain, 0) for domain in far}
    n_remote, n_all = sum(remote.values()), sum(seen.pages.resident.values())
    if n_remote < _FLOOR_BYTES or 2 * n_remote <= n_all:
        return None
    where = CpuSet.of(_most(remote))
    return Finding(
        slug="pages-remote",
        severity=Severity.WARNING,
        expected=f"memory in NUMA domains {near}",
        observed=f"{n_remote // _MIB} of {n_all // _MIB} MiB in NUMA domains {where}",
    )


def _most(n_bytes: Mapping[int, int]) -> Iterable[int]:
    return (domain for domain, size in n_bytes.items() if size)
