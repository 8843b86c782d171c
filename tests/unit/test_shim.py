"""The shim as Dragon starts it: a process of its own, talking to a socket of the test."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.devices import GPU_VARIABLES
from rankmap.runtime import shim
from rankmap.runtime.wire import Connection, Message, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SHIM = str(Path(shim.__file__))
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/h", "LD_LIBRARY_PATH": "/dragon:/ours:/user", "EXTRA": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A shim that has reported."""

    process: subprocess.Popen[bytes]
    connection: Connection
    report: Message

    def status(self) -> int:
        """Return its exit status, or that of what it became."""
        return self.process.wait(timeout=30)

    def messages(self) -> list[Message] | None:
        """Return what it says next, but for the GPU variables that the application gets; None is the end."""
        said = self.connection.receive()
        if said is None or said[0]["kind"] != "goes":
            return said
        return said[1:] or self.connection.receive()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Started]]:
    """Return a function that starts the shim as rank 3 and reads what it reports."""
    started: list[Started] = []
    with listen(tmp_path / "s", 1) as listener:
        listener.settimeout(30)

        def call() -> Started:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", SHIM, str(tmp_path / "s"), "3"],
                env=ENVIRONMENT,
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            connection = Connection(listener.accept()[0])
            connection.sock.settimeout(30)
            messages = connection.receive()
            assert messages is not None
            started.append(Started(process=process, connection=connection, report=messages[0]))
            return started[-1]

        yield call
    for one in started:
        one.connection.close()
        one.process.kill()
        one.process.communicate()


def row(
    *argv: str, path: str = "/bin/sh", cwd: str = "/", mem: str = "", shown: Sequence[str] = (), **env: str | None
) -> Message:
    """Return the leave to become this application."""
    changes = {"drop_paths": ["/ours"], "set": env}
    return {
        "kind": "go",
        "path": path,
        "argv": list(argv),
        "cwd": cwd,
        "slack_ns": 60_000,
        "n_files": 1024,
        "mem": mem,
        "shown": list(shown),
        "env": changes,
    }


def become(started: Started, message: Message, stdin: Sequence[int] = ()) -> tuple[str, str]:
    """Let the shim go, and return what the application wrote to stdout and stderr."""
    pipes = [os.pipe(), os.pipe()]
    started.connection.send(message, [*stdin, *(write_end for _, write_end in pipes)])
    texts = []
    for _, write_end in pipes:
        os.close(write_end)
    for read_end, _ in pipes:
        with os.fdopen(read_end) as reader:
            texts.append(reader.read())
    return texts[0], texts[1]


def test_it_reports_what_it_sees(start: Callable[[], Started]) -> None:
    """Rank, pid, host and CPUs, before anything of the application has run."""
    cpu = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        started = start()
    finally:
        os.sched_setaffinity(0, before)
    host = os.uname().nodename
    report = started.report
    assert {"kind": "shim", "rank": 3, "pid": started.process.pid, "host": host} == {
        key: report[key] for key in ("kind", "rank", "pid", "host")
    }
    assert ([cpu], []) == (report["cpus"], report["pmix_uris"])


