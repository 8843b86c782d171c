from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rankmap.errors import (
    ApplicationNotExecutableError,
    ApplicationNotFoundError,
    RankmapError,
    UsageError,
)
from rankmap.runtime.application import Application, interpreter_of, resolve, start_failure, with_env

LONG = "a" * 5000


def script(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    """Write a file with this mode, and return it."""
    path.write_text(text)
    path.chmod(mode)
    return path


def found(name: str, cwd: Path, path: str = "/nowhere", **set_env: str | None) -> Application:
    """Resolve a command with this PATH."""
    return resolve([name, "-x"], cwd=cwd, environ={"PATH": path}, set_env=set_env)


def refusal(name: str, cwd: Path, path: str = "/nowhere") -> RankmapError:
    """Return the error that a command is refused with."""
    with pytest.raises(RankmapError) as caught:
        found(name, cwd, path)
    return caught.value


def test_a_command_is_found_on_path_as_the_shell_finds_it(tmp_path: Path) -> None:
    """The first executable file of the name wins; argv[0] stays as typed, path and cwd are absolute."""
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "app").mkdir()
    script(tmp_path / "b" / "app", mode=0o644)
    app = script(tmp_path / "c" / "app")
    application = found("app", tmp_path, f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c")
    expected = Application(path=str(app), argv=("app", "-x"), cwd=str(tmp_path), set_env={})
    assert expected == application


def test_a_path_is_taken_from_the_ranks_working_directory(tmp_path: Path) -> None:
    """``./app`` with --cwd is the one there, and links are kept: a program may look at its own name."""
    script(tmp_path / "real")
    (tmp_path / "app").symlink_to("real")
    assert str(tmp_path / "app") == found("./app", tmp_path).path
    (tmp_path / "x").mkdir()
    assert str(tmp_path / "app") == found("../x/../app", tmp_path / "x").path


def test_path_of_the_ranks_wins_over_the_callers(tmp_path: Path) -> None:
    """--env PATH=... is where the ranks' application is looked for; taken out, it is the system's default."""
    script(tmp_path / "app")
    assert str(tmp_path / "app") == found("app", tmp_path, PATH=str(tmp_path)).path
    assert Path(found("sh", tmp_path, PATH=None).path).name == "sh"


def test_a_relative_working_directory_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is relative is so to where the user is."""
    monkeypatch.chdir(tmp_path)
    script(tmp_path / "app")
    assert str(tmp_path) == resolve(["./app"], cwd=Path(), environ={}, set_env={}).cwd


@pytest.mark.parametrize("argv", [[], [""]])
def test_no_command_is_refused(argv: list[str], tmp_path: Path) -> None:
    """The message shows how a command is written."""
    with pytest.raises(UsageError, match="no application") as caught:
        resolve(argv, cwd=tmp_path, environ={}, set_env={})
    assert "rankmap launch" in caught.value.hint


@pytest.mark.parametrize(
    ("folder", "why"),
    [("missing", "No such file"), ("file", "Not a directory"), ("file/x", "Not a directory"), (LONG, "too long")],
)
def test_a_working_directory_that_is_none_is_refused(folder: str, why: str, tmp_path: Path) -> None:
    """The message has the directory and what is wrong with it; the hint names the option."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=why) as caught:
        resolve(["sh"], cwd=tmp_path / folder, environ={}, set_env={})
    assert str(tmp_path / folder) in caught.value.message
    assert "--cwd" in caught.value.hint


def test_a_current_directory_that_was_removed_is_refused(tmp_path: Path) -> None:
    """A shell may stand in a directory that is gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os; from pathlib import Path; from rankmap.errors import UsageError\n"
        "from rankmap.runtime.application import resolve\n"
        f"os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
        "try: resolve(['sh'], cwd=Path(), environ={}, set_env={})\n"
        "except UsageError as error: print(error.message)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "the current directory does not exist any more\n"


def test_a_name_that_is_not_on_path_is_not_found(tmp_path: Path) -> None:
    """The message says where was looked; a file of that name in the directory is pointed out, not run."""
    error = refusal("nope", tmp_path, "/one:/two")
    assert (type(error), error.message) == (ApplicationNotFoundError, "nope is not on PATH (/one:/two)")
    script(tmp_path / "here")
    error = refusal("here", tmp_path)
    assert (type(error), error.hint) == (ApplicationNotFoundError, "to run that one: ./here")
    assert str(tmp_path) in error.message
    assert type(refusal(LONG, tmp_path)) is ApplicationNotFoundError


def test_a_path_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    """Missing, below a file, a dangling link, too long: 127, with the whole path."""
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name, why in (
        ("./nope", "No such file"),
        ("file/app", "Not a directory"),
        ("./link", "dangling link"),
        ("./loop", "Too many levels"),
        (f"./{LONG}", "too long"),
    ):
        error = refusal(name, tmp_path)
        assert (type(error), True) == (ApplicationNotFoundError, why in error.message)
        assert str(tmp_path) in error.message


def test_what_cannot_be_executed_is_told_apart_from_what_is_missing(tmp_path: Path) -> None:
    """A directory, a file without permission, a pipe (reading it would wait for ever) and a socket: 126."""
    (tmp_path / "folder").mkdir()
    script(tmp_path / "plain", mode=0o644)
    os.mkfifo(tmp_path / "pipe", 0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        for name, why in (
            ("./folder", "is a directory"),
            ("./plain", "no execute permission"),
            ("./pipe", "a pipe"),
            ("./socket", "a socket"),
            ("/dev/null", "a device"),
        ):
            error = refusal(name, tmp_path)
            assert (type(error), True) == (ApplicationNotExecutableError, why in error.message)
            assert error.hint


def test_a_directory_that_may_not_be_entered_is_said(tmp_path: Path) -> None:
    """The user's permission is what counts (as root the test becomes another user)."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    code = (
        "import os, sys; from pathlib import Path; from rankmap.errors import RankmapError\n"
        "from rankmap.runtime.application import resolve\n"
        "os.getuid() == 0 and os.setuid(65534)\n"
        f"try: resolve([{str(closed / 'app')!r}], cwd=Path('/'), environ={{}}, set_env={{}})\n"
        "except RankmapError as error: print(error.exit_status, error.message)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"126 {closed / 'app'}: Permission denied\n" == done.stdout


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("echo hello\n", ApplicationNotExecutableError, "starts with #!"),
        ("", ApplicationNotExecutableError, "starts with #!"),
        ("#!\n", ApplicationNotExecutableError, "starts with #!"),
        ("#!/no/such/interpreter -x\n", ApplicationNotFoundError, "a script for '/no/such/interpreter'"),
        ("#!/bin/sh\r\n", ApplicationNotFoundError, r"'/bin/sh\r', which does not exist"),
        (f"#!/{'a' * 250}\n", ApplicationNotFoundError, "does not exist"),
        ("#!/etc\n", ApplicationNotExecutableError, "cannot be executed"),
        ("#!/etc/passwd\n", ApplicationNotExecutableError, "cannot be executed"),
    ],
)
def test_a_file_that_the_kernel_would_refuse_is_refused_first(
    text: str, kind: type[RankmapError], why: str, tmp_path: Path
) -> None:
    """Text without #!, a script from Windows, an interpreter that is missing or none."""
    (tmp_path / "app").write_bytes(text.encode())
    (tmp_path / "app").chmod(0o755)
    error = refusal("./app", tmp_path)
    assert kind is type(error)
    assert why in error.message
    assert error.hint


