"""Runs: a node's rank numbers, kept as arithmetic, so that a million ranks cost what their pattern costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Run", "compress", "expand", "length", "locate", "shifted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """``blocks`` blocks of ``size`` numbers that follow each other, each block ``stride`` after the one before.

    ``Run(first=3, size=2, blocks=3, stride=8)`` is 3 4 11 12 19 20. One block has ``stride`` 0.
    """

    first: int
    size: int
    blocks: int = 1
    stride: int = 0


def length(runs: Iterable[Run]) -> int:
    """Return how many numbers these runs hold."""
    return sum([run.size * run.blocks for run in runs])  # a list: this is asked for every node of a plan


def expand(runs: Iterable[Run]) -> Iterator[int]:
    """Yield every number of these runs, in their order."""
    for run in runs:
        for start in range(run.first, run.first + run.blocks * run.stride, run.stride) if run.stride else (run.first,):
            yield from range(start, start + run.size)


def locate(runs: Iterable[Run], number: int) -> int | None:
    """Return the position of this number in ``expand``, None when it is not among them."""
    before = 0
    for run in runs:
        block, rest = divmod(number - run.first, run.stride) if run.stride else (0, number - run.first)
        if 0 <= block < run.blocks and 0 <= rest < run.size:
            return before + block * run.size + rest
        before += run.size * run.blocks
    return None


def shifted(runs: Sequence[Run], by: int) -> tuple[Run, ...]:
    """Return the same runs, every number larger by this much."""
    return tuple(Run(first=run.first + by, size=run.size, blocks=run.blocks, stride=run.stride) for run in runs)


def compress(numbers: Sequence[int]) -> tuple[Run, ...]:
    """Return runs that expand to these ascending numbers: blocks of equal size and distance are one run."""
    blocks: list[tuple[int, int]] = []
    for number in numbers:
        if blocks and number == blocks[-1][0] + blocks[-1][1]:
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + 1)
        else:
            blocks.append((number, 1))
    return joined(Run(first=first, size=size) for first, size in blocks)


def joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return these runs, one-block runs of equal size and distance made one."""
    result: list[Run] = []
    for run in runs:
        last = result[-1] if result else None
        if last is not None and run.blocks == 1 and run.size == last.size:
            stride = run.first - last.first if last.blocks == 1 else last.stride
            if stride > 0 and run.first == last.first + last.blocks * stride:
                if last.blocks == 1 and stride == last.size:  # they touch: one longer block
                    result[-1] = Run(first=last.first, size=last.size + run.size)
                else:
                    result[-1] = Run(first=last.first, size=last.size, blocks=last.blocks + 1, stride=stride)
                continue
        result.append(run)
    return tuple(result)
