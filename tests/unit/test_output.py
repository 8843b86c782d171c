from __future__ import annotations

import errno
import itertools
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankmap.runtime.output import LineAssembler, Outlet, Writer
from tests.children import LIMIT_S, read_some
from tests.small_disk import FULL, files_end_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the data cut at these positions."""
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(LINES, st.binary(max_size=12).filter(lambda rest: b"\n" not in rest), st.lists(st.integers(0, 200), max_size=8))
def test_lines_come_out_whole_and_labelled_however_they_were_cut(
    lines: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    """For any split of any bytes the result is each line behind the label, and each call gives whole lines only."""
    data = b"".join(line + b"\n" for line in lines) + rest
    assembler = LineAssembler(b"[3] ")
    parts = [assembler.feed(piece) for piece in pieces(data, cuts)]
    assert all(not part or part.endswith(b"\n") for part in parts)
    expected = b"".join(b"[3] " + line + b"\n" for line in lines) + (b"[3] " + rest if rest else b"")
    assert expected == b"".join(parts) + assembler.end()
    assert assembler.end() == b""


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=100), st.lists(st.integers(0, 200), max_size=8))
def test_without_a_label_every_byte_comes_out_as_it_went_in(data: bytes, cuts: list[int]) -> None:
    """Carriage returns, zeros and half characters are the application's business."""
    for assembler in (LineAssembler(), LineAssembler(whole_lines=False)):
        assert data == b"".join(map(assembler.feed, pieces(data, cuts))) + assembler.end()


def test_one_rank_without_a_label_is_passed_on_at_once() -> None:
    """A prompt without a newline is seen; between several ranks it waits for its line."""
    assert LineAssembler(whole_lines=False).feed(b"name? ") == b"name? "
    assert LineAssembler().feed(b"name? ") == b""


def test_a_long_line_comes_in_parts_with_one_label() -> None:
    """What is longer than 1 MiB is not held back, and the line after it has its label again."""
    assembler = LineAssembler(b"[0] ")
    assert assembler.feed(b"a" * MIB) == b""
    assert assembler.feed(b"b") == b"[0] " + b"a" * MIB + b"b"
    assert assembler.feed(b"c") == b""
    assert assembler.feed(b"d\nnext\nre") == b"cd\n[0] next\n"
    assert assembler.end() == b"[0] re"


def test_a_long_line_that_ends_without_a_newline_has_one_label() -> None:
    """The end of a line that was begun in parts is not a new line."""
    assembler = LineAssembler(b"[0] ")
    assert assembler.feed(b"a" * (MIB + 1)) == b"[0] " + b"a" * (MIB + 1)
    assert assembler.feed(b"tail") == b""
    assert assembler.end() == b"tail"


def test_what_is_kept_is_bounded() -> None:
    """However long a line grows, no more than 1 MiB of it waits."""
    assembler = LineAssembler(b"[0] ")
    passed = sum(len(assembler.feed(b"x" * 65536)) for _ in range(64))
    assert 4 * MIB - passed <= MIB


