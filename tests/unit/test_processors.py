from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.layout_parts import Level, ReservePer
from rankmap.processors import Ground, ground
from rankmap.topology import LogicalIndex, NodeTopology, NumaDomain, OsIndex
from tests.topologies_made import interleaved, made, with_caches, with_dies, with_kinds

NODE = made([[2], [2]], smt=2, number=interleaved(4))


def _texts(topology: NodeTopology, reserve: str = "", only: str = "") -> list[list[str]]:
    found = ground(topology, reserve=CpuSet.parse(reserve), only=CpuSet.parse(only))
    return [[str(core.cpus) for core in domain] for domain in found.domains]


def _cpus(found: Ground) -> list[str]:
    return [str(processor.cpus) for processor in found.processors]


def test_a_core_has_all_its_pus() -> None:
    """Cores come by domain in logical order with all PUs, however Linux numbers them."""
    assert _texts(NODE) == [["0,4", "1,5"], ["2,6", "3,7"]]


def test_only_usable_pus_count() -> None:
    """A core keeps its usable PUs; one without any is not there, nor is a domain without cores."""
    assert _texts(made([[2], [2]], smt=2, number=interleaved(4), usable=CpuSet.parse("0-1,5"))) == [["0", "1,5"]]


def test_a_reserved_pu_takes_its_core_out() -> None:
    """Nobody runs on the sibling of a reserved PU."""
    assert _texts(NODE, reserve="4") == [["1,5"], ["2,6", "3,7"]]


def test_only_the_cpus_of_a_list_count() -> None:
    """A PU that is not listed is as if it were not usable: its core keeps the others."""
    assert _texts(NODE, only="0,5-6") == [["0", "5"], ["6"]]


def test_domains_without_cpus_are_left_out() -> None:
    """Memory without CPUs has no ranks."""
    assert _texts(made([[2, 0], [1]], extra_memory=2)) == [["0", "1"], ["2"]]


def test_without_numa_domains_packages_stand_for_them() -> None:
    """A node whose NUMA domains are unknown is still not mixed up across packages."""
    assert _texts(made([[2], [2]], numa=False)) == [["0", "1"], ["2", "3"]]


def test_without_cores_every_pu_is_one() -> None:
    """PUs that belong to no core are placed one by one."""
    topology = replace(made([[2], [1]]), cores=())

    assert _texts(topology) == [["0", "1"], ["2"]]
    assert _texts(topology, reserve="1") == [["0"], ["2"]]


def test_the_smallest_domain_is_a_cores_home() -> None:
    """Where memories nest, the closest one decides."""
    topology = made([[2, 2]])
    wide = NumaDomain(
        os_index=OsIndex(9), logical_index=LogicalIndex(2), cpus=topology.present, memory_bytes=1, subtype="NVM"
    )

    assert _texts(replace(topology, numa_domains=(*topology.numa_domains, wide))) == [["0", "1"], ["2", "3"]]


def test_numa_of_names_the_local_domains() -> None:
    """CPUs lie in the domains whose local CPUs they are."""
    topology = made([[2], [2]], extra_memory=1)

    assert topology.numa_of(CpuSet.parse("0-1")) == (0,)
    assert topology.numa_of(CpuSet.parse("1-2")) == (0, 1)


def test_hardware_threads_are_processors_where_asked() -> None:
    """Each PU is one, those of a core after each other, and all know their core."""
    found = ground(NODE, threads=True)

    assert _cpus(found) == ["0", "4", "1", "5", "2", "6", "3", "7"]
    assert found.objects(Level.CORE) == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert found.objects(Level.HWTHREAD) == tuple((i,) for i in range(8))


@pytest.mark.parametrize(("threads", "expected"), [(False, ["0", "1", "2", "3"]), (True, ["0", "1", "2", "3"])])
def test_smt_keeps_the_first_pus_of_each_core(threads: bool, expected: list[str]) -> None:  # noqa: FBT001 - a table
    """--smt 1 is one PU of each core, whatever a processor is."""
    assert expected == _cpus(ground(NODE, smt=1, threads=threads))


