"""--machine [Nx]NAME and this host."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from rankmap.api import discover
from rankmap.cpuset import CpuSet
from rankmap.discovery.machine import MachineSpec, allowed_memory, load, load_all, this_host
from rankmap.errors import AllocationError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def hosts(*specs: str) -> list[tuple[str, int]]:
    """Return (host, shape) of each node of these machines."""
    return [(node.host, node.shape_index) for node in load_all(specs, environ=os.environ).nodes]


def test_count_in_front() -> None:
    """3xNAME is three equal nodes, NAME alone is one."""
    assert hosts("3xsynthetic:pu:2") == [("n0", 0), ("n1", 0), ("n2", 0)]
    assert hosts("synthetic:pu:2") == [("n0", 0)]


def test_several_machines_number_through() -> None:
    """Hosts are numbered over the whole allocation; equal nodes share a shape even when named apart."""
    assert hosts("2xsynthetic:pu:2", "synthetic:pu:4", "1xsynthetic:pu:2") == [
        ("n0", 0),
        ("n1", 0),
        ("n2", 1),
        ("n3", 0),
    ]


def test_file_and_literal_name(topologies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called like a count wins over the count, and can be counted itself."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(topologies / "hybrid.xml", tmp_path / "node.xml")
    assert len(hosts("4xnode.xml")) == 4
    shutil.copy(topologies / "hybrid.xml", tmp_path / "4xnode.xml")
    assert len(hosts("4xnode.xml")) == 1
    assert len(hosts("2x4xnode.xml")) == 2


@pytest.mark.parametrize("text", ["0xnode.xml", "000xsynthetic:pu:1", "100001xnode.xml", f"{'9' * 5000}xnode.xml"])
def test_impossible_count(text: str) -> None:
    """No node at all and more nodes than any machine has are refused before a file is looked for."""
    with pytest.raises(UsageError, match="an allocation has 1 to 100000"):
        load(text, environ=os.environ)


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_no_name(text: str) -> None:
    """Text without a name is refused with the accepted forms."""
    with pytest.raises(UsageError) as caught:
        load(text, environ=os.environ)
    assert "synthetic:DESCRIPTION" in caught.value.hint


@pytest.mark.parametrize("text", ["frontierr", "4xpolarisx", "-1x", "x", "4x", "y" * 500])
def test_no_such_preset(text: str) -> None:
    """A name that is no file says what would be accepted, and how to get one."""
    with pytest.raises(AllocationError, match="is no machine that rankmap knows") as caught:
        load(text, environ=os.environ)
    assert "rankmap topo --format xml -o node.xml" in caught.value.hint
    assert caught.value.exit_status == 120


@pytest.mark.parametrize("text", ["node.xml", "2x./nowhere/node", "2xnode.xml"])
def test_no_such_file(text: str) -> None:
    """A name that looks like a file's is a missing file."""
    with pytest.raises(AllocationError, match="there is no file"):
        load(text, environ=os.environ)


def test_every_text_is_understood_before_a_file_is_read() -> None:
    """A bad count later in the line is the first thing to be said."""
    with pytest.raises(UsageError):
        load_all(["nowhere.xml", "0xnode.xml"], environ=os.environ)


def test_spec_text() -> None:
    """A request reads back from its text."""
    assert MachineSpec.parse("4xa b") == MachineSpec.parse(str(MachineSpec.parse("4xa b")))


def test_this_host_within_affinity() -> None:
    """Of this host only the CPUs of this process's affinity mask are usable; the others stay visible."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        node = this_host(os.environ)
    finally:
        os.sched_setaffinity(0, before)
    assert CpuSet.of({min(before)}) == node.usable
    assert CpuSet.of(before).issubset(node.present)


def test_this_host_has_its_name() -> None:
    """The allocation of this host is one node under the host's own name."""
    assert [os.uname().nodename] == [node.host for node in discover().nodes]


def test_the_kernel_says_which_memory_this_process_may_use(tmp_path: Path) -> None:
    """Where hwloc does not find the cgroup; this host's topology goes by it."""
    status = tmp_path / "status"
    status.write_text("Name:\tx\nMems_allowed:\t0000002d\nMems_allowed_list:\t0,2-3,5\n")
    assert CpuSet.parse("0,2-3,5") == allowed_memory(status)
    status.write_text("Name:\tx\n")
    assert allowed_memory(status) is None
    allowed = allowed_memory() or CpuSet()
    assert allowed == CpuSet.of(one.os_index for one in this_host(os.environ).numa_domains if one.allowed)
