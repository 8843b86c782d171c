from __future__ import annotations

import os
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rankmap.runtime.pmi_link import connected, server_ports
from tests.children import LIMIT_S, child, python

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.children import Child

CONNECTS = """
import os, socket, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(os.getpid(), flush=True)
for line in sys.stdin:
    if line.strip() == "close":
        link.close()
    else:
        link.recv(1)
    print(line.strip(), flush=True)
"""
SERVES = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
link = listener.accept()[0]
print("accepted", flush=True)
sys.stdin.read()
"""
STARTS_ONE_THAT_CONNECTS = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {CONNECTS!r}, *sys.argv[1:]])
"""


class Server(NamedTuple):
    """Where a PMIx server would listen."""

    listener: socket.socket
    address: str
    port: int

    def accept(self) -> socket.socket:
        """Return the server's end of the next connection."""
        return self.listener.accept()[0]


@contextmanager
def listening(address: str) -> Iterator[Server]:
    """Listen at a port of the kernel's choice."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.create_server((address, 0), family=family)) as listener:
        listener.settimeout(LIMIT_S)
        yield Server(listener, address, listener.getsockname()[1])


@pytest.fixture
def server() -> Iterator[Server]:
    """Return one on 127.0.0.1."""
    with listening("127.0.0.1") as made:
        yield made


@contextmanager
def client(server: Server, code: str = CONNECTS) -> Iterator[tuple[Child, socket.socket]]:
    """Start a process that connects; the other value is the server's end."""
    with python(code, server.address, str(server.port)) as process, closing(server.accept()) as theirs:
        yield process, theirs


def asked(server: Server, *pids: int) -> frozenset[int]:
    """Return which of the ranks 0, 1, ... with these pids are connected to it."""
    return connected({rank: (pid, frozenset({server.port})) for rank, pid in enumerate(pids)})


@pytest.mark.parametrize(
    ("uris", "ports"),
    [
        ([], set()),
        (["dragon.1234.0;tcp4://127.0.0.1:59823"], {59823}),
        (["a;tcp6://[::1]:4000", "a;tcp4://10.0.0.1:4001", "a;tcp4://10.0.0.1:4001"], {4000, 4001}),
        (["a;tcp4://127.0.0.1:59823;v5.0"], {59823}),
        (["a;usock:/tmp/x:1", "", "tcp4://127.0.0.1", "tcp4://127.0.0.1:port"], set()),
    ],
)
def test_the_ports_in_what_a_rank_was_offered(uris: list[str], ports: set[int]) -> None:
    """IPv4 and IPv6, once each; what is no TCP address has none."""
    assert ports == server_ports(uris)


def test_a_rank_is_connected_until_it_closes(server: Server) -> None:
    """PMIx_Finalize closes, and the process goes on."""
    with client(server) as (rank, _theirs):
        assert int(rank.hear()) == rank.pid
        assert asked(server, rank.pid) == {0}
        rank.say("close")
        assert rank.hear() == "close"
        assert asked(server, rank.pid) == set()


def test_each_rank_is_asked_for_itself(server: Server) -> None:
    """Two are connected, one between them is not."""
    with client(server) as (first, _), client(server) as (second, _), child("sleep", "60") as idle:
        assert {int(first.hear()), int(second.hear())} == {first.pid, second.pid}
        assert asked(server, first.pid, idle.pid, second.pid) == {0, 2}


def test_a_program_that_the_rank_has_started_counts(server: Server) -> None:
    """The rank may be a shell script."""
    with client(server, STARTS_ONE_THAT_CONNECTS) as (rank, _theirs):
        below = int(rank.hear())
        assert below != rank.pid
        assert asked(server, rank.pid) == {0}
        rank.say("close")
        assert rank.hear() == "close"
        assert asked(server, rank.pid) == set()


def test_a_connection_to_another_port_is_another_thing(server: Server) -> None:
    """Ranks may have connections of any kind; one port of several is enough."""
    with client(server) as (rank, _theirs), listening("127.0.0.1") as other:
        rank.hear()
        assert asked(other, rank.pid) == set()
        assert connected({0: (rank.pid, frozenset({server.port, other.port}))}) == {0}


def test_the_servers_own_end_does_not_count() -> None:
    """It is the client's end that has the port on its far side."""
    with python(SERVES) as process:
        port = int(process.hear())
        with closing(socket.create_connection(("127.0.0.1", port))):
            assert process.hear() == "accepted"
            assert connected({0: (process.pid, frozenset({port}))}) == set()


def test_a_rank_without_a_server_is_not_connected(server: Server) -> None:
    """No MPI job, or a PMI that we know nothing of."""
    with client(server) as (rank, _theirs):
        rank.hear()
        assert connected({0: (rank.pid, frozenset())}) == set()
        assert connected({}) == set()


def test_a_connection_that_the_server_has_closed_is_none(server: Server) -> None:
    """A rank whose server is gone waits for nobody."""
    with client(server) as (rank, theirs):
        rank.hear()
        theirs.close()
        rank.say("read")
        assert rank.hear() == "read"
        assert asked(server, rank.pid) == set()


def test_a_rank_that_has_ended_is_not_connected(server: Server) -> None:
    """Neither as a zombie nor when its pid is gone."""
    with client(server) as (rank, _theirs):
        rank.hear()
        rank.process.kill()
        os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOWAIT)
        assert asked(server, rank.pid) == set()
    assert asked(server, rank.pid) == set()


def test_a_connection_over_ipv6_counts() -> None:
    """The kernel lists it in a file of its own."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listening("::1") as server, client(server) as (rank, _theirs):
        rank.hear()
        assert asked(server, rank.pid) == {0}
