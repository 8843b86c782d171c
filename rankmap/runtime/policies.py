"""A plan in Dragon's terms: one explicit Policy per rank, and templates for those who start processes themselves.

Importable without Dragon; what makes a Policy needs it.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rankmap.errors import RuntimeUnusableError

if TYPE_CHECKING:
    from rankmap.placement import Plan, RankPlacement

__all__ = ["policies", "process_template", "process_templates"]


def policies(plan: Plan) -> list[Any]:
    """Return one ``dragon.infrastructure.policy.Policy`` per rank, in rank order.

    Each names its host and its CPUs (never an empty list, which Dragon reads as all of them). Inside a runtime of one
    node the host is the one that Dragon knows it by.

    Raises:
        RuntimeUnusableError: Dragon is not installed.
        LaunchError: Inside a runtime: it lacks a host or a CPU of the plan.
    """
    try:
        from rankmap.runtime import dragon  # noqa: PLC0415 - planning works where Dragon is not installed
    except ImportError as error:
        msg = f"Dragon policies need the Dragon runtime, which cannot be imported here ({error})"
        raise RuntimeUnusableError(msg, hint="pip install dragonhpc") from error
    return dragon.policies(plan)


def process_template(plan: Plan, rank: int) -> dict[str, Any]:
    """Return the keywords with which ``dragon.native.process.ProcessTemplate`` places one rank.

    Raises:
        RankmapError: There is no such rank; or as for ``policies``.
    """
    placement = plan.rank(rank)
    return _keywords(placement, policies(plan)[rank])


def process_templates(plan: Plan) -> list[tuple[int, dict[str, Any]]]:
    """Return (number of processes, keywords for ProcessTemplate) pairs in rank order, equal neighbours merged.

    Raises:
        RankmapError: As for ``policies``.
    """
    pairs = zip(plan.iter_ranks(), policies(plan), strict=True)
    merged = []
    for _, same in groupby(pairs, key=lambda pair: (pair[0].node_index, pair[0].cpus, pair[0].gpus, pair[0].env)):
        members = list(same)
        merged.append((len(members), _keywords(*members[0])))
    return merged


def _keywords(placement: RankPlacement, policy: object) -> dict[str, Any]:
    keywords: dict[str, Any] = {"policy": policy}
    if placement.env:
        keywords["env"] = dict(placement.env)
    return keywords
