"""Unit tests of rankmap.runtime.branch and entrance: agents in threads, which make a tree over real connections."""

from __future__ import annotations

import json
import os
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from rankmap.codec import encode
from rankmap.gathering import Gathered, merged
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime import fleet as fleet_module
from rankmap.runtime import gatherer
from rankmap.runtime.agent import TICKET_VARIABLE
from rankmap.runtime.branch import Branch
from rankmap.runtime.entrance import Entrance
from rankmap.runtime.fleet import Fleet
from rankmap.runtime.link import connect
from rankmap.runtime.loop import Loop
from rankmap.runtime.starting import Kind
from rankmap.runtime.way import find_way
from rankmap.runtime.wire import frame
from tests.children import LIMIT_S
from tests.large_jobs import gathered, hosts
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rankmap.runtime.ending import Outcome
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.way import Way
    from rankmap.runtime.wire import Connection, Message

JOB = plan(hosts(8, made([[2]])), request(ranks_per_node=2))
PARTS = gathered(JOB, {})
LOOKED = {
    "kind": "looked",
    "digest": "d",
    "shape": encode(made([[2]])),
    "uuids": [],
    "paths": [],
    "boot_id": "b",
    "free_ports": [],
}
SRUN = f"""#!/bin/sh
printf %s "${TICKET_VARIABLE}" >{{folder}}/part
mv {{folder}}/part {{folder}}/ticket
until [ -e {{folder}}/over ]; do sleep 0.02; done
"""


