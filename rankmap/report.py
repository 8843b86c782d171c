"""What a job was found to be: findings, the report per rank and node, and the verdict. Values and their JSON only."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rankmap.hostlist import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rankmap.cpuset import CpuSet
    from rankmap.runs import Run

__all__ = ["SCHEMA", "Counts", "Finding", "NodeReport", "NodesRow", "RankReport", "Report", "Severity", "Verdict"]

SCHEMA = "rankmap.report/1"


class Severity(StrEnum):
    """How much a finding matters: an error is a wrong placement, a warning may cost time, a note explains."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Verdict(StrEnum):
    """The whole job: every rank as planned, some rank not, or some rank never looked at (and none wrong)."""

    MATCH = "match"
    MISMATCH = "mismatch"
    UNOBSERVED = "unobserved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference between plan and reality. ``slug`` names its kind (docs/findings.md)."""

    slug: str
    severity: Severity
    expected: str
    observed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReport:
    """One rank: what was planned, what was seen, what differs.

    ``planned`` and ``observed`` are JSON objects with cpus, numa, gpus and mem; ``observed`` also has host, pid,
    threads, thread_cpus and pages, and is None for a rank that was not looked at.
    """

    rank: int
    planned: Mapping[str, Any]
    observed: Mapping[str, Any] | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict on this rank alone."""
        if any(finding.severity is Severity.ERROR for finding in self.findings):
            return Verdict.MISMATCH
        return Verdict.UNOBSERVED if self.observed is None else Verdict.MATCH

    @property
    def warned(self) -> bool:
        """Return whether there is a warning about this rank, and it was looked at."""
        return self.observed is not None and any(one.severity is Severity.WARNING for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, which marshal takes too."""
        return {
            "rank": self.rank,
            "planned": dict(self.planned),
            "observed": None if self.observed is None else dict(self.observed),
            "findings": [
                {
                    "slug": finding.slug,
                    "severity": str(finding.severity),
                    "expected": finding.expected,
                    "observed": finding.observed,
                }
                for finding in self.findings
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RankReport:
        """Return the report that ``to_dict`` made these of."""
        findings = tuple(Finding(**{**one, "severity": Severity(one["severity"])}) for one in values["findings"])
        return cls(rank=values["rank"], planned=values["planned"], observed=values["observed"], findings=findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """The ranks of one node, ascending.

    Args:
        position: Where the node is in the allocation of the job's plan.
        host: Its name, as planned.
        ranks: What was found of each.
        services: Where Dragon's own processes run on it.
    """

    position: int
    host: str
    ranks: tuple[RankReport, ...]
    services: tuple[Mapping[str, Any], ...] = ()

    def to_values(self) -> dict[str, Any]:
        """Return it as dicts, lists, text, numbers and None, which JSON and marshal take."""
        return {
            "node": self.position,
            "host": self.host,
            "ranks": [rank.to_dict() for rank in self.ranks],
            "services": [dict(service) for service in self.services],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeReport:
        """Return the report that ``to_values`` made these of."""
        return cls(
            position=values["node"],
            host=values["host"],
            ranks=tuple(RankReport.from_dict(rank) for rank in values["ranks"]),
            services=tuple(values["services"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many ranks there are, and how many of them are ...

    Args:
        ranks: All.
        mismatch: Not as planned.
        unobserved: Never looked at, and not known to be wrong.
        warned: Looked at, with a warning.
        flagged: With any finding.
    """

    ranks: int = 0
    mismatch: int = 0
    unobserved: int = 0
    warned: int = 0
    flagged: int = 0

    @classmethod
    def of(cls, ranks: Iterable[RankReport]) -> Counts:
        """Return the counts of these ranks."""
        all_ranks = tuple(ranks)
        verdicts = [rank.verdict for rank in all_ranks]
        return cls(
            ranks=len(all_ranks),
            mismatch=verdicts.count(Verdict.MISMATCH),
            unobserved=verdicts.count(Verdict.UNOBSERVED),
            warned=sum(rank.warned for rank in all_ranks),
            flagged=sum(bool(rank.findings) for rank in all_ranks),
        )

    @classmethod
    def total(cls, counts: Iterable[tuple[int, Counts]]) -> Counts:
        """Return the sum of so many times these counts."""
        sums = [0] * len(fields(cls))
        for n, one in counts:
            sums = [before + n * value for before, value in zip(sums, astuple(one), strict=True)]
        return cls(**{each.name: value for each, value in zip(fields(cls), sums, strict=True)})

    @property
    def match(self) -> int:
        """Return how many ranks were looked at and are as planned."""
        return self.ranks - self.mismatch - self.unobserved

    @property
    def verdict(self) -> Verdict:
        """Return ``mismatch`` if any rank is wrong, else ``unobserved`` if any was not looked at, else ``match``."""
        if self.mismatch:
            return Verdict.MISMATCH
        return Verdict.UNOBSERVED if self.unobserved else Verdict.MATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesRow:
    """Nodes of a job that are alike: equal ranks in equal places, and the same found of them.

    Args:
        nodes: Their positions in the allocation.
        hosts: Their names, in that order.
        first: The first node that is like them; it may be of another row.
        listed: Whether that node's ranks are in the report.
        counts: Of the ranks of each of them.
        runs: The ranks of the first node of the row.
        step: What those of each next one are larger by.
    """

    nodes: CpuSet
    hosts: tuple[str, ...]
    first: int
    listed: bool
    counts: Counts
    runs: tuple[Run, ...]
    step: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values (docs/guide.md, "The report")."""
        return {
            "nodes": str(self.nodes),
            "hosts": fold(self.hosts),
            "as": self.first if self.listed else None,
            "verdict": str(self.counts.verdict),
            "n_ranks": self.counts.ranks,
            "first_rank": self.runs[0].first,
            "step": self.step,
            "ranks": [list(astuple(run)) for run in self.runs] if len(self.runs) <= _MOST_RUNS else None,
        }


_MOST_RUNS = 8
"""Ranks in more runs than that follow no pattern: the plan has them, the report need not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole job, ranks in rank order.

    Args:
        ranks: Every rank; of a folded report some of each kind of node.
        services: Where Dragon's own processes run.
        nodes: Which nodes are alike, every one in one row; empty for a job on one node.
        folded: Whether only some ranks are among ``ranks``.
    """

    ranks: tuple[RankReport, ...]
    services: tuple[Mapping[str, Any], ...] = ()
    nodes: tuple[NodesRow, ...] = ()
    folded: bool = False

    @property
    def counts(self) -> Counts:
        """Return the counts of the whole job, ranks that are not listed included."""
        return Counts.total((len(row.nodes), row.counts) for row in self.nodes) if self.nodes else Counts.of(self.ranks)

    @property
    def verdict(self) -> Verdict:
        """Return ``mismatch`` if any rank is wrong, else ``unobserved`` if any was not looked at, else ``match``."""
        return self.counts.verdict

    def errors(self) -> Iterator[tuple[int, Finding]]:
        """Yield (rank, finding) of every error of the ranks that are listed, in rank order."""
        return self._of(Severity.ERROR)

    def warnings(self) -> Iterator[tuple[int, Finding]]:
        """Yield (rank, finding) of every warning about a listed rank that was looked at, in rank order."""
        seen = {rank.rank for rank in self.ranks if rank.warned}
        return ((rank, finding) for rank, finding in self._of(Severity.WARNING) if rank in seen)

    def _of(self, severity: Severity) -> Iterator[tuple[int, Finding]]:
        for rank in self.ranks:
            for finding in rank.findings:
                if finding.severity is severity:
                    yield rank.rank, finding

    def with_earlier(self, found: Mapping[int, Mapping[str, Sequence[Finding]]]) -> Report:
        """Return the report that also has what was found earlier, by rank and slug, where it has nothing of the kind.

        What has happened stays in the report, though the last look does not show it any more. It is for the report of
        one node: rows of nodes that are alike would not be so afterwards.
        """
        ranks = []
        for rank in self.ranks:
            known = {finding.slug for finding in rank.findings}
            earlier = [
                one for slug, of_slug in found.get(rank.rank, {}).items() if slug not in known for one in of_slug
            ]
            ranks.append(replace(rank, findings=(*rank.findings, *earlier)))
        return replace(self, ranks=tuple(ranks))

    def summary(self) -> str:
        """Return the verdict as one line, such as ``placement: 8/8 ranks as planned``."""
        counts = self.counts
        parts = [f"{counts.match}/{counts.ranks} ranks as planned"]
        if counts.mismatch:
            parts.append(f"{counts.mismatch} not as planned")
        if counts.unobserved:
            parts.append(f"{counts.unobserved} not observed")
        if counts.warned:
            parts.append(f"{counts.warned} with warnings")
        return "placement: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values (docs/guide.md, "The report")."""
        counts = self.counts
        whole = {
            "folded": self.folded,
            "n_ranks": counts.ranks,
            "counts": {
                "match": counts.match,
                "mismatch": counts.mismatch,
                "unobserved": counts.unobserved,
                "warned": counts.warned,
            },
            "nodes": [row.to_dict() for row in self.nodes],
        }
        return {
            "schema": SCHEMA,
            "verdict": str(counts.verdict),
            **(whole if self.nodes else {}),
            "ranks": [rank.to_dict() for rank in self.ranks],
            "services": [dict(service) for service in self.services],
        }

    def to_json(self) -> str:
        """Return the report as JSON text, one line per rank so that a person can read it too."""
        data = self.to_dict()
        lists = [
            f' "{name}": [\n' + ",\n".join("  " + json.dumps(row) for row in data.pop(name)) + "\n ]"
            for name in ("nodes", "ranks", "services")
            if name in data
        ]
        return json.dumps(data)[:-1] + ",\n" + ",\n".join(lists) + "}\n"
