from __future__ import annotations

from dataclasses import dataclass

import pytest

from rankmap.codec import decode, encode
from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A value inside another."""

    name: str
    pairs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """A value with every kind of field."""

    cpus: CpuSet
    inner: Inner | None
    flag: bool = False


def test_every_field_is_written_in_order() -> None:
    """Nested values become plain JSON values, CPU sets Linux lists."""
    value = Outer(cpus=CpuSet.of([0, 1, 4]), inner=Inner(name="x", pairs=(("a", 1),)))

    assert '{"cpus": "0-1,4", "inner": {"name": "x", "pairs": [["a", 1]]}, "flag": false}'.replace('"', "'").replace(
        "false", "False"
    ) == str(encode(value))


@pytest.mark.parametrize(
    "value",
    [
        Outer(cpus=CpuSet(), inner=None),
        Outer(cpus=CpuSet.of([7]), inner=Inner(name="", pairs=(("a", 1), ("b", -2))), flag=True),
    ],
)
def test_decode_undoes_encode(value: Outer) -> None:
    """A value comes back equal."""
    assert value == decode(Outer, encode(value), where="outer")


def test_a_wrong_value_is_named_by_its_path() -> None:
    """The path leads to the value, and a fixed tuple has its length."""
    with pytest.raises(UsageError, match=r"outer.inner.pairs\[1\] is not a list of 2: \['b'\]"):
        decode(Outer, {"cpus": "", "flag": False, "inner": {"name": "", "pairs": [["a", 1], ["b"]]}}, where="outer")


def test_a_long_wrong_value_is_cut() -> None:
    """A message stays one line."""
    with pytest.raises(UsageError) as refused:
        decode(Inner, "x" * 1000, where="inner")

    assert len(refused.value.message) < 100


def test_what_has_no_json_form_is_a_mistake_in_the_program() -> None:
    """A float or a set is no value of ours."""
    with pytest.raises(TypeError, match="no JSON form for set"):
        encode({1})
