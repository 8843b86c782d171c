"""Which numbers the ranks get: their order on a node, and the numbers of each node.

Every order is a sequence of rounds; in a round each node gets a block of numbers that follow each other, the nodes in
turn. Node after node is one round; ``--rank-by node`` gives each node one number a round; ``span`` as many as it has
objects that still have ranks to number. Nodes of one kind have the same width in each round, so the numbers of a node
are a few runs, however many ranks it has.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from rankmap.errors import UsageError
from rankmap.layout_parts import Order, RankBy
from rankmap.runs import Run, compress, expand, joined, length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.layout_parts import TextFile

__all__ = ["local_order", "number_nodes", "places_in_order"]

_LONGEST_WORD = 21
_MOST_RANKS = 1 << 24
"""A file of so many ranks is no order that somebody meant; it bounds the memory."""


def local_order(objects: Sequence[int], rank_by: RankBy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return in which order a node's ranks are numbered, and how many of them in each round of the nodes.

    Args:
        objects: Which object each rank was mapped to, in the order of mapping.
        rank_by: slot keeps that order; fill goes object by object; object and span go round the objects, span with
            those of all nodes; node and plane go round the nodes.
    """
    turns = _turns(objects)
    everyone = range(len(objects))
    match rank_by.order:
        case Order.FILL:
            return tuple(sorted(everyone, key=lambda i: (objects[i], turns[i]))), (len(objects),)
        case Order.OBJECT:
            return tuple(sorted(everyone, key=lambda i: (turns[i], objects[i]))), (len(objects),)
        case Order.SPAN:
            order = tuple(sorted(everyone, key=lambda i: (turns[i], objects[i])))
            n_in_turn = Counter(turns)
            return order, tuple(n_in_turn[turn] for turn in range(len(n_in_turn)))
        case Order.NODE | Order.PLANE:
            size = rank_by.count or 1
            return tuple(everyone), tuple(min(size, len(objects) - i) for i in range(0, len(objects), size))
        case Order.SLOT | Order.FILE:
            return tuple(everyone), (len(objects),)


def places_in_order(
    file: TextFile, orders: Sequence[Sequence[int]], runs: Sequence[Sequence[Run]]
) -> tuple[list[tuple[int, ...]], list[tuple[Run, ...]]]:
    """Return the orders and numbers of nodes whose ranks a file gives: the first number is the rank of place 0.

    Args:
        file: Rank numbers and ranges (``4-7``), separated by commas or white space; ``#`` starts a comment. The form
            of Cray MPICH's MPICH_RANK_ORDER file (intro_mpi(3), MPICH_RANK_REORDER_METHOD).
        orders: Per node, which local rank each of its places is.
        runs: Per node, the numbers of its places.

    Raises:
        UsageError: The file does not name each rank once.
    """
    ranks = _listed_ranks(file)
    n_places = sum(map(length, runs))
    if len(ranks) != n_places:
        msg = f"{file.name} lists {len(ranks)} ranks, and the job has {n_places}"
        raise UsageError(msg, hint="list each rank once, the rank of the first place first")
    seen = bytearray(n_places)
    for rank in ranks:
        if rank >= n_places or seen[rank]:
            why = "twice" if rank < n_places else f"and the job has ranks 0 to {n_places - 1}"
            msg = f"{file.name} lists rank {rank} {why}"
            raise UsageError(msg)
        seen[rank] = 1
    new_orders: list[tuple[int, ...]] = []
    new_runs: list[tuple[Run, ...]] = []
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    for order, here in zip(orders, runs, strict=True):
        pairs = sorted((ranks[place], local) for place, local in zip(expand(here), order, strict=True))
        new = tuple(local for _, local in pairs)
        new_orders.append(shared.setdefault(new, new))
        new_runs.append(compress([rank for rank, _ in pairs]))
    return new_orders, new_runs


def _listed_ranks(file: TextFile) -> list[int]:
    ranks: list[int] = []
    for number, line in enumerate(file.lines, start=1):
        for word in line.partition("#")[0].replace(",", " ").split():
            first, dash, last = word.partition("-")
            if not (first.isdecimal() and (last.isdecimal() if dash else True) and len(word) <= _LONGEST_WORD):
                msg = f"{file.name}:{number}: {word!r} is no rank and no range of ranks"
                raise UsageError(msg, hint="write 0,4,8 or 0-7")
            if dash and not int(first) <= int(last) < int(first) + _MOST_RANKS:
                msg = f"{file.name}:{number}: {word!r} is no range"
                raise UsageError(msg, hint="write the lower rank first")
            ranks += range(int(first), int(last or first) + 1)
            if len(ranks) > _MOST_RANKS:
                msg = f"{file.name}:{number}: more than {_MOST_RANKS} ranks"
                raise UsageError(msg)
    return ranks


def _turns(objects: Sequence[int]) -> list[int]:
    """Return for each rank how many ranks were mapped to its object before."""
    seen: dict[int, int] = {}
    turns = []
    for item in objects:
        turns.append(seen.get(item, 0))
        seen[item] = turns[-1] + 1
    return turns


def number_nodes(kinds: Sequence[int], widths: Sequence[Sequence[int]]) -> list[tuple[Run, ...]]:
    """Return the rank numbers of every node, in the order of its local ranks.

    Args:
        kinds: Which of ``widths`` each node has.
        widths: Per kind, how many ranks a node of it numbers in each round; the sum is its number of ranks.
    """
    n_rounds = max((len(rounds) for rounds in widths), default=0)
    columns = [tuple(rounds[i] if i < len(rounds) else 0 for rounds in widths) for i in range(n_rounds)]
    n_of_kind = [0] * len(widths)
    for kind in kinds:
        n_of_kind[kind] += 1
    # Rounds in a row that are alike are one group: (first round's start, how many rounds, numbers per round, widths).
    groups: list[tuple[int, int, int, tuple[int, ...]]] = []
    start = 0
    for column in columns:
        total = sum(n * width for n, width in zip(n_of_kind, column, strict=True))
        if groups and groups[-1][3] == column:
            first, n_alike, stride, _ = groups[-1]
            groups[-1] = (first, n_alike + 1, stride, column)
        else:
            groups.append((start, 1, total, column))
        start += total
    if len(groups) == 1 and groups[0][1] == 1:  # node after node
        ends = accumulate([groups[0][3][kind] for kind in kinds], initial=0)
        return [(Run(first=first, size=last - first),) if last > first else () for first, last in pairwise(ends)]
    offsets = [0] * len(groups)
    numbered = []
    for kind in kinds:
        runs = []
        for g, (first, n_alike, stride, column) in enumerate(groups):
            width = column[kind]
            if width:
                touching = width == stride  # nobody else has numbers in these rounds
                runs.append(
                    Run(first=first + offsets[g], size=width * n_alike)
                    if touching or n_alike == 1
                    else Run(first=first + offsets[g], size=width, blocks=n_alike, stride=stride)
                )
                offsets[g] += width
        numbered.append(tuple(runs) if len(runs) < 2 else joined(runs))  # noqa: PLR2004 - nothing to join
    return numbered