def test_smt_beyond_what_there_is_keeps_all() -> None:
    """A core with fewer PUs is used as it is."""
    assert _cpus(ground(NODE)) == _cpus(ground(NODE, smt=3))


@pytest.mark.parametrize(
    ("level", "count", "left", "kept"),
    [
        (Level.NUMA, 1, ["1", "2", "3", "5"], "0,4"),
        (Level.NUMA, 2, ["2", "3"], "0-1,4-5"),
        (Level.NODE, 1, ["1", "2", "3", "4", "5"], "0"),
        (Level.PACKAGE, 9, [], "0-5"),
        (Level.L3CACHE, 1, ["1", "3", "4", "5"], "0,2"),
        (Level.DIE, 1, ["0", "1", "2", "3", "4", "5"], ""),
    ],
)
def test_the_first_cores_of_each_object_are_kept_free(level: Level, count: int, left: list[str], kept: str) -> None:
    """--reserve-per takes them out; a core that lies in no such object stays."""
    topology = with_caches(made([[4], [2]]), 3, [2, 2])
    found = ground(topology, reserve_per=ReservePer(level=level, count=count))

    assert (left, kept) == (_cpus(found), str(found.reserved))


def test_reserved_per_object_counts_free_cores_only() -> None:
    """A core that --reserve keeps free is not one of the first free ones."""
    per = ReservePer(level=Level.NUMA, count=1)

    assert _cpus(ground(made([[3], [3]]), reserve=CpuSet.parse("0"), reserve_per=per)) == ["2", "4", "5"]


def test_objects_are_the_positions_of_their_processors() -> None:
    """Every level is found, in logical order; a processor outside of any object of a level is in none."""
    topology = with_dies(with_caches(with_caches(made([[2, 2], [2]]), 3, [4]), 2, [2, 2, 2]), [4, 2])
    found = ground(topology, reserve=CpuSet.parse("0"))

    assert _cpus(found) == ["1", "2", "3", "4", "5"]
    assert {level: found.objects(level) for level in Level} == {
        Level.HWTHREAD: ((0,), (1,), (2,), (3,), (4,)),
        Level.CORE: ((0,), (1,), (2,), (3,), (4,)),
        Level.L1CACHE: (),
        Level.L2CACHE: ((0,), (1, 2), (3, 4)),
        Level.L3CACHE: ((0, 1, 2),),
        Level.NUMA: ((0,), (1, 2), (3, 4)),
        Level.DIE: ((0, 1, 2), (3, 4)),
        Level.PACKAGE: ((0, 1, 2), (3, 4)),
        Level.NODE: ((0, 1, 2, 3, 4),),
    }


def test_within_is_all_of_the_objects() -> None:
    """Processors that lie in the same objects count; a chosen one that lies in none stands for itself."""
    found = ground(with_caches(made([[2], [2]]), 3, [2]))

    assert str(found.within([0], Level.L3CACHE)) == "0-1"
    assert str(found.within([2], Level.L3CACHE)) == "2"
    assert str(found.within([1, 2], Level.NUMA)) == "0-3"
    assert str(found.cpus([0, 3])) == "0,3"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((("2-3", 700, "E"), ("0-1", 1000, "P")), [0, 0, 1, 1]),
        ((("1-3", 5300, "5300 MHz"), ("0", 5500, "5500 MHz")), [0, 0, 0, 0]),
        ((("2-3", 5000, "IntelCore"), ("0-1", 5800, "IntelCore")), [0, 0, 0, 0]),
        ((("3", -1, ""), ("0-2", -1, "")), [0, 0, 0, 1]),
        ((("3", 300, ""), ("2", 600, ""), ("0-1", 1000, "")), [0, 0, 1, 2]),
    ],
)
def test_kinds_of_core_that_are_nearly_as_fast_are_one(
    kinds: tuple[tuple[str, int, str], ...], expected: list[int]
) -> None:
    """A kind counts how many are really faster: not favoured cores, nor kinds of the same name."""
    assert expected == [one.kind for one in ground(with_kinds(made([[4]]), *kinds)).processors]
