from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, PlacementError, RankmapError, UsageError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Pattern, TextFile
from rankmap.planner import plan
from tests.topologies_made import allocation, interleaved, made

if TYPE_CHECKING:
    from rankmap.placement import Plan

NODE = made([[2], [2]], smt=2, number=interleaved(4))
"""Cores 0-1 in package 0, 2-3 in package 1; core i has the PUs i and i + 4."""
NODES = allocation(NODE, NODE)


def _manual(text: str, **fields: bool) -> MapBy:
    return MapBy(pattern=Pattern.MANUAL, lists=tuple(map(CpuSet.parse, text.split(":"))), **fields)  # type: ignore[arg-type]


def _file(pattern: Pattern, *lines: str, threads: bool = False) -> MapBy:
    return MapBy(pattern=pattern, file=TextFile(name="F", lines=lines), threads=threads)


def _shown(made_plan: Plan) -> list[tuple[str, int, str]]:
    return [(rank.host, rank.local_rank, str(rank.cpus)) for rank in made_plan.ranks]


def _refused(spec: LayoutSpec) -> RankmapError:
    with pytest.raises(RankmapError) as refused:
        plan(NODES, spec)
    return refused.value


def test_manual_gives_each_local_rank_its_list() -> None:
    """PU os indices, the same on every node; nothing is rounded to cores."""
    assert _shown(plan(NODES, LayoutSpec(map_by=_manual("0-1,4:6")))) == [
        ("n0", 0, "0-1,4"),
        ("n0", 1, "6"),
        ("n1", 0, "0-1,4"),
        ("n1", 1, "6"),
    ]


def test_manual_uses_the_first_lists_where_there_are_fewer_ranks() -> None:
    """Ranks are dealt to the nodes as always."""
    spec = LayoutSpec(n_ranks=3, map_by=_manual("0:1:2"))
    assert _shown(plan(NODES, spec)) == [("n0", 0, "0"), ("n0", 1, "1"), ("n1", 0, "0")]
    one = LayoutSpec(ranks_per_node=1, map_by=_manual("0:1:2"))
    assert _shown(plan(NODES, one)) == [("n0", 0, "0"), ("n1", 0, "0")]


def test_manual_may_overlap_where_that_is_asked() -> None:
    """Two ranks on one PU need leave to overload."""
    spec = LayoutSpec(ranks_per_node=2, map_by=_manual("0-1:1"))
    refused = _refused(spec)
    assert refused.message == "local rank 1 has CPU 1 of n0, which local rank 0 has too"
    assert refused.hint == "add --bind-to explicit:overload-allowed if that is meant"
    allowed = LayoutSpec(
        n_ranks=2, map_by=_manual("0-1:1"), bind_to=BindTo(explicit=True, overload=True), hosts=("n0",)
    )
    assert _shown(plan(NODES, allowed)) == [("n0", 0, "0-1"), ("n0", 1, "1")]


def test_manual_may_be_bound_wider() -> None:
    """--bind-to makes the lists whole objects."""
    spec = LayoutSpec(n_ranks=2, map_by=_manual("0:2"), bind_to=BindTo(level=Level.CORE), hosts=("n0",))
    assert _shown(plan(NODES, spec)) == [("n0", 0, "0,4"), ("n0", 1, "2,6")]


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        (
            LayoutSpec(n_ranks=5, map_by=_manual("0:1")),
            (
                "-n 5: --map-by manual:0:1 has 2 CPU lists, one for each rank of a node: on 2 nodes there is room for"
                " 4 ranks"
            ),
            "these fit: -n 4; or write a list for each rank of a node, with colons between: manual:0:1:2-3",
        ),
        (
            LayoutSpec(ranks_per_node=3, map_by=_manual("0:1"), oversubscribe=True),
            (
                "-N 3: --map-by manual:0:1 has 2 CPU lists, one for each rank of a node: on 2 nodes there is room for"
                " 4 ranks"
            ),
            "these fit: -n 4; or write a list for each rank of a node, with colons between: manual:0:1:2-3",
        ),
        (
            LayoutSpec(map_by=_manual("0:7-9")),
            "--map-by manual:0:7-9: CPU 8-9 of local rank 1 is not free on n0",
            "its free CPUs are 0-7",
        ),
        (
            LayoutSpec(map_by=_manual("0:1"), reserve=CpuSet.parse("4")),
            "--map-by manual:0:1: CPU 0 of local rank 0 is not free on n0",
            "its free CPUs are 1-3,5-7",
        ),
    ],
)
def test_manual_is_refused_with_the_rank_and_what_is_free(spec: LayoutSpec, message: str, hint: str) -> None:
    """Too many ranks, or a CPU that is not there or reserved."""
    refused = _refused(spec)
    assert (PlacementError, message, hint) == (type(refused), refused.message, refused.hint)


