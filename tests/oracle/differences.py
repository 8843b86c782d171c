"""Where rankmap's plan is another one than an oracle's, on purpose: the one list of it (in words: docs/differences.md).

A row covers the requests that its predicate holds for; any other difference is an error of one of the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.layout_parts import Level
from rankmap.processors import ground, objects_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.oracle.requests_sampled import Asked

__all__ = ["DIFFERENCES", "Difference", "listed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One kind of request that rankmap and an oracle (prterun or hydra) answer differently, and why.

    ``differs`` says whether both may answer, each its own; ``refuses`` whether the oracle may refuse it.
    """

    oracle: str
    slug: str
    applies: Callable[[Asked], bool]
    reason: str
    differs: bool = True
    refuses: bool = False


_WITH_MEMORY_OR_CACHE = (Level.PACKAGE, Level.NUMA, Level.L1CACHE, Level.L2CACHE, Level.L3CACHE)


def _objects_without_cpus(asked: Asked) -> bool:
    node, level = asked.machine.topology, asked.level
    return level in _WITH_MEMORY_OR_CACHE and any(cpus.isdisjoint(node.usable) for cpus in objects_of(node, level))


def _first_core_has_one_thread(asked: Asked) -> bool:
    node = asked.machine.topology
    n_threads = [len(core.cpus & node.usable) for core in node.usable_cores()]
    return n_threads[0] == 1 and max(n_threads) > 1


def _small_object_is_full(asked: Asked) -> bool:
    return asked.bind_to != "none" and "SPAN" not in asked.map_by and _one_object_has_too_little(asked)


def _unbound_ranks_by_span(asked: Asked) -> bool:
    by_span = asked.rank_by == "span" or (not asked.rank_by and "SPAN" in asked.map_by)
    return asked.bind_to == "none" and by_span and _one_object_has_too_little(asked)


