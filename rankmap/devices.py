"""Which GPUs go with which cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.cpuset import CpuSet
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["nearest_gpus"]


def nearest_gpus(
    topology: NodeTopology, blocks: Sequence[CpuSet], *, each: int, free: Sequence[int]
) -> tuple[tuple[str, ...], ...]:
    """Return the ids of ``each`` of these GPUs for each block of CPUs, no GPU twice.

    ``free`` are positions in ``topology.gpus``, at least as many as are wanted. Each block takes, of those that are
    left, the GPUs that are close to the fewest CPUs of which it has one, then those of its NUMA distance, then the
    first. Ids are positions in ``topology.gpus``.
    """
    left = list(free)
    given: list[list[int]] = [[] for _ in blocks]
    # the closest pairs first, so that no block takes what another one is closer to
    pairs = sorted(
        (_distance(topology, topology.gpus[gpu], block), i, gpu) for i, block in enumerate(blocks) for gpu in left
    )
    for _, i, gpu in pairs:
        if gpu in left and len(given[i]) < each:
            given[i].append(gpu)
            left.remove(gpu)
    return tuple(tuple(str(gpu) for gpu in sorted(gpus)) for gpus in given)


def _distance(topology: NodeTopology, gpu: Gpu, cpus: CpuSet) -> tuple[int, int]:
    """Return the NUMA distance of a GPU from these CPUs (0: they are close to it), and to how many CPUs it is close."""
    if not gpu.cpus.isdisjoint(cpus):
        return 0, len(gpu.cpus)
    position = {domain.os_index: i for i, domain in enumerate(topology.numa_domains)}
    own = [position[d.os_index] for d in topology.numa_domains if d.local and not d.cpus.isdisjoint(cpus)]
    theirs = [position[numa] for numa in gpu.numa if numa in position]
    if not topology.distances or not own or not theirs:
        return 255, len(gpu.cpus)  # ACPI SLIT's word for unreachable
    return min(topology.distances[a][b] for a in own for b in theirs), len(gpu.cpus)
