"""Unit tests of rankmap.runtime.door: who comes to a job's socket, and what they say first."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from rankmap.errors import LaunchError
from rankmap.runtime.door import Door
from rankmap.runtime.loop import Loop
from rankmap.runtime.wire import Connection
from tests.children import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rankmap.runtime.wire import Message


class Host:
    """A host with a door, and who has come through it."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop((), lambda _caught: None)
        self.path = path
        self.came: list[tuple[Connection, Message]] = []
        self.door = Door(self.loop, path, lambda connection, message: self.came.append((connection, message)))

    def until(self, condition: Callable[[], object]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.step()

    def connect(self) -> Connection:
        """Come to the door."""
        connection = Connection.connect(str(self.path))
        connection.sock.settimeout(LIMIT_S)
        return connection


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Return one whose door is open."""
    made = Host(tmp_path / "s")
    with made.loop, made.door:
        made.loop.call_after(LIMIT_S, too_late)
        yield made
        left = [key.fileobj for key in made.loop._selector.get_map().values()]
    for connection in left:
        if isinstance(connection, Connection):
            connection.close()


def too_late() -> None:
    """End a test that waits for what does not come."""
    raise TimeoutError


def test_each_that_comes_is_passed_on_with_what_it_says(host: Host) -> None:
    """Whoever speaks first; one that says nothing yet keeps nobody waiting."""
    silent, early, late = host.connect(), host.connect(), host.connect()
    early.send({"kind": "shim", "rank": 1})
    host.until(lambda: host.came)
    late.send({"kind": "head"})
    host.until(lambda: len(host.came) == 2)
    silent.send({"kind": "shim", "rank": 0})
    host.until(lambda: len(host.came) == 3)
    said = [{"kind": "shim", "rank": 1}, {"kind": "head"}, {"kind": "shim", "rank": 0}]
    assert said == [message for _, message in host.came]
    host.came[0][0].send({"kind": "go"})
    assert [{"kind": "go"}] == early.receive()
    for connection in (silent, early, late):
        connection.close()


def test_what_it_says_later_is_for_whoever_has_taken_it(host: Host) -> None:
    """Who hears it in the loop instead."""
    caller = host.connect()
    caller.send({"kind": "head"})
    host.until(lambda: host.came)
    ((connection, _),) = host.came
    heard: list[Message] = []
    host.loop.call_when_readable(connection, lambda: heard.extend(connection.receive() or ()))
    caller.send({"kind": "up"})
    host.until(lambda: heard)
    assert ([{"kind": "up"}], 1) == (heard, len(host.came))
    caller.close()


def test_one_that_goes_without_a_word_is_forgotten(host: Host) -> None:
    """Its end here is closed, and the next one is served."""
    caller = host.connect()
    caller.sock.shutdown(socket.SHUT_WR)
    host.loop.step()  # it comes
    host.loop.step()  # it goes
    assert None is caller.receive()
    caller.close()
    other = host.connect()
    other.send({"kind": "head"})
    host.until(lambda: host.came)
    assert [{"kind": "head"}] == [message for _, message in host.came]
    other.close()


def test_what_is_no_message_is_the_end_of_it(host: Host) -> None:
    """Only the user's own processes can come here: it is a mistake of ours."""
    caller = host.connect()
    caller.sock.sendall(b"\0\0\0\1x")
    with pytest.raises(LaunchError, match="not a message"):
        host.until(lambda: host.came)
    caller.close()


def test_a_door_that_is_closed_is_no_way_in(host: Host) -> None:
    """The job is over."""
    host.door.__exit__()
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(str(host.path))


def test_who_has_said_nothing_when_the_door_is_closed_hears_of_it(host: Host) -> None:
    """Come in or not yet; who has spoken stays. It may be closed twice."""
    spoke, silent = host.connect(), host.connect()
    spoke.send({"kind": "head"})
    host.until(lambda: host.came)
    waits = host.connect()
    host.door.close()
    host.door.close()
    for connection in (silent, waits):
        with suppress(ConnectionResetError):
            assert None is connection.receive()
        connection.close()
    host.came[0][0].send({"kind": "start"})
    assert [{"kind": "start"}] == spoke.receive()
    spoke.close()
