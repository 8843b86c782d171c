"""The words of a layout that are about GPUs: how many a rank has, how many ranks share one, and which ones.

Source: srun(1), ``--gpus-per-task``, ``--gpu-bind``; PALS, mpiexec(1), ``--gpu-bind list:``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rankmap.errors import UsageError

__all__ = ["GpuBind", "GpuRule", "gpu_share"]

_SHARE = re.compile(r"([1-9]\d{0,5})(?:/([1-9]\d{0,5}))?", re.ASCII)
_ID = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)


class GpuRule(StrEnum):
    """Which GPUs a rank gets."""

    CLOSEST = "closest"
    NONE = "none"
    ROUND_ROBIN = "round-robin"
    LIST = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBind:
    """``--gpu-bind``: which GPUs the ranks get.

    Args:
        rule: The nearest to its cores, one after the other, as listed, or none: then each sees all GPUs.
        lists: The GPU ids of each local rank, for ``list``.
    """

    rule: GpuRule = GpuRule.CLOSEST
    lists: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if (self.rule is GpuRule.LIST) != bool(self.lists) or not all(self.lists):
            msg = f"gpu_bind {self.rule} with {len(self.lists)} lists of GPUs"
            raise UsageError(msg)

    @classmethod
    def parse(cls, text: str) -> GpuBind:
        """Return what the text (``closest``, ``list:0,1:2,3``) asks for.

        Raises:
            UsageError: The text cannot be understood.
        """
        head, _, rest = text.partition(":")
        known = ", ".join(rule for rule in GpuRule if rule is not GpuRule.LIST)
        if head.lower() not in set(GpuRule) or bool(rest) != (head.lower() == GpuRule.LIST):
            msg = f"--gpu-bind {text}: there is no such rule"
            raise UsageError(msg, hint=f"write {known}, or list:IDS:IDS... with the GPUs of each local rank")
        lists = tuple(tuple(part.split(",")) for part in rest.split(":")) if rest else ()
        for ids in lists:
            if wrong := [one for one in ids if not _ID.fullmatch(one)]:
                msg = f"--gpu-bind {text}: {wrong[0]!r} is no GPU id"
                raise UsageError(msg, hint="write list:0:1 or list:0,1:2,3, for tiles list:0.0:0.1")
            if len(set(ids)) < len(ids):
                msg = f"--gpu-bind {text}: {','.join(ids)} names a GPU twice"
                raise UsageError(msg)
        return cls(rule=GpuRule(head.lower()), lists=lists)

    def __str__(self) -> str:
        """Return the text that parses to this."""
        return ":".join((str(self.rule), *(",".join(ids) for ids in self.lists)))


def gpu_share(text: str) -> tuple[int, int | None]:
    """Return how many GPUs a rank has and how many ranks share one (None: not said): ``2``, or ``1/2`` for two ranks.

    Raises:
        UsageError: The text is neither.
    """
    match = _SHARE.fullmatch(text)
    if match is None:
        msg = f"--gpus-per-rank {text}: neither a number of GPUs nor a share of one"
        raise UsageError(msg, hint="write 1 or 2, or 1/2 where two ranks share one GPU")
    count, parts = int(match[1]), match[2]
    if parts is None:
        return count, None
    if count != 1:
        msg = f"--gpus-per-rank {text}: a share is 1/K of one GPU"
        raise UsageError(msg, hint=f"write 1/{parts}, or --gpus-per-rank {count} --ranks-per-gpu {parts}")
    return 1, int(parts)
