"""Unit tests of rankmap.runtime.link: who gets a link between hosts and who does not, with real sockets."""

from __future__ import annotations

import re
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from rankmap.runtime import link
from rankmap.runtime.link import Listener, connect, own_addresses
from rankmap.runtime.loop import Loop
from tests.children import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from rankmap.runtime.wire import Connection

T = TypeVar("T")
HERE = "127.0.0.1"
ANSWER_BYTES = link._NONCE_BYTES + link._PROOF_BYTES


class Supervisor:
    """The end that listens, in this thread; who connects does so in another."""

    def __init__(self) -> None:
        self.loop = Loop((), lambda _caught: None)
        self.came: list[Connection] = []
        self.listener = Listener(self.loop, self.came.append)
        self.closed = False
        self._pool = ThreadPoolExecutor(1)

    @property
    def secret(self) -> bytes:
        """What both ends have to know."""
        return self.listener.secret

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.listener.port

    def watched(self) -> list[object]:
        """Return what the loop watches."""
        return [key.fileobj for key in self.loop._selector.get_map().values()]

    def until(self, condition: Callable[[], bool]) -> None:
        """Serve who comes until the condition holds."""
        while not condition():
            self.loop.step()

    def serve(self, action: Callable[[], T]) -> Future[T]:
        """Do this in the other thread, and serve until it is done."""
        done = self._pool.submit(action)
        done.add_done_callback(lambda _done: self.loop.wake())
        self.until(done.done)
        return done

    def close(self) -> None:
        """Leave nothing of it."""
        for connection in self.came:
            connection.close()
        if not self.closed:
            self.listener.close()
        self._pool.shutdown()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """Return one that listens."""
    made = Supervisor()

    def too_late() -> None:
        raise TimeoutError

    with made.loop:
        made.loop.call_after(LIMIT_S, too_late)
        yield made
        made.close()


@contextmanager
def stranger(*say: bytes, hang_up: bool = True) -> Iterator[int]:
    """Listen at a port, say this to who comes, piece by piece as it says something itself; give the port."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HERE, 0)))
        over = threading.Event()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                for piece in say:
                    sock.recv(1 << 10)
                    sock.sendall(piece)
                if not hang_up:
                    over.wait(LIMIT_S)

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        yield listener.getsockname()[1]


def test_who_knows_the_secret_gets_a_link(supervisor: Supervisor) -> None:
    """What is said at once, right behind the proof, arrives; and so do answers."""

    def come() -> list[dict[str, object]] | None:
        connection = connect([(HERE, supervisor.port)], supervisor.secret)
        connection.send({"kind": "agent", "index": 3})
        answer = connection.receive()
        connection.close()
        return answer

    def greet() -> None:
        (connection,) = supervisor.came
        if connection.receive() == [{"kind": "agent", "index": 3}]:
            supervisor.loop.forget(connection)
            connection.send({"kind": "look"})

    def take(connection: Connection) -> None:
        supervisor.came.append(connection)
        supervisor.loop.call_when_readable(connection, greet)

    supervisor.listener._on_connection = take
    assert [{"kind": "look"}] == supervisor.serve(come).result()
    assert 1 == len(supervisor.came)


def test_a_link_notices_that_its_other_end_is_dead(supervisor: Supervisor) -> None:
    """A host without power sends no end: both ends ask the kernel to find out."""
    connection = supervisor.serve(lambda: connect([(HERE, supervisor.port)], supervisor.secret)).result()
    supervisor.until(lambda: bool(supervisor.came))
    for sock in (connection.sock, supervisor.came[0].sock):
        assert 1 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert link.DEAD_S * 1000 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= link.DEAD_S
    connection.close()


def test_who_does_not_know_the_secret_gets_none(supervisor: Supervisor) -> None:
    """It takes the supervisor for somebody else, too: an agent of another job has come to this port."""
    with pytest.raises(ConnectionError, match=rf"^{HERE}:{supervisor.port}: somebody else listens there$"):
        supervisor.serve(lambda: connect([(HERE, supervisor.port)], b"x" * 32)).result()
    supervisor.until(lambda: not supervisor.listener._newcomers)
    assert [] == supervisor.came


@pytest.mark.parametrize("size", [ANSWER_BYTES, ANSWER_BYTES + 100])
def test_who_claims_to_know_it_gets_none(size: int, supervisor: Supervisor) -> None:
    """Whatever else comes: it is answered once, and then not heard any more."""

    def intrude() -> bytes:
        with socket.create_connection((HERE, supervisor.port), timeout=LIMIT_S) as sock:
            sock.sendall(bytes(size))
            heard = b""
            try:
                while part := sock.recv(1 << 10):
                    heard += part
            except ConnectionResetError:
                pass
            return heard

    assert len(supervisor.serve(intrude).result()) <= ANSWER_BYTES
    supervisor.until(lambda: not supervisor.listener._newcomers)
    assert [] == supervisor.came


def test_its_own_proof_sent_back_is_none(supervisor: Supervisor) -> None:
    """The two ends prove it in different words, so nobody can have one answer for the other."""

    def reflect() -> bytes:
        with socket.create_connection((HERE, supervisor.port), timeout=LIMIT_S) as sock:
            sock.sendall(bytes(link._NONCE_BYTES))
            answer = b""
            while len(answer) < ANSWER_BYTES:
                answer += sock.recv(ANSWER_BYTES)
            sock.sendall(answer[link._NONCE_BYTES :])
            return sock.recv(1)

    assert b"" == supervisor.serve(reflect).result()
    assert [] == supervisor.came


def test_who_proves_it_byte_by_byte_gets_a_link(supervisor: Supervisor) -> None:
    """A network may cut anything."""

    def come() -> None:
        with socket.create_connection((HERE, supervisor.port), timeout=LIMIT_S) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mine = bytes(range(link._NONCE_BYTES))
            for byte in mine:
                sock.sendall(bytes([byte]))
            answer = b""
            while len(answer) < ANSWER_BYTES:
                answer += sock.recv(ANSWER_BYTES)
            theirs, proof = answer[: link._NONCE_BYTES], answer[link._NONCE_BYTES :]
            assert proof == link._proof(supervisor.secret, b"s", mine, theirs)
            for byte in link._proof(supervisor.secret, b"c", mine, theirs):
                sock.sendall(bytes([byte]))

    supervisor.serve(come).result()
    supervisor.until(lambda: bool(supervisor.came))


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1"])
def test_who_says_nothing_more_is_not_kept(
    said: bytes, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan of the network, or somebody who holds connections open: it has its time, and no more."""
    monkeypatch.setattr(link, "_CONNECT_S", 0.05)

    def scan() -> bytes:
        with socket.create_connection((HERE, supervisor.port), timeout=LIMIT_S) as sock:
            sock.sendall(said)
            return sock.recv(1)

    assert b"" == supervisor.serve(scan).result()
    assert (set(), []) == (supervisor.listener._newcomers, supervisor.came)


