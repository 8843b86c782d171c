"""A plan as a table for people and as one JSON object per rank for scripts. Its compact JSON is ``Plan.to_json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rankmap.exporters import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rankmap.alternatives import Alternative
    from rankmap.placement import LocalPlacement, Plan, RankPlacement
    from rankmap.scoring import Score

__all__ = ["alternatives_table", "ranks_lines", "score_json", "score_table", "table"]

_MAX_ROWS = 200
_HEAD, _TAIL = 100, 20
_HEADERS = ("rank", "node", "local", "cpus", "numa", "gpus")


def table(plan: Plan) -> str:
    """Return one row per rank: host, local rank, CPUs as a Linux list, NUMA domains, GPUs; "-" where there is none.

    NICs and memory policies are columns of their own where ranks have some.

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
    with_nics = any(local.nics for layout in plan.layouts for local in layout.ranks)
    with_mem = any(local.mem for layout in plan.layouts for local in layout.ranks)
    headers = (*_HEADERS, *["nics"] * with_nics, *["memory"] * with_mem)
    rows: list[tuple[str, ...]] = []
    for part in parts:
        if rows:
            rows.append(("...",) * len(headers))
        rows += [_row(plan.rank(rank), with_nics=with_nics, with_mem=with_mem) for rank in part]
    return tables.simple(rows, headers)


def _row(rank: RankPlacement, *, with_nics: bool, with_mem: bool) -> tuple[str, ...]:
    return (
        str(rank.rank),
        rank.host,
        str(rank.local_rank),
        "unbound" if rank.cpus is None else str(rank.cpus),
        ",".join(map(str, rank.numa)) or "-",
        ",".join(rank.gpus) or "-",
        *[",".join(rank.nics) or "-"] * with_nics,
        *[rank.mem or "-"] * with_mem,
    )


def score_table(score: Score) -> str:
    """Return a score as a table: number, value, what it counts."""
    rows = [
        (number.slug, "-" if number.value is None else number.value, f"{number.unit} {number.meaning}")
        for number in score.numbers()
    ]
    return tables.simple(rows, ("number", "value", "of"))


def score_json(score: Score) -> str:
    """Return a score as a line of JSON: each number by its name."""
    return json.dumps({number.slug: number.value for number in score.numbers()})


def alternatives_table(found: Sequence[Alternative]) -> str:
    """Return layouts as a table, the best first: the options that ask for it, and where a better one is better."""
    rows = [
        (
            position,
            (str(one.spec) or "(none)") + f", and {len(one.equals)} with the same places" * bool(one.equals),
            one.reason or ("the best of these" if position == 1 else "as good as the best"),
        )
        for position, one in enumerate(found, start=1)
    ]
    return tables.simple(rows, ("", "options", "why it is here"))


def ranks_lines(plan: Plan) -> Iterator[str]:
    """Yield every rank as a line of JSON without its line end, in rank order: the ``--format ranks`` contract.

    CPUs and NUMA domains are os indices; ``cpus`` is null for an unbound rank. What ranks of alike nodes have in
    common is put into text once. A rank without NICs has no key for them.
    """
    rests = [[_rest(local) for local in layout.ranks] for layout in plan.layouts]
    nodes = {node.node_index: json.dumps(plan.allocation.nodes[node.node_index].host) for node in plan.nodes}
    for rank, (node, local_rank) in enumerate(plan.iter_places()):
        index = node.node_index
        start = f'{{"rank":{rank},"node":{index},"host":{nodes[index]},"local_rank":{local_rank},'
        yield start + rests[node.layout_index][local_rank]


def _rest(local: LocalPlacement) -> str:
    row = {
        "cpus": None if local.cpus is None else list(local.cpus),
        "numa": local.numa,
        "gpus": local.gpus,
        **({"nics": local.nics} if local.nics else {}),
        "mem": local.mem,
        "env": dict(local.env),
    }
    return json.dumps(row, separators=(",", ":")).removeprefix("{")
