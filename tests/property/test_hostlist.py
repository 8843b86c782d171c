"""Hostlists expand to what was folded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rankmap.hostlist import expand, fold

NAMES = st.one_of(
    st.builds("{}{}".format, st.sampled_from(("n", "node-", "x1000c0s", "")), st.integers(0, 12)),
    st.builds("n{:03}{}".format, st.integers(0, 1001), st.sampled_from(("", "-ib", ".site.org"))),
    st.sampled_from(("login", "localhost", "10.0.0.1", "a1b2", "n09", "n9", "n10", "n0", "n00")),
)


@given(st.lists(NAMES))
def test_round_trip(hosts: list[str]) -> None:
    """Any list of names, doubles and order included, comes back from its folded form."""
    assert tuple(hosts) == expand(fold(hosts))


@given(st.integers(0, 1200), st.integers(1, 40), st.integers(1, 4))
def test_run_is_one_range(first: int, count: int, width: int) -> None:
    """Neighbours of one zero-padded numbering fold into a single item."""
    hosts = [f"n{number:0{width}}" for number in range(first, first + count)]
    assert "," not in fold(hosts)
