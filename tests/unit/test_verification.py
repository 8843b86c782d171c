from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.layout import LayoutSpec
from rankmap.observe import Observation, Pages, ThreadObservation
from rankmap.placement import LocalPlacement, NodeLayout, Part, Plan, PlannedNode
from rankmap.planner import plan
from rankmap.report import Severity, Verdict
from rankmap.requests import request
from rankmap.runs import Run
from rankmap.topology import Gpu
from rankmap.verification import SLUGS, verify
from tests.topologies_made import allocation, made, with_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

NODE = made([[2], [2]])
_NVIDIA = with_gpus(NODE, 0)
WITH_GPU = plan(
    allocation(replace(_NVIDIA, gpus=(replace(_NVIDIA.gpus[0], vendor="NVIDIA"),))),
    request(n_ranks=1, gpus_per_rank=1, mem_bind="bind:0"),
)
TWO_NODES = plan(allocation(NODE, NODE), LayoutSpec(ranks_per_node=2))


def as_planned(made_plan: Plan) -> dict[int, Observation]:
    """Return what would be seen if every rank were where the plan says, with one thread."""
    return {
        rank.rank: Observation(
            rank=rank.rank,
            host=rank.host,
            pid=100 + rank.rank,
            cpus=rank.cpus or CpuSet(),
            threads=(ThreadObservation(tid=100 + rank.rank, cpus=rank.cpus or CpuSet()),),
        )
        for rank in made_plan.iter_ranks()
    }


def slugs(made_plan: Plan, seen: Mapping[int, Observation]) -> list[tuple[int, str]]:
    """Return (rank, slug) of every finding."""
    return [(rank.rank, finding.slug) for rank in verify(made_plan, seen).ranks for finding in rank.findings]


def test_ranks_that_are_where_they_should_be_match() -> None:
    """No finding is a match, and planned and observed say the same."""
    report = verify(TWO_NODES, as_planned(TWO_NODES))
    assert (Verdict.MATCH, []) == (report.verdict, slugs(TWO_NODES, as_planned(TWO_NODES)))
    assert report.ranks[3].planned == {"host": "n1", "cpus": [2, 3], "numa": [1], "gpus": [], "mem": None}
    assert report.ranks[3].observed == {
        "host": "n1",
        "pid": 103,
        "cpus": [2, 3],
        "numa": [1],
        "gpus": [],
        "mem": None,
        "threads": 1,
        "thread_cpus": [None],
        "pages": None,
    }


@pytest.mark.parametrize(
    ("cpus", "numa"), [("2", [1]), ("2-4", [1]), ("1-2", [0, 1]), ("0", [0]), ("0-1", [0]), ("9", [])]
)
def test_other_cpus_than_planned_are_an_error(cpus: str, numa: list[int]) -> None:
    """Fewer, more and other CPUs all differ: rank 1 of the plan has 2-3."""
    seen = as_planned(TWO_NODES)
    seen[1] = replace(seen[1], cpus=CpuSet.parse(cpus))
    report = verify(TWO_NODES, seen)
    (finding,) = report.ranks[1].findings
    assert (finding.slug, finding.severity) == ("cpus-differ", Severity.ERROR)
    assert (finding.expected, finding.observed) == ("CPUs 2-3", f"CPUs {cpus}")
    assert report.verdict is Verdict.MISMATCH
    assert report.ranks[1].observed is not None
    assert numa == report.ranks[1].observed["numa"]


@pytest.mark.parametrize(
    ("seen_mem", "slugs_found"),
    [
        ("preferred:0-1", []),
        ("", []),
        ("preferred:0", ["memory-differs"]),
        ("bind:0-1", ["memory-differs"]),
        ("default", ["memory-differs"]),
    ],
)
def test_each_domain_of_a_memory_policy_counts(seen_mem: str, slugs_found: list[str]) -> None:
    """Domains that the kernel took out count (cpuset.mems); a policy that nobody could read does not."""
    preferring = plan(allocation(NODE), request(n_ranks=1, mem_bind="preferred:0-1"))
    seen = {0: replace(as_planned(preferring)[0], mem=seen_mem)}
    assert slugs_found == [slug for _, slug in slugs(preferring, seen)]


def test_another_host_than_planned_is_an_error() -> None:
    """Equal CPU numbers on the wrong host do not make a match."""
    seen = as_planned(TWO_NODES)
    seen[0] = replace(seen[0], host="n1")
    (finding,) = verify(TWO_NODES, seen).ranks[0].findings
    assert (finding.slug, finding.expected, finding.observed) == ("host-differs", "n0", "n1")


def test_each_thread_outside_is_named() -> None:
    """A thread may use fewer CPUs than its rank, and none that are not the rank's."""
    seen = as_planned(TWO_NODES)
    threads = tuple(ThreadObservation(tid=tid, cpus=CpuSet.parse(cpus)) for tid, cpus in ((7, "0"), (8, "1-2")))
    seen[0] = replace(seen[0], threads=threads)
    (finding,) = verify(TWO_NODES, seen).ranks[0].findings
    assert (finding.slug, finding.observed) == ("thread-outside-cpus", "thread 8 on CPUs 1-2")


