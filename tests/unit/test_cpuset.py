"""CpuSet at its edges; its laws are in tests/property/test_cpuset.py."""

from __future__ import annotations

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", []),
        (" ", []),
        ("0", [0]),
        ("3-5", [3, 4, 5]),
        ("5-5", [5]),
        ("0-1, 64 ,65", [0, 1, 64, 65]),
        ("4,0-2,1-3", [0, 1, 2, 3, 4]),
    ],
)
def test_linux_lists_are_read_in_any_order(text: str, cpus: list[int]) -> None:
    """Ranges may overlap and need no order; the empty text is the empty set."""
    assert cpus == list(CpuSet.parse(text))


@pytest.mark.parametrize("text", ["x", "1,", ",", "3-1", "-1", "1-", "0x3", "1 2", "0-7:2", "1234567", "1--2"])
def test_what_is_no_linux_list_is_refused_with_the_part_that_is_wrong(text: str) -> None:
    """The error names the text, and shows how a list is written."""
    with pytest.raises(UsageError) as caught:
        CpuSet.parse(text)
    assert repr(text) in caught.value.message
    assert "0-7,64-71" in caught.value.hint


@pytest.mark.parametrize("text", ["0xg", "0xf...f,0x1", "0x1,0x100000000", "all"])
def test_a_mask_that_is_not_finite_or_not_hexadecimal_is_refused(text: str) -> None:
    """An infinite bitmap of hwloc's is no set of CPUs, and a group has 32 bits."""
    with pytest.raises(ValueError, match=r".+"):
        CpuSet.from_hex(text)


@pytest.mark.parametrize(("mask", "cpus"), [("0x0", ""), ("0x0000000f", "0-3"), ("0x1,,0x1", "0,64"), ("f0", "4-7")])
def test_hwloc_masks_are_groups_of_32_bits(mask: str, cpus: str) -> None:
    """An empty group stands for 32 zero bits."""
    assert cpus == str(CpuSet.from_hex(mask))


def test_no_cpu_is_negative() -> None:
    """Neither a mask nor an index below zero makes a set, and no set contains one."""
    with pytest.raises(ValueError, match="negative: -1"):
        CpuSet(-1)
    with pytest.raises(ValueError, match="negative"):
        CpuSet.of([-1])
    assert -1 not in CpuSet(7)


def test_repr_can_be_evaluated_and_equal_sets_hash_alike() -> None:
    """A set is a value."""
    cpus = CpuSet.of((9, 0, 1))
    assert repr(cpus) == "CpuSet.parse('0-1,9')"
    assert {cpus} == {CpuSet.parse("0,1,9")}
