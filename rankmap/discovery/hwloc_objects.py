"""The object tree of an hwloc 2 XML text, flattened: every object with the place and the card that it is on."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Found", "Tree", "cpus_of", "infos", "read"]

_WITHOUT_PLACE = frozenset({"NUMANode", "MemCache", "Bridge", "PCIDev", "OSDev", "Misc"})
"""hwloc's memory, I/O and Misc types: what is below them is still near the normal object above them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One object of the tree.

    Args:
        element: The object itself.
        place: The nearest enclosing object of hwloc's normal types (package, cache, machine, ...).
        card: The PCI device that it is part of; None where it is not part of one.
        core: Position among the tree's cores of the core that it is in; None outside every core.
    """

    element: ET.Element
    place: ET.Element
    card: ET.Element | None
    core: int | None

    def cpus(self) -> CpuSet:
        """Return the object's PUs, those included that are offline or not allowed."""
        return cpus_of(self.element)

    def os_index(self) -> int | None:
        """Return the number that the operating system gives the object, None where there is none."""
        text = self.element.get("os_index")
        return None if text is None else int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A topology's XML: the whole document, its outermost object, and all objects by type in topology order."""

    document: ET.Element
    machine: ET.Element
    by_type: Mapping[str, list[Found]]

    def all(self, kind: str) -> list[Found]:
        """Return the objects of one hwloc type, in topology order."""
        return self.by_type.get(kind, [])


def read(xml: str, *, source: str) -> Tree:
    """Return the object tree of an hwloc 2 XML text.

    Args:
        xml: What libhwloc exported.
        source: What the text is of, for messages: a file name, "this host".

    Raises:
        AllocationError: The text is not an hwloc topology.
    """
    try:
        document = ET.fromstring(xml)  # noqa: S314 (libhwloc wrote the text; expat bounds entity expansion)
    except ET.ParseError as error:
        msg = f"the topology of {source} is not XML: {error}"
        raise AllocationError(msg) from error
    machine = document.find("object")
    if document.tag != "topology" or machine is None:
        msg = f"the topology of {source} holds no machine"
        raise AllocationError(msg)
    by_type: defaultdict[str, list[Found]] = defaultdict(list)
    _collect(Found(element=machine, place=machine, card=None, core=None), by_type)
    return Tree(document=document, machine=machine, by_type=by_type)


def _collect(found: Found, by_type: defaultdict[str, list[Found]]) -> None:
    element = found.element
    kind = element.get("type", "")
    core = len(by_type[kind]) if kind == "Core" else found.core
    by_type[kind].append(found)
    place = found.place if kind in _WITHOUT_PLACE else element
    card = element if kind == "PCIDev" else found.card
    for child in element.iterfind("object"):
        _collect(Found(element=child, place=place, card=card, core=core), by_type)


def cpus_of(element: ET.Element) -> CpuSet:
    """Return an object's PUs, those included that are offline or not allowed; empty where it has none.

    Raises:
        ValueError: The set is malformed or infinite.
    """
    return CpuSet.from_hex(element.get("complete_cpuset") or element.get("cpuset") or "0x0")


def infos(element: ET.Element) -> dict[str, str]:
    """Return the object's facts (``<info name= value=>``), blanks collapsed."""
    return {info.get("name", ""): " ".join(info.get("value", "").split()) for info in element.iterfind("info")}