def test_manual_keeps_to_the_slots_of_a_host() -> None:
    """A host with one slot has one rank."""
    spec = LayoutSpec(map_by=_manual("0:1"), hosts=("n0",), slots=(("n0", 1),))
    assert _shown(plan(NODES, spec)) == [("n0", 0, "0")]


def test_a_sequence_has_a_host_for_each_rank() -> None:
    """Ranks follow the lines; each has the next free core of its host. Comments and blank lines are no ranks."""
    spec = LayoutSpec(map_by=_file(Pattern.SEQ, "n1", "# x", "", "n0", " n1  # again", "+n0"))
    made_plan = plan(NODES, spec)
    assert _shown(made_plan) == [("n1", 0, "0,4"), ("n0", 0, "0,4"), ("n1", 1, "1,5"), ("n0", 1, "1,5")]
    assert _shown(plan(NODES, LayoutSpec(n_ranks=2, map_by=spec.map_by))) == _shown(made_plan)[:2]


def test_a_sequence_may_ask_for_cores_and_threads() -> None:
    """-c and HWTCPUS say how much each rank has."""
    two = LayoutSpec(cpus_per_rank=2, map_by=_file(Pattern.SEQ, "n0", "n0"))
    assert _shown(plan(NODES, two)) == [("n0", 0, "0-1,4-5"), ("n0", 1, "2-3,6-7")]
    threads = LayoutSpec(map_by=_file(Pattern.SEQ, "n0", "n0", threads=True))
    assert _shown(plan(NODES, threads)) == [("n0", 0, "0"), ("n0", 1, "4")]


def test_a_sequence_goes_round_the_cores_where_that_is_allowed() -> None:
    """More lines than room need --oversubscribe."""
    lines = ["n0"] * 5
    spec = LayoutSpec(map_by=_file(Pattern.SEQ, *lines), oversubscribe=True)
    assert _shown(plan(NODES, spec))[-1] == ("n0", 4, "0,4")


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (LayoutSpec(map_by=_file(Pattern.SEQ)), UsageError, "F says nothing"),
        (LayoutSpec(map_by=_file(Pattern.SEQ, "", "# n0")), UsageError, "F says nothing"),
        (
            LayoutSpec(map_by=_file(Pattern.SEQ, "n0", "# x", "n7")),
            AllocationError,
            "F:3: n7 is none of the 2 hosts n[0-1]",
        ),
        (LayoutSpec(map_by=_file(Pattern.SEQ, "+n2")), AllocationError, "F:1: +n2 is none of the 2 hosts n[0-1]"),
        (
            LayoutSpec(map_by=_file(Pattern.SEQ, "n1"), exclude_hosts=("n1",)),
            AllocationError,
            "F:1: n1 is none of the 1 hosts n0",
        ),
        (
            LayoutSpec(cpus_per_rank=3, map_by=_file(Pattern.SEQ, "n0", "", "n0")),
            PlacementError,
            "F:3: n0 has room for 1 ranks of 3, and this is one more",
        ),
        (
            LayoutSpec(map_by=_file(Pattern.SEQ, "n0", "n0"), hosts=("n0",), slots=(("n0", 1),)),
            PlacementError,
            "F:2: n0 has room for 1 ranks of 1, and this is one more",
        ),
        (
            LayoutSpec(cpus_per_rank=5, map_by=_file(Pattern.SEQ, "n0"), oversubscribe=True),
            PlacementError,
            "F:1: n0 has room for 0 ranks of 5, and this is one more",
        ),
        (LayoutSpec(n_ranks=3, map_by=_file(Pattern.SEQ, "n0", "n1")), PlacementError, "-n 3: F is for 2 ranks"),
        (
            LayoutSpec(ranks_per_node=1, map_by=_file(Pattern.SEQ, "n0")),
            UsageError,
            "-N 1 and --map-by seq:F: the file says how many ranks each node has",
        ),
    ],
)
def test_a_sequence_is_refused_with_its_line(spec: LayoutSpec, kind: type[RankmapError], message: str) -> None:
    """Which line of which file cannot be placed, and why."""
    refused = _refused(spec)
    assert (kind, message) == (type(refused), refused.message)


