from __future__ import annotations

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec

FULL = LayoutSpec(
    n_ranks=20,
    ranks_per_node=4,
    cpus_per_rank=2,
    oversubscribe=True,
    reserve=CpuSet.parse("0,64"),
    hosts=("a", "b"),
    exclude_hosts=("c",),
)


def test_text_is_the_options_that_ask_for_it() -> None:
    """A spec reads as a complete option string, and an empty one as nothing."""
    assert str(FULL) == "-n 20 -N 4 -c 2 --oversubscribe --reserve 0,64 --hosts a,b --exclude-hosts c"
    assert not str(LayoutSpec())


def test_counts_leave_everything_else_out() -> None:
    """Messages quote the numbers only."""
    assert FULL.counts() == "-n 20 -N 4 -c 2"


@pytest.mark.parametrize("spec", [LayoutSpec(), FULL])
def test_dict_round_trip(spec: LayoutSpec) -> None:
    """What to_dict made is read back equal."""
    assert spec == LayoutSpec.from_dict(spec.to_dict())


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused_by_its_option(count: int) -> None:
    """The message names the option and the rule."""
    with pytest.raises(UsageError) as refused:
        LayoutSpec(n_ranks=count)

    assert f"-n {count}: a job has at least one rank" == refused.value.message


def test_all_bad_counts_are_named_at_once() -> None:
    """A user corrects a request once, not option by option."""
    with pytest.raises(UsageError) as refused:
        LayoutSpec(n_ranks=0, ranks_per_node=0, cpus_per_rank=0)

    assert [line.split()[0] for line in refused.value.message.splitlines()] == ["-n", "-N", "-c"]


def test_a_count_that_mpi_cannot_number_is_refused() -> None:
    """A rank is a C int."""
    with pytest.raises(UsageError, match="-n 2147483648: MPI counts to 2147483647"):
        LayoutSpec(n_ranks=2**31)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 3}, "request has an unknown key 'nodes'"),
        ({"n_ranks": "3"}, "request.n_ranks is not a whole number: '3'"),
        ({"n_ranks": True}, "request.n_ranks is not a whole number: True"),
        ({"oversubscribe": 1}, "request.oversubscribe is not true or false: 1"),
        ({"reserve": 3}, "request.reserve is not a CPU list: 3"),
        ({"hosts": "a"}, "request.hosts is not a list: 'a'"),
        ({"hosts": [1]}, r"request.hosts\[0\] is not text: 1"),
        ({"n_ranks": 0}, "-n 0: a job has at least one rank"),
    ],
)
def test_a_changed_dict_is_refused_with_its_place(change: dict[str, int | str], message: str) -> None:
    """A wrong key or type is named with the path to it."""
    data = LayoutSpec().to_dict()
    assert isinstance(data, dict)

    with pytest.raises(UsageError, match=message):
        LayoutSpec.from_dict({**data, **change})


def test_a_missing_key_is_refused() -> None:
    """Every field is present in the JSON form."""
    with pytest.raises(UsageError, match="request has no 'n_ranks'"):
        LayoutSpec.from_dict({})
    with pytest.raises(UsageError, match="request is not an object: 3"):
        LayoutSpec.from_dict(3)
