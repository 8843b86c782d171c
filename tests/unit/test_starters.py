"""Unit tests of rankmap.runtime.starters: commands that are run by and by; in test_fleet.py they start agents."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rankmap.runtime import starters
from rankmap.runtime.loop import Loop
from rankmap.runtime.starters import Starters
from rankmap.runtime.starting import AgentStart

if TYPE_CHECKING:
    import pytest


def test_who_has_come_does_not_wait_for_all_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has a turn between so many commands and the next ones, which are not run when the job ends."""
    monkeypatch.setattr(starters, "_AT_ONCE", 2)
    starts = [AgentStart(hosts=(f"n{index}",), argv=("sleep", "60")) for index in range(9)]
    with Loop((), lambda _caught: None) as loop:
        made = Starters(loop, lambda _starter, _status: None)
        made.begin(starts, os.environ)
        counts = [len(made.running)]
        for _ in range(2):
            loop.step()
            counts.append(len(made.running))
        made.begin_no_more()
        loop.step()
        assert [2, 4, 6, 6] == [*counts, len(made.running)]
        assert [one.start for one in made.running] == starts[:6]
        made.end(over=(), end_s=time.monotonic())
    assert [-9] * 6 == [one.process.returncode for one in made.running]
