"""What differs between two plans, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.hostlist import fold
from rankmap.scoring import score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.placement import Plan, RankPlacement

__all__ = ["Comparison", "compare"]

_MOST_RANKS = 16
_FIELDS = (("cpus", "CPUs"), ("gpus", "GPUs"), ("nics", "NICs"), ("mem", "memory policy"), ("env", "environment"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two plans, a sentence each.

    Args:
        requests: What was asked differently, which may lead to the same places.
        places: What is different for the ranks: their number, nodes, CPUs, ...; empty when all are in the same place.
        scores: In which numbers of their scores the plans differ.
    """

    requests: tuple[str, ...]
    places: tuple[str, ...]
    scores: tuple[str, ...]


def compare(one: Plan, other: Plan) -> Comparison:
    """Return what differs between two plans."""
    return Comparison(
        requests=tuple(_requests(one, other)),
        places=(*_nodes(one, other), *_ranks(one, other)),
        scores=tuple(_scores(one, other)),
    )


def _nodes(one: Plan, other: Plan) -> Iterator[str]:
    if one.n_ranks != other.n_ranks:
        yield f"{one.n_ranks} ranks, and {other.n_ranks} in the other"
    same_make: dict[tuple[int, int], bool] = {}
    index = {node.host: node.shape_index for node in other.allocation.nodes}
    changed = []
    for node in one.allocation.nodes:
        if node.host in index:
            key = node.shape_index, index[node.host]
            if key not in same_make:
                same_make[key] = one.allocation.shapes[key[0]] == other.allocation.shapes[key[1]]
            if not same_make[key]:
                changed.append(node.host)
    if changed:
        yield f"another kind of node in the other: {fold(changed)}"


def _requests(one: Plan, other: Plan) -> Iterator[str]:
    if len(one.parts) != len(other.parts):
        yield f"{len(one.parts)} parts, and {len(other.parts)} in the other"
    for number, (mine, theirs) in enumerate(zip(one.parts, other.parts, strict=False), start=1):
        if mine.spec != theirs.spec:
            part = f" for part {number}" * (len(one.parts) > 1)
            yield f"asked{part}: {str(mine.spec) or 'nothing'}, and {str(theirs.spec) or 'nothing'} in the other"


def _ranks(one: Plan, other: Plan) -> Iterator[str]:
    moved: list[int] = []
    changed: dict[str, list[int]] = {word: [] for _, word in _FIELDS}
    examples: list[str] = []
    for mine, theirs in zip(one.iter_ranks(), other.iter_ranks(), strict=False):
        differs = [word for name, word in _FIELDS if getattr(mine, name) != getattr(theirs, name)]
        if mine.host != theirs.host:
            moved.append(mine.rank)
        for word in differs:
            changed[word].append(mine.rank)
        if (differs or mine.host != theirs.host) and len(examples) < _MOST_RANKS:
            examples.append(f"  rank {mine.rank}: {_place(mine)}, and {_place(theirs)}")
    if moved:
        yield f"{len(moved)} ranks are on another host: {CpuSet.of(moved)}"
    for word, ranks in changed.items():
        if ranks:
            yield f"{len(ranks)} ranks have other {word}: {CpuSet.of(ranks)}"
    yield from examples
    left_out = len({*moved, *(rank for ranks in changed.values() for rank in ranks)}) - len(examples)
    if left_out > 0:
        yield f"  and {left_out} more"


def _place(rank: RankPlacement) -> str:
    cpus = "unbound" if rank.cpus is None else f"CPUs {rank.cpus}"
    gpus = f", GPUs {','.join(rank.gpus)}" if rank.gpus else ""
    return f"{rank.host} {cpus}{gpus}"


def _scores(one: Plan, other: Plan) -> Iterator[str]:
    for mine, theirs in zip(score(one).numbers(), score(other).numbers(), strict=True):
        if mine.cost != theirs.cost:
            better = "better" if mine.cost < theirs.cost else "worse"
            yield f"{better}: {mine}; {theirs.cost} in the other"