def _one_object_has_too_little(asked: Asked) -> bool:
    """Return whether, of several nodes, one may get more ranks than equal counts for its unequal objects can be."""
    if asked.level is None or asked.map_word == "ppr":
        return False
    node = ground(asked.machine.topology, threads="HWTCPUS" in asked.map_by)
    pe = re.search(r"PE=(\d+)", asked.map_by)
    sizes = [len(group) // (int(pe[1]) if pe else 1) for group in node.objects(asked.level)]
    even = min(sizes) * len(sizes)
    return max(sizes) > min(sizes) and len(asked.slots) > 1 and min(asked.n_ranks, max(asked.slots)) > even


def _rankfile_of_threads_by_package(asked: Asked) -> bool:
    return asked.map_by == "rankfile:HWTCPUS" and any(":" in line for line in asked.lines)


def _rankfile_for_unequal_packages(asked: Asked) -> bool:
    sizes = {len(group) for group in ground(asked.machine.topology).objects(Level.PACKAGE)}
    return asked.map_by == "rankfile" and len(sizes) > 1 and any(":" in line for line in asked.lines)


def _rankfile_for_part_of_a_node(asked: Asked) -> bool:
    node = asked.machine.topology
    return asked.map_word == "rankfile" and len(node.usable_cores()) < len(node.cores)


def _nodes_with_unequal_slots(asked: Asked) -> bool:
    return asked.map_word == "node" and asked.n_ranks > min(asked.slots) * len(asked.slots)


def _bound_between_core_and_object(asked: Asked) -> bool:
    return asked.bind_to not in {"core", asked.map_word}


def _caches_are_inside_cores(asked: Asked) -> bool:
    node = asked.machine.topology
    levels = {asked.map_word, asked.bind_to, str(asked.level)}
    caches = [cache.cpus for cache in node.caches if f"l{cache.level}cache" in levels]
    return any(core.cpus & cpus and not core.cpus.issubset(cpus) for core in node.cores for cpus in caches)


def _cpus_have_gaps(asked: Asked) -> bool:
    node = asked.machine.topology
    gaps = node.usable != node.present or list(node.usable) != list(range(len(node.usable)))
    return gaps or not all(domain.local for domain in node.numa_domains)


def _cores_are_unequal(asked: Asked) -> bool:
    node = asked.machine.topology
    return len({len(core.cpus & node.usable) for core in node.usable_cores()}) > 1


DIFFERENCES = (
    Difference(
        oracle="prterun",
        slug="objects-without-cpus",
        applies=_objects_without_cpus,
        reason="prterun deals ranks to HBM, CXL and GPU memory too, and to packages that a cgroup left no CPU, where it"
        " then finds no core; rankmap deals them to objects that have CPUs",
    ),
    Difference(
        oracle="prterun",
        slug="first-core-has-one-thread",
        refuses=True,
        applies=_first_core_has_one_thread,
        reason="prterun looks at a node's first core to know whether cores have several threads; where that one has"
        " lost its second thread, it takes each hardware thread of the node for a core",
    ),
    Difference(
        oracle="prterun",
        slug="small-object-is-full",
        applies=_small_object_is_full,
        reason="where ranks are bound and one object of a node is full, prterun goes on to the next node and comes back"
        " later; rankmap fills each node, bound or not",
    ),
    Difference(
        oracle="prterun",
        slug="unbound-ranks-by-span",
        applies=_unbound_ranks_by_span,
        reason="prterun deals unbound ranks to objects as if each had room for all of them, which --rank-by span shows;"
        " rankmap gives an object no more ranks than it has cores, bound or not",
    ),
    Difference(
        oracle="prterun",
        slug="rankfile-of-threads-by-package",
        refuses=True,
        applies=_rankfile_of_threads_by_package,
        reason="with HWTCPUS prterun takes slot=K for hardware threads but slot=PACKAGE:K still for cores; rankmap"
        " takes both for hardware threads",
    ),
    Difference(
        oracle="prterun",
        slug="rankfile-for-unequal-packages",
        applies=_rankfile_for_unequal_packages,
        reason="prterun takes slot=PACKAGE:0 for the core of number PACKAGE times the cores of that package, and so"
        " for one of another package where packages are unequal",
    ),
    Difference(
        oracle="prterun",
        slug="rankfile-for-part-of-a-node",
        applies=_rankfile_for_part_of_a_node,
        reason="prterun numbers the cores that its cgroup allows; rankmap those of the node, so that a rankfile names"
        " the same cores in every allocation",
    ),
    Difference(
        oracle="prterun",
        slug="nodes-with-unequal-slots",
        differs=False,
        refuses=True,
        applies=_nodes_with_unequal_slots,
        reason="mapped by node, prterun gives up when a node's slots are full before the ranks are dealt; rankmap goes"
        " on with the nodes that have room",
    ),
    Difference(
        oracle="prterun",
        slug="bound-to-caches-inside-cores",
        differs=False,
        refuses=True,
        applies=_caches_are_inside_cores,
        reason="an emulator (QEMU) may give each hardware thread a cache of its own; prterun then finds too few threads"
        " in it, rankmap without HWTCPUS binds to the core",
    ),
    Difference(
        oracle="hydra",
        slug="objects-inside-the-mapped-one",
        applies=_bound_between_core_and_object,
        reason="mapped by package and bound to numa, say, hydra goes round the domains of a package; rankmap and"
        " prterun take the package's next free core and bind to its domain",
    ),
    Difference(
        oracle="hydra",
        slug="caches-inside-cores",
        applies=_caches_are_inside_cores,
        reason="an emulator (QEMU) may give each hardware thread a cache of its own; hydra then binds to the thread,"
        " rankmap without HWTCPUS to the core, and prterun refuses",
    ),
    Difference(
        oracle="hydra",
        slug="cpus-with-gaps",
        differs=False,
        refuses=True,
        applies=_cpus_have_gaps,
        reason="hydra breaks off, or prints sets that cannot be read, where the numbers of the usable CPUs have gaps or"
        " a NUMA domain has no CPUs",
    ),
    Difference(
        oracle="hydra",
        slug="cores-of-unequal-threads",
        applies=_cores_are_unequal,
        reason="hydra takes as many hardware threads for a core as a core has on average, and puts two ranks on one",
    ),
)


def listed(asked: Asked, *, oracle: str, refused: bool) -> str | None:
    """Return the slug of the first difference that the request may show, None where there is none.

    Args:
        asked: The request.
        oracle: Who was asked.
        refused: Whether the oracle refused what rankmap plans.
    """
    rows = [row for row in DIFFERENCES if row.oracle == oracle and (row.refuses if refused else row.differs)]
    return next((row.slug for row in rows if row.applies(asked)), None)
