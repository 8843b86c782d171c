"""Unit tests of rankmap.runtime.looking: a real agent looks at this host, as if Dragon had started it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, UsageError
from rankmap.runtime import fleet, looking
from rankmap.runtime.inside import Asked
from rankmap.runtime.looking import hosts_looked_at
from rankmap.runtime.starting import Kind, Reach
from tests.agents import AgentsByHand
from tests.children import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

REACH = Reach(kind=Kind.DRAGON, hosts=("n1",), source="the runtime", named=("n1",))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory with a short name, in which all of the job's are made; nothing is left there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
        assert [] == list(Path(name).iterdir())


@pytest.mark.usefixtures("folder")
def test_a_host_is_looked_at_and_its_agent_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPUs that are kept on it; it is called what Dragon calls it."""
    by_hand = AgentsByHand()
    monkeypatch.setattr(fleet, "ask_for_agents", by_hand)
    kept = CpuSet.of([max(os.sched_getaffinity(0))])
    (facts,) = hosts_looked_at(REACH, environ=os.environ, kept=kept)
    assert ("n1", os.uname().nodename, kept) == (facts.name, facts.own_name, facts.topology.reserved)
    assert [0] == [agent.wait(LIMIT_S) for agent in by_hand.agents]


@pytest.mark.usefixtures("folder")
def test_hosts_that_dragon_starts_no_agent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dragon says; where it says nothing, nobody waits for ever."""

    def refuse() -> None:
        msg = "no such node"
        raise ValueError(msg)

    monkeypatch.setattr(fleet, "ask_for_agents", lambda _starts, on_failure: Asked(refuse, on_failure))
    with pytest.raises(UsageError, match="RANKMAP_FANOUT='few' in the environment"):
        hosts_looked_at(REACH, environ={**os.environ, "RANKMAP_FANOUT": "few"}, kept=CpuSet())
    with pytest.raises(AllocationError, match="Dragon: ValueError: no such node"):
        hosts_looked_at(REACH, environ=os.environ, kept=CpuSet())
    monkeypatch.setattr(fleet, "ask_for_agents", lambda _starts, on_failure: Asked(lambda: None, on_failure))
    monkeypatch.setattr(looking, "start_timeout_s", lambda _reach: 0.05)
    monkeypatch.setattr(fleet, "_COMING_S", 0.05)
    with pytest.raises(AllocationError, match=r"n1 was not ready after 0.05 s: no agent of rankmap's"):
        hosts_looked_at(REACH, environ=os.environ, kept=CpuSet())
