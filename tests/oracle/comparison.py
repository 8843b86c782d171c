"""One request, asked of both: whether rankmap's plan and an oracle's map are the same."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RankmapError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.topology import Allocation
from tests.oracle.differences import listed
from tests.oracle.hydra import hydra_map
from tests.oracle.prterun import Refused, prterun_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.oracle.prterun import Placed
    from tests.oracle.requests_sampled import Asked

__all__ = ["Compared", "Outcome", "compared", "rankmap_map"]

_ORACLES: Mapping[str, Callable[[Asked], Placed]] = {"prterun": prterun_map, "hydra": hydra_map}


class Outcome(StrEnum):
    """What a comparison came to."""

    EQUAL = "equal"
    LISTED = "listed"
    REFUSED_BY_ORACLE = "refused by the oracle only"
    REFUSED_BY_BOTH = "refused by both"
    REFUSED_BY_RANKMAP = "refused by rankmap only"
    DIFFERENT = "different"

    @property
    def is_wrong(self) -> bool:
        """Return whether one of the two programs has an error, or differences.py lacks a row."""
        return self in {Outcome.REFUSED_BY_ORACLE, Outcome.REFUSED_BY_RANKMAP, Outcome.DIFFERENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The outcome of one request; ``slug`` names the row of a listed difference, ``why`` says what differs."""

    asked: Asked
    outcome: Outcome
    slug: str | None = None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.asked}\n{self.why}"


def rankmap_map(asked: Asked) -> Placed:
    """Return where rankmap puts the ranks.

    Raises:
        RankmapError: It refuses.
    """
    allocation = Allocation.of(tuple((host, asked.machine.topology) for host in asked.hosts))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_text("".join(f"{line}\n" for line in asked.lines), encoding="utf-8")
        spec = request(
            n_ranks=asked.n_ranks,
            map_by=asked.map_text(str(file)),
            rank_by=asked.rank_by,
            bind_to=asked.bind_to,
            hosts=[f"{host}:{n}" for host, n in zip(asked.hosts, asked.slots, strict=True)],
        )
    return {rank.rank: (rank.node_index, rank.cpus) for rank in plan(allocation, spec).iter_ranks()}


def compared(asked: Asked, *, oracle: str = "prterun") -> Compared:
    """Return what rankmap and the oracle, prterun or hydra, make of a request."""
    theirs: Placed | str
    ours: Placed | str
    try:
        theirs = _ORACLES[oracle](asked)
    except Refused as error:
        theirs = str(error)
    try:
        ours = rankmap_map(asked)
    except RankmapError as error:
        ours = error.message
    if isinstance(theirs, str) and isinstance(ours, str):
        return Compared(asked=asked, outcome=Outcome.REFUSED_BY_BOTH, why=theirs)
    if ours == theirs:
        return Compared(asked=asked, outcome=Outcome.EQUAL)
    if isinstance(theirs, str):
        outcome, why = Outcome.REFUSED_BY_ORACLE, theirs
    elif isinstance(ours, str):
        outcome, why = Outcome.REFUSED_BY_RANKMAP, ours
    else:
        outcome, why = Outcome.DIFFERENT, _first_differences(ours, theirs)
    slug = listed(asked, oracle=oracle, refused=outcome is Outcome.REFUSED_BY_ORACLE)
    return Compared(asked=asked, outcome=outcome if slug is None else Outcome.LISTED, slug=slug, why=why)


def _first_differences(ours: Placed, theirs: Placed) -> str:
    """Return the first few ranks that the two put elsewhere."""
    apart = [rank for rank in sorted(ours.keys() | theirs.keys()) if ours.get(rank) != theirs.get(rank)]
    lines = [f"rank {rank}: rankmap {_at(ours, rank)}, the oracle {_at(theirs, rank)}" for rank in apart[:4]]
    return "\n".join([f"{len(apart)} of {len(theirs)} ranks differ", *lines])


def _at(placed: Placed, rank: int) -> str:
    if rank not in placed:
        return "has no such rank"
    node, cpus = placed[rank]
    return f"n{node} cpus {'unbound' if cpus is None else cpus}"
