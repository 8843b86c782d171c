"""The machines that both rankmap and prterun read: recorded ones of ours, real ones beside the checkout, made ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rankmap.discovery import hwloc
from rankmap.discovery.hwloc_xml import parse

if TYPE_CHECKING:
    from rankmap.topology import NodeTopology

__all__ = ["Machine", "machines", "real_topologies"]

_TESTS = Path(__file__).parents[1]
_VARIABLE: Final = "RANKMAP_SHARED_TOPOLOGIES"

_MADE: Final = {
    "made-1p-4c": "pack:1 core:4 pu:1",
    "made-2p-2n-l3-smt2": "pack:2 numa:2 l3:2 core:4 pu:2",
    "made-2p-2n-l3-smt1": "pack:2 numa:2 l3:2 core:3 pu:1",
    "made-2p-smt2-interleaved": "pack:2 numa:1 l3:1 core:4 pu:2(indexes="
    + ",".join(f"{core},{core + 8}" for core in range(8))
    + ")",
    "made-1p-numa-in-l3-smt4": "pack:1 l3:2 numa:2 core:2 pu:4",
    "made-3p-smt1-packages-interleaved": "pack:3 numa:1 l3:1 core:3 pu:1(indexes=0,3,6,1,4,7,2,5,8)",
    "made-4p-4c-l2-smt2": "pack:4 l3:1 numa:1 l2:2 core:2 pu:2",
}
"""hwloc's synthetic descriptions: SMT 1, 2 and 4, caches inside and around NUMA domains, interleaved PU numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One kind of node: its name, the hwloc XML that prterun reads, and what rankmap reads in the same file."""

    name: str
    xml: Path
    topology: NodeTopology


def real_topologies() -> Path | None:
    """Return the folder of real machines: RANKMAP_SHARED_TOPOLOGIES, or ../shared/topologies; None where it is not."""
    named = os.environ.get(_VARIABLE)
    path = Path(named) if named else _TESTS.parents[1] / "shared" / "topologies"
    return path if path.is_dir() else None


def machines(folder: Path) -> tuple[Machine, ...]:
    """Return all machines, by name.

    Args:
        folder: Where the XML of the made ones is written.
    """
    paths = [*(_TESTS / "topologies").glob("*.xml")]
    if (real := real_topologies()) is not None:
        paths += real.glob("*.xml")
    for name, description in _MADE.items():
        path = folder / f"{name}.xml"
        path.write_text(hwloc.synthetic_xml(description, os.environ), encoding="utf-8")
        paths.append(path)
    return tuple(
        Machine(name=path.stem, xml=path, topology=parse(hwloc.file_xml(path, os.environ), source=path.name))
        for path in sorted(paths, key=lambda path: path.stem)
    )
