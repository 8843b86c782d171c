from __future__ import annotations

import marshal
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankmap.errors import LaunchError
from rankmap.runtime.wire import Connection, Frames, frame, listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN = st.sampled_from((None, True, -1, 2**40, 0.5, "", "\udcff", "\n" * 300))
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.sampled_from("abc"), PLAIN, max_size=2)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """Return a connection and the plain socket at its other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours), theirs


def raw(message: Any) -> bytes:  # noqa: ANN401 - whatever marshal takes
    """Return a message as it travels."""
    body = marshal.dumps(message)
    return len(body).to_bytes(4, "big") + body


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), max_size=4),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_messages_arrive_as_they_were_sent_however_they_are_split(
    contents: list[dict[str, Any]], cuts: list[int]
) -> None:
    """Any data, any number of messages, any split: the same messages in the same order, none early."""
    messages = [{**content, "kind": "x"} for content in contents]
    data = b"".join(map(raw, messages))
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours)
        got: list[dict[str, Any]] = []
        for i in range(1, len(ends)):
            theirs.sendall(data[ends[i - 1] : ends[i]])
            got += connection.receive() or ()
    assert messages == got


def test_a_round_trip_between_two_connections(tmp_path: Path) -> None:
    """Listen, connect, send, receive; nothing to read is an empty list, the end is None."""
    with listen(tmp_path / "s", 1) as listener:
        client = Connection.connect(str(tmp_path / "s"))
        server = Connection(listener.accept()[0])
        client.send({"kind": "head", "pid": 7, "text": "\udcff"})
        assert server.receive() == [{"kind": "head", "pid": 7, "text": "\udcff"}]
        server.sock.settimeout(0)
        assert server.receive() == []
        assert server.fileno() == server.sock.fileno()
        client.close()
        assert server.receive() is None
        server.close()


def test_a_message_larger_than_the_sockets_buffer_arrives(pair: tuple[Connection, socket.socket]) -> None:
    """The receiver gathers parts; what is not whole yet is no message."""
    connection, other = pair
    other.settimeout(0)
    data = raw({"kind": "x", "text": "y" * 3_000_000})
    messages: list[dict[str, Any]] = []
    while data:
        data = data[other.send(data) :]
        messages += connection.receive() or ()
        assert bool(messages) <= (not data)
    connection.sock.settimeout(0)
    while not messages:
        messages += connection.receive() or ()
    assert [len(message["text"]) for message in messages] == [3_000_000]


def test_file_descriptors_travel_beside_a_message(pair: tuple[Connection, socket.socket]) -> None:
    """The other end gets duplicates: closing ours takes nothing from it."""
    connection, other = pair
    read_end, write_end = os.pipe()
    connection.send({"kind": "go"}, [write_end])
    os.close(write_end)
    data, fds, _, _ = socket.recv_fds(other, 1000, 4)
    os.write(fds[0], b"hello")
    os.close(fds[0])
    with os.fdopen(read_end, "rb") as reader:
        assert (raw({"kind": "go"}), b"hello") == (data, reader.read())


def test_sending_to_an_end_that_is_gone_raises(pair: tuple[Connection, socket.socket]) -> None:
    """The caller decides what that means."""
    connection, other = pair
    other.close()
    with pytest.raises(OSError, match="pipe"):
        connection.send({"kind": "x"})


def test_an_end_whose_network_has_died_is_gone() -> None:
    """Whatever error the kernel has for it: here that of a socket that was never connected."""
    with socket.socket() as lone:
        assert None is Connection(lone).receive()


@pytest.mark.parametrize(
    "data",
    [
        (3).to_bytes(4, "big") + b"\xff\xff\xff",
        (0).to_bytes(4, "big"),
        raw({"kind": "x"})[:4] + bytes(len(raw({"kind": "x"})) - 4),
        b"GET / HTTP/1.1\r\n",
        b"\xff" * 8,
        raw(["kind"]),
        raw({"no": "kind"}),
        raw({"kind": 3}),
    ],
)
def test_what_is_no_message_is_a_launch_error(data: bytes, pair: tuple[Connection, socket.socket]) -> None:
    """Garbage, absurd lengths, values that are no dict with a kind: never a traceback of another type."""
    connection, other = pair
    other.sendall(data)
    with pytest.raises(LaunchError, match="rankmap's socket"):
        connection.receive()


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1), st.sampled_from((0, 1)), st.sampled_from((b"", b"x", b"\0" * 9, b"line\n" * 300))
        ),
        max_size=5,
    ),
    st.lists(st.integers(0, 4000), max_size=8),
)
def test_frames_arrive_as_they_were_sent_however_they_are_split(
    frames: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    """Any rank, any data, nothing at all too (the end of a rank's output): the same frames in order, none early."""
    data = b"".join(frame(*one) for one in frames)
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        reader = Frames(Connection(ours))
        got: list[tuple[int, int, bytes]] = []
        for i in range(1, len(ends)):
            theirs.sendall(data[ends[i - 1] : ends[i]])
            got += reader.read() or ()
        assert frames == got
        assert [] == reader.read()
        theirs.close()
        assert reader.read() is None


def test_a_frame_larger_than_the_sockets_buffer_arrives(pair: tuple[Connection, socket.socket]) -> None:
    """What a rank has written at once may be more than is read at once."""
    connection, other = pair
    connection.sock.settimeout(0)
    other.settimeout(0)
    reader = Frames(connection)
    data = frame(7, 1, b"y" * 3_000_000) + frame(7, 1, b"")
    got: list[tuple[int, int, bytes]] = []
    while len(got) < 2:
        data = data[other.send(data) :] if data else data
        got += reader.read() or ()
    assert [(7, 1, 3_000_000), (7, 1, 0)] == [(rank, end, len(text)) for rank, end, text in got]
    assert reader.fileno() == connection.fileno()


def test_frames_of_a_host_that_is_gone_end(pair: tuple[Connection, socket.socket]) -> None:
    """Also where it has not said goodbye (RST), and in the middle of one: what had come whole was read before."""
    connection, other = pair
    connection.sock.settimeout(0)
    reader = Frames(connection)
    other.sendall(frame(0, 0, b"whole") + frame(0, 0, b"torn")[:-1])
    assert [(0, 0, b"whole")] == reader.read()
    connection.sock.send(b"unread")  # what is unread at a close makes it a reset
    other.close()
    assert reader.read() is None
    reader.close()
