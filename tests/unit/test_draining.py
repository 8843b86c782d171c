"""Unit tests of rankmap.runtime.draining: who is waited for when all ranks have ended, and for how long."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, cast

import pytest

from rankmap.runtime.draining import Drain
from tests.children import LIMIT_S, child, family
from tests.clock import Clock

if TYPE_CHECKING:
    from rankmap.runtime.loop import Loop
    from rankmap.runtime.processes import Found
    from rankmap.runtime.rank_pipes import RankPipes


class Output:
    """What Drain asks of the ranks' output."""

    def __init__(self, *, drained: bool = False, stalled: bool = True) -> None:
        self.is_drained = drained
        self.is_stalled = stalled
        self.n_counts = 0

    def drained(self) -> bool:
        """Return whether all has come and was written."""
        return self.is_drained

    def stalled(self) -> bool:
        """Return whether nobody of ours is waited for."""
        return self.is_stalled

    def count_from_here(self) -> None:
        """Note that counting begins."""
        self.n_counts += 1


class Job:
    """A job whose ranks have ended; ``check`` is called every second, as the supervisor does at least.

    ``left`` is what is found left behind, look by look; the last one holds for ever.
    """

    def __init__(self, output: Output, *left: list[Found]) -> None:
        self.clock = Clock()
        self.left = list(left) or [[]]
        self.ended_at_s: float | None = None
        self.drain = Drain(cast("Loop", self.clock), cast("RankPipes", output), left=self.next_left, on_end=self.on_end)

    def next_left(self) -> list[Found]:
        """Return what is left this time."""
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def on_end(self) -> None:
        """Note when it was over."""
        self.ended_at_s = self.clock.now_s if self.ended_at_s is None else self.ended_at_s

    def run(self, until_s: int) -> float | None:
        """Let time pass; return when it was over."""
        for second in range(until_s):
            self.clock.advance_to(second)
            if self.ended_at_s is None:
                self.drain.check()
        return self.ended_at_s


def test_output_that_is_complete_ends_it_at_once() -> None:
    """Nothing is waited for, nothing counted."""
    output = Output(drained=True)
    assert (0, 0) == (Job(output).run(1), output.n_counts)


def test_what_is_held_open_by_nobody_we_find_ends_it_after_the_grace() -> None:
    """Somebody who is no process of the job holds it: 2 s."""
    output = Output()
    assert (2, 1) == (Job(output).run(10), output.n_counts)


def test_a_slow_reader_of_ours_is_waited_for() -> None:
    """However long it takes; what comes is counted anew after each look."""
    output = Output(stalled=False)
    job = Job(output)
    assert job.run(3600) is None
    assert output.n_counts == 1800
    output.is_drained = True
    job.drain.check()
    assert job.ended_at_s is not None


def test_what_ranks_left_behind_is_killed() -> None:
    """By the look after the grace; the next look, which finds nothing, ends it."""
    with child("sleep", "600") as sleeper:
        job = Job(Output(), family(sleeper.pid), [])
        assert 4 == job.run(10)
        assert -signal.SIGKILL == sleeper.process.wait(LIMIT_S)


@pytest.mark.parametrize(("stalled", "end_s"), [(True, 12), (False, None)])
def test_what_cannot_be_killed_is_not_waited_for_for_ever(*, stalled: bool, end_s: float | None) -> None:
    """Five kills, and it may stay, unless a slow reader has not had all yet."""
    with child("sleep", "600") as process:
        immortal = family(process.pid)
    assert end_s == Job(Output(stalled=stalled), immortal).run(60)
