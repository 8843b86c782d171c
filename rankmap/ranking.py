"""Which numbers the ranks of each node get.

Every order is a sequence of rounds; in a round each node gets a block of numbers that follow each other, the nodes in
turn. Node after node is one round; ``--rank-by node`` gives each node one number a round; ``span`` as many as it has
objects that still have ranks to number. Nodes of one kind have the same width in each round, so the numbers of a node
are a few runs, however many ranks it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.runs import Run, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["number_nodes"]


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
