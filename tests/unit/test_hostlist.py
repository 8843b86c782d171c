"""Hostlist text and the names that it stands for."""

from __future__ import annotations

import pytest

from rankmap.errors import UsageError
from rankmap.hostlist import expand, fold


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("login", ("login",)),
        ("n2,n0", ("n2", "n0")),
        ("node[001-003,7]", ("node001", "node002", "node003", "node7")),
        ("n[08-10]-ib", ("n08-ib", "n09-ib", "n10-ib")),
        ("r[0-1]n[0-1]", ("r0n0", "r0n1", "r1n0", "r1n1")),
        (" n[3,1],x ", ("n3", "n1", "x")),
    ],
)
def test_expand(text: str, hosts: tuple[str, ...]) -> None:
    """Brackets stand for their numbers, in order, as wide as they are written."""
    assert hosts == expand(text)


@pytest.mark.parametrize(
    "text", ["n[", "n[1", "n]", "n[]", "n[2-1]", "n[a]", "a,,b", "a,", ",a", "a b", "n[1-]", "n[[1]]"]
)
def test_expand_refuses(text: str) -> None:
    """What is not a hostlist is refused with its text."""
    with pytest.raises(UsageError) as caught:
        expand(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("text", ["n[0-99999999]", "r[0-9999]n[0-9999]", "a[0-999999],b"])
def test_expand_bounds_memory(text: str) -> None:
    """A range with more hosts than any machine has is refused before a name is made."""
    with pytest.raises(UsageError, match="more than 1000000 hosts"):
        expand(text)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ((), ""),
        (("n0",), "n0"),
        (("n0", "n1", "n2", "n3"), "n[0-3]"),
        (("n0", "n1", "n5", "login"), "n[0-1,5],login"),
        (("n1", "n0"), "n[1,0]"),
        (("n09", "n10", "n9", "n10"), "n[09-10,9-10]"),
        (("n1.site.org", "n2.site.org"), "n[1-2].site.org"),
        (("n1-ib", "n2"), "n1-ib,n2"),
    ],
)
def test_fold(hosts: tuple[str, ...], text: str) -> None:
    """Neighbours that differ by one number fold; order is kept."""
    assert text == fold(hosts)


def test_a_number_of_thousands_of_digits_is_a_name() -> None:
    """Its last twelve are the number that folds."""
    hosts = ("n1" + "0" * 5000, "n1" + "0" * 4999 + "1")
    assert hosts == expand(fold(hosts))
