from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rankmap.report import SCHEMA, Finding, RankReport, Report, Severity, Verdict

PLANNED = {"host": "n0", "cpus": [0, 1], "numa": [0], "gpus": [], "mem": None}
OBSERVED = {**PLANNED, "gpus": None, "pid": 7, "threads": 1}


def finding(severity: Severity) -> Finding:
    """Return a finding of this severity."""
    return Finding(slug="cpus-differ", severity=severity, expected="CPUs 0-1", observed="CPUs 1")


def rank(number: int, *severities: Severity, seen: bool = True) -> RankReport:
    """Return a rank with findings of these severities."""
    findings = tuple(finding(severity) for severity in severities)
    return RankReport(rank=number, planned=PLANNED, observed=OBSERVED if seen else None, findings=findings)


@pytest.mark.parametrize(
    ("severities", "seen", "verdict"),
    [
        ((), True, Verdict.MATCH),
        ((Severity.NOTE, Severity.WARNING), True, Verdict.MATCH),
        ((Severity.NOTE, Severity.ERROR), True, Verdict.MISMATCH),
        ((), False, Verdict.UNOBSERVED),
        ((Severity.WARNING,), False, Verdict.UNOBSERVED),
        ((Severity.ERROR,), False, Verdict.MISMATCH),
    ],
)
def test_verdict_of_a_rank(severities: tuple[Severity, ...], *, seen: bool, verdict: Verdict) -> None:
    """An error is a mismatch, no observation is never a match, and lesser findings do not spoil one."""
    assert verdict == rank(0, *severities, seen=seen).verdict


@pytest.mark.parametrize(
    ("ranks", "verdict", "summary"),
    [
        ((rank(0), rank(1)), Verdict.MATCH, "placement: 2/2 ranks as planned"),
        (
            (rank(0), rank(1, seen=False)),
            Verdict.UNOBSERVED,
            "placement: 1/2 ranks as planned, 1 not observed",
        ),
        (
            (rank(0, Severity.ERROR), rank(1), rank(2, seen=False)),
            Verdict.MISMATCH,
            "placement: 1/3 ranks as planned, 1 not as planned, 1 not observed",
        ),
        ((rank(0, Severity.ERROR),), Verdict.MISMATCH, "placement: 0/1 ranks as planned, 1 not as planned"),
        (
            (rank(0, Severity.WARNING, Severity.WARNING), rank(1, Severity.NOTE)),
            Verdict.MATCH,
            "placement: 2/2 ranks as planned, 1 with warnings",
        ),
        (
            (rank(0, Severity.WARNING, seen=False),),
            Verdict.UNOBSERVED,
            "placement: 0/1 ranks as planned, 1 not observed",
        ),
    ],
)
def test_verdict_of_a_job(ranks: tuple[RankReport, ...], verdict: Verdict, summary: str) -> None:
    """One wrong rank is a mismatch; else one that was not looked at makes the job unobserved; the line counts all."""
    report = Report(ranks=ranks)
    assert (verdict, summary) == (report.verdict, report.summary())


def test_errors_come_in_rank_order_with_their_rank() -> None:
    """Warnings and notes are no errors."""
    report = Report(ranks=(rank(0, Severity.ERROR, Severity.NOTE), rank(1), rank(2, Severity.ERROR, Severity.ERROR)))
    assert [number for number, _ in report.errors()] == [0, 2, 2]


def test_what_was_found_once_stays_in_the_report() -> None:
    """Unless there is something newer of the kind about the rank."""
    old = replace(finding(Severity.ERROR), observed="CPUs 9")
    warned = replace(finding(Severity.WARNING), slug="pages-remote")
    report = Report(ranks=(rank(0, Severity.ERROR), rank(1), rank(2)))
    merged = report.with_earlier({0: {"cpus-differ": [old]}, 1: {"cpus-differ": [old, old], "pages-remote": [warned]}})
    assert [(finding(Severity.ERROR),), (old, old, warned), ()] == [one.findings for one in merged.ranks]


def test_json_is_the_contract() -> None:
    """The text form reads back as schema, verdict, ranks (planned, observed, findings) and services, and no more."""
    service = {"pid": 1, "name": "Dragon runtime", "cpus": [0], "idle": False}
    text = Report(ranks=(rank(0, Severity.ERROR), rank(1, seen=False)), services=(service,)).to_json()
    assert json.loads(text) == {
        "schema": "rankmap.report/1",
        "verdict": "mismatch",
        "ranks": [
            {
                "rank": 0,
                "planned": PLANNED,
                "observed": OBSERVED,
                "findings": [
                    {"slug": "cpus-differ", "severity": "error", "expected": "CPUs 0-1", "observed": "CPUs 1"}
                ],
            },
            {"rank": 1, "planned": PLANNED, "observed": None, "findings": []},
        ],
        "services": [service],
    }
    assert SCHEMA == "rankmap.report/1"


def test_json_has_one_line_per_rank_and_ends_with_a_newline() -> None:
    """A person, grep and diff can read the file too; a job without services is still JSON."""
    text = Report(ranks=(rank(0), rank(1))).to_json()
    assert [json.loads(line.rstrip(","))["rank"] for line in text.splitlines() if '"rank":' in line] == [0, 1]
    assert text.endswith("}\n")
    assert json.loads(text)["services"] == []
