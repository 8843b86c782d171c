"""The links between the hosts of a job: TCP connections on which each end has proved to the other that it is ours.

Anybody on the network may connect to a port; so both ends prove that they know the job's secret before anything else
is read (HMAC over two random numbers, RFC 2104). What is sent after that is not encrypted: it is what the ranks write,
which MPI sends over the same network too.

A host that has died says nothing. The kernel finds out (SO_KEEPALIVE, TCP_USER_TIMEOUT; tcp(7)) within ``DEAD_S``.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import re
import secrets
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from rankmap.runtime.wire import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rankmap.runtime.loop import Loop

__all__ = ["DEAD_S", "PREFERRED", "Listener", "connect", "own_addresses"]

DEAD_S = 20
PREFERRED = r"^(hsn|ipogif|ib)\d+$"
"""The networks that Dragon prefers too, as a pattern of interface names (``dragon --network-prefix``)."""

_NONCE_BYTES = 16
_PROOF_BYTES = 32
_CONNECT_S = 5.0
_PAUSE_S = 0.2
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # accept(2)
_SIOCGIFADDR = 0x8915  # netdevice(7)


def own_addresses(prefix: str = PREFERRED) -> tuple[str, ...]:
    """Return this host's IPv4 addresses, those of interfaces whose names match the pattern first; never loopback.

    Source: netdevice(7), SIOCGIFADDR.
    """
    found: list[tuple[bool, str]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                address = socket.inet_ntoa(answer[20:24])
                if not address.startswith("127."):
                    found.append((re.search(prefix, name) is None, address))
    return tuple(address for _, address in sorted(found, key=lambda one: one[0]))


def _proof(secret: bytes, who: bytes, *nonces: bytes) -> bytes:
    return hmac.digest(secret, who + b"".join(nonces), "sha256")


def _set_up(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_S // 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_S // 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)


def connect(addresses: Iterable[Sequence[str | int]], secret: bytes) -> Connection:
    """Return a connection to the first of these (address, port) pairs where somebody knows the secret.

    Raises:
        OSError: There is none; the text has what each attempt came to.
    """
    tried = []
    for host, port in addresses:
        try:
            sock = socket.create_connection((str(host), int(port)), timeout=_CONNECT_S)
        except OSError as error:
            tried.append(f"{host}:{port}: {error.strerror or error}")
            continue
        try:
            _introduce(sock, secret)
        except OSError as error:
            sock.close()
            tried.append(f"{host}:{port}: {error.strerror or error}")
            continue
        _set_up(sock)
        sock.settimeout(None)
        return Connection(sock)
    raise ConnectionError("; ".join(tried) or "it has no address on a network")


def _introduce(sock: socket.socket, secret: bytes) -> None:
    """Prove that we know the secret, and make sure that the other end does."""
    mine = secrets.token_bytes(_NONCE_BYTES)
    sock.sendall(mine)
    answer = b""
    while len(answer) < _NONCE_BYTES + _PROOF_BYTES:
        if not (part := sock.recv(_NONCE_BYTES + _PROOF_BYTES - len(answer))):
            msg = "it hung up"
            raise ConnectionError(msg)
        answer += part
    theirs, proof = answer[:_NONCE_BYTES], answer[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(secret, b"s", mine, theirs)):
        msg = "somebody else listens there"
        raise ConnectionError(msg)
    sock.sendall(_proof(secret, b"c", mine, theirs))


class Listener:
    """Takes connections from those who know the secret, in a loop.

    Args:
        loop: The supervisor's.
        on_connection: Called with each.
        secret: What they have to know; None makes one.
    """

    def __init__(self, loop: Loop, on_connection: Callable[[Connection], None], secret: bytes | None = None) -> None:
        self._loop = loop
        self._on_connection = on_connection
        self.secret = secret or secrets.token_bytes(32)
        self._sock = socket.create_server(("", 0), backlog=4096)
        self._sock.settimeout(0)
        self.port: int = self._sock.getsockname()[1]
        self._newcomers: set[_Newcomer] = set()
        self._listen()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:  # who waits goes on waiting: asked again at once, the loop would spin
                self._loop.forget(self._sock)
                self._loop.call_after(_PAUSE_S, self._listen)
            return  # else it is gone again
        sock.settimeout(0)
        newcomer = _Newcomer(sock, self.secret)
        self._newcomers.add(newcomer)
        self._loop.call_when_readable(sock, lambda: self._hear(newcomer))
        self._loop.call_after(_CONNECT_S, lambda: self._drop(newcomer))

    def _listen(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.call_when_readable(self._sock, self._accept)

    def _hear(self, newcomer: _Newcomer) -> None:
        try:
            known = newcomer.hear()
        except OSError:
            self._drop(newcomer)
            return
        if known:
            self._newcomers.discard(newcomer)
            self._loop.forget(newcomer.sock)
            _set_up(newcomer.sock)
            self._on_connection(Connection(newcomer.sock))

    def _drop(self, newcomer: _Newcomer) -> None:
        if newcomer in self._newcomers:
            self._newcomers.discard(newcomer)
            self._loop.forget(newcomer.sock)
            newcomer.sock.close()

    def close(self) -> None:
        """Take no more connections."""
        for newcomer in list(self._newcomers):
            self._drop(newcomer)
        self._loop.forget(self._sock)
        self._sock.close()


class _Newcomer:
    """A connection that nothing is known of yet."""

    def __init__(self, sock: socket.socket, secret: bytes) -> None:
        self.sock = sock
        self._secret = secret
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._heard = b""

    def hear(self) -> bool:
        """Read what has come; return whether it has proved that it is ours.

        Raises:
            OSError: It is not, or it has gone.
        """
        wanted = _NONCE_BYTES + _PROOF_BYTES
        before = len(self._heard)
        with suppress(BlockingIOError):
            part = self.sock.recv(wanted - before)
            if not part:
                raise ConnectionResetError
            self._heard += part
        theirs = self._heard[:_NONCE_BYTES]
        if before < _NONCE_BYTES <= len(self._heard):
            self.sock.sendall(self._nonce + _proof(self._secret, b"s", theirs, self._nonce))
        if len(self._heard) < wanted:
            return False
        if not hmac.compare_digest(self._heard[_NONCE_BYTES:], _proof(self._secret, b"c", theirs, self._nonce)):
            raise ConnectionRefusedError
        return True
