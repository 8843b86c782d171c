"""What a user should know about a plan beside the table: ranks that span, cores that idle or are shared."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.devices import distance, gpu_ids
from rankmap.hostlist import fold
from rankmap.layout_parts import Pattern
from rankmap.mapping.refusal import counted, domain_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.kinds import NodeKind
    from rankmap.placement import LocalPlacement
    from rankmap.processors import Ground
    from rankmap.topology import NodeTopology

__all__ = ["idle_note", "layout_notes", "unused_note"]


def layout_notes(
    spec: LayoutSpec,
    kind: NodeKind,
    *,
    hosts: Sequence[str],
    numbers: Sequence[int],
    ranks: Sequence[LocalPlacement],
    topology: NodeTopology,
) -> Iterator[str]:
    """Yield what there is to say about the ranks of alike nodes.

    Args:
        spec: What was asked.
        kind: What was made of it.
        hosts: The nodes.
        numbers: The ranks on the first of them, and below their placements.
        ranks: Where they are.
        topology: What the nodes are.
    """
    unit = "hardware thread" if kind.ground.threads else "core"
    wanted = spec.processors_per_rank
    spanning = [i for i, local in enumerate(ranks) if len(local.numa) > 1]
    if wanted and spanning and spec.bind_to is None:
        asked = f"asked: -c {wanted}, {domain_sizes(kind.ground.domains, unit)}"
        yield f"{_who(hosts, numbers, spanning, ranks)} ({asked})"
    widths = {len(positions) for positions in kind.chosen}
    if not wanted and len(widths) > 1 and spec.map_by.pattern is Pattern.AUTO:
        least = min(widths)
        has = f"ranks on {_where(hosts)} have {least} to {counted(max(widths), unit)}"
        yield f"{has}; -c {least} gives all of them {counted(least, unit)}"
    n_taken = len({position for positions in kind.chosen for position in positions})
    if sum(map(len, kind.chosen)) > n_taken:
        yield f"{len(ranks)} ranks share {counted(n_taken, unit)} on {_where(hosts)}"
    if n_slow := _n_on_slow_cores(kind):
        has = f"{counted(n_slow, 'rank')} on {_where(hosts)} {'have' if n_slow > 1 else 'has'}"
        yield f"{has} slower {unit}s than others"
    ids = gpu_ids(topology) if any(local.gpus for local in ranks) else ()
    far = [
        i
        for i, local in enumerate(ranks)
        if local.cpus is not None
        and any(distance(topology, topology.gpus[ids.index(gpu)], local.cpus) > 1 for gpu in local.gpus)
    ]
    if far:
        has = f"{counted(len(far), 'rank')} on {_where(hosts)} {'have' if len(far) > 1 else 'has'}"
        yield f"{has} a GPU in another NUMA domain"
    for kind_name, unknown in _of_unknown_place(topology, ranks):
        verb, which = ("are", "They are") if len(unknown) > 1 else ("is", "It is")
        devices = f"{kind_name}{'s' * (len(unknown) > 1)} {','.join(unknown)} of {_where(hosts)}"
        unset = ", and no variables set for them" if kind_name == "NIC" else ""
        yield f"nobody knows which CPUs {devices} {verb} close to. {which} given in order{unset}"


def _of_unknown_place(topology: NodeTopology, ranks: Sequence[LocalPlacement]) -> Iterator[tuple[str, list[str]]]:
    """Yield the GPUs and NICs of these ranks of which nobody knows what they are close to, where there are several."""
    named_gpus = [*zip(gpu_ids(topology), topology.gpus, strict=True)]
    named_nics = [(nic.name, nic) for nic in topology.nics]
    for word, devices, used in (
        ("GPU", named_gpus, {gpu for local in ranks for gpu in local.gpus}),
        ("NIC", named_nics, {nic for local in ranks for nic in local.nics}),
    ):
        unknown = [name for name, one in devices if name in used and not one.cpus and not one.numa]
        if unknown and len(devices) > 1:
            yield word, unknown


def idle_note(ground: Ground, hosts: Sequence[str], ranks: Sequence[LocalPlacement]) -> Iterator[str]:
    """Yield how many processors no rank of these alike nodes may use, if there are any.

    Args:
        ground: What the nodes had for ranks.
        hosts: Their names.
        ranks: All ranks of one of them.
    """
    if any(local.cpus is None for local in ranks):
        return  # unbound ranks may use them all
    bound = reduce(or_, (local.cpus for local in ranks if local.cpus is not None), CpuSet())
    unit = "hardware thread" if ground.threads else "core"
    if n_idle := sum(one.cpus.isdisjoint(bound) for one in ground.processors):
        n_free = counted(len(ground.processors), unit)
        yield f"{n_idle} of {n_free} on {_where(hosts)} stay{'s' * (n_idle == 1)} idle"


def _n_on_slow_cores(kind: NodeKind) -> int:
    """Return how many ranks have slower cores than the fastest that a rank of the node has."""
    kinds = [max((kind.ground.processors[p].kind for p in positions), default=0) for positions in kind.chosen]
    return sum(one > min(kinds) for one in kinds) if kinds else 0


def _where(hosts: Sequence[str]) -> str:
    return f"{'each of ' * (len(hosts) > 1)}{fold(hosts)}"


def unused_note(hosts: Sequence[str]) -> Iterator[str]:
    """Yield that these hosts have no ranks, if there are any."""
    if hosts:
        yield f"{fold(hosts)} {'have' if len(hosts) > 1 else 'has'} no ranks"


def _who(hosts: Sequence[str], numbers: Sequence[int], spanning: Sequence[int], ranks: Sequence[LocalPlacement]) -> str:
    """Return ``rank 3 spans NUMA domains 0,1``, or how many domains several ranks span."""
    if len(hosts) > 1:
        names, where = CpuSet.of(spanning), f" on each of {fold(hosts)}"
        kind = "local rank"
    else:
        names, where = CpuSet.of(numbers[i] for i in spanning), ""
        kind = "rank"
    if len(spanning) == 1:
        numa = ",".join(map(str, ranks[spanning[0]].numa))
        return f"{kind} {names}{where} spans NUMA domains {numa}"
    widths = {len(ranks[i].numa) for i in spanning}
    many = f"{min(widths)} to {max(widths)}" if len(widths) > 1 else f"{max(widths)}"
    return f"{kind}s {names}{where} span {many} NUMA domains each"
