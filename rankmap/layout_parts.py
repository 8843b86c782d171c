"""The three questions of a layout, each with a grammar of its own: map, rank, bind. Parsed from text and back.

The words are Open MPI's (PRRTE's) where it has one; docs/differences.md lists where they mean something else here.

Source: PRRTE, ``prterun --help map-by``, ``rank-by``, ``bind-to``; srun(1), ``--distribution=plane``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BindTo", "Level", "MapBy", "Order", "Pattern", "RankBy", "ReservePer", "TextFile", "wider"]

_MODIFIERS = "PE=N, SPAN, HWTCPUS, CORECPUS, PACK, SCATTER, OVERSUBSCRIBE, NOOVERSUBSCRIBE or pe-list=LIST"
_NEEDS = {
    "ppr": ("a count and an object", "ppr:2:package"),
    "plane": ("a count", "plane:4"),
    "rs": ("ranks and cores", "rs:a=2,c=7"),
    "manual": ("a CPU list for each local rank", "manual:0-3:4-7"),
    "seq": ("a file", "seq:FILE"),
    "rankfile": ("a file", "rankfile:FILE"),
}
_ALIKE = {"nooversubscribe": "oversubscribe", "corecpus": "hwtcpus", "scatter": "pack"}
"""Modifiers that answer the question of another one."""

_MEANT = {
    "socket": "package",
    "l1": "l1cache",
    "l2": "l2cache",
    "l3": "l3cache",
    "thread": "hwthread",
    "threads": "hwthread",
    "pu": "hwthread",
    "ldom": "numa",
    "ldoms": "numa",
    "board": "node",
}
"""Words of other launchers and other years for these objects."""

_OTHERS = ("auto", "slot", "node", "gpu", "nic", *(example for _, example in _NEEDS.values()))
_SETS = "rs:a=RANKS,c=CORES or rs:a=RANKS,c=CORES,g=GPUS"
_COUNT = re.compile(r"[1-9]\d{0,8}", re.ASCII)


class Level(StrEnum):
    """A kind of object that ranks can be dealt to, or bound to; narrow ones first."""

    HWTHREAD = "hwthread"
    CORE = "core"
    L1CACHE = "l1cache"
    L2CACHE = "l2cache"
    L3CACHE = "l3cache"
    NUMA = "numa"
    DIE = "die"
    PACKAGE = "package"
    NODE = "node"


_WIDTH: Final = {level: width for width, level in enumerate(Level)}


class Pattern(StrEnum):
    """How ranks are dealt to places."""

    AUTO = "auto"
    SLOT = "slot"
    OBJECT = "object"
    NODE = "node"
    PPR = "ppr"
    PLANE = "plane"
    RS = "rs"
    GPU = "gpu"
    NIC = "nic"
    MANUAL = "manual"
    SEQ = "seq"
    RANKFILE = "rankfile"


class Order(StrEnum):
    """In which order ranks are numbered."""

    SLOT = "slot"
    NODE = "node"
    FILL = "fill"
    SPAN = "span"
    OBJECT = "object"
    PLANE = "plane"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file that a request refers to: its name, for messages, and its lines, so that a plan needs it only once."""

    name: str
    lines: tuple[str, ...]


