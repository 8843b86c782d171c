from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from rankmap.errors import UsageError
from rankmap.runtime.job import OutputOptions
from rankmap.runtime.loop import Loop
from rankmap.runtime.rank_output import RankOutput, prepare_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20


class Caller:
    """The caller's side: pipes for stdout and stderr, and the loop that reads the ranks."""

    def __init__(self, options: OutputOptions, n_ranks: int) -> None:
        self.out, out_write = os.pipe()
        self.err, err_write = os.pipe()
        self.targets = (out_write, err_write)
        self.woken = threading.Event()
        self.loop = Loop((), lambda _caught: self.output.resume())
        self.loop.__enter__()
        self.loop.wake = self.note_wake  # type: ignore[method-assign]
        self.output = RankOutput(self.loop, options, n_ranks=n_ranks, targets=self.targets)

    def note_wake(self) -> None:
        """Wake the loop, and remember that it was."""
        self.woken.set()
        Loop.wake(self.loop)

    def turn(self) -> None:
        """Serve what is ready, once."""
        self.loop.call_after(0, lambda: None)
        self.loop.step()

    def until_drained(self) -> None:
        """Read the ranks until they have all closed their output."""
        while not self.output.drained():
            self.turn()

    def texts(self) -> tuple[str, str]:
        """Close the ranks' output, and return what stdout and stderr got."""
        self.output.close(timeout_s=None)
        texts = []
        for target, source in zip(self.targets, (self.out, self.err), strict=True):
            os.close(target)
            with os.fdopen(source) as reader:
                texts.append(reader.read())
        self.loop.__exit__()
        return texts[0], texts[1]


@pytest.fixture
def caller() -> Callable[..., Caller]:
    """Return a function that makes a caller for this many ranks."""

    def make(n_ranks: int, *, label: bool = False, directory: Path | None = None) -> Caller:
        return Caller(OutputOptions(label=label, directory=directory), n_ranks)

    return make


def write(fd: int, data: bytes) -> None:
    """Write as a rank does that ends then."""
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def test_each_ranks_output_arrives_at_the_stream_it_was_written_to(caller: Callable[..., Caller]) -> None:
    """Stdout to stdout, stderr to stderr, lines whole, labels in front; a last line without newline too."""
    job = caller(2, label=True)
    first, second = job.output.open(0), job.output.open(1)
    os.write(first[0], b"a")
    job.turn()
    os.write(second[0], b"b\n")
    job.turn()
    for fd, data in zip((*first, *second), (b"c\n", b"", b"rest", b"e\n"), strict=True):
        write(fd, data)
    job.until_drained()
    assert job.texts() == ("[1] b\n[0] ac\n[1] rest", "[1] e\n")


def test_one_rank_without_label_is_not_held_back(caller: Callable[..., Caller]) -> None:
    """A prompt shows before its newline."""
    job = caller(1)
    fds = job.output.open(0)
    os.write(fds[0], b"name? ")
    job.turn()
    assert os.read(job.out, 100) == b"name? "
    for fd in fds:
        os.close(fd)
    job.until_drained()
    assert job.texts() == ("", "")


def test_our_own_words_come_between_whole_lines(caller: Callable[..., Caller]) -> None:
    """What rankmap says goes to stderr, and never into the middle of a rank's line."""
    job = caller(2)
    fds = [fd for rank in range(2) for fd in job.output.open(rank)]
    os.write(fds[1], b"half")
    job.turn()
    job.output.say("hello")
    os.write(fds[1], b" line\n")
    for fd in fds:
        os.close(fd)
    job.until_drained()
    assert job.texts() == ("", "rankmap: hello\nhalf line\n")


def test_what_nobody_reads_is_not_taken_from_the_ranks(caller: Callable[..., Caller]) -> None:
    """Memory is bounded: with a reader that sleeps a rank waits in write(2); when it reads on, all arrives."""
    job = caller(1)
    fds = job.output.open(0)
    os.close(fds[1])
    os.set_blocking(fds[0], False)
    taken, stuck = 0, 0
    while stuck < 3:
        try:
            taken += os.write(fds[0], b"x" * 65536)
            stuck = 0
        except BlockingIOError:
            stuck += 1
        job.turn()
    assert taken < 6 * MIB
    os.close(fds[0])
    got = bytearray()
    while len(got) < taken:
        got += os.read(job.out, MIB)
        job.turn()
    job.until_drained()
    assert job.texts() == ("", "")


def test_a_reader_that_is_gone_is_told(caller: Callable[..., Caller]) -> None:
    """The supervisor is woken and can ask why."""
    job = caller(1)
    assert job.output.broken() is None
    fds = job.output.open(0)
    os.close(job.out)
    os.write(fds[0], b"hello\n")
    job.turn()
    assert job.woken.wait(10)
    assert isinstance(job.output.broken(), BrokenPipeError)
    for fd in (*fds, *job.targets):
        os.close(fd)
    job.output.close(timeout_s=None)
    os.close(job.err)
    job.loop.__exit__()


def test_output_that_a_child_keeps_open_is_passed_on_at_close(caller: Callable[..., Caller]) -> None:
    """A daemon of a rank may hold its stdout for ever: what came is written, the rest is let go."""
    job = caller(2, label=True)
    fds = job.output.open(0)
    os.write(fds[0], b"begun")
    job.turn()
    assert not job.output.drained()
    assert job.texts() == ("[0] begun", "")
    for fd in fds:
        os.close(fd)


def test_files_of_a_ranks_own(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """rank-N.out and rank-N.err, new each time, and nothing for the caller."""
    (tmp_path / "rank-0.out").write_text("of an earlier job, and longer")
    job = caller(2, directory=tmp_path)
    for rank in range(2):
        for fd, text in zip(job.output.open(rank), (b"out", b"err"), strict=True):
            write(fd, text)
    assert job.output.drained()
    assert job.texts() == ("", "")
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert files == {"rank-0.out": "out", "rank-0.err": "err", "rank-1.out": "out", "rank-1.err": "err"}


def test_the_directory_for_them_is_made(tmp_path: Path) -> None:
    """With those above it; one that is there is fine."""
    prepare_directory(tmp_path / "a" / "b")
    prepare_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_directory_that_cannot_be_made_is_refused(name: str, tmp_path: Path) -> None:
    """Before the job, naming the option and the path."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output-dir") as caught:
        prepare_directory(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
