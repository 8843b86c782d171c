"""The schedulers that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rankmap.schedulers.pbs import PBS
from rankmap.schedulers.slurm import SLURM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.schedulers.batch import Scheduler

__all__ = ["SCHEDULERS"]

SCHEDULERS: Final[Mapping[str, Scheduler]] = {"pbs": PBS, "slurm": SLURM}
"""Name -> member; a preset's ``scheduler`` is one of the names where rankmap can write scripts for it."""
