from __future__ import annotations

import errno
import itertools
import os
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankmap.runtime.output import LineAssembler, Outlet

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


def test_outlet_writes_all_in_order_before_close_returns() -> None:
    """What was given first comes first, and nothing is lost at the end."""
    read_end, write_end = os.pipe()
    outlet = Outlet(write_end, lambda: None)
    for i in range(100):
        outlet.write(b"%d\n" % i)
    outlet.write(b"")
    outlet.close()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reader:
        assert b"".join(b"%d\n" % i for i in range(100)) == reader.read()
    assert outlet.error is None


def test_outlet_is_full_until_its_reader_has_read_and_then_wakes() -> None:
    """Above 4 MiB it asks for no more; when the reader takes it, ``wake`` is called, and all arrives."""
    read_end, write_end = os.pipe()
    woken = threading.Event()
    outlet = Outlet(write_end, woken.set)
    assert not outlet.full
    for _ in range(6):
        outlet.write(b"x" * MIB)
    assert outlet.full
    assert not woken.is_set()
    got = 0
    while got < 6 * MIB:
        got += len(os.read(read_end, MIB))
    assert woken.wait(10)
    outlet.close()
    assert not outlet.full
    os.close(read_end)
    os.close(write_end)


def test_outlet_whose_reader_is_gone_says_so_wakes_and_drops_the_rest() -> None:
    """A broken pipe is an error to look at, not an exception in a thread; close returns."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    woken = threading.Event()
    outlet = Outlet(write_end, woken.set)
    outlet.write(b"x" * 5 * MIB)
    assert woken.wait(10)
    assert outlet.error is not None
    assert outlet.error.errno == errno.EPIPE
    outlet.write(b"more")
    assert not outlet.full
    outlet.close()
    os.close(write_end)


def test_outlet_survives_a_reader_that_leaves_in_the_middle() -> None:
    """The writer may be waiting in write(2) at that moment."""
    read_end, write_end = os.pipe()
    woken = threading.Event()
    outlet = Outlet(write_end, woken.set)
    outlet.write(b"x" * MIB)
    os.read(read_end, 1)
    os.close(read_end)
    assert woken.wait(10)
    outlet.close()
    assert outlet.error is not None
    os.close(write_end)


@pytest.mark.parametrize("nonblocking", [False, True])
def test_outlet_to_a_pipe_that_is_nonblocking_loses_nothing(*, nonblocking: bool) -> None:
    """The caller's stdout may be shared with a program that made it non-blocking."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, not nonblocking)
    outlet = Outlet(write_end, lambda: None)
    outlet.write(b"x" * MIB)
    got = bytearray()
    reader = threading.Thread(target=lambda: _read_all(read_end, got))
    reader.start()
    outlet.close()
    os.close(write_end)
    reader.join(10)
    assert (None, MIB) == (outlet.error, len(got))
    os.close(read_end)


def _read_all(fd: int, into: bytearray) -> None:
    with suppress(OSError):
        while data := os.read(fd, 1 << 16):
            into += data
