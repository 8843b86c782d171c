"""What a user reads when ranks do not fit: what was asked, what there is on each node, and what would fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.errors import PlacementError
from rankmap.hostlist import fold
from rankmap.mapping.dealing import deal, nodes_taken, rooms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.layout import LayoutSpec
    from rankmap.mapping.cores import Domain
    from rankmap.mapping.dealing import Site

__all__ = ["domain_sizes", "refusal"]

_MAX_SUGGESTIONS = 4
_MAX_SHAPES = 8


def refusal(spec: LayoutSpec, sites: Sequence[Site]) -> PlacementError:
    """Return the error for a request that ``deal`` found no room for."""
    room = rooms(sites, cpus_per_rank=spec.cpus_per_rank)
    lines = list(_problems(spec, sites, room))
    shapes = dict.fromkeys(site.shape_index for site in sites)
    for shape in list(shapes)[:_MAX_SHAPES]:
        alike = [i for i, site in enumerate(sites) if site.shape_index == shape]
        lines.append(f"  {_there_is(spec, sites[alike[0]].domains, [sites[i].host for i in alike], room[alike[0]])}")
    if len(shapes) > _MAX_SHAPES:
        lines.append(f"  and {len(shapes) - _MAX_SHAPES} more kinds of node")
    fitting = [str(near) for near in nearest(spec, sites)]
    return PlacementError("\n".join(lines), hint=f"these fit: {' | '.join(fitting)}" if fitting else _NO_ROOM)


_NO_ROOM = "no layout fits these nodes: see which CPUs may be used with `rankmap topo`"


def nearest(spec: LayoutSpec, sites: Sequence[Site]) -> tuple[LayoutSpec, ...]:
    """Return the requests closest to this one that fit: fewer ranks, fewer cores for each, shared cores."""
    found: dict[LayoutSpec, None] = {}
    for candidate in _candidates(spec, sites):
        if candidate != spec and _fits(candidate, sites):
            found.setdefault(candidate)
    return tuple(found)[:_MAX_SUGGESTIONS]


def domain_sizes(domains: Sequence[Domain]) -> str:
    """Return how many free cores the domains have, in words: ``a domain has 8 cores``."""
    sizes = {len(domain) for domain in domains}
    if len(sizes) == 1:
        return f"a domain has {cores(min(sizes))}"
    return f"domains have {min(sizes)} to {cores(max(sizes))}"


def cores(count: int) -> str:
    """Return ``1 core``, ``2 cores``."""
    return f"{count} core{'s' * (count != 1)}"


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count != 1)}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _fits(spec: LayoutSpec, sites: Sequence[Site]) -> bool:
    kept = [site for site in sites if site.host not in spec.exclude_hosts]
    return deal(spec, rooms(kept, cpus_per_rank=spec.cpus_per_rank)) is not None


def _problems(spec: LayoutSpec, sites: Sequence[Site], room: Sequence[int]) -> Iterator[str]:
    n_ranks, per_node = spec.n_ranks, spec.ranks_per_node
    asked = spec.counts()
    each = f" of {cores(spec.cpus_per_rank)}" if spec.cpus_per_rank else ""
    if not any(room):
        what = f"{spec.cpus_per_rank} free cores" if spec.cpus_per_rank else "a free core"
        yield f"{asked}: no node has {what}" if asked else f"no node has {what}"
        return
    if per_node is None:
        yield f"{asked}: {_ranks(n_ranks or 1)}{each} do not fit on {_nodes(len(room))} with room for {sum(room)}"
        return
    if n_ranks and (taken := nodes_taken(n_ranks, per_node)) > len(room):
        yield f"{asked}: {_ranks(n_ranks)}, {per_node} on each node, take {_nodes(taken)}, and there are {len(room)}"
    used = room[: nodes_taken(n_ranks, per_node)] if n_ranks else room
    needed = min(per_node, n_ranks or per_node)
    full = [sites[i].host for i, r in enumerate(used) if r < needed and not (spec.oversubscribe and r)]
    if full:
        yield f"{asked}: {_ranks(needed)}{each} do not fit on {fold(full)}"


def _there_is(spec: LayoutSpec, domains: Sequence[Domain], hosts: Sequence[str], room: int) -> str:
    name = f"{fold(hosts)} ({_nodes(len(hosts))})" if len(hosts) > 1 else hosts[0]
    if not domains:
        return f"{name}: no free core"
    free = f"{sum(map(len, domains))} free core{'s' * (sum(map(len, domains)) != 1)}"
    numa = f"{len(domains)} NUMA domains, {domain_sizes(domains)}" if len(domains) > 1 else "1 NUMA domain"
    each = f" of {cores(spec.cpus_per_rank)}" if spec.cpus_per_rank else ""
    fits = f"room for {_ranks(room)}{each}{' on each' * (len(hosts) > 1)}" if room else f"no room for a rank{each}"
    return f"{name}: {free} in {numa}: {fits}"


def _candidates(spec: LayoutSpec, sites: Sequence[Site]) -> Iterator[LayoutSpec]:
    room = rooms(sites, cpus_per_rank=spec.cpus_per_rank)
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
    shared = [replace(spec, oversubscribe=True)]
    if n_ranks and per_node:
        shared.append(replace(spec, ranks_per_node=nodes_taken(n_ranks, len(room)), oversubscribe=True))
    yield from (candidate for candidate in shared if not _fits(replace(candidate, oversubscribe=False), sites))


def _fewer_cores(spec: LayoutSpec, sites: Sequence[Site]) -> Iterator[LayoutSpec]:
    """Yield the request with the most cores per rank that fit; with fewer ranks too where no node has the cores."""
    widest = max(sum(map(len, site.domains)) for site in sites)
    for fewer in range(min((spec.cpus_per_rank or 1) - 1, widest), 0, -1):
        candidate = replace(spec, cpus_per_rank=fewer)
        if _fits(candidate, sites):
            yield candidate
            break
    if spec.cpus_per_rank and spec.cpus_per_rank > widest > 0:
        yield replace(
            spec,
            cpus_per_rank=widest,
            ranks_per_node=None,
            n_ranks=sum(rooms(sites, cpus_per_rank=widest)),
        )
