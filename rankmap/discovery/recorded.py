"""A recorded hwloc XML file, checked and made readable for the libhwloc at hand.

libhwloc only says "no" to a file that it cannot read, may abort on a malformed one, and its built-in XML reader knows
just the form that hwloc itself writes. So the file is looked at here first: bad ones get a reason, and a
well-formed file that libhwloc refuses is offered again in hwloc 2's own form.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from rankmap.errors import AllocationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["readings"]

_HINT = "record a node with `lstopo --of xml node.xml`"

_OS_INDEX = re.compile(r"[0-9]{1,5}")  # Linux numbers CPUs below 8192 and memory nodes below 1024

_OSDEV_V3_TO_V2 = (
    (32, "3"),  # OpenFabrics
    (16, "2"),  # network
    (8, "5"),  # co-processor
    (4, "1"),  # GPU
    (64, "4"),  # DMA
    (2, "0"),  # memory: hwloc before 2.8 files it under block devices
    (1, "0"),  # storage
)
"""Bit of hwloc 3's hwloc_obj_osdev_types_t and the hwloc 2 enum value for it, the most telling bit first.

Source: hwloc master, include/hwloc.h, hwloc_obj_osdev_type_e; hwloc 2.9, the enum of the same name.
"""


def readings(path: Path) -> Iterator[bytes]:
    """Yield the XML texts to offer to libhwloc for this file, the best first.

    Raises:
        AllocationError: The file cannot be read, is not XML, is not hwloc's, or describes no PU.
    """
    data = _content(path)
    try:
        root = ET.fromstring(data)  # noqa: S314 (the user's own file; expat bounds entity expansion)
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two: an encoding that Python lacks
        msg = f"{path} is not XML: {error}"
        raise AllocationError(msg, hint=_HINT) from error
    if root.tag != "topology":
        msg = f"{path} is XML, but not hwloc's: its root element is <{root.tag}>, not <topology>"
        raise AllocationError(msg, hint=_HINT)
    objects = list(root.iter("object"))
    if not any(element.get("type") == "PU" for element in objects):
        msg = f"{path} describes no PU (processing unit), so no rank can be placed on it"
        raise AllocationError(msg, hint=_HINT)
    for element in objects:
        flaw = _flaw(element.attrib)
        if flaw:
            msg = f"{path} is damaged: a {element.get('type')} object {flaw}"
            raise AllocationError(msg, hint=_HINT)
    major = root.get("version", "1.0").partition(".")[0]
    if major == "3":  # libhwloc up to 2.x refuses the version; apart from it and two details the format is the same
        _downgrade(root)
    else:
        yield data
    yield _serialise(root)


def _flaw(facts: Mapping[str, str]) -> str:
    """Return what is wrong with an object that libhwloc 2.7 to 2.9 would hang on or crash of; "" if nothing."""
    if facts.get("type") in {"PU", "NUMANode"} and not _OS_INDEX.fullmatch(os_index := facts.get("os_index", "")):
        return f"has the os_index {os_index!r}"
    for name in ("cpuset", "nodeset"):
        if name in facts and not facts.get(f"complete_{name}"):
            return f"has no complete_{name}"
    return ""


def _content(path: Path) -> bytes:
    if path.is_dir():
        msg = f"{path} is a directory, not an hwloc XML file"
        raise AllocationError(msg, hint=_HINT)
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise AllocationError(msg, hint=_HINT) from error


def _downgrade(root: ET.Element) -> None:
    root.set("version", "2.0")
    for info in root.findall("info"):  # hwloc 3 keeps facts about the whole machine beside the objects
        root.remove(info)
    for device in root.iter("object"):
        types = device.get("osdev_type", "")
        if types.isdecimal():
            device.set("osdev_type", next((value for bit, value in _OSDEV_V3_TO_V2 if int(types) & bit), "0"))


def _serialise(root: ET.Element) -> bytes:
    header = b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n'
    return header + ET.tostring(root)
