"""Memory policies between a plan and the kernel: what it can be asked here, why it refuses, what it says of a rank."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.shim import SET_MEMPOLICY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.placement import Plan

__all__ = ["policy_text", "refusal_hint", "require_mempolicy"]


def require_mempolicy(plan: Plan, *, machine: str) -> None:
    """Raise where a rank has a memory policy and nobody has said how the kernel is asked for one on this machine.

    Args:
        plan: Where the ranks go.
        machine: What uname(2) calls the hardware ("x86_64").

    Raises:
        RuntimeUnusableError: The number of the system call is not known.
    """
    asked = next((rank.mem for layout in plan.layouts for rank in layout.ranks if rank.mem), None)
    if asked is not None and machine not in SET_MEMPOLICY:
        msg = f"the memory policy {asked} cannot be set on {machine}: rankmap knows set_mempolicy(2) of " + ", ".join(
            sorted(SET_MEMPOLICY)
        )
        raise RuntimeUnusableError(msg, hint="leave out --mem-bind, and put `numactl` in front of the application")


def refusal_hint(policy: str, number: int) -> str:
    """Return what to do where set_mempolicy(2) has failed with this errno; "" where nobody knows.

    Source: set_mempolicy(2), ERRORS; Docker, "Seccomp security profiles for Docker".
    """
    mode, _, domains = policy.partition(":")
    if number == errno.EPERM:
        return "a container forbids it: start it with --cap-add SYS_NICE, or leave out --mem-bind"
    if number == errno.ENOSYS:
        return "this kernel was built without NUMA: leave out --mem-bind"
    if number != errno.EINVAL:
        return ""
    gone = "domains that went, or that cpuset.mems no longer allows: `rankmap topo` shows them; plan again"
    if mode == "preferred" and len(CpuSet.parse(domains)) > 1:
        return f"before Linux 5.15 only one domain can be preferred: name one, or bind:{domains}; else {gone}"
    return gone


def policy_text(found: Sequence[Any] | None) -> str:
    """Return as a plan writes it what a shim has read back (shim.py, ``memory``); "" where the kernel did not say."""
    if found is None:
        return ""
    mode, domains = found
    return f"{mode}:{CpuSet.of(domains)}" if domains else str(mode)
