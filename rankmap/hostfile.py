"""Hostfiles: a host and maybe ``slots=N`` on each line, as Open MPI and PBS_NODEFILE have them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from rankmap.errors import UsageError
from rankmap.hostlist import expand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.layout_parts import TextFile

__all__ = ["hosts_of", "n_slots"]

_LONGEST_COUNT = 9
_SLOTS = re.compile(r"(slots|max[_-]slots)\s*=\s*(\S+)", re.IGNORECASE)


def hosts_of(file: TextFile, *, sharing: bool) -> tuple[list[str], dict[str, int]]:
    """Return the hosts of an Open MPI hostfile, and the slots of those that have them.

    A host that is named several times has the sum of its slots, or as many as it has lines (PBS_NODEFILE). Slots are
    never more than max_slots, which is a limit that nothing lifts: with ``sharing`` it is refused.

    Source: Open MPI, mpirun(1), "Host Specification"; ``host:N`` is Hydra's.
    """
    lines: Counter[str] = Counter()
    slots: dict[str, int] = {}
    for place, text, n_times in _lines(file):
        values = {match[1].lower(): match[2] for match in _SLOTS.finditer(text)}
        name, colon, count = _SLOTS.sub("", text).strip().partition(":")
        if not name or " " in name or "\t" in name:
            msg = f"{place}: not a line of a hostfile: {text}"
            raise UsageError(msg, hint="write HOST, or HOST slots=N")
        for host in expand(name):
            lines[host] += n_times
            most = values.get("max_slots", values.get("max-slots", values.get("maxslots")))
            if most is not None and sharing:
                msg = f"{place}: max_slots and --oversubscribe: rankmap knows no second limit"
                raise UsageError(msg, hint="leave one of them out")
            value = values.get("slots", count if colon else most)
            if value is not None:
                given = n_slots(place, value)
                each = given if most is None else min(given, n_slots(place, most))
                slots[host] = slots.get(host, 0) + each * n_times
    if not lines:
        msg = f"{file.name} names no host"
        raise UsageError(msg, hint="write a host a line, HOST or HOST slots=N; what follows a # is not read")
    for host, n_lines in lines.items():
        if n_lines > 1:
            slots.setdefault(host, n_lines)
    return list(lines), slots


def _lines(file: TextFile) -> Iterator[tuple[str, str, int]]:
    """Yield where each line is first, what it says, and how often: PBS has one for each slot of thousands of hosts."""
    times = Counter(file.lines)
    numbers: dict[str, int] = {}
    for number, line in enumerate(file.lines, start=1):
        numbers.setdefault(line, number)
    for line, n_times in times.items():
        if text := line.partition("#")[0].strip():
            yield f"{file.name}:{numbers[line]}", text, n_times


def n_slots(place: str, text: str) -> int:
    """Return the number of slots that the text is; ``place`` is where it stands, for the message.

    Raises:
        UsageError: It is no number from 1.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_COUNT and int(text) > 0):
        msg = f"{place}: {text!r} is no number of slots"
        raise UsageError(msg, hint="write a number from 1")
    return int(text)
