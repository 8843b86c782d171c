"""What a job was found to be: findings, the report per rank, and the verdict. Values and their JSON only."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["SCHEMA", "Finding", "RankReport", "Report", "Severity", "Verdict"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole job, ranks in rank order. ``services`` says where Dragon's own processes run."""

    ranks: tuple[RankReport, ...]
    services: tuple[Mapping[str, Any], ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Return ``mismatch`` if any rank is wrong, else ``unobserved`` if any was not looked at, else ``match``."""
        verdicts = {rank.verdict for rank in self.ranks}
        for verdict in (Verdict.MISMATCH, Verdict.UNOBSERVED):
            if verdict in verdicts:
                return verdict
        return Verdict.MATCH

    def errors(self) -> Iterator[tuple[int, Finding]]:
        """Yield (rank, finding) of every error, in rank order."""
        return self._of(Severity.ERROR)

    def warnings(self) -> Iterator[tuple[int, Finding]]:
        """Yield (rank, finding) of every warning about a rank that was looked at, in rank order."""
        seen = {rank.rank for rank in self.ranks if rank.observed is not None}
        return ((rank, finding) for rank, finding in self._of(Severity.WARNING) if rank in seen)

    def _of(self, severity: Severity) -> Iterator[tuple[int, Finding]]:
        for rank in self.ranks:
            for finding in rank.findings:
                if finding.severity is severity:
                    yield rank.rank, finding

    def with_earlier(self, found: Mapping[int, Mapping[str, Sequence[Finding]]]) -> Report:
        """Return the report that also has what was found earlier, by rank and slug, where it has nothing of the kind.

        What has happened stays in the report, though the last look does not show it any more.
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
        counts = {verdict: sum(rank.verdict is verdict for rank in self.ranks) for verdict in Verdict}
        parts = [f"{counts[Verdict.MATCH]}/{len(self.ranks)} ranks as planned"]
        if counts[Verdict.MISMATCH]:
            parts.append(f"{counts[Verdict.MISMATCH]} not as planned")
        if counts[Verdict.UNOBSERVED]:
            parts.append(f"{counts[Verdict.UNOBSERVED]} not observed")
        if n_warned := len({rank for rank, _ in self.warnings()}):
            parts.append(f"{n_warned} with warnings")
        return "placement: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values (docs/guide.md, "The report")."""
        return {
            "schema": SCHEMA,
            "verdict": str(self.verdict),
            "ranks": [
                {
                    "rank": rank.rank,
                    "planned": dict(rank.planned),
                    "observed": None if rank.observed is None else dict(rank.observed),
                    "findings": [
                        {
                            "slug": finding.slug,
                            "severity": str(finding.severity),
                            "expected": finding.expected,
                            "observed": finding.observed,
                        }
                        for finding in rank.findings
                    ],
                }
                for rank in self.ranks
            ],
            "services": [dict(service) for service in self.services],
        }

    def to_json(self) -> str:
        """Return the report as JSON text, one line per rank so that a person can read it too."""
        data = self.to_dict()
        ranks = ",\n".join("  " + json.dumps(rank) for rank in data.pop("ranks"))
        services = ",\n".join("  " + json.dumps(service) for service in data.pop("services"))
        head = json.dumps(data)[:-1]
        return f'{head},\n "ranks": [\n{ranks}\n ],\n "services": [\n{services}\n ]}}\n'
