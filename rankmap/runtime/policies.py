"""A plan in Dragon's terms: one explicit Policy per rank, and templates for those who start processes themselves.

Importable without Dragon; what makes a Policy needs it.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rankmap.devices import GPU_VARIABLES
from rankmap.errors import RuntimeUnusableError, UsageError

if TYPE_CHECKING:
    from rankmap.placement import Plan, RankPlacement

__all__ = ["policies", "process_template", "process_templates"]


def policies(plan: Plan) -> list[Any]:
    """Return one ``dragon.infrastructure.policy.Policy`` per rank, in rank order.

    Each names its host and its CPUs (never an empty list, which Dragon reads as all of them). Inside a runtime of one
    node the host is the one that Dragon knows it by. A Policy cannot hold a memory policy or variables (but those of
    GPUs, which Dragon sets): a plan that has some is refused rather than done by halves.

    Raises:
        UsageError: The plan has a memory policy, or variables other than those of GPUs.
        RuntimeUnusableError: Dragon is not installed.
        LaunchError: Inside a runtime: it lacks a host or a CPU of the plan.
    """
    _refuse_memory(plan)
    names = {name for layout in plan.layouts for rank in layout.ranks for name, _ in rank.env} - {*GPU_VARIABLES}
    if names:
        msg = f"the plan sets {', '.join(sorted(names))} for its ranks, and a Dragon Policy holds no variables"
        raise UsageError(msg, hint="use plan.process_templates(), or `rankmap launch`")
    return _policies(plan)


def _refuse_memory(plan: Plan) -> None:
    asked = next((rank.mem for layout in plan.layouts for rank in layout.ranks if rank.mem), None)
    if asked is not None:
        msg = f"the plan has the memory policy {asked} (--mem-bind), which Dragon cannot give a process"
        raise UsageError(msg, hint="use `rankmap launch`, or plan without mem_bind and set it in the application")


def _policies(plan: Plan) -> list[Any]:
    try:
        from rankmap.runtime import dragon  # noqa: PLC0415 - planning works where Dragon is not installed
    except ImportError as error:
        msg = f"Dragon policies need the Dragon runtime, which cannot be imported here ({error})"
        raise RuntimeUnusableError(msg, hint="pip install dragonhpc") from error
    return dragon.policies(plan)


def process_template(plan: Plan, rank: int) -> dict[str, Any]:
    """Return the keywords with which ``dragon.native.process.ProcessTemplate`` places one rank, variables too.

    Raises:
        RankmapError: There is no such rank; the plan has a memory policy; or as for ``policies``.
    """
    placement = plan.rank(rank)
    _refuse_memory(plan)
    return _keywords(placement, _policies(plan)[rank])


def process_templates(plan: Plan) -> list[tuple[int, dict[str, Any]]]:
    """Return (number of processes, keywords for ProcessTemplate) pairs in rank order, equal neighbours merged.

    Raises:
        RankmapError: As for ``process_template``.
    """
    _refuse_memory(plan)
    pairs = zip(plan.iter_ranks(), _policies(plan), strict=True)
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
