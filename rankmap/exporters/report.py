"""The report as a table: planned and observed, side by side, per rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.exporters import tables

if TYPE_CHECKING:
    from rankmap.report import RankReport, Report

__all__ = ["table"]

_HEADERS = ("rank", "host", "pid", "planned", "observed", "numa", "threads", "")


def table(report: Report) -> str:
    """Return one row per rank (CPUs as Linux lists them), then where Dragon's own processes run."""
    rows = [_row(rank) for rank in report.ranks]
    text = tables.simple(rows, _HEADERS)
    return "\n".join([text, *_services(report)])


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
    groups: dict[str, list[str]] = {}
    for service in report.services:
        place = f"services on CPUs {CpuSet.of(service['cpus'])}" + (", SCHED_IDLE" if service["idle"] else "")
        groups.setdefault(place, []).append(service["name"])
    return [
        f"{place}: " + ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        for place, names in groups.items()
    ]