class Station:
    """An agent that looks at no host: it says that it did, repeats what it hears, and stands before others."""

    def __init__(self, ticket: dict[str, object], name: str) -> None:
        self.name = name
        self.index = int(name[1:])
        self.stops = self._alone = self._deaf = False
        self._ticket = ticket
        self._thread = threading.Thread(target=self._serve)
        self._loop = Loop((), lambda _caught: None)
        self._thread.start()

    def _serve(self) -> None:
        way = find_way(self._ticket, self.name)
        with self._loop, closing(way.messages), closing(way.output):
            branch = self._branch(way) if way.below else None
            self._heard(way, branch, list(way.early))
            self._loop.call_when_readable(way.messages, lambda: self._hear(way, branch))
            while not self.stops or not (self._alone or branch is None or branch.empty):
                self._loop.step()
            if branch is not None:
                branch.close()

    def _branch(self, way: Way) -> Branch:
        secret = bytes.fromhex(str(self._ticket["secret"]))
        return Branch(
            self._loop,
            secret=secret,
            network_prefix="^none$",
            tell=way.messages.say,
            take=lambda *piece: way.output.sock.sendall(frame(*piece)),
            crowded=lambda: False,
        )

    def _hear(self, way: Way, branch: Branch | None) -> None:
        messages = way.messages.receive()
        if messages is None:
            self.stops = self._alone = True
        self._heard(way, branch, messages or [])

    def _write(self, way: Way, rank: int, n: int) -> None:
        for end in (0, 1):
            way.output.sock.sendall(frame(rank, end, self.name.encode() * n))

    def _pass_down(self, branch: Branch | None, message: Message) -> None:
        if message["kind"] in {"for", "all"} and branch is not None:
            branch.say(message)

    def _heard(self, way: Way, branch: Branch | None, messages: list[Message]) -> None:
        for message in messages:
            self._pass_down(branch, message)
            match message["kind"]:
                case "all":
                    self._heard(way, branch, [message["message"]])
                case "look":
                    way.messages.say({**LOOKED, "own_name": self.name})
                case "echo":
                    way.messages.say({"kind": "echo", "by": self.name, "data": message["data"]})
                case "deaf":
                    self._deaf = True
                case "report" if not self._deaf:
                    way.messages.say({"kind": "report", "report": PARTS[self.index].to_values()})
                case "over":
                    self.stops = True
                    way.messages.say({"kind": "over", "stuck": []})
                case "write":
                    self._write(way, message["rank"], message["n"])
                case "die":
                    self.stops = self._alone = True
                case _:
                    pass

    def join(self) -> None:
        """Return when it has ended."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


class Tree:
    """A fleet of so many stations, two to each one above them."""

    def __init__(self, stack: ExitStack, folder: Path, n_hosts: int, n_spares: int = 0) -> None:
        self.folder = folder
        self.ended = False
        script = folder / "srun"
        script.write_text(SRUN.format(folder=folder))
        script.chmod(0o700)
        self.ready: list[list[HostFacts]] = []
        self.failed: list[Outcome] = []
        self.told: list[tuple[str, Message]] = []
        self.lost: list[str] = []
        self.written: dict[int, list[bytes]] = {}
        self.stations: dict[str, Station] = {}
        self.loop = stack.enter_context(Loop((), lambda _caught: None))
        self.fleet = Fleet(
            self.loop,
            kind=Kind.SLURM,
            hosts=[f"n{index}" for index in range(n_hosts)],
            job="rankmap-x",
            look={"kind": "look", "control": "/nowhere"},
            network_prefix="^none$",
            fanout=2,
            n_spares=n_spares,
            say=lambda _text: None,
            on_ready=self.ready.append,
            on_failure=self.failed.append,
            on_message=lambda member, message: self.told.append((member.name, message)),
            on_lost=lambda member: self.lost.append(member.name),
        )
        self.fleet.take = self.take
        stack.callback(self.close)
        self.loop.call_after(LIMIT_S, self.too_late)
        self.fleet.start({**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
        self.until((folder / "ticket").exists)
        self.ticket = json.loads((folder / "ticket").read_text())

    def take(self, rank: int, end: int, data: bytes) -> None:
        """Take what a rank has written."""
        self.written.setdefault(rank, [b"", b""])[end] += data

    def start(self, *names: str) -> None:
        """Start these stations."""
        self.stations.update({name: Station(self.ticket, name) for name in names})

    def until(self, condition: Callable[[], object]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.call_after(0.02, lambda: None)
            self.loop.step()

    def too_late(self) -> None:
        """End a test that waits for what does not come."""
        raise TimeoutError(self.failed, self.told, self.lost, self.fleet.missing())

    def end(self) -> list[str]:
        """End it."""
        self.ended = True
        (self.folder / "over").touch()
        return self.fleet.end(gentle=True, hurry=lambda: False)

    def close(self) -> None:
        """Leave nothing of it."""
        if not self.ended:
            self.end()
        for station in self.stations.values():
            station.join()

    def fathers(self) -> list[str]:
        """Return before whom each station speaks to us; "" where it does so itself."""
        return ["" if one.father is None else one.father.name for one in self.fleet.members]


@pytest.fixture
def grow(tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    """Return a function that makes a tree of so many hosts."""
    with ExitStack() as stack:
        yield lambda *numbers: Tree(stack, tmp_path, *numbers)


NAMES = [f"n{index}" for index in range(8)]


def test_agents_make_a_tree_in_whatever_order_they_come(grow: Callable[..., Tree]) -> None:
    """Two speak to us, two to each of these, and so on; what is said, and what ranks write, arrives."""
    tree = grow(8)
    tree.start(*reversed(NAMES))
    tree.until(lambda: tree.ready)
    assert [NAMES] == [[facts.name for facts in ready] for ready in tree.ready]
    assert ["", "", "n0", "n0", "n1", "n1", "n2", "n2"] == tree.fathers()
    for member in tree.fleet.members:
        member.send({"kind": "echo", "data": member.index})
        member.send({"kind": "write", "rank": member.index, "n": 100_000})
    tree.until(lambda: len(tree.told) == 8)
    expected = [(name, {"kind": "echo", "by": name, "data": index}) for index, name in enumerate(NAMES)]
    assert expected == sorted(tree.told, key=lambda one: one[0])
    tree.until(lambda: sum(len(data) for ends in tree.written.values() for data in ends) == 8 * 400_000)
    assert {index: [name.encode() * 100_000] * 2 for index, name in enumerate(NAMES)} == tree.written
    tree.fleet.send_all({"kind": "echo", "data": "all"})
    tree.until(lambda: len(tree.told) == 16)
    assert NAMES == sorted(name for name, message in tree.told if message["data"] == "all")
    assert ([], []) == (tree.end(), tree.lost)


def test_reports_of_those_below_an_agent_are_made_one(grow: Callable[..., Tree]) -> None:
    """Two speak to us: each sends its own, and one of all below it; together they are the whole job's."""
    tree = grow(8)
    tree.start(*NAMES)
    tree.until(lambda: tree.ready)
    for member in tree.fleet.members:
        member.send({"kind": "report"})
    tree.until(lambda: len(tree.told) == 8)
    assert dict.fromkeys(NAMES, "report") == {name: message["kind"] for name, message in tree.told}
    parts = [Gathered.from_values(message["report"]) for _, message in tree.told if message["report"] is not None]
    assert 4 == len(parts)
    assert merged(PARTS) == merged(parts)


