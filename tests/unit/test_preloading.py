"""Unit tests of rankmap.runtime.preloading: pieces of real files, and who gets the copy in place of the file."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from rankmap.errors import RuntimeUnusableError, UsageError
from rankmap.runtime import preloading
from rankmap.runtime.application import Application
from rankmap.runtime.preloading import Copying, preloaded, write_piece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.runtime.member import Member
    from rankmap.runtime.wire import Message

COPY = Path("/job/preload/app")


class Host:
    """A member that keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.mode = 0

    def send(self, message: Message) -> None:
        """Take a message."""
        self.sent.append(message)


class Job:
    """A copy to all but the last of so many hosts, each with a directory of its own."""

    def __init__(self, source: Path, folder: Path, n_hosts: int) -> None:
        self.hosts = [Host() for _ in range(n_hosts + 1)]
        self.folder = folder
        self.n_done = 0
        members = cast("Sequence[Member]", self.hosts[:-1])
        self.copying = Copying(source, Path("preload/app"), members, self.send_all, then=self.done)

    def send_all(self, message: Message) -> None:
        """Send every host a message."""
        for host in self.hosts:
            host.send(message)

    def done(self) -> None:
        """Note that all have it."""
        self.n_done += 1

    def copy(self, host: int) -> Path:
        """Return the copy that this host has."""
        return self.folder / f"n{host}" / "preload" / "app"

    def step(self, host: int) -> bool:
        """Let a host do what it was told and say so; return whether it was told something."""
        if not self.hosts[host].sent:
            return False
        (message,) = self.hosts[host].sent
        self.hosts[host].sent.clear()
        if message["kind"] == "copy":
            assert "preload/app" == message["path"]
            self.hosts[host].mode = message["mode"]
            write_piece(str(self.copy(host)), message["mode"])
        else:
            write_piece(str(self.copy(host)), self.hosts[host].mode, message["start"], message["data"])
        self.copying.note(cast("Member", self.hosts[host]))
        return True


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a file of ten bytes that is a program of its owner's."""
    file = tmp_path / "app"
    file.write_bytes(b"0123456789")
    file.chmod(0o750)
    return file


def test_every_host_gets_the_file_piece_by_piece(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one when all have written the last: none has more than one piece to itself."""
    monkeypatch.setattr(preloading, "_PIECE_BYTES", 4)
    job = Job(source, tmp_path, 2)
    assert job.step(0)
    assert not job.step(0)  # it waits for the other
    assert job.step(1)
    assert [(0, b"0123")] * 3 == [(one.sent[0]["start"], one.sent[0]["data"]) for one in job.hosts]
    while job.step(0) and job.step(1):
        job.hosts[2].sent.clear()
    assert [b"0123456789"] * 2 == [job.copy(host).read_bytes() for host in (0, 1)]
    assert (False, 1) == (job.copy(2).exists(), job.n_done)
    assert [0o750, 0o750] == [job.copy(host).stat().st_mode & 0o777 for host in (0, 1)]
    assert 0o700 == job.copy(0).parent.stat().st_mode & 0o777


@pytest.mark.parametrize("size", [0, 1, 4, 8])
def test_a_file_of_any_size_comes_whole(
    size: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of no byte, and of whole pieces."""
    monkeypatch.setattr(preloading, "_PIECE_BYTES", 4)
    source.write_bytes(b"x" * size)
    job = Job(source, tmp_path, 1)
    n_pieces = -1
    while n_pieces < 3 and job.step(0):
        n_pieces += 1
    assert (b"x" * size, 1, -(-size // 4)) == (job.copy(0).read_bytes(), job.n_done, n_pieces)


def test_a_file_that_nobody_may_write_is_copied_all_the_same(source: Path, tmp_path: Path) -> None:
    """Its pieces come one by one, each of which opens it again."""
    source.chmod(0o555)
    job = Job(source, tmp_path, 1)
    assert job.step(0)
    assert job.step(0)
    assert (b"0123456789", 0o755) == (job.copy(0).read_bytes(), job.copy(0).stat().st_mode & 0o777)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Before anybody waits for a pipe, or copies /dev/zero for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError) as refused:
            Job(path, tmp_path, 1)
        assert f"--preload {path}: it is a directory, a device, a pipe or a socket" == refused.value.message
    with pytest.raises(UsageError) as refused:
        Job(tmp_path / "none", tmp_path, 1)
    assert f"--preload {tmp_path}/none: it cannot be read: No such file or directory" == refused.value.message
    assert refused.value.hint


def test_a_host_without_room_says_so(tmp_path: Path) -> None:
    """With the file, the reason, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeUnusableError) as refused:
        write_piece(f"{tmp_path}/file/preload/app", 0o755)
    assert f"--preload: {tmp_path}/file/preload/app cannot be written: Not a directory" == refused.value.message
    assert "TMPDIR" in refused.value.hint


def test_a_full_device_is_said() -> None:
    """As the kernel says it."""
    with pytest.raises(RuntimeUnusableError, match="/dev/full cannot be written: No space left on device"):
        write_piece("/dev/full", 0o755, 0, b"x")


def test_a_device_that_gets_full_is_said(tmp_path: Path) -> None:
    """The kernel then writes a part of a piece, and calls that no failure; a limit on the size of files is as good."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(RuntimeUnusableError, match="app cannot be written: File too large"):
            write_piece(f"{tmp_path}/app", 0o755, 0, bytes(1001))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 1000 == (tmp_path / "app").stat().st_size


def app(path: str, *words: str, cwd: Path) -> Application:
    """Return an application as it was found."""
    return Application(path=path, argv=(Path(path).name, *words), cwd=str(cwd), set_env={"A": "b"})


def test_the_copy_is_executed_and_the_name_stays(source: Path, tmp_path: Path) -> None:
    """What a program goes by is argv[0]; a link to the file is the file."""
    (tmp_path / "link").symlink_to(source)
    for path in (source, tmp_path / "link"):
        expected = Application(path=str(COPY), argv=(path.name, "-x"), cwd=str(tmp_path), set_env={"A": "b"})
        assert expected == preloaded(app(str(path), "-x", cwd=tmp_path), source, COPY)


def test_a_word_that_names_the_file_names_the_copy(source: Path, tmp_path: Path) -> None:
    """From the ranks' directory, wherever it is in the command; the program itself is another, and stays."""
    (tmp_path / "below").mkdir()
    words = ("-u", "../app", "app", str(source), "--in=../app", "", "x" * 5000)
    changed = preloaded(app("/usr/bin/env", *words, cwd=tmp_path / "below"), source, COPY)
    assert "/usr/bin/env" == changed.path
    assert ("env", "-u", str(COPY), "app", str(COPY), "--in=../app", "", "x" * 5000) == changed.argv


def test_an_application_that_does_not_name_the_file_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own name is one from the user's directory, as any option's is."""
    other = app("/usr/bin/env", "other", cwd=tmp_path)
    assert other == preloaded(other, source, COPY)
    monkeypatch.chdir(tmp_path)
    assert str(COPY) == preloaded(app(str(source), cwd=Path("/")), Path("app"), COPY).path
