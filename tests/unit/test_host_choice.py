"""Unit tests of rankmap.runtime.host_choice: which of the hosts that were looked at a job uses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, UsageError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.host_choice import HostChoice, chosen
from rankmap.runtime.host_facts import HostFacts
from tests.topologies_made import GIB, made

if TYPE_CHECKING:
    from rankmap.placement import Plan
    from rankmap.topology import Allocation, NodeTopology

NODE = made([[4]])
ODD = NODE.restricted(CpuSet.parse("1-3"))


class Job:
    """A job on hosts n0, n1, ... of these shapes."""

    def __init__(self, *shapes: NodeTopology, **choice: object) -> None:
        self.facts = [
            HostFacts(name=f"n{i}", own_name=f"own{i}", topology=shape, paths=("/bin/true",))
            for i, shape in enumerate(shapes)
        ]
        self.choice = HostChoice(**choice)  # type: ignore[arg-type]
        self.said: list[str] = []
        self.planned: list[str] = []

    def plan_for(self, allocation: Allocation) -> Plan:
        """Plan a rank for each node."""
        self.planned = [node.host for node in allocation.nodes]
        return plan(allocation, request(ranks_per_node=1))

    def used(self) -> list[str]:
        """Return the names of the hosts that it uses, which are those that were planned for."""
        used = chosen(self.facts, self.choice, self.plan_for, self.said.append)
        assert all(one in self.facts for one in used)
        assert self.planned == [one.name for one in used]
        return self.planned

    def refusal(self) -> str:
        """Return why it is refused, which is before there is a plan."""
        with pytest.raises(AllocationError) as refused:
            self.used()
        assert refused.value.hint
        assert [] == self.planned
        return refused.value.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n_nodes": 0}, "--nodes 0: a job has one node or more"),
        ({"n_nodes": -3, "n_spares": 1}, "--nodes -3: a job has one node or more"),
        ({"n_nodes": 2, "n_spares": -1}, "--spares -1: not a number of nodes"),
        ({"n_spares": 2}, "--spares 2 without --nodes"),
        ({"equal": True, "drop_odd": True}, "--require-equal and --drop-odd: odd nodes are either refused or left out"),
    ],
)
def test_what_does_not_go_together_is_refused(words: dict[str, int], message: str) -> None:
    """Before any host is looked at, for whoever asks: command line or API."""
    with pytest.raises(UsageError) as refused:
        HostChoice(**words)  # type: ignore[arg-type]
    assert message == refused.value.message
    assert refused.value.hint


def test_as_many_hosts_are_looked_at_as_are_used_and_spare() -> None:
    """All, where nobody says how many."""
    assert (None, 4, 6) == tuple(
        choice.n_looked_at for choice in (HostChoice(), HostChoice(n_nodes=4), HostChoice(n_nodes=4, n_spares=2))
    )


def test_all_hosts_are_used_and_what_is_odd_is_said() -> None:
    """A job may well be meant for unequal hosts."""
    job = Job(NODE, ODD, NODE)
    assert ["n0", "n1", "n2"] == job.used()
    assert ["node n1: 3 usable cores, its 2 peers have 4"] == job.said


@pytest.mark.parametrize(
    ("words", "used"),
    [
        ({"n_nodes": 2}, ["n0", "n1"]),
        ({"drop_odd": True}, ["n0", "n2", "n3"]),
        ({"n_nodes": 2, "drop_odd": True}, ["n0", "n2"]),
        ({"n_nodes": 3, "n_spares": 1}, ["n0", "n2", "n3"]),
        ({"n_nodes": 2, "n_spares": 2}, ["n0", "n2"]),
    ],
)
def test_the_first_so_many_are_used(words: dict[str, int], used: list[str]) -> None:
    """Without the odd ones where that is asked, or there are spares for them; they are said in all cases."""
    job = Job(NODE, ODD, NODE, NODE, **words)
    assert used == job.used()
    assert ["node n1: 3 usable cores, its 3 peers have 4"] == job.said


def test_spare_hosts_that_are_equal_are_left() -> None:
    """The last ones."""
    job = Job(NODE, NODE, NODE, n_nodes=2, n_spares=1)
    assert (["n0", "n1"], []) == (job.used(), job.said)


def test_too_few_hosts_are_refused() -> None:
    """With how many there are; of those that are odd what is odd."""
    assert "--nodes 3: there are 2" == Job(NODE, NODE, n_nodes=3).refusal()
    assert Job(NODE, ODD, n_nodes=2, n_spares=1).refusal() == (
        "2 equal nodes are asked for: of 2 nodes, no two are equal\n  node n1: 3 usable cores, its peer has 4"
    )


def test_odd_hosts_are_refused_on_request() -> None:
    """Equal ones are not, memory of a kernel's taste included."""
    message = Job(NODE, NODE, ODD, equal=True).refusal()
    assert message.startswith("--require-equal: 1 of 3 nodes is not as the others:\n  node n2: 3 usable cores")
    much = replace(NODE, memory_bytes=100 * GIB)
    job = Job(much, replace(much, memory_bytes=99 * GIB), equal=True)
    assert (["n0", "n1"], []) == (job.used(), job.said)


def test_what_does_not_fit_the_hosts_is_refused_by_the_plan() -> None:
    """Which is made here so that Dragon does not start for nothing."""
    job = Job(NODE, ODD)
    job.plan_for = lambda allocation: plan(allocation, request(hosts=("n7",)))  # type: ignore[method-assign]
    with pytest.raises(AllocationError, match="--hosts n7: not in the allocation"):
        job.used()
