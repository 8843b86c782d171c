"""What a mapping rule returns: the local ranks of each kind of node, in the order in which they were mapped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from rankmap.placement import LocalPlacement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rankmap.cpuset import CpuSet
    from rankmap.layout_parts import RankBy
    from rankmap.mapping.dealing import Site
    from rankmap.processors import Ground
    from rankmap.runs import Run
    from rankmap.topology import NodeTopology

__all__ = ["Kinds", "Mapped", "NodeKind", "placements"]

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """The local ranks of alike nodes, in the order of mapping, and what they were made of.

    Args:
        ground: What the nodes had for ranks.
        chosen: The processors of each rank, as positions in the ground.
        objects: Which object each rank was mapped to, of those that ``object_name`` names.
        ranks: Where each rank is.
        object_name: What the objects are.
        beside: The devices that the processors were chosen for, to be near to them: "GPU", "NIC", "" for none.
    """

    ground: Ground
    chosen: tuple[tuple[int, ...], ...]
    objects: tuple[int, ...]
    ranks: tuple[LocalPlacement, ...]
    object_name: str
    beside: str = ""

    @property
    def taken(self) -> CpuSet:
        """Return the PUs of all processors that ranks have, bound to them or not."""
        return self.ground.cpus({position for positions in self.chosen for position in positions})

    def with_ranks(self, ranks: Sequence[LocalPlacement], order: Sequence[int]) -> NodeKind:
        """Return the kind with these placements of its ranks, mapped in this order of them."""
        return replace(
            self,
            chosen=tuple(self.chosen[i] for i in order),
            objects=tuple(self.objects[i] for i in order),
            ranks=tuple(ranks[i] for i in order),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What a pattern made of a request: the kinds of nodes, and the nodes that have ranks with their kind.

    ``numbers`` are the rank numbers of each of the nodes where the rule itself gives them; else ``natural_order``
    says how they are given when nothing is asked.
    """

    kinds: tuple[NodeKind, ...]
    used: tuple[tuple[Site, int], ...]
    natural_order: RankBy
    numbers: tuple[tuple[Run, ...], ...] | None = None


class Kinds(Generic[_Key]):
    """Collects the nodes of a layout; those with the same ground and equal keys share one kind, which is made once.

    Args:
        make: Makes the kind of a node from what tells it from the others.
    """

    def __init__(self, make: Callable[[Site, _Key], NodeKind]) -> None:
        self.make = make
        self.found: list[NodeKind] = []
        self.used: list[tuple[Site, int]] = []
        self._index: dict[tuple[Ground, _Key], int] = {}

    def add(self, site: Site, key: _Key) -> None:
        """Add a node that has ranks."""
        index = self._index.get((site.ground, key))
        if index is None:
            index = self._index[site.ground, key] = len(self.found)
            self.found.append(self.make(site, key))
        self.used.append((site, index))

    def add_all(self, sites: Sequence[Site], keys: Sequence[_Key]) -> None:
        """Add the nodes whose key, a number of ranks, is not 0."""
        for site, key in zip(sites, keys, strict=True):
            if key:
                self.add(site, key)

    def mapped(self, natural_order: RankBy, numbers: Sequence[tuple[Run, ...]] | None = None) -> Mapped:
        """Return what was collected."""
        return Mapped(
            kinds=tuple(self.found),
            used=tuple(self.used),
            natural_order=natural_order,
            numbers=None if numbers is None else tuple(numbers),
        )


def placements(topology: NodeTopology, sets: Sequence[CpuSet | None]) -> tuple[LocalPlacement, ...]:
    """Return the placement of each of these sets; None is unbound."""
    made = {
        cpus: LocalPlacement(cpus=cpus, numa=topology.numa_of(cpus) if cpus is not None else ()) for cpus in set(sets)
    }
    return tuple(made[cpus] for cpus in sets)
