"""Unit tests of rankmap.odd_nodes: nodes that are otherwise than most, in words, refused or left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError
from rankmap.odd_nodes import drop_odd, odd_nodes, require_equal
from rankmap.topology import Allocation, NodeTopology
from tests.topologies_made import GIB, interleaved, made, with_caches, with_gpus, with_nics

NODE = with_nics(with_gpus(with_caches(made([[4], [4]], smt=2, number=interleaved(8)), 3, [4, 4]), 0, 0, 1, 1), 0, 1)
NODE = replace(NODE, memory_bytes=512 * GIB)


def of(*shapes: NodeTopology) -> Allocation:
    """Return the allocation of x1, x2, ... of these."""
    return Allocation.of(tuple((f"x{i}", shape) for i, shape in enumerate(shapes, start=1)))


def less(node: NodeTopology, cpus: str) -> NodeTopology:
    """Return the node without these CPUs to use."""
    return node.restricted(node.present - CpuSet.parse(cpus))


def remarks(*shapes: NodeTopology) -> list[str]:
    """Return what is said of such nodes."""
    return [one.remark for one in odd_nodes(of(*shapes))]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (less(NODE, "0,8"), "7 usable cores, its 2 peers have 8"),
        (less(NODE, "8-15"), "CPUs per core: 1, its 2 peers have 2"),
        (less(NODE, "8"), "CPUs per core: 1 or 2, its 2 peers have 2"),
        (replace(NODE, gpus=NODE.gpus[:3]), "3 GPUs, its 2 peers have 4"),
        (replace(NODE, gpus=()), "0 GPUs, its 2 peers have 4"),
        (replace(NODE, gpus=tuple(replace(gpu, model="B") for gpu in NODE.gpus)), "GPUs: 4 x B, its 2 peers have none"),
        (replace(NODE, nics=NODE.nics[1:]), "1 NIC, its 2 peers have 2"),
        (replace(NODE, memory_bytes=256 * GIB), "256 GiB of memory, its 2 peers have 512 GiB"),
        (replace(NODE, memory_bytes=544 * GIB), "544 GiB of memory, its 2 peers have 512 GiB"),
        (
            with_caches(replace(NODE, caches=()), 3, [2, 2, 2, 2]),
            "L3 caches: 4 x 1024 KiB, its 2 peers have 2 x 1024 KiB",
        ),
        (replace(NODE, caches=()), "L3 caches: none, its 2 peers have 2 x 1024 KiB"),
        (replace(NODE, numa_domains=NODE.numa_domains[:1]), "1 NUMA domain, its 2 peers have 2"),
        (NODE.restricted_memory(CpuSet.parse("1")), "memory allowed in NUMA domains: 1, its 2 peers have 0-1"),
        (
            replace(NODE, packages=tuple(replace(package, model="New") for package in NODE.packages)),
            "processors: 2 x New, its 2 peers have 2 x Made",
        ),
        (
            replace(NODE, gpus=tuple(replace(gpu, cpus=CpuSet(1)) for gpu in NODE.gpus)),
            "; ".join(
                f"GPU {i}: close to CPUs {cpus} as on others, to 0 here"
                for i, cpus in enumerate(["0-3,8-11"] * 2 + ["4-7,12-15"] * 2)
            ),
        ),
        (
            replace(made([[4]]), memory_bytes=0),
            (
                "4 usable cores, its 2 peers have 8; 1 package, not 2; 1 NUMA domain, not 2; "
                "L3 caches: none, not 2 x 1024 KiB; 0 GPUs, not 4; 0 NICs, not 2; processors: 1 x Made, not 2 x Made"
            ),
        ),
    ],
)
def test_what_is_odd_is_said_with_numbers(odd: NodeTopology, said: str) -> None:
    """Of the node and of its peers."""
    assert [f"node x2: {said}"] == remarks(NODE, odd, NODE)


def test_the_same_oddity_is_one_remark() -> None:
    """Nodes that are odd alike fold; one peer is no peers; other CPUs of equal number are odd too."""
    odd = less(NODE, "0,8")
    assert ["nodes x[2,4]: 7 usable cores, their 3 peers have 8"] == remarks(NODE, odd, NODE, odd, NODE)
    assert ["node x2: 7 usable cores, its peer has 8"] == remarks(NODE, odd)
    assert ["node x3: numbers of usable CPUs: 0-6,8-14, its 2 peers have 1-7,9-15"] == remarks(
        odd, odd, less(NODE, "7,15")
    )
    small, smaller = less(NODE, "0-1,8-9"), less(NODE, "0-2,8-10")
    assert ["node x1: 5 usable cores, its 2 peers have 8", "node x3: 6 usable cores, its 2 peers have 8"] == remarks(
        smaller, NODE, small, NODE
    )


def test_what_placements_do_not_depend_on_is_not_odd() -> None:
    """Memory within 5 %, and where devices are plugged in; such nodes are peers."""
    nearly = replace(NODE, memory_bytes=500 * GIB)
    elsewhere = replace(NODE, gpus=tuple(replace(gpu, pci_address="0001:00:00.0") for gpu in NODE.gpus))
    assert [] == remarks(NODE, nearly, elsewhere)
    assert ["node x1: 7 usable cores, its 3 peers have 8"] == remarks(less(NODE, "0,8"), NODE, nearly, elsewhere)


def test_unequal_nodes_are_refused_on_request() -> None:
    """By name, with what is odd and what to do; equal ones are not."""
    require_equal(of(NODE, NODE))
    with pytest.raises(AllocationError) as refused:
        require_equal(of(NODE, less(NODE, "0,8"), NODE, replace(NODE, gpus=())))
    assert refused.value.message == (
        "--require-equal: 2 of 4 nodes are not as the others:\n"
        "  node x2: 7 usable cores, its 2 peers have 8\n"
        "  node x4: 0 GPUs, its 2 peers have 4"
    )
    assert "--drop-odd" in refused.value.hint
    with pytest.raises(AllocationError, match="1 of 3 nodes is not as the others"):
        require_equal(of(NODE, less(NODE, "0,8"), NODE))


def test_of_two_nodes_that_differ_nobody_knows_which_is_odd() -> None:
    """The first is what the other is compared with, both are said; two of each are no other matter."""
    less_cores, other_cpus = less(NODE, "0,8"), less(NODE, "7,15")
    assert ["node x2: 8 usable cores, its peer has 7"] == remarks(less_cores, NODE)
    assert ["node x2: numbers of usable CPUs: 0-6,8-14, its peer has 1-7,9-15"] == remarks(less_cores, other_cpus)
    assert ["nodes x[3-4]: 7 usable cores, their 2 peers have 8"] == remarks(NODE, NODE, less_cores, less_cores)
    with pytest.raises(AllocationError) as refused:
        require_equal(of(NODE, less_cores))
    assert refused.value.message == (
        "--require-equal: 1 of 2 nodes is not as the other:\n  node x2: 7 usable cores, its peer has 8"
    )
    with pytest.raises(AllocationError) as refused:
        drop_odd(of(NODE, less_cores), 2)
    assert refused.value.message == (
        "2 equal nodes are asked for: of 2 nodes, no two are equal\n  node x2: 7 usable cores, its peer has 8"
    )
    assert ["x1"] == [node.host for node in drop_odd(of(less_cores, NODE)).nodes]


def test_odd_nodes_are_left_out() -> None:
    """They go first, then the last ones, so that as many are left as asked for; order and shapes stay."""
    nodes = of(less(NODE, "0,8"), NODE, NODE, replace(NODE, gpus=()), NODE)
    assert ["x2", "x3", "x5"] == [node.host for node in drop_odd(nodes).nodes]
    left = drop_odd(nodes, 2)
    assert (["x2", "x3"], (NODE,)) == ([node.host for node in left.nodes], left.shapes)
    assert left.topology(1) == NODE


def test_too_few_equal_nodes_are_refused_with_numbers() -> None:
    """How many were asked for, how many there are, how many are equal, and what about the others."""
    nodes = of(NODE, less(NODE, "0,8"), NODE)
    with pytest.raises(AllocationError) as refused:
        drop_odd(nodes, 3)
    assert refused.value.message == (
        "3 equal nodes are asked for: of 3 nodes, 2 are equal\n  node x2: 7 usable cores, its 2 peers have 8"
    )
    assert "--nodes" in refused.value.hint