class Woken:
    """A writer, and whether it has woken whoever waits."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.writer = Writer(self.event.set)

    def wait(self) -> bool:
        """Return whether it woke within the limit."""
        return self.event.wait(LIMIT_S)


@pytest.fixture
def woken() -> Iterator[Woken]:
    """Return one whose thread ends with the test."""
    made = Woken()
    yield made
    made.writer.close(timeout_s=LIMIT_S)
    assert not made.writer._thread.is_alive()


class Pipe:
    """The two ends of a pipe; each is closed once."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}

    def close(self, fd: int) -> None:
        """Close this end, if it is open."""
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)

    def read(self, n_bytes: int) -> bytes:
        """Return so many bytes."""
        got = b""
        while len(got) < n_bytes:
            got += read_some(self.read_end)
        return got


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Return a pipe; a reader that is gone lets no writer hang."""
    made = Pipe()
    yield made
    made.close(made.read_end)
    made.close(made.write_end)


def test_outlet_writes_all_in_order_before_close_returns(woken: Woken, pipe: Pipe) -> None:
    """What was given first comes first, and nothing is lost at the end."""
    outlet = Outlet(pipe.write_end, woken.writer)
    for i in range(100):
        outlet.write(b"%d\n" % i)
    outlet.write(b"")
    woken.writer.close()
    expected = b"".join(b"%d\n" % i for i in range(100))
    assert (expected, None, True) == (pipe.read(len(expected)), outlet.error, woken.writer.empty)


def test_one_writer_serves_many_outlets(woken: Woken, tmp_path: Path) -> None:
    """Each gets its own, in order; one that fails does not hold up the others."""
    names = [str(tmp_path / "a"), FULL, str(tmp_path / "b")]
    outlets = [Outlet(os.open(name, os.O_WRONLY | os.O_CREAT), woken.writer) for name in names]
    for i in range(100):
        for outlet in outlets:
            outlet.write(b"%d\n" % i)
    woken.writer.close()
    expected = b"".join(b"%d\n" % i for i in range(100))
    assert [expected, expected] == [(tmp_path / name).read_bytes() for name in "ab"]
    assert [None, None] == [outlets[0].error, outlets[2].error]
    assert expected == b"".join(outlets[1].unwritten)
    for outlet in outlets:
        os.close(outlet.fd)


def test_writer_is_full_until_the_reader_has_read_and_then_wakes(woken: Woken, pipe: Pipe) -> None:
    """Above 4 MiB it asks for no more; when the reader takes it, ``wake`` is called, and all arrives."""
    outlet = Outlet(pipe.write_end, woken.writer)
    assert (False, True) == (woken.writer.full, woken.writer.empty)
    for _ in range(6):
        outlet.write(b"x" * MIB)
    assert (True, False) == (woken.writer.full, woken.writer.empty)
    assert not woken.event.is_set()
    pipe.read(6 * MIB)
    assert woken.wait()
    woken.writer.close()
    assert (False, True) == (woken.writer.full, woken.writer.empty)


def test_closing_does_not_wait_longer_than_it_may(woken: Woken, pipe: Pipe) -> None:
    """A reader may sleep for ever."""
    Outlet(pipe.write_end, woken.writer).write(b"x" * MIB)
    woken.writer.close(timeout_s=0.01)
    assert not woken.writer.empty
    pipe.close(pipe.read_end)


def test_a_reader_that_is_gone_is_an_error_that_wakes(woken: Woken, pipe: Pipe) -> None:
    """A broken pipe is something to look at, not an exception in a thread; close returns."""
    pipe.close(pipe.read_end)
    outlet = Outlet(pipe.write_end, woken.writer)
    outlet.write(b"x" * 5 * MIB)
    assert woken.wait()
    assert outlet.error is not None
    assert outlet.error.errno == errno.EPIPE
    outlet.write(b"more")
    assert (False, True) == (woken.writer.full, woken.writer.empty)


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_reader_may_leave_in_the_middle(woken: Woken, pipe: Pipe, *, nonblocking: bool) -> None:
    """The writer may be waiting in write(2) or poll(2) at that moment."""
    os.set_blocking(pipe.write_end, not nonblocking)
    outlet = Outlet(pipe.write_end, woken.writer)
    outlet.write(b"x" * MIB)
    pipe.read(1)
    pipe.close(pipe.read_end)
    assert woken.wait()
    assert outlet.error is not None


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_pipe_that_is_nonblocking_loses_nothing(woken: Woken, pipe: Pipe, *, nonblocking: bool) -> None:
    """The caller's stdout may be shared with a program that made it non-blocking."""
    os.set_blocking(pipe.write_end, not nonblocking)
    outlet = Outlet(pipe.write_end, woken.writer)
    outlet.write(b"x" * MIB)
    assert (b"x" * MIB, None) == (pipe.read(MIB), outlet.error)


def test_what_a_full_disk_does_not_take_is_kept(woken: Woken) -> None:
    """All that was given, before and after the error was seen, in order; it does not count as waiting."""
    fd = os.open(FULL, os.O_WRONLY)
    outlet = Outlet(fd, woken.writer)
    outlet.write(b"first ")
    assert woken.wait()
    outlet.write(b"second")
    assert outlet.error is not None
    assert (errno.ENOSPC, b"first second", True) == (
        outlet.error.errno,
        b"".join(outlet.unwritten),
        woken.writer.empty,
    )
    woken.writer.close()
    os.close(fd)


def test_what_is_written_and_what_is_kept_is_all(woken: Woken, tmp_path: Path) -> None:
    """A disk that fills up in the middle of a piece: not a byte is lost or doubled."""
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    outlet = Outlet(fd, woken.writer)
    data = os.urandom(MIB)
    with files_end_at(300_000):
        for piece in pieces(data, [1, 299_990, 300_001, 700_000]):
            outlet.write(piece)
        woken.writer.close()
    os.close(fd)
    written = (tmp_path / "file").read_bytes()
    assert (300_000, True) == (len(written), written + b"".join(outlet.unwritten) == data)


def test_what_is_dropped_is_not_kept_any_more(woken: Woken) -> None:
    """Where it can go nowhere, memory must not grow."""
    fd = os.open(FULL, os.O_WRONLY)
    outlet = Outlet(fd, woken.writer)
    outlet.write(b"x" * MIB)
    assert woken.wait()
    outlet.drop()
    for _ in range(8):
        outlet.write(b"x" * MIB)
    assert ([], False) == (outlet.unwritten, woken.writer.full)
    woken.writer.close()
    os.close(fd)


def test_whoever_sees_the_error_can_take_what_was_not_written(woken: Woken) -> None:
    """The loop looks without a lock: at that moment the rest is there, and the writer needs it no more."""
    seen: list[tuple[bytes, bool]] = []

    class Watched(Outlet):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "error" and value is not None:
                seen.append((b"".join(self.unwritten), self.writer.empty))

    fd = os.open(FULL, os.O_WRONLY)
    Watched(fd, woken.writer).write(b"all of it")
    assert woken.wait()
    assert seen == [(b"all of it", True)]
    woken.writer.close()
    os.close(fd)
