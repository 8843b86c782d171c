"""What a user should know about a plan beside the table: ranks that span, cores that idle or are shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.hostlist import fold
from rankmap.mapping.refusal import cores, domain_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.cores import Domain, FreeCore
    from rankmap.placement import LocalPlacement

__all__ = ["LayoutUse", "layout_notes", "unused_note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutUse:
    """A layout with what it was made of: its hosts, the first rank of the first one, and every local rank's cores."""

    hosts: tuple[str, ...]
    first_rank: int
    domains: tuple[Domain, ...]
    blocks: tuple[tuple[FreeCore, ...], ...]
    ranks: tuple[LocalPlacement, ...]


def layout_notes(spec: LayoutSpec, use: LayoutUse) -> Iterator[str]:
    """Yield what there is to say about one layout, the same for all of its hosts."""
    spanning = [i for i, local in enumerate(use.ranks) if len(local.numa) > 1]
    if spec.cpus_per_rank and spanning:
        yield f"{_who(use, spanning)} (asked: -c {spec.cpus_per_rank}, {domain_sizes(use.domains)})"
    n_cores = sum(map(len, use.domains))
    widths = {len(block) for block in use.blocks}
    if not spec.cpus_per_rank and len(widths) > 1:
        where = f"{'each of ' * (len(use.hosts) > 1)}{fold(use.hosts)}"
        least = min(widths)
        yield f"ranks on {where} have {least} to {cores(max(widths))}; -c {least} gives all of them {cores(least)}"
    each = "each of " * (len(use.hosts) > 1)
    taken = {core.cpus for block in use.blocks for core in block}
    if sum(map(len, use.blocks)) > len(taken):
        yield f"{len(use.blocks)} ranks share {cores(len(taken))} on {each}{fold(use.hosts)} (--oversubscribe)"
    if idle := n_cores - len(taken):
        yield f"{idle} of {cores(n_cores)} on {each}{fold(use.hosts)} stay{'s' * (idle == 1)} idle"


def unused_note(hosts: Sequence[str]) -> Iterator[str]:
    """Yield that these hosts have no ranks, if there are any."""
    if hosts:
        yield f"{fold(hosts)} {'have' if len(hosts) > 1 else 'has'} no ranks"


def _who(use: LayoutUse, spanning: Sequence[int]) -> str:
    """Return ``rank 3 spans NUMA domains 0,1``, or how many domains several ranks span."""
    if len(use.hosts) > 1:
        names, where = CpuSet.of(spanning), f" on each of {fold(use.hosts)}"
        kind = "local rank"
    else:
        names, where = CpuSet.of(use.first_rank + i for i in spanning), ""
        kind = "rank"
    if len(spanning) == 1:
        numa = ",".join(map(str, use.ranks[spanning[0]].numa))
        return f"{kind} {names}{where} spans NUMA domains {numa}"
    widths = {len(use.ranks[i].numa) for i in spanning}
    many = f"{min(widths)} to {max(widths)}" if len(widths) > 1 else f"{max(widths)}"
    return f"{kind}s {names}{where} span {many} NUMA domains each"
