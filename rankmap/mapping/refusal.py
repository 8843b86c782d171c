"""What a user reads when ranks do not fit: what was asked, what there is on each node, and what would fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.errors import PlacementError
from rankmap.hostlist import fold
from rankmap.mapping.dealing import alike, deal, enough_devices, nodes_taken, rooms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.dealing import Site
    from rankmap.processors import Domain

__all__ = ["counted", "domain_sizes", "refusal", "unit"]

_MAX_SUGGESTIONS = 4
_MAX_SHAPES = 8


def refusal(spec: LayoutSpec, sites: Sequence[Site]) -> PlacementError:
    """Return the error for a request that ``deal`` found no room for."""
    room = rooms(sites, cpus_per_rank=spec.processors_per_rank)
    lines = list(_problems(spec, sites, room))
    kinds = alike(sites)
    lines += [
        f"  {_there_is(spec, sites[same[0]], [sites[i].host for i in same], room[same[0]])}"
        for same in kinds[:_MAX_SHAPES]
    ]
    if len(kinds) > _MAX_SHAPES:
        lines.append(f"  and {len(kinds) - _MAX_SHAPES} more kinds of node")
    plain = replace(spec, cpus_per_rank=spec.processors_per_rank, map_by=replace(spec.map_by, pe=None))
    fitting = [str(near) for near in nearest(plain, sites)]
    if spec.n_gpus and any(site.by_devices for site in sites):
        shared = replace(plain, share_gpus=True, ranks_per_gpu=None)
        if _fits(shared, [site._replace(slots=None, by_devices=False) if site.by_devices else site for site in sites]):
            fitting.append(str(shared))
    return PlacementError("\n".join(lines), hint=f"these fit: {' | '.join(fitting)}" if fitting else _NO_ROOM)


_NO_ROOM = "no layout fits these nodes: see which CPUs may be used with `rankmap topo`"


def nearest(spec: LayoutSpec, sites: Sequence[Site]) -> tuple[LayoutSpec, ...]:
    """Return the requests closest to this one that fit: fewer ranks, fewer cores for each, shared cores."""
    found: dict[LayoutSpec, None] = {}
    for candidate in _candidates(spec, sites):
        if candidate != spec and _fits(candidate, sites):
            found.setdefault(candidate)
    return tuple(found)[:_MAX_SUGGESTIONS]


def domain_sizes(domains: Sequence[Domain], unit: str) -> str:
    """Return how many free processors the domains have, in words: ``a domain has 8 cores``."""
    sizes = {len(domain) for domain in domains}
    if len(sizes) == 1:
        return f"a domain has {counted(min(sizes), unit)}"
    return f"domains have {min(sizes)} to {counted(max(sizes), unit)}"


def counted(count: int, thing: str) -> str:
    """Return ``1 core``, ``2 cores``."""
    return f"{count} {thing}{'s' * (count != 1)}"


def unit(spec: LayoutSpec) -> str:
    """Return what a processor is called: core, or hardware thread."""
    return "hardware thread" if spec.threads else "core"


def _fits(spec: LayoutSpec, sites: Sequence[Site]) -> bool:
    kept = [site for site in sites if site.host not in spec.exclude_hosts]
    counts = deal(spec, rooms(kept, cpus_per_rank=spec.processors_per_rank))
    return counts is not None and enough_devices(counts, kept)


def _problems(spec: LayoutSpec, sites: Sequence[Site], room: Sequence[int]) -> Iterator[str]:
    n_ranks, per_node = spec.n_ranks, spec.ranks_per_node
    asked = spec.counts()
    each = f" of {counted(spec.processors_per_rank, unit(spec))}" if spec.processors_per_rank else ""
    if not any(room):
        what = f"free {unit(spec)}"
        what = f"{spec.processors_per_rank} {what}s" if spec.processors_per_rank else f"a {what}"
        yield f"{asked}: no node has {what}" if asked else f"no node has {what}"
        return
    if per_node is None:
        what = f"{counted(n_ranks or 1, 'rank')}{each}"
        yield f"{asked}: {what} do not fit on {counted(len(room), 'node')} with room for {sum(room)}"
        return
    if n_ranks and (taken := nodes_taken(n_ranks, per_node)) > len(room):
        what = f"{counted(n_ranks, 'rank')}, {per_node} on each node"
        yield f"{asked}: {what}, take {counted(taken, 'node')}, and there are {len(room)}"
    used = room[: nodes_taken(n_ranks, per_node)] if n_ranks else room
    needed = min(per_node, n_ranks or per_node)
    shares = [spec.oversubscribe and r and not sites[i].by_devices for i, r in enumerate(used)]
    full = [sites[i].host for i, r in enumerate(used) if r < needed and not shares[i]]
    if full:
        yield f"{asked}: {counted(needed, 'rank')}{each} do not fit on {fold(full)}"


def _there_is(spec: LayoutSpec, site: Site, hosts: Sequence[str], room: int) -> str:
    domains, name = site.ground.domains, hosts[0]
    if len(hosts) > 1:
        name = f"{fold(hosts)} ({counted(len(hosts), 'node')})"
    if not domains:
        return f"{name}: no free {unit(spec)}"
    free = counted(len(site.ground.processors), f"free {unit(spec)}")
    numa = "1 NUMA domain"
    if len(domains) > 1:
        numa = f"{len(domains)} NUMA domains, {domain_sizes(domains, unit(spec))}"
    slots = "" if site.slots is None else f", {counted(site.slots, 'slot')}"
    if spec.n_nics and site.by_devices and not site.slots:
        slots = f", fewer than {counted(spec.n_nics, 'NIC')}"
    if spec.n_gpus:
        slots = f", {counted(len(site.ground.gpus), 'free GPU')}{'' if site.by_devices else slots}"
    each = f" of {counted(spec.processors_per_rank, unit(spec))}" if spec.processors_per_rank else ""
    fits = f"no room for a rank{each}"
    if room:
        fits = f"room for {counted(room, 'rank')}{each}{' on each' * (len(hosts) > 1)}"
    return f"{name}: {free} in {numa}{slots}: {fits}"


def _candidates(spec: LayoutSpec, sites: Sequence[Site]) -> Iterator[LayoutSpec]:
    room = rooms(sites, cpus_per_rank=spec.processors_per_rank)
    n_ranks, per_node = spec.n_ranks, spec.ranks_per_node
    if per_node is None:
        if sum(room):
            yield replace(spec, n_ranks=sum(room))
    else:
        least = min(room)
        small = tuple(site.host for site, r in zip(sites, room, strict=True) if r < per_node)
        if 0 < len(small) < len(sites):
            yield replace(spec, exclude_hosts=spec.exclude_hosts + small)
        if n_ranks:
            yield replace(spec, ranks_per_node=nodes_taken(n_ranks, len(room)))
            yield replace(spec, n_ranks=per_node * len(room))
            yield replace(spec, ranks_per_node=None)
        if 0 < least < per_node:
            yield replace(spec, ranks_per_node=least)
            yield replace(spec, ranks_per_node=least, n_ranks=min(n_ranks, least * len(room)) if n_ranks else None)
        elif not least and any(room):
            yield replace(spec, ranks_per_node=None, n_ranks=min(n_ranks or per_node * len(room), sum(room)))
    yield from _fewer_cores(spec, sites)
    shared = [_sharing(spec)]
    if n_ranks and per_node:
        shared.append(_sharing(replace(spec, ranks_per_node=nodes_taken(n_ranks, len(room)))))
    yield from (candidate for candidate in shared if not _fits(replace(candidate, oversubscribe=False), sites))


def _sharing(spec: LayoutSpec) -> LayoutSpec:
    """Return the request with ranks that may share processors, and be bound to them where they are to be bound."""
    bind_to = spec.bind_to
    if bind_to is not None and (bind_to.level is not None or bind_to.explicit):
        bind_to = replace(bind_to, overload=True)
    return replace(spec, oversubscribe=True, bind_to=bind_to)


def _fewer_cores(spec: LayoutSpec, sites: Sequence[Site]) -> Iterator[LayoutSpec]:
    """Yield the request with the most cores per rank that fit; with fewer ranks too where no node has the cores."""
    widest = max(sum(map(len, site.ground.domains)) for site in sites)
    for fewer in range(min((spec.processors_per_rank or 1) - 1, widest), 0, -1):
        candidate = replace(spec, cpus_per_rank=fewer)
        if _fits(candidate, sites):
            yield candidate
            break
    if spec.processors_per_rank and spec.processors_per_rank > widest > 0:
        yield replace(
            spec,
            cpus_per_rank=widest,
            ranks_per_node=None,
            n_ranks=sum(rooms(sites, cpus_per_rank=widest)),
        )
