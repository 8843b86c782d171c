"""How good a plan is, in a few numbers with plain meanings. No weights: plans are compared number by number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.devices import distance, gpu_ids
from rankmap.layout_parts import Level
from rankmap.processors import ground, objects_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rankmap.placement import LocalPlacement, Plan
    from rankmap.topology import NodeTopology

__all__ = ["Number", "Score", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number of a score: 0 is best, None does not apply. ``unit`` is what is counted, ``meaning`` a sentence."""

    slug: str
    value: int | None
    unit: str
    meaning: str

    @property
    def cost(self) -> int:
        """Return what plans are compared by."""
        return self.value or 0

    def __str__(self) -> str:
        """Return the number in words."""
        return f"{self.cost} {self.unit.removesuffix('s') if self.cost == 1 else self.unit} {self.meaning}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good a plan is. All are 0 in the best of plans; those that cost most come first.

    Args:
        unbound: Ranks that are bound to no CPU.
        sharing: Ranks on nodes that have more ranks than cores for them.
        mixed_kinds: Ranks with cores of different kinds (performance and efficiency cores).
        slow: Ranks that have slower cores than other ranks of their node.
        idle_nodes: Nodes that the request may use, without ranks.
        idle_domains: NUMA domains (packages, where there are more) of nodes with ranks that no rank may use.
        spanning_packages: Ranks with CPUs of several packages.
        spanning_numa: Ranks with CPUs of several NUMA domains.
        gpu_distance: The largest distance of a rank from a GPU of its own: 0 in one L3 cache, 1 in one NUMA domain,
            else the NUMA distance. None where no rank has GPUs.
        overlapping: Ranks whose CPUs other ranks may use too, though there is a core for each.
        spanning_l3: Ranks with CPUs in several L3 caches, one of which is split with other ranks.
        half_idle: Nodes with ranks on which more than half of the usable cores are idle.
        numa_imbalance: Ranks of the fullest NUMA domain less those of the emptiest, on the worst node.
        l3_imbalance: Ranks of the fullest L3 cache less those of the emptiest, on the worst node.
        idle_cores: Cores for ranks, on the nodes that have some, that no rank may use.
        core_imbalance: Cores of the rank that has most less those of the rank that has fewest.
    """

    unbound: int
    sharing: int
    mixed_kinds: int
    slow: int
    idle_nodes: int
    idle_domains: int
    spanning_packages: int
    spanning_numa: int
    gpu_distance: int | None
    overlapping: int
    spanning_l3: int
    half_idle: int
    numa_imbalance: int
    l3_imbalance: int
    idle_cores: int
    core_imbalance: int

    def numbers(self) -> tuple[Number, ...]:
        """Return each number with its meaning, in the order in which they count."""
        return tuple(
            Number(slug=slug, value=getattr(self, slug), unit=unit, meaning=meaning)
            for slug, (unit, meaning) in _MEANINGS.items()
        )

    def key(self) -> tuple[int, ...]:
        """Return what plans are sorted by, the best first."""
        return tuple(number.cost for number in self.numbers())


_MEANINGS = {
    "unbound": ("ranks", "bound to no CPU, moved about by the kernel"),
    "sharing": ("ranks", "on nodes with more ranks than cores for them, waiting for each other"),
    "mixed_kinds": ("ranks", "with performance and efficiency cores: threads wait for those on slow ones"),
    "slow": ("ranks", "on slower cores than others of their node: the others wait for them"),
    "idle_nodes": ("nodes", "that the request may use, without ranks"),
    "idle_domains": ("NUMA domains", "(packages, where there are more) that no rank may use: memory bandwidth is lost"),
    "spanning_packages": ("ranks", "with CPUs of several packages: threads talk across the sockets"),
    "spanning_numa": ("ranks", "with CPUs of several NUMA domains: part of the memory is remote"),
    "gpu_distance": (
        "of distance",
        "between a rank and its GPU: 0 is in one L3 cache, 1 in one NUMA domain, more is farther",
    ),
    "overlapping": ("ranks", "with CPUs that other ranks may use too: the kernel moves threads about"),
    "spanning_l3": ("ranks", "with CPUs in several L3 caches, one of which is split with other ranks"),
    "half_idle": ("nodes", "with more than half of the cores idle: ask for more cores (-c), or fewer nodes"),
    "numa_imbalance": ("ranks", "more in the fullest NUMA domain of a node than in its emptiest"),
    "l3_imbalance": ("ranks", "more in the fullest L3 cache of a node than in its emptiest"),
    "idle_cores": ("cores", "of nodes with ranks that no rank may use (reserved ones do not count)"),
    "core_imbalance": ("cores", "between the rank that has most and the one that has fewest"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeScore:
    """What one node adds."""

    counts: Score
    widths: tuple[int, ...]


def score(plan: Plan) -> Score:
    """Return how good a plan is. Each kind of node is looked at once."""
    n_nodes = [0] * len(plan.layouts)
    for node in plan.nodes:
        n_nodes[node.layout_index] += 1
    nodes = [
        (n, _node(plan.allocation.shapes[layout.shape_index], layout.ranks, _reserved(plan, layout.shape_index)))
        for n, layout in zip(n_nodes, plan.layouts, strict=True)
        if n
    ]

    def total(slug: str) -> int:
        return sum(n * int(getattr(node.counts, slug)) for n, node in nodes)

    def worst(slug: str) -> int:
        return max(int(getattr(node.counts, slug)) for _, node in nodes)

    widths = [width for _, node in nodes for width in node.widths]
    return Score(
        unbound=total("unbound"),
        sharing=total("sharing"),
        idle_nodes=_n_may_be_used(plan) - len(plan.nodes),
        idle_domains=total("idle_domains"),
        spanning_packages=total("spanning_packages"),
        spanning_numa=total("spanning_numa"),
        gpu_distance=max((far for _, node in nodes if (far := node.counts.gpu_distance) is not None), default=None),
        half_idle=total("half_idle"),
        core_imbalance=max(widths) - min(widths) if widths else 0,
        mixed_kinds=total("mixed_kinds"),
        slow=total("slow"),
        overlapping=total("overlapping"),
        spanning_l3=total("spanning_l3"),
        numa_imbalance=worst("numa_imbalance"),
        l3_imbalance=worst("l3_imbalance"),
        idle_cores=total("idle_cores"),
    )


def _node(topology: NodeTopology, ranks: Sequence[LocalPlacement], reserve: CpuSet) -> _NodeScore:
    cores = [core.cpus & topology.usable for core in topology.usable_cores() if core.cpus.isdisjoint(reserve)]
    free = reduce(or_, cores, CpuSet())
    packages, domains, caches = (
        _usable(objects_of(topology, level), free) for level in (Level.PACKAGE, Level.NUMA, Level.L3CACHE)
    )
    kinds = _kinds(topology, free)
    bound = [local.cpus for local in ranks if local.cpus is not None]
    taken = reduce(or_, bound, CpuSet())
    distinct = {cpus: bound.count(cpus) for cpus in set(bound)}
    width = {cpus: sum(not core.isdisjoint(cpus) for core in cores) for cpus in distinct}
    shared = any(n > width[cpus] for cpus, n in distinct.items()) or len(bound) > sum(
        not core.isdisjoint(taken) for core in cores
    )

    all_bound = len(bound) == len(ranks)
    n_idle = sum(core.isdisjoint(taken) for core in cores) if all_bound else 0

    def spanning(objects: Sequence[CpuSet]) -> int:
        return sum(n for cpus, n in distinct.items() if len(_touched(cpus, objects)) > 1)

    def spread(objects: Sequence[CpuSet]) -> int:
        in_each = [sum(n for cpus, n in distinct.items() if not cpus.isdisjoint(one)) for one in objects]
        return max(in_each) - min(in_each) if in_each and bound else 0

    return _NodeScore(
        counts=Score(
            unbound=len(ranks) - len(bound),
            sharing=len(bound) if shared else 0,
            idle_nodes=0,
            idle_domains=sum(one.isdisjoint(taken) for one in max(domains, packages, key=len)) if all_bound else 0,
            spanning_packages=spanning(packages),
            spanning_numa=spanning(domains),
            gpu_distance=max(
                (far for local in ranks if (far := _gpu_distance(topology, local)) is not None), default=None
            ),
            half_idle=int(2 * n_idle > len(cores)),
            core_imbalance=0,
            mixed_kinds=spanning(kinds),
            slow=_slow(bound, kinds),
            overlapping=0 if shared else _overlapping(distinct),
            spanning_l3=_splitting(distinct, caches),
            numa_imbalance=spread(domains),
            l3_imbalance=spread(caches),
            idle_cores=n_idle,
        ),
        widths=tuple(width[cpus] // n for cpus, n in distinct.items()),
    )


def _reserved(plan: Plan, shape_index: int) -> CpuSet:
    """Return the PUs of this shape that the job keeps free, or leaves out of every ``pe-list``."""
    shape = plan.allocation.shapes[shape_index]
    per_object = next((part.spec.reserve_per for part in plan.parts if part.spec.reserve_per is not None), None)
    lists = [part.spec.map_by.pe_list or shape.present for part in plan.parts]
    left_out = shape.present - reduce(or_, lists)
    kept = reduce(and_, (part.spec.kept_free(shape) for part in plan.parts)) | plan.reserve
    return ground(shape, reserve=kept, reserve_per=per_object).reserved | left_out


def _n_may_be_used(plan: Plan) -> int:
    """Return how many nodes some part of the request may use."""
    there = [node.host for node in plan.allocation.nodes]
    return len(set().union(*(part.spec.allowed(there) for part in plan.parts)))


def _slow(bound: Iterable[CpuSet], kinds: Sequence[CpuSet]) -> int:
    """Return how many ranks have only slower cores than the fastest that a rank has; kinds are the fastest first."""
    fastest = [next((i for i, kind in enumerate(kinds) if not kind.isdisjoint(cpus)), 0) for cpus in bound]
    return sum(kind > min(fastest) for kind in fastest)


def _overlapping(distinct: Mapping[CpuSet, int]) -> int:
    """Return how many ranks have a CPU that another one has too."""
    users: dict[int, int] = {}
    for cpus, n in distinct.items():
        for cpu in cpus:
            users[cpu] = users.get(cpu, 0) + n
    return sum(n for cpus, n in distinct.items() if any(users[cpu] > 1 for cpu in cpus))


def _usable(objects: Iterable[CpuSet], free: CpuSet) -> list[CpuSet]:
    """Return what is free of each of these objects, those without anything left out."""
    return [left for cpus in objects if (left := cpus & free)]


def _kinds(topology: NodeTopology, free: CpuSet) -> list[CpuSet]:
    """Return the free CPUs of each kind of core, the fastest first."""
    sets: dict[int, CpuSet] = {}
    classes = topology.core_classes()
    for core in topology.cores:
        kind = classes.get(core.kind, 0)
        sets[kind] = sets.get(kind, CpuSet()) | core.cpus
    return _usable([sets[kind] for kind in sorted(sets)], free)


def _touched(cpus: CpuSet, objects: Iterable[CpuSet]) -> list[CpuSet]:
    return [one for one in objects if not one.isdisjoint(cpus)]


def _splitting(distinct: Mapping[CpuSet, int], objects: Sequence[CpuSet]) -> int:
    """Return how many ranks have CPUs in several of these objects, one of which is split with other ranks."""
    touching = [[cpus for cpus in distinct if not cpus.isdisjoint(one)] for one in objects]
    split = [one for one, users in zip(objects, touching, strict=True) if len(users) > 1]
    return sum(
        n
        for cpus, n in distinct.items()
        if len(_touched(cpus, objects)) > 1 and any(not one.isdisjoint(cpus) for one in split)
    )


def _gpu_distance(topology: NodeTopology, local: LocalPlacement) -> int | None:
    """Return the distance of a rank from the farthest of its GPUs; None where it has none, or is bound to nothing."""
    if not local.gpus or local.cpus is None:
        return None
    gpus = dict(zip(gpu_ids(topology), topology.gpus, strict=True))
    return max((distance(topology, gpus[gpu], local.cpus) for gpu in local.gpus if gpu in gpus), default=None)
