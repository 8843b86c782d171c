from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.job import JobRequest
from rankmap.runtime.live import live_allocation, live_plan
from rankmap.topology import Node
from tests.topologies_made import made, with_gpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.placement import Plan
    from rankmap.topology import Allocation, NodeTopology

HOST = made([[2], [2]])
_GPUS = with_gpus(HOST, 0, 1)
TWO_GPUS = replace(_GPUS, gpus=tuple(replace(gpu, vendor="NVIDIA", token=str(i)) for i, gpu in enumerate(_GPUS.gpus)))
GPUS_OF = {"n0": (0,), "n1": (0, 1), "n2": (0,)}


def node(name: str = "localhost", cpus: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
    """Return a node as Dragon reports it."""
    return {"name": name, "cpus": cpus, "gpus": (), "gpu_variable": ""}


def facts(name: str = "vm", *, own_name: str = "", topology: NodeTopology = HOST) -> HostFacts:
    """Return a host as its agent, or the supervisor, has found it."""
    return HostFacts(name=name, own_name=own_name or name, topology=topology, paths=())


def test_the_host_has_its_own_name_and_dragons_is_kept_beside_it() -> None:
    """On one node Dragon says "localhost"; plan and report say what it is called."""
    allocation, names = live_allocation([node()], [facts()], environ={})
    assert names == {"vm": "localhost"}
    assert allocation.nodes == (Node(host="vm", shape_index=0, gpu_ids=()),)
    assert allocation.topology(0) == HOST


@pytest.mark.parametrize(
    ("dragon", "hwloc", "usable"), [((1, 2), "0-3", "1-2"), ((0, 1, 2, 3), "2-3", "2-3"), ((0, 1, 99), "1-3", "1")]
)
def test_usable_is_what_both_offer(dragon: tuple[int, ...], hwloc: str, usable: str) -> None:
    """What only one of them knows is not planned on, and still shown as present."""
    topology = HOST.restricted(CpuSet.parse(hwloc))
    allocation, _ = live_allocation([node(cpus=dragon)], [facts(topology=topology)], environ={})
    assert (usable, HOST.present) == (str(allocation.topology(0).usable), allocation.topology(0).present)


def test_nothing_in_common_is_refused_with_both_lists() -> None:
    """A plan without CPUs is none."""
    with pytest.raises(AllocationError) as caught:
        live_allocation([node(cpus=(8, 9))], [facts()], environ={})
    assert caught.value.message == "vm: Dragon may use CPUs 8-9, hwloc allows 0-3: none in common"


def test_each_host_has_the_node_of_its_own_name() -> None:
    """In the job's order, whatever Dragon's; where Dragon calls it by the user's name, that is as good."""
    hosts = [facts("a", own_name="a.site"), facts("b"), facts("c", own_name="other")]
    nodes = [node("c", (3,)), node("b", (0, 1)), node("a.site", (2,))]
    allocation, names = live_allocation(nodes, hosts, environ={})
    assert names == {"a": "a.site", "b": "b", "c": "c"}
    assert [("a", "2"), ("b", "0-1"), ("c", "3")] == [
        (one.host, str(allocation.topology(i).usable)) for i, one in enumerate(allocation.nodes)
    ]


def test_equal_hosts_are_of_one_shape() -> None:
    """A plan is as long as the shapes are many."""
    nodes = [node(name, cpus) for name, cpus in (("a", (0, 1)), ("b", (0, 1, 2)), ("c", (0, 1)))]
    allocation, _ = live_allocation(nodes, [facts(name) for name in "abc"], environ={})
    assert (2, [0, 1, 0]) == (len(allocation.shapes), [one.shape_index for one in allocation.nodes])


@pytest.mark.parametrize(
    ("nodes", "hosts", "said"),
    [
        (["n0", "n9"], ["n0", "n1"], "has 2 nodes (n[0,9]), the job 2 hosts: none for n1"),
        (["n0"], ["n0", "n1", "n2"], "has 1 nodes (n0), the job 3 hosts: none for n[1-2]"),
    ],
)
def test_a_runtime_of_other_hosts_than_the_jobs_is_refused(nodes: list[str], hosts: list[str], said: str) -> None:
    """With the names that the two have, and of those that are missing."""
    with pytest.raises(AllocationError) as caught:
        live_allocation([node(name) for name in nodes], [facts(name) for name in hosts], environ={})
    assert said in caught.value.message
    assert caught.value.hint


def job(plan_for: Callable[[Allocation], Plan]) -> JobRequest:
    """Return a request for this plan."""
    return JobRequest(
        plan_for=plan_for,
        applications_for=lambda _plan: (),
        backend="",
        drop_paths=(),
        reserve=CpuSet(),
        gpu_variables={},
        all_gpus=lambda _vendor: (),
    )


def test_a_plan_says_to_dragon_where_each_rank_starts() -> None:
    """In Dragon's names of the hosts, with all that they let us use for ranks that are not bound."""
    bound = job(lambda allocation: plan(allocation, request(ranks_per_node=1, cpus_per_rank=2)))
    hosts = [facts("a", own_name="a.site"), facts("b")]
    _, places, said = live_plan(bound, hosts, [node("b"), node("a.site")])
    assert ([("a.site", [0, 1], []), ("b", [0, 1], [])], []) == (places, said)
    free = job(lambda allocation: plan(allocation, request(ranks_per_node=1, bind_to="none")))
    _, places, _ = live_plan(free, hosts, [node("b", (1, 2)), node("a.site")])
    assert [("a.site", [0, 1, 2, 3], []), ("b", [1, 2], [])] == places


def test_what_is_to_be_said_of_gpus_is_said_once_for_all_hosts_that_it_is_true_of() -> None:
    """Folded, in front; on one host the host needs no name."""
    nodes = [{**node(name), "gpus": gpus, "gpu_variable": "CUDA_VISIBLE_DEVICES"} for name, gpus in GPUS_OF.items()]
    asked = job(lambda allocation: plan(allocation, request(gpus_per_rank=1)))
    hosts = [facts(name, topology=TWO_GPUS) for name in GPUS_OF]
    remark = "GPUs here: Dragon knows 1, hwloc 2; the first 1 are used, which both know"
    assert [f"n[0,2]: {remark}"] == live_plan(asked, hosts, nodes)[2]
    assert [remark] == live_plan(asked, hosts[:1], nodes[:1])[2]
