"""What a rank has beside cores and GPUs: its memory policy, and the variables for its threads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.mapping.memory import memory_policy
from rankmap.mapping.threads import thread_environment

if TYPE_CHECKING:
    from rankmap.cpuset import CpuSet
    from rankmap.layout import LayoutSpec
    from rankmap.mapping.kinds import NodeKind
    from rankmap.topology import NodeTopology

__all__ = ["with_memory_and_threads"]


def with_memory_and_threads(kind: NodeKind, topology: NodeTopology, spec: LayoutSpec, host: str) -> NodeKind:
    """Return the kind with what was asked for with ``--mem-bind`` and ``--threads``.

    Raises:
        PlacementError: The node has no such memory, or a rank has fewer CPUs than threads.
    """
    count = spec.threads_per_rank
    n_sharing = Counter(rank.cpus for rank in kind.ranks)
    n_before: Counter[CpuSet | None] = Counter()
    ranks = []
    for rank in kind.ranks:
        env = rank.env
        if count is not None:
            share = n_before[rank.cpus], n_sharing[rank.cpus]
            env += thread_environment(topology, rank.cpus, count, host, share)
            n_before[rank.cpus] += 1
        ranks.append(replace(rank, mem=memory_policy(topology, spec.mem_bind, rank.cpus, host), env=env))
    return replace(kind, ranks=tuple(ranks))
