"""When threads and memory of running ranks are a finding, and when not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.observe import Observation, Pages, ThreadObservation
from rankmap.planner import plan
from rankmap.report import Severity
from rankmap.requests import request
from rankmap.running import pages_finding, thread_findings
from tests.topologies_made import allocation, interleaved, made

if TYPE_CHECKING:
    from rankmap.placement import Plan

MIB = 1 << 20
SMT = made([[2], [2]], smt=2, number=interleaved(4))  # cores 0,4 and 1,5 in domain 0; 2,6 and 3,7 in domain 1
BUSY = 200


def seen(rank: int, *threads: str, ticks: int = BUSY, ended: bool = False) -> Observation:
    """Return a rank with threads that may use these CPUs; ``"0*"`` is one that has hardly run."""
    return Observation(
        rank=rank,
        host="n0",
        pid=100 + rank,
        cpus=CpuSet.parse("0-7"),
        threads=tuple(
            ThreadObservation(tid=i, cpus=CpuSet.parse(cpus.rstrip("*")), ticks=9 if cpus.endswith("*") else ticks)
            for i, cpus in enumerate(threads)
        ),
        ended=ended,
    )


def found(made_plan: Plan, *ranks: Observation) -> list[tuple[int, str]]:
    """Return rank and slug of what is found about threads."""
    return [(one.rank, one.finding.slug) for one in thread_findings(made_plan, {rank.rank: rank for rank in ranks})]


def test_ranks_that_pin_themselves_to_one_cpu_are_found() -> None:
    """Unbound ranks, a runtime that binds by itself, and every rank of it believes that it is alone."""
    unbound = plan(allocation(SMT), request(n_ranks=3, bind_to="none"))
    ranks = [seen(0, "0"), seen(1, "0", "1"), seen(2, "2")]
    assert [(0, "threads-share-pu"), (1, "threads-share-pu")] == found(unbound, *ranks)
    (first, second) = thread_findings(unbound, {rank.rank: rank for rank in ranks})
    assert ("a CPU of its own (3-7 free)", "threads of ranks 0-1 each pinned to CPU 0") == (
        first.finding.expected,
        first.finding.observed,
    )
    assert (Severity.WARNING, (ranks[1].threads[0],)) == (second.finding.severity, second.threads)


def test_ranks_that_share_a_domain_and_one_cpu_of_it_are_found() -> None:
    """The plan has them on the same CPUs, and on more than one."""
    shared = plan(allocation(SMT), request(n_ranks=4, map_by="numa", bind_to="numa"))
    ranks = [seen(0, "0"), seen(1, "0"), seen(2, "2"), seen(3, "3")]
    assert [(0, "threads-share-pu"), (1, "threads-share-pu")] == found(shared, *ranks)


@pytest.mark.parametrize(
    "ranks",
    [
        [seen(0, "0"), seen(1, "1")],
        [seen(0, "0"), seen(1, "0-7")],
        [seen(0, "0,4"), seen(1, "0,4")],
        [seen(0, "0"), seen(1, "1", "0*")],
        [seen(0, "0"), seen(1, "0", ended=True)],
        [seen(0, *"01234567"), seen(1, *"01234567")],
        [seen(0), seen(1, "0")],
    ],
    ids=["apart", "one moves", "a core, not a CPU", "a helper sleeps", "one has ended", "all full", "not looked at"],
)
def test_what_is_no_sharing(ranks: list[Observation]) -> None:
    """Only threads that compute, that live, that can be on one CPU only, and that could be elsewhere."""
    unbound = plan(allocation(SMT), request(n_ranks=2, bind_to="none"))
    assert [] == found(unbound, *ranks)


def test_ranks_that_the_plan_puts_on_one_cpu_may_share_it() -> None:
    """Oversubscribed: there is no other CPU for them."""
    node = made([[2]])
    crowded = plan(allocation(node), request(n_ranks=4, oversubscribe=True))
    assert [] == found(crowded, *(seen(rank.rank, str(rank.cpus)) for rank in crowded.iter_ranks()))


def test_a_thread_outside_is_that_and_nothing_else() -> None:
    """The rank whose CPU it takes has done nothing."""
    bound = plan(allocation(made([[2]])), request(n_ranks=2))
    assert [(1, "thread-outside-cpus")] == found(bound, seen(0, "0"), seen(1, "0"))


def test_an_unbound_rank_has_what_the_bound_ones_leave() -> None:
    """Its CPUs are free only where no rank was planned."""
    both = plan(allocation(made([[2]])), request(n_ranks=1, cpus_per_rank=1), request(n_ranks=1, bind_to="none"))
    assert [(0, "threads-share-pu"), (1, "threads-share-pu")] == found(both, seen(0, "0"), seen(1, "0"))
    assert [] == found(both, seen(0, "0"), seen(1, "0", "1"))


def test_threads_that_all_compute_on_one_core_are_found() -> None:
    """Both hardware threads of it or one, while the rank has two cores."""
    bound = plan(allocation(SMT), request(n_ranks=2))
    assert [CpuSet.parse("0-1,4-5")] == [rank.cpus for rank in bound.ranks[:1]]
    for threads in (("0", "0"), ("0,4", "0,4"), ("0", "4"), ("0", "4", "0-1*")):
        rank = seen(0, *threads)
        (one,) = thread_findings(bound, {0: rank})
        assert ("threads-on-one-core", Severity.WARNING) == (one.finding.slug, one.finding.severity)
        assert "threads on CPUs 0-1,4-5" == one.finding.expected
        assert one.finding.observed.startswith("2 threads that compute, all on CPUs 0")
        assert one.threads == rank.threads[:2]


@pytest.mark.parametrize(
    "threads", [("0",), ("0", "0*"), ("0", "1"), ("0", "0-1"), ("0-1,4-5", "0-1,4-5"), ("0*", "0*"), ()]
)
def test_what_is_not_on_one_core(threads: tuple[str, ...]) -> None:
    """One thread, one with helpers that sleep, threads that may be elsewhere too, threads that just started."""
    assert [] == found(plan(allocation(SMT), request(n_ranks=2)), seen(0, *threads))


def test_a_helper_has_run_less_than_a_tenth_of_what_the_busiest_has() -> None:
    """After an hour, a thread that waits for messages has run for seconds, and is a helper all the same."""
    bound = plan(allocation(SMT), request(n_ranks=2))
    for ticks, expected in ((35_999, []), (36_000, [(0, "threads-on-one-core")])):
        threads = (seen(0, "0", ticks=360_000).threads[0], replace(seen(0, "0", ticks=ticks).threads[0], tid=1))
        assert expected == found(bound, replace(seen(0), threads=threads))


def test_a_rank_with_one_core_has_all_threads_on_it() -> None:
    """That is the plan."""
    assert [] == found(plan(allocation(SMT), request(n_ranks=4)), seen(0, "0", "0"))


def pages(made_plan: Plan, rank: int, mem: str = "default", chosen: int = 0, **domains: int) -> str:
    """Return what is found about a rank with so many MiB in each domain (``d0=64``), ``chosen`` of them in domain 1."""
    placement = made_plan.rank(rank)
    where = Pages(resident={int(name[1:]): mib * MIB for name, mib in domains.items()}, chosen={0: 0, 1: chosen * MIB})
    one = replace(seen(rank), mem=mem, pages=where)
    finding = pages_finding(placement, made_plan.allocation.topology(placement.node_index), one)
    assert finding is None or (finding.slug, finding.severity) == ("pages-remote", Severity.WARNING)
    return "" if finding is None else f"{finding.expected}; {finding.observed}"


def test_memory_that_is_mostly_elsewhere_is_found() -> None:
    """More than half of it, and 16 MiB at least."""
    bound = plan(allocation(made([[2], [2]])), request(n_ranks=2))
    found_there = "memory in NUMA domains 0; 65 of 129 MiB in NUMA domains 1"
    assert (found_there, "") == (pages(bound, 0, d0=64, d1=65), pages(bound, 0, d0=64, d1=64))
    assert ("", True) == (pages(bound, 0, d0=0, d1=15), "16 of 16" in pages(bound, 0, d1=16))
    assert "" == pages(bound, 1, d0=64, d1=65)


def test_memory_where_a_policy_says_is_not_remote() -> None:
    """The plan's, that of the process (numactl), that of a mapping (mbind)."""
    assert "" == pages(plan(allocation(SMT), request(n_ranks=2, mem_bind="bind:1")), 0, d1=64)
    fenced = SMT.restricted_memory(CpuSet.parse("1"))
    assert "" == pages(plan(allocation(fenced), request(n_ranks=2)), 0, d1=64)  # the rank's own is not allowed
    local = plan(allocation(SMT), request(n_ranks=2, mem_bind="local"))
    assert "" == pages(local, 0, mem="interleave:0-1", d0=32, d1=33)
    assert ("", True) == (pages(local, 0, chosen=32, d1=64), pages(local, 0, chosen=31, d1=64) != "")


def test_memory_without_cpus_is_nobodys() -> None:
    """HBM, CXL and GPU memory: a policy, the kernel or a driver has put the pages there."""
    bound = plan(allocation(made([[2], [2]], extra_memory=1)), request(n_ranks=2))
    assert "" == pages(bound, 0, d0=1, d2=64)


def test_nobody_says_where_the_memory_of_a_rank_belongs_that_may_be_anywhere() -> None:
    """Unbound ranks, ranks of all domains, domains that have no memory, and ranks that were not looked at."""
    node = made([[2], [2]])
    unbound = plan(allocation(node), request(n_ranks=2, bind_to="none"))
    assert "" == pages(unbound, 0, d1=64)
    whole = plan(allocation(node), request(n_ranks=1))
    assert "" == pages(whole, 0, d1=64)
    empty = replace(node, numa_domains=(replace(node.numa_domains[0], memory_bytes=0), node.numa_domains[1]))
    assert "" == pages(plan(allocation(empty), request(n_ranks=2)), 0, d1=64)
    assert pages_finding(whole.rank(0), node, seen(0, "0")) is None
