from __future__ import annotations

from typing import Any

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError
from rankmap.runtime.live import live_allocation
from rankmap.topology import Node
from tests.topologies_made import made

HOST = made([[2], [2]])


def node(name: str = "localhost", cpus: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
    """Return a node as Dragon reports it."""
    return {"name": name, "cpus": cpus, "gpus": (), "gpu_variable": ""}


def test_the_host_has_its_own_name_and_dragons_is_kept_beside_it() -> None:
    """On one node Dragon says "localhost"; plan and report say what it is called."""
    allocation, names = live_allocation([node()], host="vm", topology=HOST, environ={})
    assert names == {"vm": "localhost"}
    assert allocation.nodes == (Node(host="vm", shape_index=0, gpu_ids=()),)
    assert allocation.topology(0) == HOST


@pytest.mark.parametrize(
    ("dragon", "hwloc", "usable"), [((1, 2), "0-3", "1-2"), ((0, 1, 2, 3), "2-3", "2-3"), ((0, 1, 99), "1-3", "1")]
)
def test_usable_is_what_both_offer(dragon: tuple[int, ...], hwloc: str, usable: str) -> None:
    """What only one of them knows is not planned on, and still shown as present."""
    topology = HOST.restricted(CpuSet.parse(hwloc))
    allocation, _ = live_allocation([node(cpus=dragon)], host="vm", topology=topology, environ={})
    assert (usable, HOST.present) == (str(allocation.topology(0).usable), allocation.topology(0).present)


def test_nothing_in_common_is_refused_with_both_lists() -> None:
    """A plan without CPUs is none."""
    with pytest.raises(AllocationError) as caught:
        live_allocation([node(cpus=(8, 9))], host="vm", topology=HOST, environ={})
    assert caught.value.message == "vm: Dragon may use CPUs 8-9, hwloc allows 0-3: none in common"


def test_a_runtime_of_several_nodes_is_refused_by_name() -> None:
    """Until rankmap launches on several, it says so."""
    with pytest.raises(AllocationError) as caught:
        live_allocation([node("n0"), node("n1")], host="n0", topology=HOST, environ={})
    assert "2 nodes (n0, n1)" in caught.value.message
    assert caught.value.hint
