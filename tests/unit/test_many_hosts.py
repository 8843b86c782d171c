"""Unit tests of rankmap.runtime.many_hosts: what agents and relays say and are told; test_fleet.py has real agents."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest

from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime import many_hosts
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.loop import Loop
from rankmap.runtime.many_hosts import ManyHosts
from rankmap.runtime.member import Member
from rankmap.runtime.starting import Kind
from rankmap.runtime.wire import Connection
from rankmap.topology import Allocation
from tests.children import LIMIT_S
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rankmap.runtime.ending import Outcome
    from rankmap.runtime.host_job import HostJob
    from rankmap.runtime.hosts import Host
    from rankmap.runtime.wire import Message

NODE = made([[2]])
NAMES = ("n1", "n2", "n3")
COMMAND = {"kind": "remote", "command": "cd / && dragon-network"}


class Output:
    """Takes what ranks write."""

    crowded = True

    def feed(self, rank: int, end: int, data: bytes) -> None:
        """Take it."""


class Share:
    """A host's share of the job."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def to_values(self) -> dict[str, Any]:
        """Return it as it is sent."""
        return {"share": list(self.values)}


class Job:
    """The supervisor of a job on n1, n2, n3, whose agents are the other ends of connections."""

    head_pid = 77

    def __init__(self, stack: ExitStack, preload: tuple[Path, Path] | None = None) -> None:
        self.stack = stack
        self.heard: list[tuple[str, object]] = []
        self.failed: list[Outcome] = []
        self.loop = stack.enter_context(Loop((), lambda _caught: None))
        self.loop.call_after(LIMIT_S, self.too_late)
        self.facts = [HostFacts(name=name, own_name=f"{name}.site", topology=NODE, paths=()) for name in NAMES]
        self.ground = ManyHosts(
            kind=Kind.SSH,
            hosts=(),  # nobody is to be started
            job="rankmap-x",
            look={"kind": "look", "control": "/nowhere"},
            network_prefix="",
            fanout=4,
            n_spares=0,
            preload=preload,
            environ={},
            choose=lambda facts: facts[:2],
        )
        self.ground.start(self.loop, self)
        assert self.ground._fleet is not None
        self.fleet = self.ground._fleet
        self.agents: dict[str, Connection] = {}
        for index, facts in enumerate(self.facts):
            ours, theirs = self.pair()
            self.agents[facts.name] = theirs
            member = Member(
                name=facts.name, index=index, connection=ours, here=True, own_name=facts.own_name, facts=facts
            )
            self.fleet.members.append(member)
        self.ended = False
        stack.callback(self.close)

    def end(self) -> list[str]:
        """End it without waiting."""
        self.ended = True
        return self.ground.end(gentle=True, hurry=lambda: True)

    def close(self) -> None:
        """Leave nothing of it."""
        if not self.ended:
            self.end()

    def pair(self) -> tuple[Connection, Connection]:
        """Return two ends."""
        ends = [Connection(self.stack.enter_context(sock)) for sock in socket.socketpair()]
        for end in ends:
            end.sock.settimeout(LIMIT_S)
        return ends[0], ends[1]

    def says(self, name: str, kind: str, **more: object) -> None:
        """Let an agent say this."""
        (member,) = [one for one in self.fleet.members if one.name == name]
        self.ground._on_message(member, {"kind": kind, **more})

    def told(self, name: str) -> list[Message]:
        """Return what an agent has been told since this was asked last."""
        agent = self.agents[name]
        agent.sock.settimeout(0)
        return agent.receive() or []

    def until(self, condition: Callable[[], object]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.step()

    def relay(self, host: str) -> Connection:
        """Return the relay's end of a connection that wants something run on this host."""
        ours, theirs = self.pair()
        self.ground.accept(ours, {**COMMAND, "host": host})
        return theirs

    def prepare(self) -> None:
        """Give n1 and n2 their shares, of a rank each."""
        self.ground._on_ready(self.facts)
        allocation = Allocation.of(tuple((name, NODE) for name in NAMES[:2]))
        made_plan = plan(allocation, request(ranks_per_node=1))

        def job_of(facts: HostFacts, node_index: int, head_pid: int) -> HostJob:
            return cast("HostJob", Share(facts.name, node_index, head_pid))

        hosts = self.ground.prepare(made_plan, cast("Any", Output()), cast("Any", None), job_of)
        assert ["n1", "n2"] == [host.name for host in hosts.hosts]

    # -- Listening ------------------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        """Hear that all are ready."""
        self.heard.append(("ready", None))

    def on_failure(self, outcome: Outcome) -> None:
        """Hear that a host is of no use."""
        self.failed.append(outcome)

    def on_head(self, message: Message | None) -> None:
        """Hear what the head says."""
        self.heard.append(("head", message))

    def on_host(self, host: Host, message: Message) -> None:
        """Hear what hands tell."""
        self.heard.append((host.name, message["kind"]))

    def on_lost(self, name: str) -> None:
        """Hear that a host is gone."""
        self.heard.append(("lost", name))

    def say(self, text: str) -> None:
        """Tell the user."""
        self.heard.append(("say", text))

    def too_late(self) -> None:
        """End a test that waits for what does not come."""
        raise TimeoutError(self.heard, self.failed)


@pytest.fixture
def start() -> Iterator[Callable[..., Job]]:
    """Return a function that starts a job."""
    with ExitStack() as stack:
        yield lambda **words: Job(stack, **words)


@pytest.fixture
def job(start: Callable[..., Job]) -> Job:
    """Return a job whose hosts have been looked at."""
    return start()


# -- the hosts ---------------------------------------------------------------------------------------------------------


def test_the_hosts_that_are_chosen_are_those_of_the_job(job: Job) -> None:
    """Ready at once where there is nothing to copy."""
    assert 0 == len(job.ground.facts)
    job.ground._on_ready(job.facts)
    assert (("n1", "n2"), [("ready", None)]) == (tuple(one.name for one in job.ground.facts), job.heard)
    assert "" == job.ground.late()


def test_hosts_that_are_not_ready_are_late(job: Job) -> None:
    """By name; before anything was started nobody is."""
    job.fleet._unlooked.add(job.fleet.members[1])
    assert "n2" == job.ground.late()


def test_the_job_is_ready_when_all_its_hosts_have_the_file(start: Callable[..., Job], tmp_path: Path) -> None:
    """The others get none."""
    source = tmp_path / "app"
    source.write_bytes(b"data")
    job = start(preload=(source, tmp_path / "copy"))
    job.ground._on_ready(job.facts)
    assert [["copy"], ["copy"], []] == [[message["kind"] for message in job.told(name)] for name in NAMES]
    for name in NAMES[:2]:
        assert [] == job.heard
        job.says(name, "copied")
    piece = {"kind": "all", "message": {"kind": "piece", "start": 0, "data": b"data"}}
    assert [[piece]] * 3 == [job.told(name) for name in NAMES]
    for name in NAMES[:2]:
        assert [] == job.heard
        job.says(name, "copied")
    assert [("ready", None)] == job.heard


def test_each_host_gets_its_share_and_the_heads_pid_where_the_head_is(job: Job) -> None:
    """Ranks' output goes to where the others' goes; a host without ranks gets nothing."""
    job.says("n2", "head", message={"kind": "up"})
    job.prepare()
    assert [{"kind": "prepare", "job": {"share": ["n1", 0, 0]}}] == job.told("n1")
    assert [{"kind": "prepare", "job": {"share": ["n2", 1, 77]}}] == job.told("n2")
    assert [] == job.told("n3")
    assert job.fleet.crowded()
    assert Output.feed is job.fleet.take.__func__  # type: ignore[attr-defined]


def test_what_hands_tell_is_passed_on_once_there_are_some(job: Job) -> None:
    """From a host without ranks there is nothing to hear."""
    job.says("n1", "ended", rank=0)
    job.prepare()
    job.says("n1", "ended", rank=0)
    job.says("n1", "trouble", status=1, reason="x", hint="")
    job.says("n3", "ended", rank=0)
    assert [("n1", "ended"), ("n1", "trouble")] == job.heard[1:]
    assert [] == job.failed


def test_ranks_in_wrong_places_are_named_with_their_host(job: Job) -> None:
    """Before the start and later; the others of the job are where they should be."""
    job.prepare()
    job.says("n1", "checked", lines=[])
    job.says("n2", "checked", lines=["rank 1 (cpus-differ): planned CPUs 0, found CPUs 1"])
    assert ["n2: rank 1 (cpus-differ): planned CPUs 0, found CPUs 1"] == job.ground._hosts.lines()


def test_trouble_of_a_host_before_that_is_the_jobs_failure(job: Job) -> None:
    """With its name, and the status that it would have here."""
    job.says("n2", "trouble", status=126, reason="its disk is full", hint="make room")
    assert [(126, "n2: its disk is full", "make room")] == [(one.status, one.reason, one.hint) for one in job.failed]


def test_a_signal_to_an_agent_is_one_to_the_job(job: Job) -> None:
    """A batch system sends it to all of a job."""
    job.prepare()
    job.says("n2", "signalled", number=15)
    assert [(143, "n2 was sent SIGTERM")] == [(one.status, one.reason) for one in job.failed]


def test_what_an_agent_says_to_the_user_has_its_name(job: Job) -> None:
    """Else nobody knew where."""
    job.says("n2", "say", text="a process is stuck")
    assert [("say", "n2: a process is stuck")] == job.heard


def test_a_host_that_is_lost_is_noted(job: Job) -> None:
    """The job goes on without one that it does not use, a spare; its user may want to know."""
    job.prepare()
    hosts = job.ground._hosts
    for index in (0, 2):
        job.ground._on_lost(job.fleet.members[index])
    assert [("lost", "n1"), ("say", "n3 is lost, which the job does not use")] == job.heard[1:]
    assert [True, False] == [host.gone for host in hosts.hosts]


def test_the_head_is_spoken_to_through_the_agent_of_its_host(job: Job) -> None:
    """Once it has come."""
    job.ground.tell_head({"kind": "start"})
    assert [[], [], []] == [job.told(name) for name in NAMES]
    job.says("n2", "head", message={"kind": "up"})
    job.ground.tell_head({"kind": "start"})
    assert [("head", {"kind": "up"})] == job.heard
    assert [{"kind": "head", "message": {"kind": "start"}}] == job.told("n2")


def test_an_agent_that_does_not_say_that_it_is_over_is_named_in_the_end(job: Job) -> None:
    """Nobody knows what is left there; all are told, and the connections are closed."""
    job.fleet.members[1].over = True
    assert ["n1", "n3"] == job.end()
    over: list[Message] = [{"kind": "all", "message": {"kind": "over", "gentle": True}}]
    assert [over, over, over] == [job.told(name) for name in NAMES]


# -- what Dragon's launcher wants --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["n2", "n2.site"])
def test_a_relays_command_is_run_by_the_agent_of_its_host(host: str, job: Job) -> None:
    """By whichever name; what it says comes back, and its status ends the relay."""
    relay = job.relay(host)
    assert [{"kind": "spawn", "number": 1, "command": COMMAND["command"], "set": {}}] == job.told("n2")
    said = {"number": 1, "end": 1, "data": b"up\n"}
    job.says("n2", "said", **said)
    assert [{"kind": "said", **said}] == relay.receive()
    job.says("n2", "exited", number=1, status=3)
    assert [{"kind": "exited", "number": 1, "status": 3}] == relay.receive()
    assert None is relay.receive()


def test_each_relay_hears_of_its_own_command(job: Job) -> None:
    """On one host or on two; one that has ended keeps no other from going on."""
    relays = [job.relay("n1"), job.relay("n1"), job.relay("n3")]
    assert [[1, 2], [3]] == [[one["number"] for one in job.told(name)] for name in ("n1", "n3")]
    job.says("n1", "exited", number=2, status=0)
    job.says("n3", "said", number=3, end=2, data=b"x")
    assert [2, None] == [(relays[1].receive() or [{}])[0].get("number"), relays[1].receive()]
    assert [b"x"] == [one["data"] for one in relays[2].receive() or ()]
    relays[0].sock.settimeout(0)
    assert [] == relays[0].receive()


def test_a_relay_that_was_killed_is_forgotten(job: Job) -> None:
    """What its command says later goes nowhere."""
    relay = job.relay("n1")
    relay.close()
    job.until(lambda: not job.ground._relays)
    job.says("n1", "said", number=1, end=1, data=b"late")
    job.says("n1", "exited", number=1, status=0)
    assert [] == job.heard + job.failed


def test_a_relay_that_dies_while_it_is_spoken_to_ends_nothing(job: Job) -> None:
    """The loop has not heard of it yet."""
    job.relay("n1").close()
    job.says("n1", "said", number=1, end=1, data=b"late")
    job.says("n1", "exited", number=1, status=0)
    assert {} == job.ground._relays


def test_a_host_that_is_none_of_the_jobs_is_said_as_ssh_would(job: Job) -> None:
    """With the status of a connection that was not made; a relay that is gone already does not matter."""
    relay = job.relay("n9")
    said, exited = relay.receive() or ({}, {})
    assert (2, b"rankmap: n9 is none of the job's hosts\n", 255) == (said["end"], said["data"], exited["status"])
    assert None is relay.receive()
    ours, theirs = job.pair()
    theirs.close()
    job.loop.call_when_readable(ours, job.too_late)  # as the door has it
    job.ground.accept(ours, {**COMMAND, "host": "n9"})
    assert ours.fileno() < 0
    assert 1 == len(job.loop._selector.get_map()) - 1  # the loop's own, and the fleet's listener
    assert [[], [], []] == [job.told(name) for name in NAMES]


# -- standard input ----------------------------------------------------------------------------------------------------


def test_input_is_sent_piece_by_piece_as_the_rank_takes_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One piece for each time that the agent asks, the last of which is empty."""
    monkeypatch.setattr(many_hosts, "_STDIN_BYTES", 4)
    (tmp_path / "input").write_bytes(b"0123456")
    own = os.dup(0)
    with (tmp_path / "input").open("rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        got: list[bytes] = []
        while not got or got[-1]:
            job.says("n3", "stdin")
            n_got = len(got)
            while len(got) == n_got:
                job.loop.step()
                got += [message["data"] for message in job.told("n3")]
        assert [b"0123", b"456", b""] == got
    finally:
        os.dup2(own, 0)
        os.close(own)
