"""LayoutSpec: the layout that a user asks for, in the words of the command line."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rankmap.codec import Json, decode, encode
from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.hostlist import fold, items
from rankmap.layout_devices import GpuBind, GpuRule
from rankmap.layout_memory import MemBind  # noqa: TC001 - the codec reads the type hints at run time
from rankmap.layout_parts import BindTo, Level, MapBy, Pattern, RankBy, ReservePer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rankmap.topology import NodeTopology

__all__ = ["LayoutSpec"]

_NO_RESERVE = "none"

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
        use_reserved: Whether ranks may have what the site keeps for itself (``--reserve none``).
        reserve_per: Cores that are kept free of ranks in each object of a level; None is none.
        map_by: How ranks are dealt to places.
        rank_by: In which order they are numbered; None is what the mapping makes natural.
        bind_to: What each may use; None is what it was mapped to.
        smt: How many PUs of each core are used; None is all.
        slots: Ranks that a host takes at most, by host (``--hostfile``); a host without is limited by its cores.
        hosts: The only hosts to use; empty is all. The allocation's order is kept.
        exclude_hosts: Hosts not to use.
        gpus_per_rank: GPUs of each rank (``--gpus-per-rank``); None is none, or one where another field asks for GPUs.
        ranks_per_gpu: How many ranks may share a GPU (``--ranks-per-gpu``); None is one.
        gpu_bind: Which GPUs the ranks get (``--gpu-bind``); None is the closest.
        share_gpus: Whether as many ranks as need be may share a GPU, evenly.
        nics_per_rank: NICs of each rank (``--nics-per-rank``); None is none, or one where ``--map-by nic`` asks.
        mem_bind: Which memory the ranks' pages come from (``--mem-bind``); None is the kernel's default.
        threads_per_rank: Threads of each rank (``--threads``), for the variables of OpenMP; None sets none.
        hostfile: The name of the file that ``hosts`` are from, for messages; "" where they are from no file.

    Raises:
        UsageError: A count is below one or above what MPI can count. All such counts are named at once.
    """

    n_ranks: int | None = None
    ranks_per_node: int | None = None
    cpus_per_rank: int | None = None
    oversubscribe: bool = False
    reserve: CpuSet = CpuSet()
    use_reserved: bool = False
    reserve_per: ReservePer | None = None
    map_by: MapBy = MapBy()
    rank_by: RankBy | None = None
    bind_to: BindTo | None = None
    smt: int | None = None
    slots: tuple[tuple[str, int], ...] = ()
    hosts: tuple[str, ...] = ()
    exclude_hosts: tuple[str, ...] = ()
    gpus_per_rank: int | None = None
    ranks_per_gpu: int | None = None
    gpu_bind: GpuBind | None = None
    share_gpus: bool = False
    nics_per_rank: int | None = None
    mem_bind: MemBind | None = None
    threads_per_rank: int | None = None
    hostfile: str = ""

    def __post_init__(self) -> None:
        counts = (
            ("-n", self.n_ranks, "a job has at least one rank"),
            ("-N", self.ranks_per_node, "a node of the job has at least one rank"),
            ("-c", self.cpus_per_rank, "a rank has at least one core"),
            ("--smt", self.smt, "a core has at least one PU"),
            ("--gpus-per-rank", self.gpus_per_rank, "leave it out for ranks without GPUs"),
            ("--ranks-per-gpu", self.ranks_per_gpu, "a GPU that is used has at least one rank"),
            ("--nics-per-rank", self.nics_per_rank, "leave it out for ranks without NICs of their own"),
            ("--threads", self.threads_per_rank, "a rank has at least one thread"),
        )
        problems = [f"{option} {count}: {why}" for option, count, why in counts if count is not None and count < 1]
        problems += [
            f"{option} {count}: MPI counts to {_MAX_COUNT}" for option, count, _ in counts if (count or 0) > _MAX_COUNT
        ]
        problems += self._conflicts()
        if problems:
            raise UsageError("\n".join(problems))

    def _conflicts(self) -> Iterator[str]:
        """Yield which options do not go together."""
        pattern, map_by = self.map_by.pattern, f"--map-by {self.map_by}"
        if self.cpus_per_rank and self.map_by.pe and (pattern is Pattern.RS or self.cpus_per_rank != self.map_by.pe):
            yield f"-c {self.cpus_per_rank} and {map_by}: two numbers of processors"
        if pattern in {Pattern.SEQ, Pattern.RANKFILE} and self.rank_by is not None:
            yield f"--rank-by {self.rank_by} and {map_by}: the file says which rank is where"
        if pattern in {Pattern.MANUAL, Pattern.RANKFILE}:
            for option, value in (("-c", self.cpus_per_rank), ("--smt", self.smt), ("PE", self.map_by.pe)):
                if value is not None:
                    yield f"{option} {value} and {map_by}: the CPUs of each rank are listed"
        if pattern is Pattern.RS:
            yield from self._uneven_sets(map_by)
        yield from self._gpu_conflicts(map_by)
        if self.map_by.span and pattern is not Pattern.OBJECT:
            yield f"{map_by}: SPAN goes round objects (core, l3cache, numa, package, ...)"
        single = self.map_by.level in {Level.CORE, Level.HWTHREAD}
        if self.map_by.scatter and (pattern not in {Pattern.OBJECT, Pattern.PPR} or single):
            yield f"{map_by}: SCATTER spreads the ranks of an object (l3cache, numa, ppr:N:package, ...)"

    def _gpu_conflicts(self, map_by: str) -> Iterator[str]:
        if self.map_by.gpus and self.n_gpus:
            yield f"{map_by} and GPU options: the resource sets say how many GPUs there are for each"
        if self.ranks_per_gpu is not None and self.share_gpus:
            yield f"--ranks-per-gpu {self.ranks_per_gpu} and --share-gpus: one is a limit, the other says there is none"
        lists = self.gpu_bind.lists if self.gpu_bind is not None else ()
        if self.gpus_per_rank is not None and any(len(ids) != self.gpus_per_rank for ids in lists):
            yield f"--gpus-per-rank {self.gpus_per_rank} and --gpu-bind {self.gpu_bind}: two numbers of GPUs"

    def _uneven_sets(self, map_by: str) -> Iterator[str]:
        each, size = self.map_by.count or 1, self.map_by.pe or 1
        if each > size:
            yield f"{map_by}: {each} ranks have no core each in a resource set of {size}"
        for option, count in (("-n", self.n_ranks), ("-N", self.ranks_per_node)):
            if count is not None and count % each:
                less = count - count % each
                near = f"{option} {less} or {option} {less + each}" if less else f"{option} {each}"
                yield f"{option} {count} and {map_by}: resource sets have {each} ranks each; {near} fills them"

    @property
    def processors_per_rank(self) -> int | None:
        """Return how many processors each rank asks for, by ``-c`` or ``PE=``; None where neither says."""
        return self.cpus_per_rank or self.map_by.pe

    @property
    def n_gpus(self) -> int:
        """Return how many GPUs each rank gets; 0 where nothing asks for GPUs."""
        if self.gpus_per_rank is not None:
            return self.gpus_per_rank
        if self.gpu_bind is not None and self.gpu_bind.lists:
            return len(self.gpu_bind.lists[0])
        bound = self.gpu_bind is not None and self.gpu_bind.rule is not GpuRule.NONE
        asked = self.ranks_per_gpu is not None or self.share_gpus or bound
        return int(asked or self.map_by.pattern is Pattern.GPU)

    @property
    def n_nics(self) -> int:
        """Return how many NICs each rank gets; 0 where nothing asks for NICs."""
        return self.nics_per_rank or int(self.map_by.pattern is Pattern.NIC)

    @property
    def threads(self) -> bool:
        """Return whether ranks are given PUs, not cores."""
        return self.map_by.threads or self.map_by.level is Level.HWTHREAD or self.map_by.pattern is Pattern.MANUAL

    @property
    def binding(self) -> BindTo:
        """Return what ranks are bound to: what is asked, else the object they are mapped to, else their processors."""
        if self.bind_to is not None:
            return self.bind_to
        level = self.map_by.level
        if self.processors_per_rank or level in {None, Level.NODE}:
            return BindTo(explicit=True)
        return BindTo(level=level)

    @property
    def may_share(self) -> bool:
        """Return whether there may be more ranks on PUs than there are PUs (cores, unless ``threads``)."""
        binding = self.binding
        return binding.overload or (self.oversubscribe and self.bind_to is None)

    @property
    def may_overload(self) -> bool:
        """Return whether ranks that share processors may be planned: unbound, or bound where that is allowed."""
        return self.may_share or self.binding == BindTo()

    def kept_free(self, topology: NodeTopology) -> CpuSet:
        """Return the PUs of a node whose cores no rank gets: those asked for, and those that the site keeps."""
        return self.reserve if self.use_reserved else self.reserve | topology.reserved

    def allowed(self, hosts: Iterable[str]) -> set[str]:
        """Return which of these hosts the request may use."""
        there = set(hosts)
        return there.intersection(self.hosts or there).difference(self.exclude_hosts)

    def strangers(self, hosts: Iterable[str]) -> list[str]:
        """Return the options of this request that name hosts which are none of these, each with those that it names."""
        there = set(hosts)
        option = f"--hostfile {self.hostfile}:" if self.hostfile else "--hosts"
        named = ((option, self.hosts), ("--exclude-hosts", self.exclude_hosts))
        others = ((words, [host for host in dict.fromkeys(names) if host not in there]) for words, names in named)
        return [f"{words} {fold(strange)}" for words, strange in others if strange]

    def __str__(self) -> str:
        """Return the options that ask for this layout, quoted for a shell; "" when nothing is asked."""
        valued: tuple[tuple[str, object], ...] = (
            ("-n", self.n_ranks),
            ("-N", self.ranks_per_node),
            ("-c", self.cpus_per_rank),
            ("--map-by", None if self.map_by == MapBy() else self.map_by),
            ("--rank-by", self.rank_by),
            ("--bind-to", self.bind_to),
            ("--smt", self.smt),
            ("--reserve", self.reserve or (_NO_RESERVE if self.use_reserved else None)),
            ("--reserve-per", self.reserve_per),
            ("--gpus-per-rank", self.gpus_per_rank),
            ("--ranks-per-gpu", self.ranks_per_gpu),
            ("--gpu-bind", self.gpu_bind),
            ("--nics-per-rank", self.nics_per_rank),
            ("--mem-bind", self.mem_bind),
            ("--threads", self.threads_per_rank),
            ("--hosts", self._hosts() or None),
            ("--exclude-hosts", fold(self.exclude_hosts) or None),
        )
        words = [word for option, value in valued if value is not None for word in (option, str(value))]
        return shlex.join(words + ["--oversubscribe"] * self.oversubscribe + ["--share-gpus"] * self.share_gpus)

    def _hosts(self) -> str:
        """Return the hosts as text, those with the same slots folded together: ``n[0-3]:8,n4``."""
        slots = dict(self.slots)
        groups = groupby(self.hosts, key=slots.get)
        return ",".join(
            ",".join(f"{host}:{count}" for host in items(fold(list(group)))) if count else fold(list(group))
            for count, group in groups
        )

    def counts(self) -> str:
        """Return only the counts asked for (``-n 16 -c 3``), as messages quote them; "" when there are none."""
        asked = LayoutSpec(
            n_ranks=self.n_ranks,
            ranks_per_node=self.ranks_per_node,
            cpus_per_rank=self.cpus_per_rank,
            gpus_per_rank=self.gpus_per_rank,
        )
        return str(asked)

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