def test_a_rank_that_ended_before_it_was_looked_at_again_still_matches() -> None:
    """No threads seen is no finding: the CPUs were read in the rank itself."""
    seen = {rank: replace(seen, threads=()) for rank, seen in as_planned(TWO_NODES).items()}
    assert verify(TWO_NODES, seen).verdict is Verdict.MATCH


def test_a_rank_that_was_not_looked_at_never_counts_as_a_match() -> None:
    """What is missing among the observations is unobserved, with a warning, and so is the job."""
    seen = as_planned(TWO_NODES)
    del seen[2]
    report = verify(TWO_NODES, seen)
    assert (report.verdict, report.ranks[2].verdict) == (Verdict.UNOBSERVED, Verdict.UNOBSERVED)
    assert report.ranks[2].observed is None
    (finding,) = report.ranks[2].findings
    assert (finding.slug, finding.severity, finding.expected) == ("unobserved", Severity.WARNING, "on n1")
    assert verify(TWO_NODES, {}).verdict is Verdict.UNOBSERVED


def test_a_rank_that_is_not_bound_may_be_anywhere_on_its_host() -> None:
    """Without planned CPUs only the host is compared, and the report says null."""
    unbound = Plan(
        allocation=TWO_NODES.allocation,
        parts=(Part(spec=LayoutSpec(n_ranks=1), n_ranks=1),),
        layouts=(NodeLayout(shape_index=0, ranks=(LocalPlacement(cpus=None),)),),
        nodes=(PlannedNode(node_index=0, layout_index=0, runs=(Run(first=0, size=1),)),),
    )
    threads = (ThreadObservation(tid=1, cpus=CpuSet(1)),)
    seen = Observation(rank=0, host="n0", pid=1, cpus=CpuSet.parse("0-3"), threads=threads)
    report = verify(unbound, {0: seen})
    assert (Verdict.MATCH, None) == (report.verdict, report.ranks[0].planned["cpus"])
    assert [(0, "host-differs")] == slugs(unbound, {0: replace(seen, host="n1")})


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, ["0", "3"]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["1"]),
    ],
)
def test_gpus_are_those_that_the_variable_names(variables: dict[str, str], gpus: list[str] | None) -> None:
    """No variable is null (all GPUs), an empty one is none; on a node without GPUs none is none."""
    for node, expected in ((replace(NODE, gpus=(Gpu(pci_address="0000:01:00.0"),)), gpus), (NODE, gpus or [])):
        one = plan(allocation(node), LayoutSpec(n_ranks=1))
        seen = {0: replace(as_planned(one)[0], variables=variables)}
        observed = verify(one, seen).ranks[0].observed
        assert observed is not None
        assert expected == observed["gpus"]


def test_domains_without_cpus_are_in_no_rank() -> None:
    """Memory of a card or a CXL device is not where a rank runs."""
    node = made([[1], [1]], extra_memory=2)
    one = plan(allocation(node), LayoutSpec(n_ranks=1))
    observed = verify(one, as_planned(one)).ranks[0].observed
    assert observed is not None
    assert observed["numa"] == [0, 1]


def test_services_are_passed_on() -> None:
    """Where Dragon's own processes run is part of the report."""
    services = [{"pid": 1, "name": "Dragon runtime", "cpus": [0], "idle": False}]
    assert verify(TWO_NODES, {}, services=services).services == tuple(services)


def test_what_only_says_the_order_of_gpus_is_no_mask() -> None:
    """A rank with these variables sees all that there are."""
    orders = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}
    seen = {0: replace(as_planned(WITH_GPU)[0], variables=orders)}
    assert (verify(WITH_GPU, seen).ranks[0].observed or {})["gpus"] is None


def test_other_gpus_than_planned_are_an_error() -> None:
    """Another value, or none; before the application is started nothing is said."""
    seen = as_planned(WITH_GPU)
    assert Verdict.MATCH is verify(WITH_GPU, seen).verdict
    own = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for variables, found in (
        ({**own, "CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES=1"),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "no CUDA_VISIBLE_DEVICES"),
    ):
        (finding,) = verify(WITH_GPU, {0: replace(seen[0], variables=variables)}).ranks[0].findings
        assert ("gpus-differ", "CUDA_VISIBLE_DEVICES=0", found) == (finding.slug, finding.expected, finding.observed)
    report = verify(WITH_GPU, {0: replace(seen[0], variables=own)})
    assert Verdict.MATCH is report.verdict
    assert (report.ranks[0].observed or {})["gpus"] == report.ranks[0].planned["gpus"] == ["0"]


