"""Requests that PRRTE maps reliably, and that rankmap understands in the same words: a fixed sample of them.

Source: what is robust in PRRTE 3.0.14 was measured over some 1,400 requests. Its quirks are left out: more ranks than
slots, a remainder of ppr or fewer slots than its ranks, PE=n without an object; docs/differences.md has those.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from rankmap.layout_parts import Level, wider
from rankmap.processors import ground

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rankmap.processors import Ground
    from tests.oracle.machines import Machine

__all__ = ["Asked", "sampled", "sampled_for_hydra"]

_OBJECTS = (Level.CORE, Level.L1CACHE, Level.L2CACHE, Level.L3CACHE, Level.NUMA, Level.PACKAGE)
_ORDERS: tuple[str, ...] = ("", "slot", "node")
_OBJECT_ORDERS = (*_ORDERS, "fill", "span")
_SPAN = ("", ":SPAN")
_MOST_NODES = 4
_WIDEST = 8
_MOST_STARTED = 24
"""hydra starts a process for each rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, in words that both programs take.

    Args:
        machine: Every node is one of these.
        n_ranks: Ranks of the job.
        slots: Ranks that each node takes at most.
        map_by: The value of ``--map-by``; of rankfile and seq only the word, the file is ``lines``.
        rank_by: The value of ``--rank-by``, "" for none.
        bind_to: The value of ``--bind-to``, "" for none.
        lines: The lines of the file, for rankfile and seq.
    """

    machine: Machine
    n_ranks: int
    slots: tuple[int, ...]
    map_by: str
    rank_by: str = ""
    bind_to: str = ""
    lines: tuple[str, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return the names of the nodes."""
        return tuple(f"n{i}" for i in range(len(self.slots)))

    @property
    def map_word(self) -> str:
        """Return the pattern or object of ``map_by``, without what follows."""
        return self.map_by.partition(":")[0]

    @property
    def level(self) -> Level | None:
        """Return the objects that ranks are mapped to; None for a pattern that has none."""
        word = self.map_by.split(":")[2] if self.map_word == "ppr" else self.map_word
        return Level(word) if word in set(Level) else None

    def map_text(self, file: str) -> str:
        """Return the value of ``--map-by``, with the name of the file where the pattern reads one."""
        return self.map_by.replace(self.map_word, f"{self.map_word}:file={file}", 1) if self.lines else self.map_by

    def __str__(self) -> str:
        words = [f"{self.machine.name}: -n {self.n_ranks} --map-by {self.map_by}"]
        words += [f"--rank-by {self.rank_by}"] * bool(self.rank_by) + [f"--bind-to {self.bind_to}"] * bool(self.bind_to)
        words.append("--hosts " + ",".join(f"{host}:{n}" for host, n in zip(self.hosts, self.slots, strict=True)))
        return " ".join(words) + "".join(f"\n    {line}" for line in self.lines)


def sampled(machines: Sequence[Machine], count: int, *, seed: int = 0) -> Iterator[Asked]:
    """Yield so many requests, the same ones for the same machines and seed; no two of them are equal."""
    random = Random(seed)  # noqa: S311 - a sample, no secret
    makers: Sequence[Callable[[Random, Machine], Asked | None]] = (
        *[_object] * 6,
        *[_slot, _node, _wide, _threads, _per_resource] * 2,
        *[_rankfile, _sequence],
    )
    seen: set[Asked] = set()
    while len(seen) < count:
        asked = random.choice(makers)(random, random.choice(machines))
        if asked is not None and asked not in seen:
            seen.add(asked)
            yield asked


