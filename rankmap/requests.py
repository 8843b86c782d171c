"""A request from the words of the command line and the Python API: text is parsed here, and its files are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.hostfile import hosts_of, n_slots
from rankmap.hostlist import expand, items
from rankmap.layout import LayoutSpec
from rankmap.layout_devices import GpuBind, gpu_share
from rankmap.layout_memory import MemBind
from rankmap.layout_parts import BindTo, MapBy, RankBy, ReservePer, TextFile
from rankmap.text_file import read_text_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["request"]

_FORMS = (
    "name a text file: of hosts with slots=N (--hostfile), a host per rank (seq:), rank 0=HOST slot=0-3 (rankfile:) or"
    " ranks in order (file:); its name has no colon"
)


def request(  # noqa: PLR0913 - the words of the command line, each optional
    *,
    n_ranks: int | None = None,
    ranks_per_node: int | None = None,
    cpus_per_rank: int | None = None,
    map_by: str = "auto",
    rank_by: str = "",
    bind_to: str = "",
    smt: int | None = None,
    oversubscribe: bool = False,
    reserve: str | CpuSet = "",
    reserve_per: str = "",
    hosts: Iterable[str] = (),
    exclude_hosts: Iterable[str] = (),
    hostfile: str | Path | None = None,
    gpus_per_rank: int | str | None = None,
    ranks_per_gpu: int | None = None,
    gpu_bind: str = "",
    share_gpus: bool = False,
    nics_per_rank: int | None = None,
    mem_bind: str = "",
    threads_per_rank: int | None = None,
) -> LayoutSpec:
    """Return the request that these words make; ``rankmap plan --help`` explains each.

    Raises:
        UsageError: A word cannot be understood, two contradict each other, or a file cannot be read.
    """
    pattern, allows = MapBy.parse(map_by, _read)
    if allows is False and oversubscribe:
        msg = f"--map-by {map_by} and --oversubscribe: one allows what the other forbids"
        raise UsageError(msg)
    named, slots = _hosts([*hosts])
    if hostfile is not None:
        in_file, slots_there = hosts_of(
            _read(str(hostfile), option="--hostfile "), sharing=oversubscribe or bool(allows)
        )
        slots = {**slots_there, **slots}
        wanted = set(named)
        named = [host for host in in_file if host in wanted] if named else in_file
        if not named:
            msg = f"--hosts and --hostfile {hostfile} have no host in common"
            raise UsageError(msg, hint="--hosts chooses among the hosts of the file")
    use_reserved = isinstance(reserve, str) and reserve.strip().lower() == "none"
    each, sharing = (None, None) if gpus_per_rank is None else gpu_share(str(gpus_per_rank))
    if sharing is not None and ranks_per_gpu is not None and sharing != ranks_per_gpu:
        msg = f"--gpus-per-rank {gpus_per_rank} and --ranks-per-gpu {ranks_per_gpu}: two numbers of ranks for a GPU"
        raise UsageError(msg)
    return LayoutSpec(
        n_ranks=n_ranks,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=cpus_per_rank,
        map_by=pattern,
        rank_by=RankBy.parse(rank_by, _read) if rank_by else None,
        bind_to=BindTo.parse(bind_to) if bind_to else None,
        smt=smt,
        oversubscribe=oversubscribe or bool(allows),
        reserve=CpuSet() if use_reserved else reserve if isinstance(reserve, CpuSet) else CpuSet.parse(reserve),
        use_reserved=use_reserved,
        reserve_per=ReservePer.parse(reserve_per) if reserve_per else None,
        slots=tuple((host, slots[host]) for host in named if host in slots),
        hosts=tuple(named),
        exclude_hosts=tuple(dict.fromkeys(host for text in exclude_hosts for host in expand(text))),
        hostfile="" if hostfile is None else str(hostfile),
        gpus_per_rank=each,
        ranks_per_gpu=ranks_per_gpu if sharing is None else sharing,
        gpu_bind=GpuBind.parse(gpu_bind) if gpu_bind else None,
        share_gpus=share_gpus,
        nics_per_rank=nics_per_rank,
        mem_bind=MemBind.parse(mem_bind) if mem_bind else None,
        threads_per_rank=threads_per_rank,
    )


def _read(name: str, option: str = "") -> TextFile:
    return read_text_file(name, called=f"{option}{name!r}", what="list of ranks or hosts", hint=_FORMS)


def _hosts(texts: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """Return the hosts of ``--hosts``, and the slots of those that have them: ``n[0-3]:8,n4``."""
    hosts: dict[str, None] = {}
    slots: dict[str, int] = {}
    for text in texts:
        for item in items(text):
            name, colon, count = item.partition(":")
            if not name:
                msg = f"--hosts {text}: {item!r} names no host"
                raise UsageError(msg, hint="write n0,n1 or n[0-3], with slots n[0-3]:8")
            for host in expand(name):
                hosts.setdefault(host)
                if colon:
                    slots[host] = n_slots(f"--hosts {text}", count)
    return list(hosts), slots
