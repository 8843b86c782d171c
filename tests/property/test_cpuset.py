"""CpuSet is a set, and survives its text forms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rankmap.cpuset import CpuSet

NUMBERS = st.frozensets(st.one_of(st.integers(0, 80), st.sampled_from((31, 32, 63, 64, 127, 128, 383, 4095))))


@given(NUMBERS, NUMBERS)
def test_algebra(a: frozenset[int], b: frozenset[int]) -> None:
    """Union, intersection, difference and the relations are those of sets of numbers."""
    x, y = CpuSet.of(a), CpuSet.of(b)
    assert [sorted(a | b), sorted(a & b), sorted(a - b)] == [list(x | y), list(x & y), list(x - y)]
    assert (a <= b, a.isdisjoint(b), a == b) == (x.issubset(y), x.isdisjoint(y), x == y)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_laws(a: frozenset[int], b: frozenset[int], c: frozenset[int]) -> None:
    """Distribution and De Morgan hold, and a set is made of what is in and what is out of another."""
    x, y, z = CpuSet.of(a), CpuSet.of(b), CpuSet.of(c)
    assert (x & y) | (x & z) == x & (y | z)
    assert (z - x) & (z - y) == z - (x | y)
    assert (x & y) | (x - y) == x


@given(NUMBERS)
def test_members(a: frozenset[int]) -> None:
    """Length, truth, membership and iteration agree."""
    x = CpuSet.of(a)
    assert (len(a), bool(a), sorted(a)) == (len(x), bool(x), list(x))
    assert all(number in x for number in a)
    assert -1 not in x
    assert max(a, default=0) + 1 not in x


@given(NUMBERS)
def test_list_text(a: frozenset[int]) -> None:
    """A set's Linux list reads back as the same set."""
    assert CpuSet.parse(str(CpuSet.of(a))) == CpuSet.of(a)


@given(NUMBERS)
def test_hex_text(a: frozenset[int]) -> None:
    """A set's mask reads back as the same set, in one piece and as hwloc's groups of 32 bits."""
    x = CpuSet.of(a)
    groups = [x.mask >> shift & 0xFFFFFFFF for shift in range(0, max(1, x.mask.bit_length()), 32)]
    hwloc = ",".join(f"0x{group:08x}" if group else "" for group in reversed(groups)) or "0x0"
    assert [x, x] == [CpuSet.from_hex(x.to_hex()), CpuSet.from_hex(hwloc)]


@given(NUMBERS, NUMBERS)
def test_order(a: frozenset[int], b: frozenset[int]) -> None:
    """Of two different sets exactly one is smaller: the one that holds the lowest CPU that only one holds."""
    x, y = CpuSet.of(a), CpuSet.of(b)
    first = min(a ^ b, default=None)
    assert (first in a and first is not None, first in b and first is not None) == (x < y, y < x)
