"""What a rank has beside cores and GPUs: its memory policy, and the variables for its threads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.mapping.memory import memory_policy
from rankmap.mapping.threads import thread_environment

if TYPE_CHECKING:
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
    ranks = [
        replace(
            rank,
            mem=memory_policy(topology, spec.mem_bind, rank.cpus, host),
            env=rank.env + (() if count is None else thread_environment(topology, rank.cpus, count, host)),
        )
        for rank in kind.ranks
    ]
    return replace(kind, ranks=tuple(ranks))
