from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.errors import UsageError
from rankmap.runtime.job import OutputOptions
from rankmap.runtime.loop import Loop
from rankmap.runtime.rank_output import RankOutput, prepare_directory, require_writable
from rankmap.runtime.rank_pipes import RankPipes
from tests.children import LIMIT_S
from tests.small_disk import FULL, files_end_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
NO_SPACE = "No space left on device"


class Caller:
    """The caller's side: where stdout and stderr go (None: a pipe), and the loop that reads the ranks."""

    def __init__(self, options: OutputOptions, n_ranks: int, *, targets: tuple[str | None, str | None]) -> None:
        self.sources: list[int | None] = []
        self.targets: list[int] = []
        for name in targets:
            source, target = os.pipe() if name is None else (None, os.open(name, os.O_WRONLY | os.O_CREAT))
            self.sources.append(source)
            self.targets.append(target)
        self.woken = threading.Event()
        self.deaf = False
        """Whether the loop does not hear when it is woken."""
        self.loop = Loop((), lambda _caught: self.on_wake())
        self.loop.__enter__()
        self.loop.call_after(LIMIT_S, self.too_late)
        self.output = RankOutput(self.note_wake, options, n_ranks=n_ranks, targets=(self.targets[0], self.targets[1]))
        self.pipes = RankPipes(self.loop, self.output)
        self.closed = False

    def note_wake(self) -> None:
        """Wake the loop, and remember that it was."""
        self.woken.set()
        if not self.deaf:
            self.loop.wake()

    def on_wake(self) -> None:
        """Do what the supervisor does, and the hands of a host."""
        self.output.on_wake()
        self.pipes.resume()

    def open(self, rank: int) -> list[int]:
        """Return what this rank writes to."""
        self.output.open(rank)
        return self.pipes.open(rank)

    def too_late(self) -> None:
        """End a test that waits for what does not come."""
        raise TimeoutError

    def turn(self) -> None:
        """Serve what is ready, once."""
        self.loop.call_after(0, lambda: None)
        self.loop.step()

    def until(self, condition: Callable[[], bool]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.step()

    def until_drained(self) -> None:
        """Read the ranks until they have all closed their output."""
        self.until(lambda: self.pipes.drained() and self.output.drained())

    def read(self, end: int = 0) -> bytes:
        """Serve what comes until stdout or stderr has got something, and return that."""
        source = self.sources[end]
        assert source is not None
        got = bytearray()
        self.loop.call_when_readable(source, lambda: got.extend(os.read(source, 1 << 16)))
        self.until(lambda: bool(got))
        self.loop.forget(source)
        return bytes(got)

    def leave(self, end: int = 0) -> None:
        """Read no more of stdout or stderr."""
        source, self.sources[end] = self.sources[end], None
        assert source is not None
        os.close(source)

    def texts(self) -> tuple[str, str]:
        """Close the ranks' output, and return what the pipes for stdout and stderr got, "" where it was no pipe."""
        self.pipes.close()
        self.output.close(timeout_s=LIMIT_S)
        self.closed = True
        texts = ["", ""]
        for end, target in enumerate(self.targets):
            os.close(target)
            if (source := self.sources[end]) is not None:
                with os.fdopen(source) as reader:
                    texts[end] = reader.read()
        self.loop.__exit__()
        return texts[0], texts[1]

    def abandon(self) -> None:
        """Leave nothing of a test that has not come to its end."""
        if not self.closed:
            for end in range(2):
                with suppress(AssertionError):
                    self.leave(end)
            self.texts()


@pytest.fixture
def caller() -> Iterator[Callable[..., Caller]]:
    """Return a function that makes a caller for this many ranks."""
    with ExitStack() as stack:

        def make(
            n_ranks: int,
            *,
            label: bool = False,
            directory: Path | None = None,
            targets: tuple[str | None, str | None] = (None, None),
        ) -> Caller:
            made = Caller(OutputOptions(label=label, directory=directory), n_ranks, targets=targets)
            stack.callback(made.abandon)
            return made

        yield make


def write(fd: int, data: bytes) -> None:
    """Write as a rank does that ends then."""
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def labelled(rank: int, text: str) -> str:
    """Return these lines with the label of the rank in front of each."""
    return "".join(f"[{rank}] {line}" for line in text.splitlines(keepends=True))


def full_file(directory: Path, name: str) -> None:
    """Let nothing be written to this file of a rank's."""
    (directory / name).symlink_to(FULL)


def file_fails(path: Path, rank: int, stream: str, why: str = NO_SPACE) -> str:
    """Return what is said of a rank's file that cannot be written."""
    return f"rankmap: {path} cannot be written: {why}; the rest of rank {rank}'s {stream} comes here\n"


STDOUT_FAILS = f"rankmap: stdout cannot be written: {NO_SPACE}; the rest of it comes here\n"


def test_each_ranks_output_arrives_at_the_stream_it_was_written_to(caller: Callable[..., Caller]) -> None:
    """Stdout to stdout, stderr to stderr, lines whole, labels in front; a last line without newline too."""
    job = caller(2, label=True)
    first, second = job.open(0), job.open(1)
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
    fds = job.open(0)
    os.write(fds[0], b"name? ")
    job.turn()
    assert job.read() == b"name? "
    for fd in fds:
        os.close(fd)
    job.until_drained()
    assert job.texts() == ("", "")


def test_our_own_words_come_between_whole_lines(caller: Callable[..., Caller]) -> None:
    """What rankmap says goes to stderr, and never into the middle of a rank's line."""
    job = caller(2)
    fds = [fd for rank in range(2) for fd in job.open(rank)]
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
    fds = job.open(0)
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
        got += job.read()
    job.until_drained()
    assert job.texts() == ("", "")


@pytest.mark.parametrize("end", [0, 1])
def test_a_reader_that_is_gone_is_told_and_not_talked_about(end: int, caller: Callable[..., Caller]) -> None:
    """The job can end as any program in a pipeline does; what ranks still write goes nowhere, and they do not hang."""
    job = caller(1)
    fds = job.open(0)
    job.leave(end)
    os.write(fds[end], b"hello\n")
    job.until(lambda: job.output.unwanted)
    for _ in range(4):
        os.write(fds[end], b"x" * 60000)
        job.turn()
    for fd in fds:
        os.close(fd)
    job.until_drained()
    assert ([], False) == (job.output._outlets[end].unwritten, job.output.failed)
    assert job.texts() == ("", "")


def test_what_no_rank_has_ended_is_written_at_close(caller: Callable[..., Caller]) -> None:
    """A host that is gone does not say that its ranks have closed their output: the last half line comes too."""
    job = caller(2, label=True)
    for rank in range(2):
        job.output.open(rank)
    job.output.feed(0, 0, b"begun")
    job.output.feed(1, 1, b"a\nb")
    assert not job.output.drained()
    assert job.texts() == ("[0] begun", "[1] a\n[1] b")


def test_it_is_drained_when_each_end_of_each_rank_was_closed(caller: Callable[..., Caller]) -> None:
    """Whatever the order; a rank that has written nothing has its ends too."""
    job = caller(2)
    for rank in range(2):
        job.output.open(rank)
    for rank, end in ((1, 1), (0, 0), (1, 0)):
        job.output.feed(rank, end, b"")
        assert not job.output.drained()
    job.output.feed(0, 1, b"")
    assert (True, True) == (job.output.drained(), job.output.taken())


def test_it_is_crowded_while_any_way_out_is_full(caller: Callable[..., Caller]) -> None:
    """Of several hosts nobody knows whose output is the next to come."""
    job = caller(2)
    for rank in range(2):
        job.output.open(rank)
    assert (False, False) == (job.output.crowded, job.output.full(0, 1))
    job.output.feed(0, 1, b"x" * 5 * MIB + b"\n")
    assert (True, True, False) == (job.output.crowded, job.output.full(1, 1), job.output.full(1, 0))
    n_read = 0
    while n_read <= 5 * MIB:
        n_read += len(job.read(1))
    job.until(job.output.taken)
    assert not job.output.crowded


def test_files_of_a_ranks_own(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """rank-N.out and rank-N.err, new each time, and nothing for the caller."""
    (tmp_path / "rank-0.out").write_text("of an earlier job, and longer")
    job = caller(2, directory=tmp_path)
    for rank in range(2):
        for fd, text in zip(job.open(rank), (b"out", b"err"), strict=True):
            write(fd, text)
    job.until_drained()
    assert job.texts() == ("", "")
    assert (False, False) == (job.output.failed, job.output.unwanted)
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert files == {"rank-0.out": "out", "rank-0.err": "err", "rank-1.out": "out", "rank-1.err": "err"}


def test_a_file_is_as_its_rank_wrote_it(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """No label, no waiting for the end of a line, whatever was asked for stdout."""
    job = caller(2, label=True, directory=tmp_path)
    fds = job.open(1)
    os.write(fds[0], b"no end of")
    job.until(lambda: (tmp_path / "rank-1.out").stat().st_size > 0)
    assert (tmp_path / "rank-1.out").read_bytes() == b"no end of"
    write(fds[0], b" line\0\r")
    write(fds[1], b"")
    job.until_drained()
    assert (tmp_path / "rank-1.out").read_bytes() == b"no end of line\0\r"


def test_a_file_that_cannot_be_made_is_the_callers_to_report(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """The directory may have gone since it was looked at."""
    job = caller(1, directory=tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        job.open(0)
    assert job.texts() == ("", "")


@pytest.mark.parametrize(("end", "stream"), [(0, "stdout"), (1, "stderr")])
def test_what_a_ranks_file_does_not_take_comes_to_the_caller(
    end: int, stream: str, caller: Callable[..., Caller], tmp_path: Path
) -> None:
    """Labelled, said once, and the rank's other file and the other ranks' are as they were."""
    name = f"rank-1.{'out' if end == 0 else 'err'}"
    full_file(tmp_path, name)
    job = caller(2, directory=tmp_path)
    fds = [job.open(0), job.open(1)]
    os.write(fds[1][end], b"a\nb")
    job.until(lambda: job.output.failed)
    for rank in range(2):
        for each in range(2):
            write(fds[rank][each], f"c\nrank {rank}, {each}".encode())
    job.until_drained()
    texts = ["", file_fails(tmp_path / name, 1, stream)]
    texts[end] += f"[1] a\n[1] bc\n[1] rank 1, {end}"
    assert job.texts() == tuple(texts)
    assert (True, False) == (job.output.failed, job.output.unwanted)
    files = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert files == {
        f"rank-{rank}.{('out', 'err')[each]}": f"c\nrank {rank}, {each}"
        for rank, each in ((0, 0), (0, 1), (1, 1 - end))
    }


def test_nothing_is_lost_where_a_file_fills_up(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """What is in the file, what was on its way, and what came later are all that the rank wrote, in order."""
    text = "".join(f"line {number}\n" for number in range(3000))
    more = "and more\nat the end"
    job = caller(1, directory=tmp_path)
    fds = job.open(0)
    with files_end_at(20_001):
        os.write(fds[0], text.encode())
        job.until(lambda: job.output.failed)
        write(fds[0], more.encode())
        write(fds[1], b"")
        job.until_drained()
    out, err = job.texts()
    assert err == file_fails(tmp_path / "rank-0.out", 0, "stdout", "File too large")
    assert (tmp_path / "rank-0.out").read_text() == text[:20_001]
    assert out == labelled(0, text[20_001:] + more)


@pytest.mark.parametrize("close_at_once", [False, True])
def test_a_file_that_fails_after_its_rank_has_ended_loses_nothing(
    caller: Callable[..., Caller], tmp_path: Path, *, close_at_once: bool
) -> None:
    """Also when that is found out only as all is closed."""
    full_file(tmp_path, "rank-0.out")
    job = caller(1, directory=tmp_path)
    job.deaf = True
    for fd, data in zip(job.open(0), (b"a\nlast words", b""), strict=True):
        write(fd, data)
    while job.output._streams:
        job.turn()
    assert job.woken.wait(LIMIT_S)
    if not close_at_once:
        job.output.on_wake()
        assert job.output.failed
    assert job.texts() == ("[0] a\n[0] last words", file_fails(tmp_path / "rank-0.out", 0, "stdout"))
    assert job.output.failed


def test_each_file_that_fails_is_named(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """A disk that is full is so for all ranks."""
    job = caller(3, directory=tmp_path)
    for rank in range(3):
        full_file(tmp_path, f"rank-{rank}.out")
        for fd, data in zip(job.open(rank), (f"from {rank}\n".encode(), b""), strict=True):
            write(fd, data)
    job.until_drained()
    out, err = job.texts()
    assert sorted(out.splitlines()) == ["[0] from 0", "[1] from 1", "[2] from 2"]
    said = [file_fails(tmp_path / f"rank-{rank}.out", rank, "stdout") for rank in range(3)]
    assert sorted(err.splitlines(keepends=True)) == said


@pytest.mark.parametrize("label", [False, True])
def test_what_stdout_does_not_take_goes_to_stderr(caller: Callable[..., Caller], *, label: bool) -> None:
    """Said once; the ranks' stderr comes as before."""
    job = caller(2, label=label, targets=(FULL, None))
    fds = [job.open(rank) for rank in range(2)]
    os.write(fds[0][0], b"a\n")
    job.until(lambda: job.output.failed)
    os.write(fds[1][0], b"b\n")
    job.turn()
    os.write(fds[0][1], b"c\n")
    job.turn()
    for fd in (*fds[0], *fds[1]):
        os.close(fd)
    job.until_drained()
    first, second = ("[0] ", "[1] ") if label else ("", "")
    assert job.texts() == ("", f"{STDOUT_FAILS}{first}a\n{second}b\n{first}c\n")
    assert (True, False) == (job.output.failed, job.output.unwanted)


def test_nothing_is_lost_where_stdout_fills_up(caller: Callable[..., Caller], tmp_path: Path) -> None:
    """A job whose output goes to a file on a full disk."""
    text = "".join(f"line {number}\n" for number in range(3000))
    job = caller(1, targets=(str(tmp_path / "log"), None))
    fds = job.open(0)
    with files_end_at(20_001):
        os.write(fds[0], text.encode())
        job.until(lambda: job.output.failed)
        write(fds[0], b"and more")
        write(fds[1], b"")
        job.until_drained()
    assert (tmp_path / "log").read_text() == text[:20_001]
    assert job.texts() == ("", STDOUT_FAILS.replace(NO_SPACE, "File too large") + text[20_001:] + "and more")


@pytest.mark.parametrize("deaf", [False, True])
def test_what_neither_a_file_nor_stdout_takes_goes_to_stderr(
    caller: Callable[..., Caller], tmp_path: Path, *, deaf: bool
) -> None:
    """One way after the other, also while all is closed; each failure is said."""
    full_file(tmp_path, "rank-0.out")
    job = caller(1, directory=tmp_path, targets=(FULL, None))
    job.deaf = deaf
    for fd, data in zip(job.open(0), (b"a\nb", b""), strict=True):
        write(fd, data)
    job.until(lambda: not job.output._streams)
    if not deaf:
        job.until(lambda: job.output._outlets[0] is job.output._stderr)
    assert job.texts() == ("", f"{file_fails(tmp_path / 'rank-0.out', 0, 'stdout')}{STDOUT_FAILS}[0] a\n[0] b")
    assert job.output.failed


@pytest.mark.parametrize("stdout", [None, FULL])
def test_what_stderr_does_not_take_is_not_kept(stdout: str | None, caller: Callable[..., Caller]) -> None:
    """There is no other way, so it is a failure; memory does not grow, the ranks go on, and so does stdout."""
    job = caller(1, targets=(stdout, FULL))
    fds = job.open(0)
    os.write(fds[1], b"lost\n")
    job.until(lambda: job.output.failed)
    for _ in range(8):
        os.write(fds[1], b"x" * 60_000)
        job.turn()
    job.output.say("lost too")
    write(fds[0], b"out\n")
    write(fds[1], b"lost as well")
    job.until_drained()
    assert job.texts() == ("" if stdout else "out\n", "")
    assert [outlet.unwritten for outlet in job.output._outlets] == [[], []]
    assert (True, False) == (job.output.failed, job.output.unwanted)


def test_the_directory_for_them_is_made(tmp_path: Path) -> None:
    """With those above it; one that is there is fine, and nothing is left in it."""
    prepare_directory(tmp_path / "a" / "b")
    prepare_directory(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_directory_that_cannot_be_made_is_refused(name: str, tmp_path: Path) -> None:
    """Before the job, naming the option and the path."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output-dir") as caught:
        prepare_directory(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


def test_a_directory_without_room_is_refused(tmp_path: Path) -> None:
    """It is there, and may be written to, but 64 KiB do not fit: nothing of the trial stays."""
    with files_end_at(4096), pytest.raises(UsageError) as caught:
        prepare_directory(tmp_path)
    assert caught.value.message == f"--output-dir {tmp_path}: nothing can be written there: File too large"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_takes_no_files_is_refused() -> None:
    """Not even root can make one in /proc."""
    with pytest.raises(UsageError, match=r"^--report /proc/x: nothing can be written there: "):
        require_writable(Path("/proc"), what="--report /proc/x")


def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    """With what the kernel says."""
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(UsageError, match=r": nothing can be written there: Permission denied$"):
        prepare_directory(tmp_path)
    with pytest.raises(UsageError, match=r": Permission denied$"):
        prepare_directory(tmp_path / "below")