def test_a_port_of_somebody_elses_is_told_from_ours() -> None:
    """It hangs up, it talks of something else, it says nothing at all."""
    with (
        stranger() as one,
        stranger(b"HTTP/1.1 400 Bad Request\r\n" + b"\0" * 100) as other,
        pytest.raises(ConnectionError) as caught,
    ):
        connect([(HERE, one), (HERE, other)], b"x" * 32)
    hung_up, somebody = str(caught.value).split("; ")
    assert re.fullmatch(rf"{HERE}:{one}: (it hung up|Connection reset by peer)", hung_up)
    assert f"{HERE}:{other}: somebody else listens there" == somebody


def test_a_port_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while."""
    monkeypatch.setattr(link, "_CONNECT_S", 0.05)
    with stranger(hang_up=False) as port, pytest.raises(ConnectionError, match=f"^{HERE}:{port}: timed out$"):
        connect([(HERE, port)], b"x" * 32)


def test_the_first_address_that_answers_is_taken(supervisor: Supervisor) -> None:
    """A host has several networks, and not all of them reach every other host."""
    with socket.create_server((HERE, 0)) as gone:
        dead = gone.getsockname()[1]
    with stranger() as wrong:
        addresses = [[HERE, dead], [HERE, wrong], [HERE, supervisor.port], [HERE, 1]]
        connection = supervisor.serve(lambda: connect(addresses, supervisor.secret)).result()
    supervisor.until(lambda: bool(supervisor.came))
    connection.close()


@pytest.mark.parametrize("addresses", [[], [[HERE, 1], [HERE, 2]]])
def test_where_nothing_answers_it_is_said_of_each(addresses: list[list[str | int]]) -> None:
    """Nobody has ports 1 and 2."""
    with pytest.raises(ConnectionError) as caught:
        connect(addresses, b"x" * 32)
    said = "; ".join(f"{host}:{port}: Connection refused" for host, port in addresses)
    assert (said or "it has no address on a network") == str(caught.value)


def test_nobody_can_connect_after_the_close(supervisor: Supervisor) -> None:
    """And who had only come so far is sent away."""
    with socket.create_connection((HERE, supervisor.port), timeout=LIMIT_S) as sock:
        supervisor.until(lambda: bool(supervisor.listener._newcomers))
        supervisor.listener.close()
        supervisor.closed = True
        assert b"" == sock.recv(1)
    with pytest.raises(ConnectionError, match="Connection refused"):
        connect([(HERE, supervisor.port)], supervisor.secret)


def test_without_a_descriptor_left_who_comes_waits_and_the_loop_does_not_spin(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again only after a while; by then there may be one."""
    monkeypatch.setattr(link, "_PAUSE_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock:
        resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"), socket.socket():
                pass
            sock.connect((HERE, supervisor.port))
            supervisor.loop.step()
            assert supervisor.listener._sock not in supervisor.watched()
            supervisor.until(lambda: supervisor.listener._sock in supervisor.watched())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        supervisor.until(lambda: bool(supervisor.listener._newcomers))


def test_the_addresses_of_this_host_are_its_own() -> None:
    """Each can be listened at, none is loopback's; which interfaces come first changes nothing else."""
    addresses = own_addresses()
    for address in addresses:
        with socket.create_server((address, 0)):
            pass
    assert not any(address.startswith("127.") for address in addresses)
    assert sorted(addresses) == sorted(own_addresses("^no such interface$"))
