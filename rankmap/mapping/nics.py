"""Ranks with NICs: which rank uses which. NICs are shared, so what counts is that they are near, and used evenly."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from rankmap.assignment import assign
from rankmap.cpuset import CpuSet
from rankmap.devices import distance, gpu_ids, near_cpus, nearest
from rankmap.errors import PlacementError
from rankmap.layout_parts import Pattern
from rankmap.mapping.refusal import counted
from rankmap.nics import high_speed, nic_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.kinds import NodeKind
    from rankmap.topology import NodeTopology

__all__ = ["nic_room", "too_few_nics", "with_nics"]


def nic_room(spec: LayoutSpec, topology: NodeTopology) -> int | None:
    """Return how many ranks a node has NICs for: none where it has fewer than a rank is to have, else any number."""
    return 0 if spec.n_nics and spec.n_nics > len(high_speed(topology)) else None


def too_few_nics(spec: LayoutSpec, topology: NodeTopology, host: str) -> PlacementError:
    """Return the error for a node with fewer NICs than a rank is to have."""
    names = [topology.nics[i].name for i in high_speed(topology)]
    has = f"which has {counted(len(names), 'high-speed NIC')} ({', '.join(names)})"
    if not names:
        has = "which has no NIC with a link" if topology.nics else "of which no NIC is known"
    asked = f"--nics-per-rank {spec.nics_per_rank}" if spec.nics_per_rank else f"--map-by {spec.map_by}"
    hint = f"--nics-per-rank {len(names)} at most" if names else "leave it out; `rankmap topo` shows the network"
    return PlacementError(f"{asked}: {counted(spec.n_nics, 'NIC')} for each rank on {host}, {has}", hint=hint)


def with_nics(kind: NodeKind, topology: NodeTopology, spec: LayoutSpec, host: str) -> NodeKind:
    """Return the kind with the NICs of each rank; mapped by NIC, the ranks are then in the order of their NICs.

    Of all ways in which no NIC has more ranks than an even share (rounded up) the one with the smallest sum of
    distances is taken. A rank with GPUs is where these are: their data goes to the NIC without passing the cores.

    Raises:
        PlacementError: The node has fewer such NICs than a rank is to have.
    """
    if not spec.n_nics:
        return kind
    free = high_speed(topology)
    if spec.n_nics > len(free):
        raise too_few_nics(spec, topology, host)
    n_ranks = len(kind.ranks)
    places = _places(kind, topology)
    sharing = -(-n_ranks * spec.n_nics // len(free))
    given = nearest(topology, topology.nics, places, each=spec.n_nics, free=free, sharing=sharing)
    assert given is not None  # noqa: S101 - an even share of NICs is enough for all
    given = _main_first(topology, places, given, free)
    ranks = [
        replace(
            rank,
            nics=tuple(topology.nics[nic].name for nic in nics),
            env=rank.env + nic_environment(topology, nics),
        )
        for rank, nics in zip(kind.ranks, given, strict=True)
    ]
    order = list(range(n_ranks))
    if spec.map_by.pattern is Pattern.NIC:
        order.sort(key=lambda i: free.index(given[i][0]))
    return kind.with_ranks(ranks, order)


def _places(kind: NodeKind, topology: NodeTopology) -> list[CpuSet]:
    """Return where each rank's data is: at the CPUs that its GPUs are close to, else (also if unknown) at its own."""
    position = {name: i for i, name in enumerate(gpu_ids(topology))}
    places = []
    for rank, chosen in zip(kind.ranks, kind.chosen, strict=True):
        close = [near_cpus(topology, topology.gpus[position[name]]) for name in rank.gpus]
        places.append(reduce(or_, close, CpuSet()) or kind.ground.cpus(chosen))
    return places


def _main_first(
    topology: NodeTopology, places: Sequence[CpuSet], given: Sequence[tuple[int, ...]], free: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return the NICs of each rank, that in front which it uses where it can use only one: these are even too."""
    rows = [[distance(topology, topology.nics[i], place) for i in free] for place in places]
    out_of_reach = 1 + len(rows) * max(map(max, rows), default=0)
    own = [
        [far if i in nics else out_of_reach for i, far in zip(free, row, strict=True)]
        for nics, row in zip(given, rows, strict=True)
    ]
    main = assign(own, each=1, capacities=[-(-len(rows) // len(free))] * len(free))
    assert main is not None  # noqa: S101 - as above
    firsts = [free[things[0]] for things in main]
    return tuple((first, *(i for i in nics if i != first)) for first, nics in zip(firsts, given, strict=True))
