"""``--mem-bind``: which memory a rank's pages come from.

Source: set_mempolicy(2); numactl(8); srun(1), ``--mem-bind``; PALS, mpiexec(1), ``--mem-bind``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError

__all__ = ["MemBind", "MemRule", "named_domains"]


class MemRule(StrEnum):
    """How a rank's memory is chosen: by the kernel, by where its cores are, by a list, or by the kind of memory."""

    NONE = "none"
    LOCAL = "local"
    BIND = "bind"
    PREFERRED = "preferred"
    INTERLEAVE = "interleave"
    HBM = "hbm"
    DRAM = "dram"


_LISTED = frozenset({MemRule.BIND, MemRule.PREFERRED, MemRule.INTERLEAVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemBind:
    """The value of ``--mem-bind``.

    Args:
        rule: How memory is chosen.
        domains: Os indices of NUMA domains, for ``bind``, ``preferred`` and ``interleave``.
    """

    rule: MemRule
    domains: CpuSet = CpuSet()

    def __post_init__(self) -> None:
        if (self.rule in _LISTED) != bool(self.domains):
            msg = f"mem_bind {self.rule} with the NUMA domains {self.domains or 'none'}"
            raise UsageError(msg)

    @classmethod
    def parse(cls, text: str) -> MemBind:
        """Return what the text (``local``, ``bind:0-1``) asks for.

        Raises:
            UsageError: The text cannot be understood.
        """
        head, _, rest = text.partition(":")
        word = head.lower()
        if word not in set(MemRule) or bool(rest) != (word in _LISTED):
            msg = f"--mem-bind {text}: there is no such rule"
            hint = "write local, none, hbm, dram, or bind:LIST, preferred:LIST, interleave:LIST with NUMA domains"
            raise UsageError(msg, hint=hint)
        return cls(rule=MemRule(word), domains=CpuSet.parse(rest))

    def __str__(self) -> str:
        """Return the text that parses to this."""
        return f"{self.rule}:{self.domains}" if self.domains else str(self.rule)


def named_domains(policy: str) -> CpuSet:
    """Return the domains that a memory policy of a plan names (``bind:0-1``); ``local`` and ``default`` name none."""
    return CpuSet.parse(policy.partition(":")[2])
