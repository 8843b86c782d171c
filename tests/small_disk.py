"""A disk that is full, without one: files end at a limit, where write(2) fails with EFBIG instead of ENOSPC."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FULL", "files_end_at"]

FULL = "/dev/full"
"""A file in which nothing can be written: ENOSPC, from the first byte."""


@contextmanager
def files_end_at(limit_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond the limit; pipes have none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
