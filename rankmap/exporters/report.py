"""The report as a table: planned and observed, side by side, per rank; of many nodes those that are not as others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import or_
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.exporters import tables
from rankmap.hostlist import fold
from rankmap.report import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rankmap.report import Counts, NodesRow, RankReport, Report

__all__ = ["table"]

_HEADERS = ("rank", "host", "pid", "planned", "observed", "numa", "threads", "")

_WORST_FIRST = (Verdict.MISMATCH, Verdict.UNOBSERVED, Verdict.MATCH)

# What fits on a screen of 60 lines, with the services and the verdict below.
_FEW_RANKS = 32
_ODD_ROWS = 10
_SHOWN_ROWS = 24
_HEAD, _TAIL = 6, 3
_KIND_LINES = 5
_SERVICE_LINES = 4
_NAME_WIDTH = 48
_CUT = "..."


def table(report: Report) -> str:
    """Return one row per rank (CPUs as Linux lists them), then where Dragon's own processes run.

    Of more than 32 ranks on several nodes: first the ranks with findings, then those of one node of each kind, then
    which nodes are as which. It is no longer than a screen, however large the job is.
    """
    if report.nodes and (report.folded or len(report.ranks) > _FEW_RANKS):
        lines = _folded(report)
    else:
        lines = [tables.simple([_row(rank) for rank in report.ranks], _HEADERS)]
    return "\n".join([*lines, *_services(report)])


def _row(rank: RankReport) -> tuple[str, ...]:
    planned = rank.planned["cpus"]
    planned_text = "unbound" if planned is None else str(CpuSet.of(planned))
    seen = rank.observed
    if seen is None:
        return (str(rank.rank), rank.planned["host"], "-", planned_text, "not observed", "-", "-", "UNOBSERVED")
    slugs = ", ".join(dict.fromkeys(finding.slug for finding in rank.findings))
    return (
        str(rank.rank),
        seen["host"],
        str(seen["pid"]),
        planned_text,
        str(CpuSet.of(seen["cpus"])),
        ",".join(map(str, seen["numa"])) or "-",
        str(seen["threads"] or "-"),
        slugs.upper() if slugs else "ok",
    )


def _services(report: Report) -> list[str]:
    if not report.nodes:
        return _places(report.services)
    nodes_of: dict[tuple[str, ...], CpuSet] = {}
    for nodes, services in groupby(report.services, key=lambda service: str(service["nodes"])):
        places = tuple(_places(services))
        nodes_of[places] = nodes_of.get(places, CpuSet()) | CpuSet.parse(nodes)
    lines = [f"{place} ({_numbered(nodes)})" for places, nodes in nodes_of.items() for place in places]
    return _cut_lines(lines, _SERVICE_LINES, "lines of services; --report FILE has them")


def _places(services: Iterable[Mapping[str, Any]]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for service in services:
        place = f"services on CPUs {CpuSet.of(service['cpus'])}" + (", SCHED_IDLE" if service["idle"] else "")
        groups.setdefault(place, []).append(service["name"])
    return [
        f"{place}: " + ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        for place, names in groups.items()
    ]


# -- a report of more than a screen -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Nodes that are alike: their hosts in their order, and the ranks that the report lists of the first of them."""

    nodes: CpuSet
    hosts: tuple[str, ...]
    counts: Counts
    ranks: tuple[RankReport, ...]

    @property
    def first(self) -> int:
        return next(iter(self.nodes))


def _kinds(report: Report) -> list[_Kind]:
    """Return the kinds of node by their first node."""
    of_host: dict[str, list[RankReport]] = {}
    for rank in report.ranks:
        of_host.setdefault(rank.planned["host"], []).append(rank)
    rows_of: dict[int, list[NodesRow]] = {}
    for row in report.nodes:
        rows_of.setdefault(row.first, []).append(row)
    return [
        _Kind(
            nodes=reduce(or_, (row.nodes for row in rows)),
            hosts=tuple(host for row in rows for host in row.hosts),
            counts=rows[0].counts,
            ranks=tuple(of_host.get(rows[0].hosts[0], ())),
        )
        for rows in rows_of.values()
    ]


def _folded(report: Report) -> list[str]:
    """Return the lines of a report that folds: ranks with findings, one node of each kind, who is like whom."""
    odd = sorted((rank for rank in report.ranks if rank.findings), key=lambda rank: _WORST_FIRST.index(rank.verdict))
    rows = [_row(rank) for rank in odd[:_ODD_ROWS]]
    if n_more := report.counts.flagged - len(rows):
        rows.append(_gap(f"and {n_more} more ranks with findings"))
    n_left, flagged, alike, others = _SHOWN_ROWS, [], [], []
    for kind in _kinds(report):
        of_kind = [_row(rank) for rank in kind.ranks]
        if len(of_kind) > _SHOWN_ROWS:
            middle = _gap(f"and {len(of_kind) - _HEAD - _TAIL} more of this node, all ok")
            of_kind = [*of_kind[:_HEAD], middle, *of_kind[-_TAIL:]]
        if kind.counts.flagged:
            flagged.append(_with_findings(kind))
        elif of_kind and len(of_kind) <= n_left:
            n_left -= len(of_kind)
            rows += of_kind
            alike += _as_first(kind)
        else:
            n_ranks = kind.counts.ranks
            others.append(f"{_named(kind.nodes, kind.hosts)}: {n_ranks} rank{'s' * (n_ranks > 1)} each, all ok")
    return [
        tables.simple(rows, _HEADERS),
        *_cut_lines(flagged, _KIND_LINES, "kinds of node with findings"),
        *alike,
        *_cut_lines(others, _KIND_LINES, "kinds of node, all ok"),
    ]


def _gap(text: str) -> tuple[str, ...]:
    return ("...", *("" for _ in _HEADERS[2:]), text)


def _with_findings(kind: _Kind) -> str:
    counts = kind.counts
    each = "" if len(kind.nodes) == 1 else " of each"
    return (
        f"{_named(kind.nodes, kind.hosts)}: {counts.match} of {counts.ranks} ranks{each} as planned, "
        f"{counts.flagged} with findings"
    )


def _as_first(kind: _Kind) -> list[str]:
    rest = kind.nodes - CpuSet.of([kind.first])
    return [f"{_named(rest, kind.hosts[1:])}: as node {kind.first} ({kind.hosts[0]})"] if rest else []


def _named(nodes: CpuSet, hosts: Sequence[str]) -> str:
    text = f"{_numbered(nodes)} ({_cut(fold(hosts))})"
    return f"{len(nodes)} {text}" if _CUT in text else text


def _numbered(nodes: CpuSet) -> str:
    return f"node{'s' * (len(nodes) > 1)} {_cut(str(nodes))}"


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_WIDTH else text[: _NAME_WIDTH - len(_CUT)] + _CUT


def _cut_lines(lines: Sequence[str], most: int, what: str) -> list[str]:
    n_more = len(lines) - most
    return [*lines[:most], *([f"... and {n_more} more {what}"] if n_more > 0 else [])]
