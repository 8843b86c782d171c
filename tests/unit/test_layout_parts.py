from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout_parts import BindTo, Level, MapBy, Order, Pattern, RankBy, ReservePer, TextFile, wider

OBJECTS = [level for level in Level if level is not Level.NODE]
LINES = TextFile(name="places.txt", lines=("0-3",))


def read(name: str) -> TextFile:
    """Return a file that has one line, whatever its name; a file called "missing" cannot be read."""
    if name == "missing":
        msg = "'missing' cannot be read: No such file or directory"
        raise UsageError(msg)
    return replace(LINES, name=name)


def _object(level: Level, **fields: int | bool | str) -> MapBy:
    return replace(MapBy(pattern=Pattern.OBJECT, level=level), **fields)  # type: ignore[arg-type]


MAPS: list[tuple[str, MapBy]] = [
    ("auto", MapBy()),
    ("auto:PE=3", MapBy(pe=3)),
    ("slot", MapBy(pattern=Pattern.SLOT)),
    ("node", MapBy(pattern=Pattern.NODE)),
    *((str(level), MapBy(pattern=Pattern.OBJECT, level=level)) for level in OBJECTS),
    *((f"ppr:2:{level}", MapBy(pattern=Pattern.PPR, count=2, level=level)) for level in Level),
    ("plane:4", MapBy(pattern=Pattern.PLANE, count=4)),
    ("rs:a=2,c=7", MapBy(pattern=Pattern.RS, count=2, pe=7)),
    ("rs:a=2,c=7,g=1", MapBy(pattern=Pattern.RS, count=2, pe=7, gpus=1)),
    ("manual:0-3", MapBy(pattern=Pattern.MANUAL, lists=(CpuSet.parse("0-3"),))),
    (
        "manual:0-3:5,7:8",
        MapBy(pattern=Pattern.MANUAL, lists=(CpuSet.parse("0-3"), CpuSet.parse("5,7"), CpuSet.parse("8"))),
    ),
    ("seq:places.txt", MapBy(pattern=Pattern.SEQ, file=LINES)),
    ("rankfile:places.txt", MapBy(pattern=Pattern.RANKFILE, file=LINES)),
    ("rankfile:places.txt:HWTCPUS", MapBy(pattern=Pattern.RANKFILE, file=LINES, threads=True)),
    ("numa:PE=2", _object(Level.NUMA, pe=2)),
    ("numa:SPAN", _object(Level.NUMA, span=True)),
    ("numa:HWTCPUS", _object(Level.NUMA, threads=True)),
    ("numa:SCATTER", _object(Level.NUMA, scatter=True)),
    ("numa:pe-list=0,2-3", replace(_object(Level.NUMA), pe_list=CpuSet.parse("0,2-3"))),
    (
        "l3cache:PE=2:SPAN:HWTCPUS:SCATTER:pe-list=1",
        MapBy(
            pattern=Pattern.OBJECT,
            level=Level.L3CACHE,
            pe=2,
            span=True,
            threads=True,
            scatter=True,
            pe_list=CpuSet.parse("1"),
        ),
    ),
]


@pytest.mark.parametrize(("text", "value"), MAPS, ids=[text for text, _ in MAPS])
def test_map_by_reads_what_it_writes(text: str, value: MapBy) -> None:
    """Every pattern and modifier has one text, which says nothing of oversubscribing."""
    assert (value, None) == MapBy.parse(text, read)
    assert text == str(value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("NUMA:Span", "numa:SPAN"),
        ("Ppr:2:Package:pe=3", "ppr:2:package:PE=3"),
        ("PLANE:4", "plane:4"),
        ("core:CORECPUS", "core"),
        ("seq:file=places.txt", "seq:places.txt"),
        ("rankfile:file=places.txt", "rankfile:places.txt"),
        ("rs:c=7,g=0,a=2", "rs:a=2,c=7"),
        ("rs:g=2,c=7,a=2", "rs:a=2,c=7,g=2"),
        ("manual:3,1-2:hwtcpus", "manual:1-3:HWTCPUS"),
        ("core:PE-LIST=3,1", "core:pe-list=1,3"),
    ],
)
def test_map_by_has_one_spelling(text: str, same: str) -> None:
    """Case, order and words that change nothing are not kept; Open MPI's file= is understood."""
    assert same == str(MapBy.parse(text, read)[0])


