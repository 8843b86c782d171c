from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.devices import distance, near_cpus, nearest
from tests.topologies_made import made, with_caches, with_gpus

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology

NODE = made([[2, 2], [2, 2]])
"""Domain i has the PUs 2i and 2i + 1."""
FAR = ((10, 11, 20, 20), (11, 10, 20, 20), (20, 20, 10, 11), (20, 20, 11, 10))


def _given(topology: NodeTopology, *blocks: str, each: int = 1) -> tuple[tuple[int, ...], ...] | None:
    free = range(len(topology.gpus))
    return nearest(topology, topology.gpus, [CpuSet.parse(block) for block in blocks], each=each, free=free)


def test_each_block_has_the_gpu_that_is_close_to_it() -> None:
    """Whatever the order of the GPUs."""
    assert ((3,), (1,), (2,), (0,)) == _given(with_gpus(NODE, 3, 1, 2, 0), "0-1", "2-3", "4-5", "6-7")


def test_a_gpu_is_given_once() -> None:
    """The first block has the first one; those that are left go to those that are left."""
    assert ((0,), (1,)) == _given(with_gpus(NODE, 0, 0, 3), "0", "1")
    assert ((0,), (1,), (2,)) == _given(with_gpus(NODE, 0, 0, 3), "0", "1", "0-1")


def test_the_nearest_of_the_others_comes_next() -> None:
    """Without a GPU of its own a block has that of the shortest NUMA distance."""
    far = replace(with_gpus(NODE, 3, 1), distances=FAR)
    assert ((1,),) == _given(far, "0-1")
    assert ((0,), (1,)) == _given(far, "4-5", "0-1")


def test_no_block_takes_what_another_is_closer_to() -> None:
    """The closest pairs go first, not the first blocks."""
    assert ((1,), (0,)) == _given(replace(with_gpus(NODE, 1, 3), distances=FAR), "0-1", "2-3")


def test_a_gpu_of_its_own_goes_before_one_of_many() -> None:
    """Of several that are close the one that is close to the fewest CPUs."""
    shared = with_caches(with_gpus(NODE, 0, 0), 3, [2] * 4)
    wide = replace(shared.gpus[0], cpus=CpuSet.parse("0-3"))
    assert ((1,),) == _given(replace(shared, gpus=(wide, shared.gpus[1])), "0-1")


@pytest.mark.parametrize(("each", "expected"), [(2, ((0, 2), (1, 3))), (1, ((0,), (1,)))])
def test_blocks_have_so_many_gpus(each: int, expected: tuple[tuple[int, ...], ...] | None) -> None:
    """In ascending order."""
    assert expected == _given(with_gpus(NODE, 0, 2, 0, 2), "0-1", "4-5", each=each)


def test_gpus_of_others_are_not_given() -> None:
    """Only those that are free."""
    node = with_gpus(NODE, 0, 0, 2)
    assert ((1,), (2,)) == nearest(node, node.gpus, [CpuSet.parse("0"), CpuSet.parse("1")], each=1, free=[1, 2])
    assert nearest(node, node.gpus, [CpuSet.parse("0"), CpuSet.parse("1")], each=1, free=[1]) is None


def test_gpus_that_are_nowhere_are_given_in_order() -> None:
    """Where nobody knows what is close, numbers decide."""
    assert ((0,), (1,)) == _given(with_gpus(NODE, None, None), "4-5", "0-1")
    assert ((1,), (0,)) == _given(with_gpus(NODE, None, 2), "4-5", "0-1")


def test_a_gpu_of_which_only_the_domain_is_known_is_near_its_package() -> None:
    """Without NUMA distances: nearer to the other domain of its own package than to another package."""
    node = with_gpus(NODE, 0)
    numa_only = replace(node, gpus=(replace(node.gpus[0], cpus=CpuSet()),))
    for one in (node, numa_only):
        blocks = (CpuSet.parse(block) for block in ("0-1", "2-3", "4-5"))
        assert [1, 20, 40] == [distance(one, one.gpus[0], block) for block in blocks]


def test_a_device_is_close_to_its_own_cpus_or_to_those_of_its_domains() -> None:
    """The latter too where others have all of its own; nobody knows it of one without either."""
    node = with_gpus(NODE, 0, 1, None)
    own, numa_only, unknown = node.gpus
    own = replace(own, cpus=CpuSet.of([0]))
    numa_only = replace(numa_only, cpus=CpuSet())
    assert ["0", "2-3", ""] == [str(near_cpus(node, gpu)) for gpu in (own, numa_only, unknown)]
    assert ["0", "0-1"] == [str(near_cpus(node, own, among=CpuSet.parse(cpus))) for cpus in ("0-7", "1-7")]
