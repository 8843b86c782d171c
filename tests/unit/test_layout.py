from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Order, Pattern, RankBy, ReservePer, TextFile

FULL = LayoutSpec(
    n_ranks=20,
    ranks_per_node=4,
    cpus_per_rank=2,
    oversubscribe=True,
    reserve=CpuSet.parse("0,64"),
    reserve_per=ReservePer(level=Level.L3CACHE, count=1),
    map_by=MapBy(pattern=Pattern.OBJECT, level=Level.NUMA, span=True),
    rank_by=RankBy(order=Order.FILE, file=TextFile(name="my order", lines=("0-19",))),
    bind_to=BindTo(level=Level.CORE, overload=True),
    smt=1,
    slots=(("a", 8), ("b", 2), ("c2", 2), ("c3", 2)),
    hosts=("a", "b", "c2", "c3", "d"),
    exclude_hosts=("c3",),
)


def test_text_is_the_options_that_ask_for_it() -> None:
    """A spec reads as a complete option string, quoted for a shell, and an empty one as nothing."""
    assert str(FULL) == (
        "-n 20 -N 4 -c 2 --map-by numa:SPAN --rank-by 'file:my order' --bind-to core:overload-allowed --smt 1 "
        "--reserve 0,64 --reserve-per l3cache:1 --hosts 'a:8,b:2,c[2-3]:2,d' --exclude-hosts c3 --oversubscribe"
    )
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
        LayoutSpec(n_ranks=0, ranks_per_node=0, cpus_per_rank=0, smt=0)

    assert [line.split()[0] for line in refused.value.message.splitlines()] == ["-n", "-N", "-c", "--smt"]


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
        (
            {"bind_to": {"level": "socket", "explicit": False, "overload": False}},
            "request.bind_to.level is not hwthread or",
        ),
        ({"slots": [["a"]]}, r"request.slots\[0\] is not a list of 2"),
    ],
)
def test_a_changed_dict_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
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


LINES = TextFile(name="F", lines=("0",))
LISTS = (CpuSet.parse("0"),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"cpus_per_rank": 2, "map_by": MapBy(pattern=Pattern.SLOT, pe=3)},
            "-c 2 and --map-by slot:PE=3: two numbers of processors",
        ),
        (
            {"cpus_per_rank": 3, "map_by": MapBy(pattern=Pattern.RS, count=1, pe=3)},
            "-c 3 and --map-by rs:a=1,c=3: two numbers of processors",
        ),
        (
            {"rank_by": RankBy(order=Order.FILL), "map_by": MapBy(pattern=Pattern.SEQ, file=LINES)},
            "--rank-by fill and --map-by seq:F: the file says which rank is where",
        ),
        (
            {"rank_by": RankBy(order=Order.FILL), "map_by": MapBy(pattern=Pattern.RANKFILE, file=LINES)},
            "--rank-by fill and --map-by rankfile:F: the file says which rank is where",
        ),
        (
            {"cpus_per_rank": 2, "smt": 1, "map_by": MapBy(pattern=Pattern.RANKFILE, file=LINES)},
            (
                "-c 2 and --map-by rankfile:F: the CPUs of each rank are listed\n"
                "--smt 1 and --map-by rankfile:F: the CPUs of each rank are listed"
            ),
        ),
        (
            {"map_by": MapBy(pattern=Pattern.MANUAL, lists=LISTS, pe=2)},
            "PE 2 and --map-by manual:0:PE=2: the CPUs of each rank are listed",
        ),
        (
            {"map_by": MapBy(pattern=Pattern.RS, count=3, pe=2)},
            "--map-by rs:a=3,c=2: 3 ranks have no core each in a resource set of 2",
        ),
        (
            {"n_ranks": 5, "ranks_per_node": 1, "map_by": MapBy(pattern=Pattern.RS, count=2, pe=2)},
            (
                "-n 5 and --map-by rs:a=2,c=2: resource sets have 2 ranks each; -n 4 or -n 6 fills them\n"
                "-N 1 and --map-by rs:a=2,c=2: resource sets have 2 ranks each; -N 2 fills them"
            ),
        ),
        (
            {"map_by": MapBy(pattern=Pattern.NODE, span=True)},
            "--map-by node:SPAN: SPAN goes round objects (core, l3cache, numa, package, ...)",
        ),
        (
            {"map_by": MapBy(pattern=Pattern.SLOT, scatter=True)},
            ("--map-by slot:SCATTER: SCATTER spreads the ranks of an object (l3cache, numa, ppr:N:package, ...)"),
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    """All of them at once, with the reason."""
    with pytest.raises(UsageError) as refused:
        LayoutSpec(**fields)
    assert message == refused.value.message


def test_options_that_say_the_same_go_together() -> None:
    """-c 2 and PE=2 are one number."""
    spec = LayoutSpec(cpus_per_rank=2, map_by=MapBy(pattern=Pattern.SLOT, pe=2))
    assert 2 == spec.processors_per_rank == LayoutSpec(map_by=spec.map_by).processors_per_rank
    assert LayoutSpec().processors_per_rank is None


@pytest.mark.parametrize(
    ("map_by", "threads"),
    [
        (MapBy(), False),
        (MapBy(threads=True), True),
        (MapBy(pattern=Pattern.OBJECT, level=Level.HWTHREAD), True),
        (MapBy(pattern=Pattern.OBJECT, level=Level.CORE), False),
        (MapBy(pattern=Pattern.PPR, level=Level.HWTHREAD, count=1), True),
    ],
)
def test_processors_are_cores_or_hardware_threads(map_by: MapBy, threads: bool) -> None:  # noqa: FBT001 - a table
    """HWTCPUS says so, and mapping to hardware threads does."""
    assert threads is LayoutSpec(map_by=map_by).threads


@pytest.mark.parametrize(
    ("spec", "binding"),
    [
        (LayoutSpec(), BindTo(explicit=True)),
        (LayoutSpec(map_by=MapBy(pattern=Pattern.OBJECT, level=Level.NUMA)), BindTo(level=Level.NUMA)),
        (LayoutSpec(map_by=MapBy(pattern=Pattern.OBJECT, level=Level.NUMA, pe=1)), BindTo(explicit=True)),
        (
            LayoutSpec(cpus_per_rank=2, map_by=MapBy(pattern=Pattern.OBJECT, level=Level.NUMA)),
            BindTo(explicit=True),
        ),
        (LayoutSpec(map_by=MapBy(pattern=Pattern.PPR, count=1, level=Level.NODE)), BindTo(explicit=True)),
        (LayoutSpec(bind_to=BindTo()), BindTo()),
    ],
)
def test_ranks_are_bound_to_what_they_are_mapped_to(spec: LayoutSpec, binding: BindTo) -> None:
    """What is asked, else the object, else just the processors where their number was asked."""
    assert binding == spec.binding


def test_sharing_needs_leave() -> None:
    """--oversubscribe gives it unless --bind-to asks for objects; overload-allowed gives it always."""
    core = BindTo(level=Level.CORE)
    assert [False, True, False, True] == [
        spec.may_share
        for spec in (
            LayoutSpec(),
            LayoutSpec(oversubscribe=True),
            LayoutSpec(oversubscribe=True, bind_to=core),
            LayoutSpec(bind_to=replace(core, overload=True)),
        )
    ]
