"""libhwloc is found, reads what it can read, and its refusals become messages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rankmap.discovery import hwloc
from rankmap.discovery.hwloc_xml import parse
from rankmap.errors import AllocationError

MINIMAL = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x1" complete_cpuset="0x1" allowed_cpuset="0x1" nodeset="0x1" \
complete_nodeset="0x1" allowed_nodeset="0x1" gp_index="1">
    <object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" \
gp_index="2" local_memory="1073741824"/>
    <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" \
gp_index="3"/>
    <object type="OSDev" gp_index="4" name="eth0" osdev_type="2"/>
  </object>
</topology>
"""

BAD_FILES = {
    "empty": "",
    "not XML": "hello",
    "cut off": MINIMAL[:300],
    "another kind of XML": "<svg/>",
    "no PU": MINIMAL.replace('type="PU"', 'type="Core"'),
    "nothing": '<topology version="2.0"/>',
    "no CPU sets": re.sub(r'(complete_|allowed_)?cpuset="0x1"', "", MINIMAL),
    "a PU of no number": MINIMAL.replace('type="PU" os_index="0"', 'type="PU" os_index="-1"'),
    "a PU of any number": MINIMAL.replace('type="PU" os_index="0"', 'type="PU" os_index="99999999999999999999"'),
    "a PU of no complete set": MINIMAL.replace(' complete_cpuset="0x1"', ""),
    "a domain of no number": MINIMAL.replace('type="NUMANode" os_index="0"', 'type="NUMANode"'),
    "hwloc 9": MINIMAL.replace('"2.0"', '"9.0"'),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(content: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that is no topology is refused by its name, with a next step, and libhwloc prints nothing."""
    path = tmp_path / "node.xml"
    path.write_text(content)
    with pytest.raises(AllocationError) as caught:
        hwloc.file_xml(path, os.environ)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A path that is not a readable file is refused by its name."""
    with pytest.raises(AllocationError, match=r"nosuch\.xml cannot be read: No such file"):
        hwloc.file_xml(tmp_path / "nosuch.xml", os.environ)
    with pytest.raises(AllocationError, match="is a directory"):
        hwloc.file_xml(tmp_path, os.environ)


@pytest.mark.parametrize(
    "content",
    [
        MINIMAL,
        MINIMAL.replace('"', "'"),
        MINIMAL.replace("<object type=", "<!-- edited by hand -->\n<object type=", 1),
        MINIMAL.replace('"2.0"', '"3.0"').replace('osdev_type="2"', 'osdev_type="16"'),
        MINIMAL.replace('"2.0"', '"3.0"')
        .replace('osdev_type="2"', 'osdev_type="16"')
        .replace("</topology>", '<info name="Backend" value="Linux"/></topology>'),
    ],
    ids=["hwloc's form", "other quotes", "with a comment", "hwloc 3", "hwloc 3 with facts of the machine"],
)
def test_forms_of_one_file(content: str, tmp_path: Path) -> None:
    """However a topology is written down, it is the same node."""
    path = tmp_path / "node.xml"
    path.write_text(content)
    node = parse(hwloc.file_xml(path, os.environ), source="node.xml")
    assert (len(node.cores), len(node.numa_domains), [nic.name for nic in node.nics]) == (1, 1, ["eth0"])


@pytest.mark.parametrize(
    "text", ["", "bad", "pack:2 numa:2 core:8 pu:0", "pack", "pack:-1", "pu:1\0", "\ud800", "pack:2 core:99999999"]
)
def test_bad_synthetic(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Text that describes no machine is refused; the message shows it, the hint an example."""
    with pytest.raises(AllocationError) as caught:
        hwloc.synthetic_xml(text, os.environ)
    assert repr(text) in caught.value.message
    assert "synthetic:pack:2 numa:2 core:8 pu:2" in caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_synthetic_attributes_do_not_count() -> None:
    """Memory sizes, numberings and attached memory in a description are not levels of PUs."""
    text = "pack:2 [numa(memory=4294967296)] core:4 pu:2(indexes=2*8:1*2)"
    assert len(parse(hwloc.synthetic_xml(text, os.environ), source="x").present) == 16


def test_named_library_must_work(tmp_path: Path) -> None:
    """RANKMAP_LIBHWLOC is obeyed or refused, never passed over."""
    with pytest.raises(AllocationError, match="RANKMAP_LIBHWLOC names it"):
        hwloc.find({"RANKMAP_LIBHWLOC": str(tmp_path / "libhwloc.so.15")})


def test_library_without_hwloc() -> None:
    """A library that is not libhwloc is refused by its path."""
    with pytest.raises(AllocationError, match=r"libc\.so\.6 cannot be loaded as libhwloc"):
        hwloc.find({"RANKMAP_LIBHWLOC": "libc.so.6"})


def test_library_is_found_and_named() -> None:
    """What is found says where it is from and which version it is."""
    library = hwloc.find(os.environ)
    assert library.api_version[0] == 2
    assert "libhwloc.so.15" in library.path


def test_live_restores_environment() -> None:
    """Reading this host leaves the environment as it was."""
    before = dict(os.environ)
    assert "<topology" in hwloc.live_xml(os.environ)
    assert before == dict(os.environ)


def test_live_agrees_with_the_kernel() -> None:
    """The live topology has the CPUs that the kernel says are online."""
    node = parse(hwloc.live_xml(os.environ), source="this host")
    online = Path("/sys/devices/system/cpu/online").read_text().strip()
    assert online == str(type(node.present).of(pu.os_index for core in node.cores for pu in core.pus))


def test_import_is_light() -> None:
    """Discovery imports nothing heavy: start-up time is part of every command."""
    code = "import sys, rankmap.discovery.machine; print({'importlib.metadata', 'click', 'dragon'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