@pytest.mark.parametrize(
    ("text", "allows"),
    [
        ("core", None),
        ("core:OVERSUBSCRIBE", True),
        ("core:oversubscribe:SPAN", True),
        ("core:NOOVERSUBSCRIBE", False),
    ],
)
def test_map_by_may_allow_or_forbid_oversubscribing(text: str, allows: bool | None) -> None:  # noqa: FBT001 - a table
    """Without a word of the two nothing is said."""
    assert allows is MapBy.parse(text, read)[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no ''"),
        ("socket", "there is no 'socket'"),
        ("numa2", "there is no 'numa2'"),
        (":core", "there is no ''"),
        ("object", "there is no 'object'"),
        ("ppr", "ppr needs a count and an object"),
        ("ppr:2", "ppr needs a count and an object"),
        ("ppr::core", "ppr needs a count and an object"),
        ("ppr:x:core", "'x' is not a count"),
        ("ppr:0:core", "'0' is not a count"),
        ("ppr:2:socket", "there is no 'socket'"),
        ("plane", "plane needs a count"),
        ("plane:", "plane needs a count"),
        ("plane:-1", "'-1' is not a count"),
        ("plane:1234567890", "'1234567890' is not a count"),
        ("plane:٣", "'٣' is not a count"),
        ("rs", "rs needs ranks and cores"),
        ("rs:a=2", "a resource set has ranks and cores"),
        ("rs:c=2", "a resource set has ranks and cores"),
        ("rs:a=2,c=2,a=2", "there is no 'a=2' in a resource set"),
        ("rs:a=2,c=2,x=2", "there is no 'x=2' in a resource set"),
        ("rs:a=2,c=0", "'0' is not a count"),
        ("rs:a=2,c=2,g=", "'' is not a count"),
        ("manual", "manual needs a CPU list for each local rank"),
        ("manual:", "manual needs a CPU list for each local rank"),
        ("seq", "seq needs a file"),
        ("rankfile:", "rankfile needs a file"),
        ("core:PE", "there is no modifier pe"),
        ("core:HWTCPUS:CORECPUS", "HWTCPUS and CORECPUS contradict or repeat each other"),
        ("numa:SCATTER:pack", "SCATTER and pack contradict or repeat each other"),
        ("core:OVERSUBSCRIBE:NOOVERSUBSCRIBE", "OVERSUBSCRIBE and NOOVERSUBSCRIBE contradict or repeat each other"),
        ("core:PE=2:PE=3", "PE=2 and PE=3 contradict or repeat each other"),
        ("hwthread:CORECPUS", "hwthreads are no cores"),
        ("core:PE=0", "'0' is not a count"),
        ("core:PE=two", "'two' is not a count"),
        ("core:SPAN=1", "there is no modifier span=1"),
        ("core:PACK=1", "there is no modifier pack=1"),
        ("core:OVERSUBSCRIBE=1", "there is no modifier oversubscribe=1"),
        ("core:HWTCPUS=1", "there is no modifier hwtcpus=1"),
        ("core:", "there is no modifier "),
        ("core:fast", "there is no modifier fast"),
        ("core:2", "there is no modifier 2"),
    ],
)
def test_map_by_says_what_it_does_not_understand(text: str, why: str) -> None:
    """The message has the whole option, the hint what could be written."""
    with pytest.raises(UsageError) as refused:
        MapBy.parse(text, read)

    assert f"--map-by {text}: {why}" == refused.value.message
    assert refused.value.hint.startswith("write ")


@pytest.mark.parametrize("text", ["manual:0-x", "manual:3-1", "core:pe-list=x", "seq:missing", "rankfile:missing"])
def test_map_by_passes_on_what_its_values_refuse(text: str) -> None:
    """A CPU list or a file that cannot be read is a usage error as everywhere."""
    with pytest.raises(UsageError):
        MapBy.parse(text, read)