def sampled_for_hydra(machines: Sequence[Machine], count: int, *, seed: int = 0) -> Iterator[Asked]:
    """Yield so many requests for one node, mapped by an object and bound to one: what hydra understands."""
    random = Random(seed)  # noqa: S311 - a sample, no secret
    seen: set[Asked] = set()
    while len(seen) < count:
        machine, level = random.choice(machines), random.choice(_OBJECTS)
        cores = ground(machine.topology)
        if not cores.objects(level) or not (bindings := _bindings(cores, level)):
            continue
        n_cores = len(cores.processors)
        asked = Asked(
            machine=machine,
            n_ranks=_n_ranks(random, min(n_cores, _MOST_STARTED)),
            slots=(n_cores,),
            map_by=level,
            rank_by="slot",
            bind_to=random.choice(bindings),
        )
        if asked not in seen:
            seen.add(asked)
            yield asked


def _object(random: Random, machine: Machine) -> Asked | None:
    """Return a request that goes round the objects of each node, or of all."""
    cores = ground(machine.topology)
    level = random.choice(_OBJECTS)
    if not cores.objects(level):
        return None
    slots = _slots(random, len(cores.processors))
    return Asked(
        machine=machine,
        n_ranks=_n_ranks(random, sum(slots)),
        slots=slots,
        map_by=level + random.choice(_SPAN),
        rank_by=random.choice(_OBJECT_ORDERS),
        bind_to=random.choice(("", "none", *_bindings(cores, level))),
    )


def _slot(random: Random, machine: Machine) -> Asked:
    cores = ground(machine.topology)
    slots = _slots(random, len(cores.processors))
    return Asked(
        machine=machine,
        n_ranks=_n_ranks(random, sum(slots)),
        slots=slots,
        map_by="slot",
        rank_by=random.choice(_ORDERS),
        bind_to=random.choice(("none", *_bindings(cores, Level.NODE))),
    )


def _node(random: Random, machine: Machine) -> Asked:
    """Return a request that goes round the nodes; prterun refuses many of those where they have unequal slots."""
    cores = ground(machine.topology)
    slots = _slots(random, len(cores.processors))
    return Asked(
        machine=machine,
        n_ranks=_n_ranks(random, sum(slots)),
        slots=slots,
        map_by="node",
        rank_by=random.choice(_ORDERS),
        bind_to=random.choice(("none", *_bindings(cores, Level.NODE))),
    )


