"""What the ranks have of the caller, whatever Dragon's processes were given: timer slack, and how many open files.

And the limit of open files of processes that look after many hosts or ranks.
"""

from __future__ import annotations

import resource
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.services import own_slack_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Limits", "raised_descriptor_limit", "require_descriptors"]

_DESCRIPTORS_PER_RANK = 9
_OWN_DESCRIPTORS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a process.

    Args:
        slack_ns: Timer slack in ns; 0 where the kernel does not say.
        n_files: The soft limit of open files; -1 is none (getrlimit(2), RLIM_INFINITY).
    """

    slack_ns: int
    n_files: int

    @classmethod
    def own(cls) -> Limits:
        """Return this process's."""
        return cls(slack_ns=own_slack_ns(), n_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@contextmanager
def raised_descriptor_limit() -> Iterator[None]:
    """Let this process, and what it starts in this context, open as many files as it may; the shim lowers a rank's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:  # a program of the user's launches more than one job
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def require_descriptors(n_ranks: int) -> None:
    """Raise unless this process may open the files that so many ranks need.

    Raises:
        RuntimeUnusableError: It may not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS_PER_RANK * n_ranks + _OWN_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and needed > hard:
        msg = f"{n_ranks} ranks need up to {needed} open files here, and the limit is {hard}"
        raise RuntimeUnusableError(msg, hint=f"raise it (ulimit -Hn {needed}), or ask your site to")