def _rankfile(*lines: str, threads: bool = False, **fields: object) -> LayoutSpec:
    return LayoutSpec(map_by=_file(Pattern.RANKFILE, *lines, threads=threads), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slot", "cpus"),
    [
        ("0", "0,4"),
        ("0-1", "0-1,4-5"),
        ("0,3", "0,3-4,7"),
        ("1:0", "2,6"),
        ("1:0-1", "2-3,6-7"),
        ("1:*", "2-3,6-7"),
        ("0:1;1:0", "1-2,5-6"),
        ("0;0", "0,4"),
        ("*", "0-7"),
    ],
)
def test_slots_of_a_rankfile_are_cores(slot: str, cpus: str) -> None:
    """By their logical index, on the node or in a package; a star is all."""
    assert _shown(plan(NODES, _rankfile(f"rank 0=n0 slot={slot}"))) == [("n0", 0, cpus)]


@pytest.mark.parametrize(("slot", "cpus"), [("0", "0"), ("1", "4"), ("1:1-2", "3,6"), ("0:*", "0-1,4-5")])
def test_slots_of_a_rankfile_are_hardware_threads_where_asked(slot: str, cpus: str) -> None:
    """With HWTCPUS they are PUs by their logical index."""
    assert _shown(plan(NODES, _rankfile(f"rank 0=n0 slot={slot}", threads=True))) == [("n0", 0, cpus)]


def test_a_rankfile_gives_ranks_any_order() -> None:
    """Lines need no order; ranks of a node are local ranks in theirs; hosts may be relative."""
    spec = _rankfile("# x", "rank 2=n0 slot=1", "RANK 0 = +n1  Slots = 0:0", "rank 1=n0 slot=0")
    assert _shown(plan(NODES, spec)) == [("n1", 0, "0,4"), ("n0", 0, "0,4"), ("n0", 1, "1,5")]