def _wide(random: Random, machine: Machine) -> Asked | None:
    """Return a request for several cores for each rank."""
    cores = ground(machine.topology)
    level = random.choice((Level.L2CACHE, Level.L3CACHE, Level.NUMA, Level.PACKAGE))
    sizes = [len(group) for group in cores.objects(level)]
    if not sizes or min(sizes) < 2:
        return None
    size = random.randint(2, min(*sizes, _WIDEST))
    slots = _slots(random, len(cores.processors))
    return Asked(
        machine=machine,
        n_ranks=_n_ranks(random, sum(min(n, sum(cores // size for cores in sizes)) for n in slots)),
        slots=slots,
        map_by=f"{level}:PE={size}" + random.choice(_SPAN),
        rank_by=random.choice(_OBJECT_ORDERS),
        bind_to="core",
    )


def _threads(random: Random, machine: Machine) -> Asked | None:
    """Return a request that takes hardware threads for CPUs."""
    threads = ground(machine.topology, threads=True)
    level = random.choice((Level.HWTHREAD, *_OBJECTS))
    slots = _slots(random, len(threads.processors))
    word, orders = level + random.choice(_SPAN), _OBJECT_ORDERS
    if random.random() < 0.2:
        word, orders = random.choice(("slot", "node")), _ORDERS
    elif not threads.objects(level):
        return None
    return Asked(
        machine=machine,
        n_ranks=_n_ranks(random, sum(slots)),
        slots=slots,
        map_by=f"{word}:HWTCPUS",
        rank_by=random.choice(orders),
        bind_to=random.choice(("none", "hwthread", "hwthread", "core")[: 3 if level is Level.HWTHREAD else 4]),
    )


def _rankfile(random: Random, machine: Machine) -> Asked:
    """Return a rankfile that gives each rank some neighbouring cores, or PUs, of its own, by package or by node."""
    threads = random.random() < 0.3
    there = ground(machine.topology, threads=threads)
    packages = there.objects(Level.PACKAGE)
    n_nodes = random.randint(1, _MOST_NODES)
    places = []
    for node in range(n_nodes):
        if packages and random.random() < 0.5:
            for package, group in enumerate(packages):
                places += [(node, f"{package}:{text}") for text in _pieces(random, len(group))]
        else:
            places += [(node, text) for text in _pieces(random, len(there.processors))]
    random.shuffle(places)
    places = places[: random.randint(1, len(places))]
    return Asked(
        machine=machine,
        n_ranks=len(places),
        slots=(len(there.processors),) * n_nodes,
        map_by="rankfile" + ":HWTCPUS" * threads,
        lines=tuple(f"rank {rank}=n{node} slot={text}" for rank, (node, text) in enumerate(places)),
    )


def _pieces(random: Random, n_slots: int) -> list[str]:
    pieces = []
    start = 0
    while start < n_slots:
        stop = min(n_slots, start + random.randint(1, 4))
        pieces.append(f"{start}-{stop - 1}" if stop - start > 1 else str(start))
        start = stop + random.choice((0, 0, 1))
    return pieces


def _sequence(random: Random, machine: Machine) -> Asked:
    cores = ground(machine.topology)
    slots = _slots(random, len(cores.processors))
    lines = [f"n{node}" for node, n in enumerate(slots) for _ in range(n)]
    random.shuffle(lines)
    lines = lines[: _n_ranks(random, len(lines))]
    return Asked(
        machine=machine,
        n_ranks=len(lines),
        slots=slots,
        map_by="seq",
        bind_to=random.choice(("none", *_bindings(cores, Level.NODE))),
        lines=tuple(lines),
    )


def _per_resource(random: Random, machine: Machine) -> Asked | None:
    """Return a ppr that has no remainder, with PE=n or without."""
    cores = ground(machine.topology)
    level = random.choice((*_OBJECTS, Level.NODE))
    sizes = [len(group) for group in cores.objects(level)]
    if not sizes:
        return None
    size = random.randint(1, min(*sizes, _WIDEST)) if random.random() < 0.3 and level is not Level.NODE else 1
    each = random.randint(1, min(sizes) // size)
    n_nodes = random.randint(1, _MOST_NODES)
    return Asked(
        machine=machine,
        n_ranks=each * random.randint(1, len(sizes) * n_nodes),
        slots=(len(cores.processors),) * n_nodes,
        map_by=f"ppr:{each}:{level}" + f":PE={size}" * (size > 1),
        rank_by=random.choice(_ORDERS if level is Level.NODE else _OBJECT_ORDERS),
        bind_to="core" if size > 1 else random.choice(("none", *_bindings(cores, level))),
    )


def _bindings(cores: Ground, mapped: Level) -> list[str]:
    """Return the levels at or below the mapped one that ranks can be bound to: each of their objects lies in one.

    Above is meant by name too: prterun refuses to bind to l3cache what is mapped by core, also where it is the same.
    """
    outer = [set(group) for group in cores.objects(mapped)]
    return [
        str(level)
        for level in _OBJECTS
        if not wider(level, mapped)
        and (inner := cores.objects(level))
        and sum(map(len, inner)) == len(cores.processors)
        and all(any(group >= set(one) for group in outer) for one in inner)
    ]


def _slots(random: Random, most: int) -> tuple[int, ...]:
    """Return the slots of a few nodes: all of their cores, the same part of them, or any."""
    n_nodes = random.randint(1, _MOST_NODES)
    match random.randrange(3):
        case 0:
            return (most,) * n_nodes
        case 1:
            return (random.randint(1, most),) * n_nodes
        case _:
            return tuple(random.randint(1, most) for _ in range(n_nodes))


def _n_ranks(random: Random, most: int) -> int:
    """Return a number of ranks: all that fit, a few, or any."""
    return random.choice((most, random.randint(1, min(most, 12)), random.randint(1, most)))
