"""The one parser: what hwloc 2 XML says becomes a NodeTopology."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.discovery import hwloc
from rankmap.discovery.hwloc_xml import parse
from rankmap.errors import AllocationError

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.topology import NodeTopology


def synthetic(text: str) -> NodeTopology:
    """Return the machine of a synthetic description."""
    return parse(hwloc.synthetic_xml(text, os.environ), source=text)


def recorded(path: Path) -> NodeTopology:
    """Return the machine of an XML file."""
    return parse(hwloc.file_xml(path, os.environ), source=path.name)


def test_levels() -> None:
    """Packages, caches, domains, cores and PUs come out in topology order with their CPUs and both indices."""
    node = synthetic("pack:2 numa:1 l3:1(size=4194304) core:2 pu:2(indexes=2*4:1*2)")
    assert [str(package.cpus) for package in node.packages] == ["0-1,4-5", "2-3,6-7"]
    assert [(str(d.cpus), d.os_index) for d in node.numa_domains] == [("0-1,4-5", 0), ("2-3,6-7", 1)]
    assert [str(core.cpus) for core in node.cores] == ["0,4", "1,5", "2,6", "3,7"]
    assert [(pu.os_index, pu.logical_index) for core in node.cores[:2] for pu in core.pus] == [
        (0, 0),
        (4, 1),
        (1, 2),
        (5, 3),
    ]
    assert [(c.level, c.size_bytes, str(c.cpus)) for c in node.caches] == [
        (3, 4194304, "0-1,4-5"),
        (3, 4194304, "2-3,6-7"),
    ]
    assert (CpuSet.parse("0-7"), CpuSet.parse("0-7")) == (node.present, node.usable)


def test_instruction_caches_are_left_out() -> None:
    """Only data and unified caches are caches here."""
    assert [cache.level for cache in synthetic("pack:1 l1:1 l1i:1 core:1 pu:1").caches] == [1]


def test_dies_and_groups() -> None:
    """Dies and groups are told apart."""
    node = synthetic("pack:1 die:2 group:2 core:2 pu:1")
    assert (len(node.dies), [str(group.cpus) for group in node.groups]) == (2, ["0-1", "2-3", "4-5", "6-7"])


def test_without_cores() -> None:
    """A PU outside any core is a core of its own."""
    assert [str(core.cpus) for core in synthetic("pu:3").cores] == ["0", "1", "2"]


def test_without_numa() -> None:
    """A machine without a NUMA domain is one domain."""
    xml = hwloc.synthetic_xml("core:2 pu:2", os.environ)
    start, end = xml.index('<object type="NUMANode"'), xml.index('<object type="Core"')
    domains = parse(xml[:start] + xml[end:], source="x").numa_domains
    assert [(d.os_index, str(d.cpus), d.local, d.memory_bytes) for d in domains] == [(0, "0-3", True, 0)]


def test_memory_without_cpus(topologies: Path) -> None:
    """Each CPU has one local domain; HBM and far memory beside it are not local, and say what they hang on."""
    domains = {int(d.os_index): d for d in recorded(topologies / "hbm-restricted.xml").numa_domains}
    assert sorted(index for index, domain in domains.items() if domain.local) == [0, 1]
    assert [(domains[index].subtype, str(domains[index].cpus)) for index in (2, 3, 4)] == [
        ("HBM", "0-5"),
        ("HBM", "6-11"),
        ("", "0-13"),
    ]


def test_unusable_cpus(topologies: Path) -> None:
    """Offline and disallowed CPUs are present, stay in their objects, and are not usable."""
    node = recorded(topologies / "hbm-restricted.xml")
    assert (str(node.present), str(node.usable)) == ("0-13", "2-11")
    assert str(node.cores[0].cpus) == "0-1"
    assert len(node.usable_cores()) == 5


def test_memory_that_is_not_allowed(topologies: Path) -> None:
    """Domains outside allowed_nodeset stay in their places, and nodes with the same ones are still equal."""
    xml = hwloc.file_xml(topologies / "hbm-restricted.xml", os.environ)
    allowed = [
        line.split('allowed_nodeset="')[1].split('"')[0] for line in xml.splitlines() if "allowed_nodeset" in line
    ]
    fenced = xml.replace(f'allowed_nodeset="{allowed[0]}"', 'allowed_nodeset="0x00000015"', 1)

    node = parse(fenced, source="x")
    assert {0: True, 1: False, 2: True, 3: False, 4: True} == {d.os_index: d.allowed for d in node.numa_domains}
    assert (node, hash(node)) == (again := parse(fenced, source="y"), hash(again))
    free = parse(xml, source="z")
    assert (True, True) == (all(d.allowed for d in free.numa_domains), free != node)


def test_a_record_without_the_domains_of_others(shared_topologies: Path) -> None:
    """Of 8 domains a cpuset allows 5, and lstopo has left out the rest: those that are there are allowed."""
    node = recorded(shared_topologies / "cpuset-restricted-8numa.xml")
    assert {1: True, 2: True, 3: True, 4: True, 5: True} == {int(d.os_index): d.allowed for d in node.numa_domains}


def test_distances_follow_the_domains(topologies: Path) -> None:
    """The matrix is in the order of numa_domains, whatever order hwloc has."""
    node = recorded(topologies / "hbm-restricted.xml")
    assert [domain.os_index for domain in node.numa_domains] == [4, 0, 2, 1, 3]
    assert node.distances[0] == (10, 40, 45, 40, 45)
    assert node.distances[3] == (40, 21, 23, 10, 13)


def with_distances(**changes: str) -> NodeTopology:
    """Return a node of two domains (gp_index in hwloc's XML: as it comes) with a matrix of distances."""
    xml = hwloc.synthetic_xml("numa:2 pu:1", os.environ)
    gps = [line.split('gp_index="')[1].split('"')[0] for line in xml.splitlines() if 'type="NUMANode"' in line]
    facts = {"kind": "5", "indexing": "os", "indexes": "0 1", "type": "NUMANode"} | changes
    matrix = (
        f'<distances2 type="{facts["type"]}" nbobjs="2" kind="{facts["kind"]}" indexing="{facts["indexing"]}">'
        f"<indexes>{facts['indexes'].format(*gps)} </indexes><u64values>10 20 </u64values><u64values>30 11</u64values>"
        "</distances2></topology>"
    )
    return parse(xml.replace("</topology>", matrix), source="x")


def test_distances_name_domains_by_either_index() -> None:
    """The matrix may name domains by os index or by hwloc's own gp_index, in any order."""
    assert with_distances().distances == ((10, 20), (30, 11))
    assert with_distances(indexes="1 0").distances == ((11, 30), (20, 10))
    assert with_distances(indexing="gp", indexes="{1} {0}").distances == ((11, 30), (20, 10))


@pytest.mark.parametrize("changes", [{"indexes": "0 7"}, {"indexes": "0"}, {"kind": "9"}, {"type": "OSDev"}])
def test_distances_that_are_none(changes: dict[str, str]) -> None:
    """Bandwidths, other objects' distances and a matrix without all domains are not the domains' distances."""
    assert with_distances(**changes).distances == ()


def test_cpu_kinds(topologies: Path) -> None:
    """Kinds are ordered slowest first, and cores say which is theirs."""
    node = recorded(topologies / "hybrid.xml")
    assert [(str(k.cpus), k.efficiency, k.name) for k in node.cpu_kinds] == [("4-5", 0, "E-core"), ("0-3", 1, "P-core")]
    assert [(str(core.cpus), core.kind) for core in node.cores] == [("0-1", 1), ("2-3", 1), ("4", 0), ("5", 0)]


def test_kinds_unknown() -> None:
    """Without facts a kind's efficiency is unknown, and without kinds so is a core's."""
    xml = hwloc.synthetic_xml("core:2 pu:1", os.environ)
    kinds = parse(xml.replace("</topology>", '<cpukind cpuset="0x3"/></topology>'), source="x").cpu_kinds
    assert [kind.efficiency for kind in kinds] == [-1]
    assert [core.kind for core in parse(xml, source="x").cores] == [None, None]


def test_equal_nodes_compare_equal(topologies: Path) -> None:
    """Serial numbers, host names and a few pages of memory do not make two nodes different."""
    path = topologies / "gpus-and-nics.xml"
    xml = hwloc.file_xml(path, os.environ)
    other = xml.replace("GPU-1", "GPU-7").replace('local_memory="68719476736"', 'local_memory="68719480832"')
    assert other != xml
    assert parse(xml, source="a") == parse(other, source="b")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('os_index="0"', 'os_index="zero"'),
        ('os_index="0"', ""),
        ('cpuset="0x00000001"', 'cpuset="0xf...f"'),
        ("</topology>", ""),
        ("<topology", "<t"),
        ("</object>\n</topology>", "</object></topology>" + " "),
    ],
)
def test_malformed(good: str, bad: str) -> None:
    """What libhwloc would not write is refused by its source's name, or read; it never ends in another error."""
    xml = hwloc.synthetic_xml("core:2 pu:1", os.environ)
    try:
        parse(xml.replace(good, bad), source="node.xml")
    except AllocationError as error:
        assert "node.xml" in error.message  # noqa: PT017 (both outcomes are allowed)


def test_no_pu() -> None:
    """A topology without a PU is refused."""
    with pytest.raises(AllocationError, match=r"node\.xml describes no PU"):
        parse('<topology><object type="Machine" cpuset="0x0"/></topology>', source="node.xml")
    with pytest.raises(AllocationError, match=r"node\.xml holds no machine"):
        parse("<topology/>", source="node.xml")
