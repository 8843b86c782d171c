"""Unit tests of rankmap.runtime.rank_pipes: what ranks write to their pipes, and when the end of it is waited for."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from rankmap.runtime.loop import Loop
from rankmap.runtime.rank_pipes import RankPipes
from tests.children import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20


class Bucket:
    """Takes what ranks write, as long as there is room."""

    def __init__(self) -> None:
        self.got: dict[tuple[int, int], bytes] = {}
        self.ended: list[tuple[int, int]] = []
        self.is_full = False
        self.is_taken = True

    def feed(self, rank: int, end: int, data: bytes) -> None:
        """Take it."""
        assert (rank, end) not in self.ended
        if data:
            self.got[rank, end] = self.got.get((rank, end), b"") + data
        else:
            self.ended.append((rank, end))

    def full(self, rank: int, end: int) -> bool:
        """Return whether there is no room for what comes from there."""
        assert (rank, end) not in self.ended
        return self.is_full

    def taken(self) -> bool:
        """Return whether it has gone on its way."""
        return self.is_taken


class Host:
    """A host's loop, the pipes of its ranks, and who takes what comes."""

    def __init__(self) -> None:
        self.loop = Loop((), lambda _caught: None)
        self.bucket = Bucket()
        self.pipes = RankPipes(self.loop, self.bucket)

    def turn(self) -> None:
        """Serve what is ready, once."""
        self.loop.call_after(0, lambda: None)
        self.loop.step()

    def until(self, condition: Callable[[], bool]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.step()


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a host without ranks."""
    made = Host()

    def too_late() -> None:
        raise TimeoutError

    with made.loop:
        made.loop.call_after(LIMIT_S, too_late)
        yield made
        made.pipes.close()


def close(*fds: int) -> None:
    """End what writes to these."""
    for fd in fds:
        os.close(fd)


def test_what_each_rank_writes_is_passed_on_with_its_rank_and_end(host: Host) -> None:
    """As it comes, in order; the end of each end is told, and when all have come it is drained."""
    fds = {(rank, end): fd for rank in (3, 5) for end, fd in enumerate(host.pipes.open(rank))}
    os.write(fds[5, 1], b"err")
    os.write(fds[3, 0], b"one ")
    host.turn()
    assert {(5, 1): b"err", (3, 0): b"one "} == host.bucket.got
    os.write(fds[3, 0], b"two")
    close(*fds.values())
    host.until(host.pipes.drained)
    assert ({(5, 1): b"err", (3, 0): b"one two"}, sorted(fds)) == (host.bucket.got, sorted(host.bucket.ended))


def test_what_there_is_no_room_for_is_not_read(host: Host) -> None:
    """Memory is bounded: a rank waits in write(2) until there is room again, and nothing is lost."""
    fds = host.pipes.open(0)
    host.bucket.is_full = True
    os.set_blocking(fds[0], False)
    n_written = 0
    with suppress(BlockingIOError):
        while True:
            n_written += os.write(fds[0], b"x" * 4096)
            host.turn()
    assert n_written < MIB
    assert {} == host.bucket.got
    host.pipes.resume()  # there was none after all: it goes back to waiting
    host.turn()
    assert {} == host.bucket.got
    host.bucket.is_full = False
    close(*fds)
    host.pipes.resume()
    host.until(host.pipes.drained)
    assert n_written == len(host.bucket.got[0, 0])


def test_it_is_not_drained_before_what_came_was_taken(host: Host) -> None:
    """The ranks have closed their ends, and a slow reader has not had all."""
    host.bucket.is_taken = False
    close(*host.pipes.open(0))
    host.until(lambda: len(host.bucket.ended) == 2)
    assert not host.pipes.drained()
    host.bucket.is_taken = True
    assert host.pipes.drained()


def test_output_that_a_child_keeps_open_is_passed_on_at_close(host: Host) -> None:
    """A daemon of a rank may hold its stdout for ever: what came is passed on with an end, the rest is let go."""
    fds = host.pipes.open(0)
    os.write(fds[0], b"begun")
    host.turn()
    assert (False, True) == (host.pipes.drained(), host.pipes.stalled())
    os.write(fds[0], b", and more")
    host.pipes.close()
    assert ({(0, 0): b"begun, and more"}, [(0, 0), (0, 1)]) == (host.bucket.got, sorted(host.bucket.ended))
    assert host.pipes.drained()
    with pytest.raises(BrokenPipeError):
        os.write(fds[0], b"x")
    close(*fds)


def test_what_waited_for_room_is_not_read_after_the_close(host: Host) -> None:
    """Room may come later; what was closed by then is left alone, and so is a file that has its number since."""
    fds = host.pipes.open(0)
    host.bucket.is_full = True
    os.write(fds[0], b"all of it")
    host.turn()
    host.pipes.close()
    assert {(0, 0): b"all of it"} == host.bucket.got
    host.bucket.is_full = False
    host.pipes.resume()
    host.turn()
    close(*fds)


def test_a_slow_reader_is_no_stall(host: Host) -> None:
    """What waits to be taken is waited for, read or unread; what somebody holds open is not."""
    fds = host.pipes.open(0)
    host.bucket.is_taken = False
    assert not host.pipes.stalled()
    host.bucket.is_taken, host.bucket.is_full = True, True
    os.write(fds[0], b"y")
    host.turn()
    assert (False, False) == (host.pipes.drained(), host.pipes.stalled())
    host.bucket.is_full = False
    host.pipes.resume()
    host.until(lambda: bool(host.bucket.got))
    assert (False, True) == (host.pipes.drained(), host.pipes.stalled())
    close(*fds)
    host.until(host.pipes.drained)


def test_more_than_pipes_hold_comes_from_somebody_who_is_no_rank(host: Host) -> None:
    """When all ranks have ended: whoever writes on and on is not waited for, whatever the reader does."""
    fds = host.pipes.open(0)
    host.pipes.count_from_here()
    while len(host.bucket.got.get((0, 0), b"")) <= 2 * MIB:  # 1 MiB for each of stdout and stderr
        os.write(fds[0], b"x" * 4096)
        host.turn()
    host.bucket.is_taken = False
    assert host.pipes.stalled()
    host.pipes.count_from_here()
    assert not host.pipes.stalled()
    close(*fds)
    host.until(lambda: len(host.bucket.ended) == 2)


def test_whoever_writes_on_and_on_is_not_waited_for_at_close(host: Host) -> None:
    """As much as a pipe holds is read, and no more."""
    fds = host.pipes.open(0)
    endless = os.open("/dev/zero", os.O_RDONLY)
    pid = os.posix_spawn(
        "/bin/cat",
        ["cat"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, endless, 0), (os.POSIX_SPAWN_DUP2, fds[0], 1)],
    )
    host.turn()
    host.pipes.close()
    close(*fds, endless)
    os.waitpid(pid, 0)  # SIGPIPE
    assert len(host.bucket.got.get((0, 0), b"")) <= 2 * MIB
