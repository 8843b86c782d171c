"""What the nodes of a job were found to be: nodes that are alike become one, counts stay exact.

A host makes a ``Gathered`` of its own report, and the supervisor merges them. In which order, or some first, as in a
tree, makes no difference to what comes out.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.report import Counts, NodeReport, NodesRow, RankReport, Report
from rankmap.runs import shifted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rankmap.placement import Plan, PlannedNode

__all__ = ["FULL_RANKS", "Alike", "Gathered", "Services", "likeness", "merged", "report_of"]

FULL_RANKS = 4096
"""Of a job of up to so many ranks every rank is reported."""

_MOST_LISTED = 1024
"""How many ranks without findings, and how many with some, a larger job's report lists: a megabyte, about."""

_PERSONAL = frozenset({"host", "pid", "threads", "thread_cpus", "pages"})
"""What alike nodes may differ in: what a kernel numbers, and what is so at one moment only (a thread more, its CPU)."""

_PERSONAL_TEXT = (
    (re.compile(r"\bthread \d+"), "thread"),
    (re.compile(r"\branks [\d,-]+"), "ranks"),
    (re.compile(r"\b\d+ of \d+ MiB"), "MiB"),
)
"""The same in the texts of findings: thread ids, numbers of ranks, sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Nodes that are alike.

    Args:
        likeness: Equal for alike nodes only.
        nodes: Their positions in the allocation.
        counts: Of the ranks of each of them.
        reports: Theirs, ascending: of a full report all, else the first node's, of which only the ranks with findings
            are left where it has some. Empty where there are too many kinds of node.
    """

    likeness: str
    nodes: CpuSet
    counts: Counts
    reports: tuple[NodeReport, ...]

    @property
    def first(self) -> int:
        """Return the first of the nodes."""
        return _first(self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Dragon's processes on a node, and which nodes have the same in the same places."""

    nodes: CpuSet
    host: str
    services: tuple[Mapping[str, Any], ...]

    @property
    def likeness(self) -> str:
        """Return a text that is equal where the processes are, but for their pids."""
        return json.dumps(sorted(json.dumps({**one, "pid": 0}, sort_keys=True) for one in self.services))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What was found on some nodes of a job.

    Args:
        full: Whether the report of every node is kept.
        alike: The nodes by what they are like, each node once, by the first node of each kind.
        services: The same of Dragon's processes; of a full report each node by itself.
    """

    full: bool
    alike: tuple[Alike, ...] = ()
    services: tuple[Services, ...] = ()

    @classmethod
    def of(cls, report: NodeReport, *, n_job_ranks: int) -> Gathered:
        """Return what one node contributes to a job of so many ranks."""
        full, nodes = n_job_ranks <= FULL_RANKS, CpuSet.of([report.position])
        counts = Counts.of(report.ranks)
        kept = report.ranks if full or not counts.flagged else tuple(rank for rank in report.ranks if rank.findings)
        alone = replace(report, ranks=kept, services=())
        services = Services(nodes=nodes, host=report.host, services=report.services)
        return cls(
            full=full,
            alike=(Alike(likeness=likeness(report), nodes=nodes, counts=counts, reports=(alone,)),),
            services=(services,) if report.services else (),
        )

    def also_of(self, nodes: Iterable[int]) -> Gathered:
        """Return what it would be if it were of these nodes; its own are all alike."""
        (alike,) = self.alike
        return replace(self, alike=(replace(alike, nodes=CpuSet.of(nodes)),))

    def to_values(self) -> dict[str, Any]:
        """Return it as dicts, lists, text, numbers and None, which JSON and marshal take."""
        return {
            "full": self.full,
            "alike": [
                {
                    "likeness": one.likeness,
                    "nodes": str(one.nodes),
                    "counts": asdict(one.counts),
                    "reports": [report.to_values() for report in one.reports],
                }
                for one in self.alike
            ],
            "services": [
                {"nodes": str(one.nodes), "host": one.host, "services": [dict(service) for service in one.services]}
                for one in self.services
            ],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Gathered:
        """Return what ``to_values`` made these of."""
        return cls(
            full=values["full"],
            alike=tuple(
                Alike(
                    likeness=one["likeness"],
                    nodes=CpuSet.parse(one["nodes"]),
                    counts=Counts(**one["counts"]),
                    reports=tuple(NodeReport.from_values(report) for report in one["reports"]),
                )
                for one in values["alike"]
            ),
            services=tuple(
                Services(nodes=CpuSet.parse(one["nodes"]), host=one["host"], services=tuple(one["services"]))
                for one in values["services"]
            ),
        )


def likeness(report: NodeReport) -> str:
    """Return a digest that is equal for nodes that are alike.

    Alike are nodes whose local ranks have the same planned and observed places and the same findings, whatever their
    host, pids, thread ids, number of threads, GPU UUIDs and page counts, and whichever ranks of the job they are.
    """
    text = json.dumps([_shared(rank, report.host) for rank in report.ranks], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _shared(rank: RankReport, host: str) -> list[Any]:
    planned, observed = ({} if values is None else dict(values) for values in (rank.planned, rank.observed))
    for values in (planned, observed):
        values["gpu_uuids"] = len(values.get("gpu_uuids", ()))
    findings = [
        [one.slug, one.severity, _shared_text(one.expected, host), _shared_text(one.observed, host)]
        for one in rank.findings
    ]
    return [
        {name: value for name, value in planned.items() if name not in _PERSONAL},
        rank.observed and {name: value for name, value in observed.items() if name not in _PERSONAL},
        findings,
    ]


def _shared_text(text: str, host: str) -> str:
    if text in {host, f"on {host}"}:
        return ""
    for pattern, word in _PERSONAL_TEXT:
        text = pattern.sub(word, text)
    return text


def merged(parts: Iterable[Gathered]) -> Gathered:
    """Return what these parts of one job are together; no two may have a node in common.

    Raises:
        ValueError: There is no part.
    """
    all_parts = tuple(parts)
    if not all_parts:
        msg = "there is nothing to merge"
        raise ValueError(msg)
    full = all_parts[0].full
    kinds: dict[str, list[Alike]] = {}
    places: dict[str, list[Services]] = {}
    for part in all_parts:
        for one in part.alike:
            kinds.setdefault(one.likeness, []).append(one)
        for services in part.services:
            places.setdefault(str(services.nodes) if full else services.likeness, []).append(services)
    alike = sorted((_union(ones, full=full) for ones in kinds.values()), key=lambda one: one.first)
    return Gathered(
        full=full,
        alike=tuple(alike) if full else tuple(_fewer(alike)),
        services=tuple(sorted(map(_same_services, places.values()), key=lambda one: _first(one.nodes))),
    )


def _union(ones: Sequence[Alike], *, full: bool) -> Alike:
    if len(ones) == 1:
        return ones[0]
    first = min(ones, key=lambda one: one.first)
    reports = sorted((report for one in ones for report in one.reports), key=lambda report: report.position)
    return replace(first, nodes=_together(one.nodes for one in ones), reports=tuple(reports) if full else first.reports)


def _same_services(ones: Sequence[Services]) -> Services:
    first = min(ones, key=lambda one: _first(one.nodes))
    return replace(first, nodes=_together(one.nodes for one in ones))


def _first(nodes: CpuSet) -> int:
    return next(iter(nodes))


def _together(nodes: Iterable[CpuSet]) -> CpuSet:
    mask = 0
    for one in nodes:
        mask |= one.mask
    return CpuSet(mask)


def _fewer(alike: Iterable[Alike]) -> Iterator[Alike]:
    """Yield the same, with reports for as many as are listed, by first node.

    That is the same in whatever order parts are merged: the first node of a kind only ever moves to the front, so a
    kind that has too many before it in a part has them in the whole too.
    """
    n_listed = [0, 0]
    for one in alike:
        flagged = bool(one.counts.flagged)
        yield one if n_listed[flagged] < _MOST_LISTED else replace(one, reports=())
        n_listed[flagged] += one.counts.flagged or one.counts.ranks


def report_of(plan: Plan, gathered: Gathered) -> Report:
    """Return the report of the whole job, all of whose nodes with ranks are gathered (``merged``).

    Of one node there is nothing to say of nodes.
    """
    ranks = [rank for one in gathered.alike for report in one.reports for rank in report.ranks]
    if len(plan.nodes) == 1 and gathered.full:
        return Report(ranks=tuple(ranks), services=tuple(one for of in gathered.services for one in of.services))
    services = (
        {**service, "host": one.host, "nodes": str(one.nodes)} for one in gathered.services for service in one.services
    )
    return Report(
        ranks=tuple(sorted(ranks, key=lambda rank: rank.rank)),
        services=tuple(services),
        nodes=_rows(plan, gathered.alike),
        folded=not gathered.full,
    )


def _rows(plan: Plan, alike: Iterable[Alike]) -> tuple[NodesRow, ...]:
    """Return the rows of the table of nodes: alike nodes whose ranks are equally far apart are one."""
    planned = {node.node_index: node for node in plan.nodes}
    rows = []
    for one in alike:
        for members, step in _equally_far([planned[position] for position in one.nodes]):
            row = NodesRow(
                nodes=CpuSet.of(node.node_index for node in members),
                hosts=tuple(plan.allocation.nodes[node.node_index].host for node in members),
                first=one.first,
                listed=bool(one.reports),
                counts=one.counts,
                runs=members[0].runs,
                step=step,
            )
            rows.append(row)
    return tuple(sorted(rows, key=lambda row: _first(row.nodes)))


def _equally_far(nodes: Sequence[PlannedNode]) -> Iterator[tuple[Sequence[PlannedNode], int]]:
    """Yield these nodes, cut where the ranks of the next one are not as much larger as those of the one before."""
    start, step = 0, 0
    for i in range(1, len(nodes)):
        by = nodes[i].runs[0].first - nodes[i - 1].runs[0].first
        if nodes[i].runs == shifted(nodes[i - 1].runs, by) and (i == start + 1 or by == step):
            step = by
        else:
            yield nodes[start:i], step
            start, step = i, 0
    yield nodes[start:], step