def test_it_reports_where_the_pmix_server_listens(
    start: Callable[[], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever version of the variable the server sets."""
    monkeypatch.setitem(ENVIRONMENT, "PMIX_SERVER_URI41", "server;tcp4://127.0.0.1:5")
    assert start().report["pmix_uris"] == ["server;tcp4://127.0.0.1:5"]


@pytest.mark.parametrize("name", GPU_VARIABLES)
def test_it_says_what_the_application_gets_of_some_variables(
    name: str, start: Callable[[], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the rank, not those that Dragon has set; also one that is empty."""
    monkeypatch.setitem(ENVIRONMENT, name, "0,1,2,3")
    monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "")
    started = start()
    become(started, row("true", shown=(*GPU_VARIABLES, "OMP_PLACES", "ABSENT"), **{name: "2", "OMP_PLACES": "{1}"}))
    expected = {"CUDA_VISIBLE_DEVICES": "", name: "2", "OMP_PLACES": "{1}"}
    assert started.connection.receive() == [{"kind": "goes", "rank": 3, "variables": expected, "mem": None}]


def test_it_becomes_the_application(start: Callable[[], Started], tmp_path: Path) -> None:
    """Same pid, the argv, directory, stdout and stderr that it was told, and the application's status."""
    started = start()
    script = 'echo "$0 $1 $$ $PWD"; echo err >&2; exit 7'
    out, err = become(started, row("argv0", "-c", script, "name", "a b", cwd=str(tmp_path)))
    assert (out, err) == (f"name a b {started.process.pid} {tmp_path}\n", "err\n")
    assert (started.messages(), started.status()) == (None, 7)


def test_argv0_is_what_the_user_typed(start: Callable[[], Started]) -> None:
    """A program may behave by the name it is called."""
    out, _ = become(start(), row("my name", "/proc/self/cmdline", path="/bin/cat"))
    assert out == "my name\0/proc/self/cmdline\0"


def test_a_long_command_arrives_whole(start: Callable[[], Started]) -> None:
    """The answer may be larger than one read."""
    words = ["w" * 50_000] * 4
    out, _ = become(start(), row("sh", "-c", 'echo "$# ${#4}"', "sh", *words))
    assert out == "4 50000\n"


def test_environment_is_the_processs_own_with_what_was_set(start: Callable[[], Started]) -> None:
    """Variables are set and taken out; what Dragon needed in LD_LIBRARY_PATH is gone, the rest stays in order."""
    out, _ = become(start(), row("env", path="/usr/bin/env", RANK="3", HOME=None, UNSET=None, EMPTY=""))
    environment = dict(line.split("=", 1) for line in out.splitlines())
    environment.pop("LC_CTYPE", None)  # Python's own, PEP 538
    assert environment == {
        "PATH": ENVIRONMENT["PATH"],
        "LD_LIBRARY_PATH": "/dragon:/user",
        "EXTRA": "1",
        "RANK": "3",
        "EMPTY": "",
    }


def test_only_the_standard_descriptors_are_open_and_stdin_is_empty(start: Callable[[], Started]) -> None:
    """The application inherits nothing of ours: neither socket nor pipe ends."""
    out, _ = become(
        start(), row("sh", "-c", "readlink /proc/self/fd/0; for f in /proc/$$/fd/*; do echo ${f##*/}; done")
    )
    stdin, *descriptors = out.split()
    # 3 is the directory that the shell reads
    assert (stdin, set(descriptors) - {"0", "1", "2", "3"}) == ("/dev/null", set())


def test_a_rank_may_get_standard_input(start: Callable[[], Started]) -> None:
    """Three descriptors instead of two: the first is stdin."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"hello")
    os.close(write_end)
    out, _ = become(start(), row("cat", path="/bin/cat"), stdin=[read_end])
    os.close(read_end)
    assert out == "hello"


def test_signals_are_as_a_shell_gives_them(start: Callable[[], Started]) -> None:
    """SIGPIPE and SIGXFSZ, which Python ignores, have their default again: ``app | head`` ends."""
    out, _ = become(start(), row("cat", "/proc/self/status", path="/bin/cat"))
    ignored = int(next(line.split()[1] for line in out.splitlines() if line.startswith("SigIgn:")), 16)
    assert [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> (number - 1) & 1] == []


def test_told_to_stop_it_ends_without_starting_anything(start: Callable[[], Started]) -> None:
    """A job that failed its check runs nowhere: 125."""
    started = start()
    started.connection.send({"kind": "stop"})
    assert (started.status(), started.messages()) == (125, None)


@pytest.mark.parametrize(
    ("path", "cwd", "number", "status", "named"),
    [
        ("/no/app", "/", errno.ENOENT, 127, "/no/app"),
        ("/etc/passwd", "/", errno.EACCES, 126, "/etc/passwd"),
        ("/bin/sh", "/no/dir", errno.ENOENT, 123, "/no/dir"),
    ],
)
def test_a_failed_exec_is_reported_with_what_failed(
    path: str, cwd: str, number: int, status: int, named: str, start: Callable[[], Started]
) -> None:
    """The supervisor can say which file on which host, and the process has the status that a shell would give."""
    started = start()
    become(started, row("app", path=path, cwd=cwd))
    what = "directory" if named == cwd else "application"
    assert started.messages() == [{"kind": "failed", "rank": 3, "errno": number, "path": named, "what": what}]
    assert status == started.status()


def test_the_application_has_the_callers_timer_slack(start: Callable[[], Started]) -> None:
    """Dragon's processes run with a large one, which would make an application's timers late."""
    assert ("60000\n", "") == become(start(), row("sh", "-c", "cat /proc/self/timerslack_ns"))


@pytest.mark.parametrize(("asked", "is_set"), [(33, "33"), (10**9, "hard"), (-1, "hard")])
def test_the_application_has_the_callers_limit_of_open_files(
    start: Callable[[], Started], asked: int, is_set: str
) -> None:
    """An agent has raised its own; where this host allows fewer than the caller's, it is as many as it allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    expected = is_set.replace("hard", "unlimited" if hard == resource.RLIM_INFINITY else str(hard))
    assert (f"{expected}\n", "") == become(start(), row("sh", "-c", "ulimit -Sn") | {"n_files": asked})


def test_it_ends_when_its_supervisor_is_gone(start: Callable[[], Started]) -> None:
    """No rank is left behind by a supervisor that was killed."""
    started = start()
    started.connection.close()
    assert started.status() == 123


def test_it_says_where_it_found_no_supervisor(tmp_path: Path) -> None:
    """The message names rank and socket."""
    command = [sys.executable, "-I", "-S", "-B", SHIM, str(tmp_path / "none"), "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (123, "")
    assert f"rank 5 cannot reach its supervisor at {tmp_path / 'none'}: " in done.stderr


def test_an_answer_that_is_cut_off_is_a_supervisor_that_is_gone() -> None:
    """Half a message and the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\0\0\0\x20abc")
        theirs.close()
        assert shim.receive(ours) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [("/ours", None), ("", None), ("/a:/ours:/b", "/a:/b"), ("/a::/b", "/a:/b"), (None, None)],
)
def test_library_path_without_what_dragon_needed(
    before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing is left the variable is not set: an empty entry would mean the working directory."""
    if before is None:
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    else:
        monkeypatch.setenv("LD_LIBRARY_PATH", before)
    assert after == shim.environment({"drop_paths": ["/ours"], "set": {}}).get("LD_LIBRARY_PATH")


def test_it_imports_next_to_nothing() -> None:
    """Every rank pays for every module: those that it names and what os needs, no more."""
    code = "import sys; before = set(sys.modules)\n{}\nprint(*(set(sys.modules) - before))"
    text = code.format(f"sys.path.insert(0, {str(Path(SHIM).parent)!r}); import shim")
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", text], capture_output=True, text=True, check=True)
    own = {"shim", "__future__", "_socket", "_signal", "marshal", "resource"}
    # os, which comes with site where site is imported
    family = {"os", "os.path", "stat", "_stat", "posixpath", "genericpath", "abc", "_abc", "_collections_abc", "errno"}
    assert set(done.stdout.split()) - own - family == set()


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="a kernel without NUMA")
@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ("", "default"),
        ("local", "local"),
        ("bind:0", "bind:0"),
        ("preferred:0", "prefer:0"),
        ("interleave:0", "interleave:0"),
        ("preferred:0-1", "prefer (many):0"),  # 1 is not there, and yet no "prefer:0"
    ],
)
def test_the_application_has_the_memory_policy(policy: str, shown: str, start: Callable[[], Started]) -> None:
    """As the kernel shows it."""
    out, _ = become(start(), row("head", "-1", "/proc/self/numa_maps", path="/usr/bin/head", mem=policy))
    assert out.split(" ", 1)[1].startswith(f"{shown} ")


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="a kernel without NUMA")
@pytest.mark.parametrize(
    ("policy", "had"),
    [
        ("", None),
        ("local", ["local", []]),
        ("bind:0", ["bind", [0]]),
        ("bind:0-1", ["bind", [0]]),
        ("preferred:0", ["preferred", [0]]),
        ("preferred:0-1", ["preferred", [0]]),
        ("interleave:0", ["interleave", [0]]),
    ],
)
def test_it_says_which_memory_policy_the_application_gets(
    policy: str, had: list[object] | None, start: Callable[[], Started]
) -> None:
    """Read back from the kernel before the application runs, so a job that ends at once is judged too."""
    if Path("/sys/devices/system/node/node1").exists():
        pytest.skip("NUMA domain 1 is there: what the kernel leaves out is not what is expected here")
    started = start()
    become(started, row("true", path="/bin/true", mem=policy))
    messages = started.connection.receive()
    assert messages is not None
    assert ("goes", had) == (messages[0]["kind"], messages[0]["mem"])


def test_a_memory_policy_that_the_kernel_refuses_is_said(start: Callable[[], Started]) -> None:
    """A domain that is not there; the application is not started."""
    started = start()
    out, _ = become(started, row("sh", "-c", "echo started", mem="bind:63"))
    messages = started.connection.receive()
    assert messages is not None
    assert ["failed"] == [message["kind"] for message in messages]  # it never said that the application goes
    assert ("memory", "bind:63", "") == (messages[0]["what"], messages[0]["path"], out)
    assert shim.NO_START == started.status()
