"""The relay as Dragon's launcher starts it in the place of ssh: a process of its own, and a server of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.runtime import relay
from rankmap.runtime.wire import Connection, Message, listen
from tests.children import LIMIT_S

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

RELAY = str(Path(relay.__file__))


class Started:
    """A relay, and the supervisor's end of its connection."""

    def __init__(self, process: subprocess.Popen[bytes], listener: socket.socket) -> None:
        self.process = process
        self.connection = Connection(listener.accept()[0])
        self.connection.sock.settimeout(LIMIT_S)
        messages = self.connection.receive()
        assert messages is not None
        self.asked: Message = messages[0] if messages else {}
        """What it wants, if that is not too long to come at once."""

    def says(self, end: int, data: bytes) -> None:
        """Let the other host write this."""
        self.connection.send({"kind": "said", "number": 1, "end": end, "data": data})

    def exits(self, status: int) -> None:
        """Let the command there end."""
        self.connection.send({"kind": "exited", "number": 1, "status": status})

    def ended(self) -> tuple[int, bytes, bytes]:
        """Return the status, and what has come out on both ends."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Return a function that starts the relay with these words."""
    all_started: list[Started] = []
    with listen(tmp_path / "s", 1) as listener:
        listener.settimeout(LIMIT_S)

        def call(*words: str) -> Started:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", RELAY, str(tmp_path / "s"), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
            )
            all_started.append(Started(process, listener))
            return all_started[-1]

        yield call
    for started in all_started:
        started.connection.close()
        started.process.kill()
        with started.process:  # closes the pipes and waits
            pass


@pytest.mark.parametrize(
    "words",
    [
        ("n1", "cd /tmp && echo a b"),
        ("-oBatchMode=yes", "n1", "cd /tmp && echo a b"),
        ("-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-n", "n1", "cd /tmp &&", "echo a b"),
    ],
)
def test_what_stands_behind_the_host_is_run_there(words: tuple[str, ...], start: Callable[..., Started]) -> None:
    """Options of ssh mean nothing here; several words are one command, with spaces between, as ssh(1) has it."""
    started = start(*words)
    assert {"kind": "remote", "host": "n1", "command": "cd /tmp && echo a b"} == started.asked
    started.exits(0)
    assert (0, b"", b"") == started.ended()


def test_options_of_the_command_are_its_own(start: Callable[..., Started]) -> None:
    """They stand behind the host."""
    started = start("n1", "ls", "-l")
    assert "ls -l" == started.asked["command"]
    started.exits(0)
    assert 0 == started.ended()[0]


@pytest.mark.parametrize("status", [0, 1, 255])
def test_what_is_said_there_is_said_here(status: int, start: Callable[..., Started]) -> None:
    """On the end that it was written to, in order and as it was written, and with the status of the command."""
    started = start("n1", "x")
    for end, data in ((1, b"one "), (2, b"err\0\xff"), (1, b"two\n")):
        started.says(end, data)
    started.exits(status)
    assert (status, b"one two\n", b"err\0\xff") == started.ended()


def test_much_at_once_arrives_whole(start: Callable[..., Started]) -> None:
    """More than is read at once, and than the pipe to Dragon's launcher holds."""
    started = start("n1", "x")
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(started.ended)
        started.says(1, b"x" * 3_000_000)
        started.says(2, b"e" * 3_000_000)
        started.says(1, b"y")
        started.exits(0)
        assert (0, b"x" * 3_000_000 + b"y", b"e" * 3_000_000) == done.result()


def test_a_supervisor_that_is_gone_is_a_lost_connection(start: Callable[..., Started]) -> None:
    """As ssh(1) says it: 255; what had come was passed on."""
    started = start("n1", "x")
    started.says(1, b"begun")
    started.connection.close()
    assert (255, b"begun", b"") == started.ended()


def test_a_supervisor_that_is_killed_is_a_lost_connection(start: Callable[..., Started]) -> None:
    """It has not heard all: the kernel says so (ECONNRESET) instead of an end."""
    started = start("n1", "x" * 100_000, "y" * 100_000)
    started.connection.close()
    status, out, err = started.ended()
    assert (255, b"") == (status, out)
    assert b"Traceback" not in err


def test_the_end_of_dragons_launcher_takes_the_relay_with_it(start: Callable[..., Started]) -> None:
    """Whoever reads its output is gone: it does not stay, and the supervisor hears of that."""
    started = start("n1", "x")
    assert started.process.stdout is not None
    started.process.stdout.close()
    started.says(1, b"nobody reads this")
    assert started.connection.receive() is None
    assert 255 == started.process.wait(LIMIT_S)


def test_without_a_supervisor_it_fails(tmp_path: Path) -> None:
    """The job is over: nothing is started."""
    words = [sys.executable, "-I", "-S", "-B", RELAY, str(tmp_path / "none"), "n1", "x"]
    done = subprocess.run(words, capture_output=True, check=False, timeout=LIMIT_S, env=dict(os.environ))
    assert (255, b"", b"rankmap: the connection to the job is gone: No such file or directory\n") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )
