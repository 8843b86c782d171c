"""Host names as hostlist text: ``node[001-004,7]`` to names and back, order kept.

Source of the notation: slurm.conf(5), "NodeName"; ClusterShell's NodeSet documentation.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

from rankmap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["expand", "fold", "items"]

MAX_HOSTS = 1_000_000
"""More hosts than any machine has; a mistyped range must not fill the memory."""

_ITEM = re.compile(r"(?:[^\[\],\s]|\[[^\[\]]*\])+")
_RANGE = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?")
_NUMBERED = re.compile(r"([^.]*?)(\d{1,12})([^0-9.]*(?:\..*)?)")  # no longer than what _RANGE reads back


def expand(text: str) -> tuple[str, ...]:
    """Return the host names that hostlist text stands for, in its order.

    ``n[08-10]`` is n08, n09, n10: the first number's width is kept. Several brackets in one name combine.

    Raises:
        UsageError: The text is not a hostlist, or stands for more than a million hosts.
    """
    hosts: list[str] = []
    for item in items(text):
        hosts += _expanded(item, text, MAX_HOSTS - len(hosts))
    return tuple(hosts)


def items(text: str) -> list[str]:
    """Return the comma-separated parts of hostlist text; commas in brackets do not separate.

    Raises:
        UsageError: The text is not a hostlist.
    """
    found: list[str] = []
    position = 0
    stripped = text.strip()
    while position < len(stripped):
        match = _ITEM.match(stripped, position)
        if match is None or (match.end() < len(stripped) and stripped[match.end()] != ","):
            raise _unreadable(text)
        found.append(match[0])
        position = match.end() + 1
        if position == len(stripped):  # a comma at the end
            raise _unreadable(text)
    return found


def _expanded(item: str, text: str, room: int) -> Iterator[str]:
    parts = re.split(r"\[([^\]]*)\]", item)  # outside, inside, outside, ...
    choices = [_numbers(part, text) if index % 2 else range(1) for index, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > room:
        msg = f"{text!r} stands for more than {MAX_HOSTS} hosts"
        raise UsageError(msg, hint="check the numbers in the brackets")
    filled = [choice if index % 2 else (parts[index],) for index, choice in enumerate(choices)]
    return ("".join(map(str, combination)) for combination in product(*filled))


def _numbers(inside: str, text: str) -> _Numbers:
    ranges = []
    for part in inside.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(first) > int(last):
            raise _unreadable(text)
        ranges.append((int(first), int(last), len(first)))
    return _Numbers(tuple(ranges))


class _Numbers:
    """The zero-padded numbers of one bracket; they are counted before any is made."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: tuple[tuple[int, int, int], ...]) -> None:
        self._ranges = ranges

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last, _ in self._ranges)

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(width) for first, last, width in self._ranges for number in range(first, last + 1))


def _unreadable(text: str) -> UsageError:
    return UsageError(f"{text!r} is not a list of hosts", hint="write for example n0,n2 or node[001-004,7]")


def fold(hosts: Iterable[str]) -> str:
    """Return hostlist text that expands to exactly these hosts, in this order.

    Only neighbours fold: n0, n1, n5, x become ``n[0-1,5],x``.
    """
    groups: list[tuple[str, str, list[str]]] = []
    for host in hosts:
        match = _NUMBERED.fullmatch(host)
        prefix, number, suffix = match.groups() if match else (host, "", "")
        if number and groups and groups[-1][:2] == (prefix, suffix) and groups[-1][2]:
            groups[-1][2].append(number)
        else:
            groups.append((prefix, suffix, [number] if number else []))
    return ",".join(_folded(*group) for group in groups)


def _folded(prefix: str, suffix: str, numbers: list[str]) -> str:
    if len(numbers) <= 1:
        return f"{prefix}{''.join(numbers)}{suffix}"
    runs: list[list[str]] = []
    for number in numbers:
        if runs and number == str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][0])):
            runs[-1].append(number)
        else:
            runs.append([number])
    return f"{prefix}[{','.join(run[0] if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)}]{suffix}"
