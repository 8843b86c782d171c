"""An immutable set of PU os indices: Linux list text, hexadecimal mask, set algebra."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING

from rankmap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["CpuSet"]

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


@total_ordering
@dataclass(frozen=True, slots=True)
class CpuSet:
    """A set of PU os indices, the numbers that sched_setaffinity(2) takes.

    Ordered by the smallest index in which two sets differ, so that sorting puts CPU 0's set first.

    Args:
        mask: Bit i is set when PU os index i is in the set; never negative.
    """

    mask: int = 0

    def __post_init__(self) -> None:
        if self.mask < 0:
            msg = f"a CPU mask cannot be negative: {self.mask}"
            raise ValueError(msg)

    @classmethod
    def of(cls, cpus: Iterable[int]) -> CpuSet:
        """Return the set of these PU os indices.

        Raises:
            ValueError: An index is negative.
        """
        mask = 0
        for cpu in cpus:
            mask |= 1 << cpu
        return cls(mask)

    @classmethod
    def parse(cls, text: str) -> CpuSet:
        """Return the set that a Linux CPU list such as ``0-7,64-71`` names; "" is the empty set.

        Raises:
            UsageError: The text is not a Linux CPU list.

        Source: cpuset(7), "List format".
        """
        mask = 0
        for part in text.split(",") if text.strip() else ():
            match = _RANGE.fullmatch(part.strip())
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if first > last:
                msg = f"{part.strip()!r} in {text!r} is not a CPU number or a range of them"
                raise UsageError(msg, hint="write CPUs as Linux lists them, for example 0-7,64-71")
            mask |= ((1 << (last - first + 1)) - 1) << first
        return cls(mask)

    @classmethod
    def from_hex(cls, text: str) -> CpuSet:
        """Return the set of an hwloc bitmap (``0xf...f,0x00000001``) or a plain hexadecimal mask.

        Groups between commas are 32 bits wide, the most significant first.

        Raises:
            ValueError: The text is not such a mask, or it is infinite.

        Source: hwloc_bitmap_snprintf(3).
        """
        mask = 0
        for group in text.split(","):
            word = int(group, 16) if group.strip() else 0
            if word >> 32 and "," in text:
                msg = f"a group of {text!r} has more than 32 bits"
                raise ValueError(msg)
            mask = mask << 32 | word
        return cls(mask)

    def to_hex(self) -> str:
        """Return the set as one hexadecimal mask, such as 0xff."""
        return hex(self.mask)

    def __str__(self) -> str:
        parts: list[str] = []
        mask, base = self.mask, 0
        while mask:
            skip = (mask & -mask).bit_length() - 1
            mask >>= skip
            base += skip
            run = (~mask & (mask + 1)).bit_length() - 1
            parts.append(f"{base}-{base + run - 1}" if run > 1 else f"{base}")
            mask >>= run
            base += run
        return ",".join(parts)

    def __repr__(self) -> str:
        return f"CpuSet.parse({str(self)!r})"

    def __iter__(self) -> Iterator[int]:
        mask = self.mask
        while mask:
            low = mask & -mask
            yield low.bit_length() - 1
            mask ^= low

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __bool__(self) -> bool:
        return self.mask != 0

    def __contains__(self, cpu: int) -> bool:
        return cpu >= 0 and bool(self.mask >> cpu & 1)

    def __and__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask & other.mask)

    def __or__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask | other.mask)

    def __sub__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask & ~other.mask)

    def __lt__(self, other: CpuSet) -> bool:
        only_one = self.mask ^ other.mask
        return bool(only_one and self.mask & only_one & -only_one)

    def issubset(self, other: CpuSet) -> bool:
        """Return whether every CPU of this set is in the other."""
        return not self.mask & ~other.mask

    def isdisjoint(self, other: CpuSet) -> bool:
        """Return whether the two sets have no CPU in common."""
        return not self.mask & other.mask
