"""LayoutSpec: the layout that a user asks for, in the words of the command line."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from rankmap.codec import Json, decode, encode
from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.hostlist import fold

__all__ = ["LayoutSpec"]

_MAX_COUNT = 2**31 - 1
"""MPI numbers ranks in a C int. Source: MPI 4.1, section 7.4.1, MPI_COMM_SIZE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSpec:
    """How many ranks, with how many cores, on which hosts. Nothing given is one rank per usable core.

    Args:
        n_ranks: Ranks of the job (``-n``); None is what the other fields make it.
        ranks_per_node: Ranks on each node (``-N``); None deals the ranks evenly.
        cpus_per_rank: Cores of each rank (``-c``); None is as many as divide evenly.
        oversubscribe: Whether ranks may share cores when there are more ranks than room.
        reserve: PU os indices whose cores are kept free of ranks on every node.
        hosts: The only hosts to use; empty is all. The allocation's order is kept.
        exclude_hosts: Hosts not to use.

    Raises:
        UsageError: A count is below one or above what MPI can count. All such counts are named at once.
    """

    n_ranks: int | None = None
    ranks_per_node: int | None = None
    cpus_per_rank: int | None = None
    oversubscribe: bool = False
    reserve: CpuSet = CpuSet()
    hosts: tuple[str, ...] = ()
    exclude_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = (
            ("-n", self.n_ranks, "a job has at least one rank"),
            ("-N", self.ranks_per_node, "a node of the job has at least one rank"),
            ("-c", self.cpus_per_rank, "a rank has at least one core"),
        )
        problems = [f"{option} {count}: {why}" for option, count, why in counts if count is not None and count < 1]
        problems += [
            f"{option} {count}: MPI counts to {_MAX_COUNT}" for option, count, _ in counts if (count or 0) > _MAX_COUNT
        ]
        if problems:
            raise UsageError("\n".join(problems))

    def __str__(self) -> str:
        """Return the options that ask for this layout, quoted for a shell; "" when nothing is asked."""
        words: list[str] = []
        for option, count in (("-n", self.n_ranks), ("-N", self.ranks_per_node), ("-c", self.cpus_per_rank)):
            if count is not None:
                words += [option, str(count)]
        if self.oversubscribe:
            words.append("--oversubscribe")
        if self.reserve:
            words += ["--reserve", str(self.reserve)]
        if self.hosts:
            words += ["--hosts", fold(self.hosts)]
        if self.exclude_hosts:
            words += ["--exclude-hosts", fold(self.exclude_hosts)]
        return shlex.join(words)

    def counts(self) -> str:
        """Return only the counts asked for (``-n 16 -c 3``), as messages quote them; "" when there are none."""
        return str(replace(self, oversubscribe=False, reserve=CpuSet(), hosts=(), exclude_hosts=()))

    def to_dict(self) -> Json:
        """Return the spec as JSON values, every field present."""
        return encode(self)

    @classmethod
    def from_dict(cls, data: Json, *, where: str = "request") -> LayoutSpec:
        """Return the spec that ``to_dict`` made these values of.

        Raises:
            UsageError: A key is unknown or missing, a value has the wrong type, or a count is below one.
        """
        return decode(cls, data, where=where)