@pytest.mark.parametrize(("order", "machine", "name"), [("little", 2, "ELF machine 2"), ("big", 22, "s390x")])
def test_a_program_for_another_machine_is_refused(order: str, machine: int, name: str, tmp_path: Path) -> None:
    """The ELF header says which machine, in its own byte order."""
    number = machine.to_bytes(2, "little" if order == "little" else "big")
    header = b"\x7fELF\x02" + (b"\x01" if order == "little" else b"\x02") + bytes(12) + number
    (tmp_path / "app").write_bytes(header + bytes(44))
    (tmp_path / "app").chmod(0o755)
    error = refusal("./app", tmp_path)
    assert type(error) is ApplicationNotExecutableError
    assert f"is a program for {name}; this machine is {os.uname().machine}" in error.message


def test_programs_of_this_machine_pass() -> None:
    """The interpreter that runs this test is one."""
    assert found(sys.executable, Path("/")).path == sys.executable


@pytest.mark.parametrize(
    ("start", "interpreter"),
    [
        (b"#!/bin/sh\n", "/bin/sh"),
        (b"#! /usr/bin/env python3\nx", "/usr/bin/env"),
        (b"#!/bin/sh", "/bin/sh"),
        (b"#!\xff\n", os.fsdecode(b"\xff")),
        (b"#!   \n", None),
        (b"\x7fELF", None),
        (b"#!/bin/sh\t-x\r\n", "/bin/sh"),
        (b"#!/bin/sh\r\n", "/bin/sh\r"),
        (b"", None),
    ],
)
def test_interpreter_is_the_first_word_after_the_mark(start: bytes, interpreter: str | None) -> None:
    """Blanks in front are allowed, arguments are not part of it."""
    assert interpreter == interpreter_of(start)


def test_what_the_user_sets_wins() -> None:
    """Variables that rankmap adds never replace the user's, not even one taken out."""
    application = Application(path="/a", argv=("a",), cwd="/", set_env={"A": "user", "B": None})
    assert with_env(application, {"A": "x", "B": "x", "C": "x"}).set_env == {"A": "user", "B": None, "C": "x"}


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.ENOEXEC, 126), (errno.E2BIG, 126)]
)
def test_a_failed_exec_has_a_status_and_words(number: int, status: int) -> None:
    """Not found is 127, everything else 126, as shells have it."""
    words = f"the application cannot be started: /a: {os.strerror(number)}"
    assert (status, words, "") == start_failure("application", "/a", number)


def test_a_directory_that_is_gone_is_a_failed_launch() -> None:
    """The working directory was there when the job was checked, so it is no matter of the request."""
    words = "the working directory cannot be entered: /d: No such file or directory"
    assert (123, words, "") == start_failure("directory", "/d", errno.ENOENT)


def test_a_memory_policy_that_the_kernel_refuses_is_a_failed_launch() -> None:
    """With what to do about it (test_memory_policies.py)."""
    status, words, hint = start_failure("memory", "bind:3", errno.EINVAL)
    assert (123, "the kernel refuses the memory policy bind:3: Invalid argument") == (status, words)
    assert "rankmap topo" in hint