Reader = Callable[[str], TextFile]
"""Reads a file that a request refers to; raises UsageError where it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapBy:
    """``--map-by``: which places the ranks go to.

    Args:
        pattern: How they are dealt.
        level: The objects of ``object`` and ``ppr``, else None.
        count: N of ``ppr:N:...``, K of ``plane:K``, a of ``rs:a=..``, else None.
        pe: Processors of each rank (``PE=n``), or of each resource set (c of ``rs:a=..,c=..``); None is one, or what
            ``-c`` says.
        gpus: GPUs of each resource set (g of ``rs:..,g=..``), else 0.
        lists: PU os indices of each local rank, for ``manual``.
        file: The lines of ``seq`` and ``rankfile``, else None.
        span: Whether the objects of all nodes are one ring (``SPAN``).
        threads: Whether a processor is a PU (``HWTCPUS``), not a core.
        scatter: Whether the ranks of an object are spread over it (``SCATTER``), not packed at its start.
        pe_list: The only PU os indices to use; empty is all.
    """

    pattern: Pattern = Pattern.AUTO
    level: Level | None = None
    count: int | None = None
    pe: int | None = None
    gpus: int = 0
    lists: tuple[CpuSet, ...] = ()
    file: TextFile | None = None
    span: bool = False
    threads: bool = False
    scatter: bool = False
    pe_list: CpuSet = CpuSet()

    def __post_init__(self) -> None:
        needed: dict[Pattern, tuple[object, ...]] = {
            Pattern.OBJECT: (self.level,),
            Pattern.PPR: (self.level, self.count),
            Pattern.PLANE: (self.count,),
            Pattern.RS: (self.count, self.pe),
            Pattern.MANUAL: (self.lists, all(self.lists)),
            Pattern.SEQ: (self.file,),
            Pattern.RANKFILE: (self.file,),
        }
        counts = [count for count in (self.count, self.pe) if count is not None]
        if not all(needed.get(self.pattern, ())) or any(count < 1 for count in counts) or self.gpus < 0:
            msg = f"map_by {self.pattern} without what it needs: {_NEEDS.get(self.pattern, ('an object', ''))[0]}"
            raise UsageError(msg)

    @classmethod
    def parse(cls, text: str, read: Reader) -> tuple[MapBy, bool | None]:
        """Return what the text asks for, and whether it allows or forbids oversubscribing; None says neither.

        Args:
            text: The value of ``--map-by``.
            read: Reads the file of ``seq`` and ``rankfile``.

        Raises:
            UsageError: The text cannot be understood, or the file not be read.
        """
        option = f"--map-by {text}"
        base, modifiers = _map_pattern(option, text.split(":"), read)
        oversubscribe = None
        seen: dict[str, str] = {}
        for modifier in modifiers:
            name, _, value = modifier.partition("=")
            name = name.lower()
            before = seen.setdefault(_ALIKE.get(name, name), modifier)
            if before is not modifier:
                raise _not_understood(option, f"{before} and {modifier} contradict or repeat each other", "one of them")
            if name in {"oversubscribe", "nooversubscribe"} and not value:
                oversubscribe = name == "oversubscribe"
            else:
                base = _modified(base, option, name, value)
        return base, oversubscribe

    def __str__(self) -> str:
        """Return the text that parses to this."""
        words: list[str] = [] if self.pattern is Pattern.OBJECT else [str(self.pattern)]
        if self.pattern is Pattern.RS:
            words.append(f"a={self.count},c={self.pe}" + f",g={self.gpus}" * bool(self.gpus))
        else:
            words += [str(part) for part in (self.count, self.level) if part is not None]
            words += [str(part) for part in self.lists] + ([] if self.file is None else [self.file.name])
            words += [f"PE={self.pe}"] * (self.pe is not None)
        words += ["SPAN"] * self.span + ["HWTCPUS"] * self.threads
        words += ["SCATTER"] * self.scatter + [f"pe-list={self.pe_list}"] * bool(self.pe_list)
        return ":".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBy:
    """``--rank-by``: in which order the mapped ranks are numbered.

    ``count`` is K of ``plane:K``; ``file`` has the ranks of the places in order, for ``file``.
    """

    order: Order
    count: int | None = None
    file: TextFile | None = None

    @classmethod
    def parse(cls, text: str, read: Reader) -> RankBy:
        """Return what the text asks for.

        Raises:
            UsageError: The text cannot be understood, or the file not be read.
        """
        option = f"--rank-by {text}"
        head, _, rest = text.partition(":")
        head = head.lower()
        if head == Order.PLANE and rest:
            return cls(order=Order.PLANE, count=_count(option, rest))
        if head == Order.FILE and rest:
            return cls(order=Order.FILE, file=read(rest))
        orders = [order for order in Order if order not in {Order.PLANE, Order.FILE}]
        if rest or head not in orders:
            raise _not_understood(option, "there is no such order", f"{', '.join(orders)}, plane:K, file:FILE")
        return cls(order=Order(head))

    def __str__(self) -> str:
        """Return the text that parses to this."""
        rest = self.count if self.file is None else self.file.name
        return str(self.order) if rest is None else f"{self.order}:{rest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindTo:
    """``--bind-to``: what each rank may use: all of the objects of this level that its processors lie in.

    ``level`` None binds no rank, or, when ``explicit``, each to just what it was mapped to. ``overload`` allows more
    ranks on PUs than there are.
    """

    level: Level | None = None
    explicit: bool = False
    overload: bool = False

    @classmethod
    def parse(cls, text: str) -> BindTo:
        """Return what the text asks for.

        Raises:
            UsageError: The text cannot be understood.
        """
        option = f"--bind-to {text}"
        head, *rest = text.split(":")
        if rest and [word.lower() for word in rest] != ["overload-allowed"]:
            raise _not_understood(option, f"there is no modifier {rest[0]!r}", "overload-allowed")
        if head.lower() in {"none", "explicit"}:
            return cls(explicit=head.lower() == "explicit", overload=bool(rest))
        levels = [level for level in Level if level is not Level.NODE]
        return cls(level=_level(option, head, levels, also=("none", "explicit")), overload=bool(rest))

    def __str__(self) -> str:
        """Return the text that parses to this."""
        return f"{self.level or ('explicit' if self.explicit else 'none')}{':overload-allowed' * self.overload}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservePer:
    """``--reserve-per``: the first ``count`` free cores of each object of this level are kept free of ranks."""

    level: Level
    count: int

    @classmethod
    def parse(cls, text: str) -> ReservePer:
        """Return what the text (``l3cache:1``) asks for.

        Raises:
            UsageError: The text cannot be understood.
        """
        option = f"--reserve-per {text}"
        head, _, rest = text.partition(":")
        levels = [level for level in Level if level not in {Level.HWTHREAD, Level.CORE}]
        return cls(level=_level(option, head, levels), count=_count(option, rest))

    def __str__(self) -> str:
        """Return the text that parses to this."""
        return f"{self.level}:{self.count}"


def wider(one: Level, other: Level) -> bool:
    """Return whether objects of the first level are wider than those of the other, by their names."""
    return _WIDTH[one] > _WIDTH[other]


def _map_pattern(option: str, words: list[str], read: Reader) -> tuple[MapBy, list[str]]:
    """Return the pattern without modifiers, and the words that follow it."""
    word, rest = words[0].lower(), words[1:]
    n_values = {"ppr": 2, "plane": 1, "rs": 1, "seq": 1, "rankfile": 1}.get(word, 0)
    if word == "manual":
        n_values = max(1, len(list(takewhile(lambda part: part[:1].isdigit(), rest))))
    values, modifiers = rest[:n_values], rest[n_values:]
    if len(values) < n_values or not all(values):
        raise _not_understood(option, f"{word} needs {_NEEDS[word][0]}", _NEEDS[word][1])
    match word:
        case "ppr":
            base = MapBy(pattern=Pattern.PPR, count=_count(option, values[0]), level=_level(option, values[1], Level))
        case "plane":
            base = MapBy(pattern=Pattern.PLANE, count=_count(option, values[0]))
        case "rs":
            base = _resource_sets(option, values[0])
        case "manual":
            base = MapBy(pattern=Pattern.MANUAL, lists=tuple(map(CpuSet.parse, values)))
        case "seq" | "rankfile":
            base = MapBy(pattern=Pattern(word), file=read(values[0].removeprefix("file=")))
        case Pattern.AUTO | Pattern.SLOT | Pattern.NODE | Pattern.GPU | Pattern.NIC:
            base = MapBy(pattern=Pattern(word))
        case _:
            objects = [level for level in Level if level is not Level.NODE]
            base = MapBy(pattern=Pattern.OBJECT, level=_level(option, word, objects, also=_OTHERS))
    return base, modifiers


def _resource_sets(option: str, text: str) -> MapBy:
    numbers: dict[str, int] = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        if name not in {"a", "c", "g"} or name in numbers:
            raise _not_understood(option, f"there is no {word!r} in a resource set", _SETS)
        numbers[name] = 0 if (name, value) == ("g", "0") else _count(option, value)
    if "a" not in numbers or "c" not in numbers:
        raise _not_understood(option, "a resource set has ranks and cores", _SETS)
    return MapBy(pattern=Pattern.RS, count=numbers["a"], pe=numbers["c"], gpus=numbers.get("g", 0))


def _modified(base: MapBy, option: str, name: str, value: str) -> MapBy:
    match name, bool(value):
        case "pe", True if base.pattern is not Pattern.RS:
            return replace(base, pe=_count(option, value))
        case "pe-list", True:
            return replace(base, pe_list=CpuSet.parse(value))
        case "span", False:
            return replace(base, span=True)
        case "corecpus", False if base.level is Level.HWTHREAD:
            raise _not_understood(option, "hwthreads are no cores", "--map-by core, or leave CORECPUS out")
        case (("hwtcpus" | "corecpus"), False):
            return replace(base, threads=name == "hwtcpus")
        case (("pack" | "scatter"), False):
            return replace(base, scatter=name == "scatter")
        case _:
            what = f"there is no modifier {name}{'=' * bool(value)}{value}"
            raise _not_understood(option, what, _MODIFIERS)


def _count(option: str, text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise _not_understood(option, f"{text!r} is not a count", "a number from 1")
    return int(text)


def _level(option: str, text: str, levels: Iterable[Level], *, also: tuple[str, ...] = ()) -> Level:
    names = {str(level): level for level in levels}
    word = text.lower()
    level = names.get(word)
    if level is None:
        known = {*names, *(one.partition(":")[0] for one in also)}
        guesses = [_MEANT.get(word, ""), word.removesuffix("s"), *get_close_matches(word, sorted(known), n=1)]
        meant = next((f"{guess}; or " for guess in guesses if guess in known), "")
        raise _not_understood(option, f"there is no {text!r}", f"{meant}{', '.join((*also, *names))}")
    return level


def _not_understood(option: str, why: str, known: str) -> UsageError:
    return UsageError(f"{option}: {why}", hint=f"write {known}")
