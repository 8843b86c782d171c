from __future__ import annotations

from dataclasses import replace

from rankmap.cpuset import CpuSet
from rankmap.mapping.cores import free_domains, numa_of
from rankmap.topology import LogicalIndex, NodeTopology, NumaDomain, OsIndex
from tests.topologies_made import interleaved, made


def _texts(topology: NodeTopology, reserve: str = "") -> list[list[str]]:
    domains = free_domains(topology, reserve=CpuSet.parse(reserve))
    return [[str(core.cpus) for core in domain] for domain in domains]


def test_a_core_has_all_its_pus() -> None:
    """Cores come by domain in logical order with all PUs, however Linux numbers them."""
    assert _texts(made([[2], [2]], smt=2, number=interleaved(4))) == [["0,4", "1,5"], ["2,6", "3,7"]]


def test_only_usable_pus_count() -> None:
    """A core keeps its usable PUs; one without any is not there, nor is a domain without cores."""
    assert _texts(made([[2], [2]], smt=2, number=interleaved(4), usable=CpuSet.parse("0-1,5"))) == [["0", "1,5"]]


def test_a_reserved_pu_takes_its_core_out() -> None:
    """Nobody runs on the sibling of a reserved PU."""
    assert _texts(made([[2], [2]], smt=2, number=interleaved(4)), reserve="4") == [["1,5"], ["2,6", "3,7"]]


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

    assert numa_of(topology, CpuSet.parse("0-1")) == (0,)
    assert numa_of(topology, CpuSet.parse("1-2")) == (0, 1)