@pytest.mark.parametrize("text", ["core:pe-list=", "core:pe-list", "rs:a=2,c=4:PE=3"])
def test_map_by_drops_nothing_in_silence(text: str) -> None:
    """A list without CPUs, and a second number of cores for a resource set, are refused."""
    with pytest.raises(UsageError):
        MapBy.parse(text, read)


RANKS: list[tuple[str, RankBy]] = [
    *((str(order), RankBy(order=order)) for order in Order if order not in {Order.PLANE, Order.FILE}),
    ("plane:3", RankBy(order=Order.PLANE, count=3)),
    ("file:places.txt", RankBy(order=Order.FILE, file=LINES)),
]


@pytest.mark.parametrize(("text", "value"), RANKS, ids=[text for text, _ in RANKS])
def test_rank_by_reads_what_it_writes(text: str, value: RankBy) -> None:
    """Every order has one text, in any case."""
    assert value == RankBy.parse(text, read)
    assert value == RankBy.parse(text.partition(":")[0].upper() + "".join(text.partition(":")[1:]), read)
    assert text == str(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no such order"),
        ("core", "there is no such order"),
        ("fill:2", "there is no such order"),
        ("plane", "there is no such order"),
        ("file", "there is no such order"),
        ("file:", "there is no such order"),
        ("plane:0", "'0' is not a count"),
        ("plane:2:3", "'2:3' is not a count"),
    ],
)
def test_rank_by_says_what_it_does_not_understand(text: str, why: str) -> None:
    """The message has the whole option."""
    with pytest.raises(UsageError) as refused:
        RankBy.parse(text, read)

    assert f"--rank-by {text}: {why}" == refused.value.message


BINDINGS: list[tuple[str, BindTo]] = [
    ("none", BindTo()),
    ("explicit", BindTo(explicit=True)),
    *((str(level), BindTo(level=level)) for level in OBJECTS),
]


@pytest.mark.parametrize(("text", "value"), BINDINGS, ids=[text for text, _ in BINDINGS])
def test_bind_to_reads_what_it_writes(text: str, value: BindTo) -> None:
    """Every object, with and without leave to overload."""
    assert value == BindTo.parse(text) == BindTo.parse(text.upper())
    assert text == str(value)
    overload = replace(value, overload=True)
    assert overload == BindTo.parse(f"{text}:overload-allowed") == BindTo.parse(f"{text}:OVERLOAD-ALLOWED")
    assert f"{text}:overload-allowed" == str(overload)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no ''"),
        ("node", "there is no 'node'"),
        ("socket", "there is no 'socket'"),
        ("core:", "there is no modifier ''"),
        ("core:if-supported", "there is no modifier 'if-supported'"),
        ("core:overload-allowed:overload-allowed", "there is no modifier 'overload-allowed'"),
    ],
)
def test_bind_to_says_what_it_does_not_understand(text: str, why: str) -> None:
    """The message has the whole option."""
    with pytest.raises(UsageError) as refused:
        BindTo.parse(text)

    assert f"--bind-to {text}: {why}" == refused.value.message


@pytest.mark.parametrize("level", [level for level in Level if level not in {Level.HWTHREAD, Level.CORE}])
def test_reserve_per_reads_what_it_writes(level: Level) -> None:
    """Every object that has cores."""
    value = ReservePer(level=level, count=2)
    assert value == ReservePer.parse(f"{level}:2") == ReservePer.parse(f"{level.upper()}:2")
    assert f"{level}:2" == str(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no ''"),
        ("core:1", "there is no 'core'"),
        ("hwthread:1", "there is no 'hwthread'"),
        ("numa", "'' is not a count"),
        ("numa:0", "'0' is not a count"),
        ("numa:1:2", "'1:2' is not a count"),
    ],
)
def test_reserve_per_says_what_it_does_not_understand(text: str, why: str) -> None:
    """The message has the whole option."""
    with pytest.raises(UsageError) as refused:
        ReservePer.parse(text)

    assert f"--reserve-per {text}: {why}" == refused.value.message


def test_levels_go_from_narrow_to_wide() -> None:
    """Each is wider than those before it, none wider than itself."""
    levels = list(Level)
    assert [[wider(one, other) for other in levels] for one in levels] == [
        [j < i for j in range(len(levels))] for i in range(len(levels))
    ]
