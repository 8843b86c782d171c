"""A plan as a table for people and as one JSON object per rank for scripts. Its compact JSON is ``Plan.to_json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.placement import Plan, RankPlacement

__all__ = ["ranks_lines", "table"]

_MAX_ROWS = 200
_HEAD, _TAIL = 100, 20
_HEADERS = ("rank", "node", "local", "cpus", "numa", "gpus")


def table(plan: Plan) -> str:
    """Return one row per rank: host, local rank, CPUs as a Linux list, NUMA domains, GPUs; "-" where there is none.

    Of more than 200 ranks the first 100 and the last 20 are shown, and how many are left out.
    """
    n_ranks = plan.n_ranks
    if n_ranks <= _MAX_ROWS:
        return _rows(plan, range(n_ranks))
    return "\n".join(
        (
            _rows(plan, range(_HEAD), range(n_ranks - _TAIL, n_ranks)),
            f"{n_ranks - _HEAD - _TAIL} of {n_ranks} ranks are left out here; --format ranks prints every rank",
        )
    )


def _rows(plan: Plan, *parts: range) -> str:
    rows: list[tuple[str, ...]] = []
    for part in parts:
        if rows:
            rows.append(("...",) * len(_HEADERS))
        rows += [_row(plan.rank(rank)) for rank in part]
    return tabulate(rows, headers=_HEADERS, tablefmt="simple", disable_numparse=True)


def _row(rank: RankPlacement) -> tuple[str, ...]:
    return (
        str(rank.rank),
        rank.host,
        str(rank.local_rank),
        "unbound" if rank.cpus is None else str(rank.cpus),
        ",".join(map(str, rank.numa)) or "-",
        ",".join(rank.gpus) or "-",
    )


def ranks_lines(plan: Plan) -> Iterator[str]:
    """Yield every rank as a line of JSON without its line end, in rank order: the ``--format ranks`` contract.

    CPUs and NUMA domains are os indices; ``cpus`` is null for an unbound rank.
    """
    for rank in plan.iter_ranks():
        row = {
            "rank": rank.rank,
            "node": rank.node_index,
            "host": rank.host,
            "local_rank": rank.local_rank,
            "cpus": None if rank.cpus is None else list(rank.cpus),
            "numa": rank.numa,
            "gpus": rank.gpus,
            "mem": rank.mem,
            "env": dict(rank.env),
        }
        yield json.dumps(row, separators=(",", ":"))
