"""The part of services.py that needs no Dragon: who is moved aside, and noticing that a process has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.runtime.loop import Loop
from rankmap.runtime.services import Service, Watch, hurry, keep_aside
from tests.children import LIMIT_S, child

if TYPE_CHECKING:
    from collections.abc import Iterator


class Watched:
    """A loop that waits for the end of processes, and what it has noticed."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.ended: list[int] = []
        self.loop.call_after(LIMIT_S, self._too_late)

    def watch(self, *pids: int) -> Watch:
        """Watch processes with these pids."""
        services = [Service(pid=pid, name="service", cpus=CpuSet.of([0]), idle=False) for pid in pids]
        return Watch(self.loop, services, lambda service: self.ended.append(service.pid))

    def turn(self) -> None:
        """Serve what is ready."""
        self.loop.call_after(0, lambda: None)
        self.loop.step()

    def _too_late(self) -> None:
        raise TimeoutError


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Return one that watches nothing yet."""
    with Loop((), lambda _caught: None) as loop:
        yield Watched(loop)


def test_a_service_that_ends_is_noticed_once(watched: Watched) -> None:
    """Whatever it ends with; the loop then sleeps on, and the other services are watched as before."""
    with child("sleep", "60") as first, child("sleep", "60") as second:
        watch = watched.watch(first.pid, second.pid)
        watched.turn()
        assert watched.ended == []
        first.process.kill()
        while not watched.ended:
            watched.loop.step()
        for _ in range(3):
            watched.turn()
        assert watched.ended == [first.pid]
        second.process.terminate()
        while len(watched.ended) < 2:
            watched.loop.step()
        watched.turn()
        assert watched.ended == [first.pid, second.pid]
        watch.close()


def test_a_service_that_has_ended_before_is_reported_too(watched: Watched) -> None:
    """It was there when the ranks were looked for, and nobody else would tell."""
    process = subprocess.Popen(["true"])
    process.wait(LIMIT_S)
    watch = watched.watch(process.pid)
    watched.turn()
    watch.close()
    assert watched.ended == [process.pid]


def test_a_watch_that_is_closed_notices_nothing_and_holds_nothing(watched: Watched) -> None:
    """Its descriptors are given back."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    with child("sleep", "60") as service:
        watched.watch(service.pid).close()
        service.process.kill()
        service.process.wait(LIMIT_S)
        watched.turn()
    assert (before, []) == (len(os.listdir("/proc/self/fd")), watched.ended)  # noqa: PTH208


@pytest.mark.parametrize(
    ("word", "name", "idle", "comes_back"),
    [
        ("_dragon_native_python_process_main", "Dragon group service", True, False),
        ("--ch-in-sdesc", "Dragon TCP agent", True, True),
        ("--infrastructure", "Dragon runtime", False, True),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_those_that_would_compete_with_ranks_are_put_aside(
    *, word: str, name: str, idle: bool, comes_back: bool, ours: bool
) -> None:
    """In a runtime of our own; Dragon's TCP agents come back when the end has begun: it goes through them."""
    with child(sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", word, "x") as service:
        service.hear()  # before that its command may not be there yet
        (found,) = keep_aside([service.pid], head_pid=0, reserve=CpuSet(), lower=ours)
        expected = os.SCHED_IDLE if idle and ours else os.SCHED_OTHER
        assert (name, expected == os.SCHED_IDLE) == (found.name, found.idle)
        assert expected == os.sched_getscheduler(service.pid)
        hurry([found])
        if comes_back and os.geteuid() == 0:  # without CAP_SYS_NICE nobody comes back
            expected = os.SCHED_OTHER
        assert os.geteuid() != 0 or expected == os.sched_getscheduler(service.pid)