def test_an_agent_that_does_not_report_holds_up_no_other(
    grow: Callable[..., Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that has gone."""
    monkeypatch.setattr(gatherer, "_LONGEST_S", 0.2)
    tree = grow(6)
    tree.start(*NAMES[:6])
    tree.until(lambda: tree.ready)
    tree.fleet.members[2].send({"kind": "deaf"})
    for member in tree.fleet.members:
        member.send({"kind": "report"})
    tree.until(lambda: len(tree.told) == 5)
    assert sorted(set(NAMES[:6]) - {"n2"}) == sorted(name for name, _ in tree.told)


def test_with_an_agent_those_below_it_are_lost(grow: Callable[..., Tree]) -> None:
    """It is named first; they clear up by themselves, and nobody knows whether they did."""
    tree = grow(8)
    tree.start(*NAMES)
    tree.until(lambda: tree.ready)
    tree.fleet.members[0].send({"kind": "die"})
    tree.until(lambda: len(tree.lost) == 5)
    assert "n0" == tree.lost[0]
    assert ["n0", "n2", "n3", "n6", "n7"] == sorted(tree.lost)
    for name in tree.lost:
        tree.stations[name].join()
    assert ["n0", "n2", "n3", "n6", "n7"] == tree.end()


def test_an_agent_that_does_not_come_stands_before_nobody(
    grow: Callable[..., Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that waited for it go on to the next one; its host is a spare."""
    monkeypatch.setattr(fleet_module, "_OTHERS_S", 0.01)
    tree = grow(8, 1)
    tree.start(*NAMES[:2], *NAMES[3:])
    tree.until(lambda: len(tree.fleet._waiting) == 2)
    tree.fleet._problem(tree.fleet.members[2], 1, "n2: nobody there", "")
    tree.until(lambda: tree.ready)
    assert ["", "", "", "n0", "n1", "n1", "n0", "n0"] == tree.fathers()
    assert [name for name in NAMES if name != "n2"] == [facts.name for facts in tree.ready[0]]
    assert [] == tree.end()


def test_an_agent_that_dies_before_all_are_there_is_named_with_those_below_it(grow: Callable[..., Tree]) -> None:
    """The job cannot begin."""
    tree = grow(8)
    tree.start(*NAMES[:4])
    tree.until(lambda: all(member.facts for member in tree.fleet.members[:4]))
    tree.fleet.members[0].send({"kind": "die"})
    tree.until(lambda: tree.failed)
    assert tree.failed[0].reason.startswith("3 of 8 hosts cannot be used:\n  n0: ")


def test_an_agent_on_its_way_to_one_that_dies_is_not_waited_for(grow: Callable[..., Tree]) -> None:
    """It was told to go there; a batch system's launcher, which is still there, would not tell that it has ended."""
    tree = grow(3)
    tree.start("n0", "n1")
    father, _, child = tree.fleet.members
    tree.until(lambda: father.door)
    child.father = father  # as when it was told to
    father.send({"kind": "die"})
    tree.until(lambda: tree.failed)
    assert "2 of 3 hosts cannot be used" in tree.failed[0].reason
    assert "n2: rankmap's agent there has ended" in tree.failed[0].reason


def test_output_waits_while_there_is_no_room_for_it() -> None:
    """It is read on when there is, and nothing is lost."""
    got: list[tuple[int, int, bytes]] = []
    full = [True]
    came: list[Connection] = []
    with Loop((), lambda _caught: None) as loop:
        entrance = Entrance(
            loop,
            secret=None,
            network_prefix="^none$",
            on_agent=lambda connection, _messages: came.append(connection),
            take=lambda *piece: got.append(piece),
            crowded=lambda: full[0],
        )

        def write() -> None:
            with closing(connect(entrance.addresses, entrance.secret)) as connection:
                connection.send({"kind": "output"})
                connection.sock.sendall(frame(3, 1, b"text") + frame(3, 1, b""))

        writer = threading.Thread(target=write)
        writer.start()
        while not entrance._paused:
            loop.step()
        assert (True, []) == (entrance.reading, got)
        full[0] = False
        entrance.resume()
        while entrance.reading:
            loop.step()
        writer.join(LIMIT_S)
        assert ([(3, 1, b"text"), (3, 1, b"")], []) == (got, came)
        entrance.close()