def test_a_variable_that_the_plan_does_not_set_may_show_other_gpus() -> None:
    """Of another API, for a rank with GPUs of its own."""
    own = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "HIP_VISIBLE_DEVICES": "3"}
    (finding,) = verify(WITH_GPU, {0: replace(as_planned(WITH_GPU)[0], variables=own)}).ranks[0].findings
    assert ("gpus-differ", "no HIP_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES=3") == (
        finding.slug,
        finding.expected,
        finding.observed,
    )
    one = plan(allocation(NODE), LayoutSpec(n_ranks=1))
    assert [] == slugs(one, {0: replace(as_planned(one)[0], variables=own)})


def test_another_value_of_a_planned_variable_is_an_error() -> None:
    """Another one, or none; before the application is started nothing is said."""
    one = plan(allocation(NODE), LayoutSpec(n_ranks=1, threads_per_rank=2))
    (seen,) = as_planned(one).values()
    assert Verdict.MATCH is verify(one, {0: seen}).verdict
    own = dict(one.ranks[0].env)
    assert Verdict.MATCH is verify(one, {0: replace(seen, variables=own)}).verdict
    (finding,) = verify(one, {0: replace(seen, variables={**own, "OMP_PLACES": "cores"})}).ranks[0].findings
    assert ("variables-differ", f"OMP_PLACES={own['OMP_PLACES']}", "OMP_PLACES=cores") == (
        finding.slug,
        finding.expected,
        finding.observed,
    )
    del own["OMP_PROC_BIND"]
    (finding,) = verify(one, {0: replace(seen, variables=own)}).ranks[0].findings
    assert "no OMP_PROC_BIND" == finding.observed


def test_another_memory_policy_than_planned_is_an_error() -> None:
    """Found while the rank runs; before that nothing is known."""
    (one,) = as_planned(WITH_GPU).values()
    (finding,) = verify(WITH_GPU, {0: replace(one, mem="interleave:0")}).ranks[0].findings
    assert ("memory-differs", "bind:0", "interleave:0") == (finding.slug, finding.expected, finding.observed)
    for mem, observed in (("", None), ("bind:0", "bind:0")):
        report = verify(WITH_GPU, {0: replace(one, mem=mem)})
        assert (Verdict.MATCH, observed) == (report.verdict, (report.ranks[0].observed or {})["mem"])


def test_where_threads_and_memory_are_is_in_the_report() -> None:
    """The CPU that each thread last ran on, in the order of threads, and bytes by NUMA domain."""
    seen = as_planned(TWO_NODES)
    threads = tuple(ThreadObservation(tid=tid, cpus=CpuSet.parse("0-1"), last_cpu=cpu) for tid, cpu in ((7, 1), (9, 0)))
    seen[0] = replace(seen[0], threads=threads, pages=Pages(resident={1: 4096, 0: 8192}, chosen={}))
    observed = verify(TWO_NODES, seen).ranks[0].observed
    assert observed is not None
    assert (2, [1, 0], {"0": 8192, "1": 4096}) == tuple(observed[key] for key in ("threads", "thread_cpus", "pages"))


def test_a_warning_does_not_spoil_a_match() -> None:
    """What the plan allows and costs time all the same."""
    seen = as_planned(TWO_NODES)
    threads = tuple(ThreadObservation(tid=tid, cpus=CpuSet(1), ticks=99) for tid in (1, 2))
    seen[0] = replace(seen[0], threads=threads)
    report = verify(TWO_NODES, seen)
    assert (Verdict.MATCH, [(0, "threads-on-one-core")]) == (report.verdict, slugs(TWO_NODES, seen))
    assert [(0, Severity.WARNING)] == [(rank, finding.severity) for rank, finding in report.warnings()]


def test_every_slug_that_is_found_is_listed() -> None:
    """SLUGS is complete, and says of each what it means."""
    seen = as_planned(TWO_NODES)
    elsewhere = CpuSet.parse("3")
    threads = (ThreadObservation(tid=1, cpus=elsewhere),)
    seen[0] = replace(seen[0], host="n9", cpus=elsewhere, threads=threads)
    del seen[1]
    devices = slugs(WITH_GPU, {0: replace(as_planned(WITH_GPU)[0], variables={}, mem="default")})
    threaded = plan(allocation(NODE), LayoutSpec(n_ranks=1, threads_per_rank=1))
    others = slugs(threaded, {0: replace(as_planned(threaded)[0], variables={})})
    busy = tuple(ThreadObservation(tid=tid, cpus=CpuSet(1), ticks=99) for tid in (1, 2))
    far = Pages(resident={1: 64 << 20}, chosen={})
    shared = plan(allocation(NODE), request(n_ranks=4, map_by="numa", bind_to="numa"))
    crowded = {rank: replace(one, threads=busy, pages=far) for rank, one in as_planned(shared).items()}
    assert set(SLUGS) == {slug for _, slug in (*slugs(TWO_NODES, seen), *devices, *others, *slugs(shared, crowded))}
    assert all(SLUGS.values())