def test_a_star_leaves_out_what_is_not_free() -> None:
    """All slots are all free ones."""
    spec = _rankfile("rank 0=n0 slot=0:*", reserve=CpuSet.parse("4"))
    assert _shown(plan(NODES, spec)) == [("n0", 0, "1,5")]


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (_rankfile(), UsageError, "F says nothing"),
        (_rankfile("", "rank 0 n0 slot=0"), UsageError, "F:2: not a line of a rankfile: rank 0 n0 slot=0"),
        (_rankfile("rank x=n0 slot=0"), UsageError, "F:1: not a line of a rankfile: rank x=n0 slot=0"),
        (_rankfile("rank 0=n0"), UsageError, "F:1: not a line of a rankfile: rank 0=n0"),
        (_rankfile("rank 0=n0 slot=0 1"), UsageError, "F:1: not a line of a rankfile: rank 0=n0 slot=0 1"),
        (_rankfile("rank 0=n0 slot=0", "rank 0=n0 slot=1"), UsageError, "F:2: rank 0 has line 1 already"),
        (
            _rankfile("rank 0=n0 slot=0", "rank 2=n0 slot=1"),
            UsageError,
            "F: there is no line for rank 1, and there are 2 lines",
        ),
        (_rankfile("rank 0=n7 slot=0"), AllocationError, "F:1: n7 is none of the 2 hosts n[0-1]"),
        (_rankfile("rank 0=n0 slot=x"), UsageError, "F:1: slot=x cannot be understood"),
        (_rankfile("rank 0=n0 slot=1-0"), UsageError, "F:1: slot=1-0 cannot be understood"),
        (_rankfile("rank 0=n0 slot=0-99999"), UsageError, "F:1: slot=0-99999 cannot be understood"),
        (_rankfile("rank 0=n0 slot=0,"), UsageError, "F:1: slot=0, cannot be understood"),
        (_rankfile("rank 0=n0 slot=0;"), UsageError, "F:1: slot=0; cannot be understood"),
        (_rankfile("rank 0=n0 slot=x:0"), UsageError, "F:1: slot=x:0 cannot be understood"),
        (_rankfile("rank 0=n0 slot=0:0:0"), UsageError, "F:1: slot=0:0:0 cannot be understood"),
        (_rankfile("rank 0=n0 slot=:0"), UsageError, "F:1: slot=:0 cannot be understood"),
        (_rankfile("rank 0=n0 slot=2:0"), PlacementError, "F:1: n0 has no package 2; it has 2"),
        (
            _rankfile("rank 0=n0 slot=4"),
            PlacementError,
            "F:1: there is no core 4; the cores of n0 are 0 to 3",
        ),
        (
            _rankfile("rank 0=n0 slot=1:2"),
            PlacementError,
            "F:1: there is no core 2; the cores of package 1 of n0 are 0 to 1",
        ),
        (
            _rankfile("rank 0=n0 slot=8", threads=True),
            PlacementError,
            "F:1: there is no hardware thread 8; the hardware threads of n0 are 0 to 7",
        ),
        (
            _rankfile("rank 0=n0 slot=1", reserve=CpuSet.parse("5")),
            PlacementError,
            "F:1: core 1 of n0 is not free for ranks",
        ),
        (
            _rankfile("rank 0=n0 slot=0:*", reserve=CpuSet.parse("0-1")),
            PlacementError,
            "F:1: no core of n0 in 0:* is free for ranks",
        ),
        (
            _rankfile("rank 1=n0 slot=0-1", "", "rank 0=n0 slot=1"),
            PlacementError,
            "F:1: rank 1 has CPU 1,5 of n0, which F:3: rank 0 has too",
        ),
        (_rankfile("rank 0=n0 slot=0", n_ranks=2), PlacementError, "-n 2: F is for 1 ranks"),
        (
            _rankfile("rank 0=n0 slot=0", ranks_per_node=1),
            UsageError,
            "-N 1 and --map-by rankfile:F: the file says how many ranks each node has",
        ),
    ],
)
def test_a_rankfile_is_refused_with_its_line(spec: LayoutSpec, kind: type[RankmapError], message: str) -> None:
    """Which line of which file cannot be understood or placed, and why."""
    refused = _refused(spec)
    assert (kind, message) == (type(refused), refused.message)


def test_a_package_number_with_thousands_of_digits_is_refused() -> None:
    """Python converts no text that long; a user reads the line all the same."""
    refused = _refused(_rankfile("rank 0=n0 slot=" + "1" * 5000 + ":0"))
    assert refused.message.startswith("F:1: ")


def test_a_rankfile_may_overlap_where_that_is_asked() -> None:
    """Two ranks on one core need leave to overload."""
    lines = ("rank 0=n0 slot=0", "rank 1=n0 slot=0")
    spec = _rankfile(*lines, bind_to=BindTo(explicit=True, overload=True))
    assert _shown(plan(NODES, spec)) == [("n0", 0, "0,4"), ("n0", 1, "0,4")]


def test_a_rankfile_keeps_to_the_slots_of_a_host() -> None:
    """A host with one slot has one rank."""
    refused = _refused(_rankfile("rank 0=n0 slot=0", "rank 1=n0 slot=1", hosts=("n0",), slots=(("n0", 1),)))
    assert isinstance(refused, PlacementError)
