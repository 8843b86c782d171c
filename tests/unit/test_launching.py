"""Unit tests of rankmap.runtime.launching: what --preload makes of a job's commands; launches are in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankmap.errors import UsageError
from rankmap.runtime import launching
from rankmap.runtime.application import Application
from rankmap.runtime.several import looked_for

COPY = Path("/job/preload/app")
COMMANDS = [["./app", "-x"], ["env", "app"], ["env", "true"]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the file."""
    file = tmp_path / "app"
    file.write_text("#!/bin/sh\n")
    return file


@pytest.fixture
def parts(source: Path) -> list[Application]:
    """Return a job of three parts: the first is the file, the second is given it, the third is another."""
    paths = [str(source), "/usr/bin/env", "/usr/bin/env"]
    return [
        Application(path=path, argv=tuple(argv), cwd=str(source.parent), set_env={})
        for path, argv in zip(paths, COMMANDS, strict=True)
    ]


def test_every_part_uses_the_copy(source: Path, parts: list[Application]) -> None:
    """A part that does not is no mistake; hosts are not asked for a program of which they get a copy."""
    changed = launching._preloaded(parts, source, COPY)
    assert [str(COPY), "/usr/bin/env", "/usr/bin/env"] == [one.path for one in changed]
    assert [("./app", "-x"), ("env", str(COPY)), ("env", "true")] == [one.argv for one in changed]
    assert [[], *COMMANDS[1:]] == looked_for(COMMANDS, changed, COPY)


def test_without_a_file_the_commands_are_as_they_were(parts: list[Application]) -> None:
    """And every host is asked for all of them."""
    assert parts == launching._preloaded(parts, None, None)
    assert COMMANDS == looked_for(COMMANDS, parts, None)


def test_on_one_host_nothing_is_copied(
    source: Path, parts: list[Application], capfd: pytest.CaptureFixture[str]
) -> None:
    """Which is said: a script may well have the option for when there are more."""
    assert parts == launching._preloaded(parts, source, None)
    assert f"--preload {source}: on one host it is used where it is" in capfd.readouterr().err


def test_a_file_that_no_part_names_is_refused(tmp_path: Path, parts: list[Application]) -> None:
    """It were copied for nothing."""
    with pytest.raises(UsageError) as refused:
        launching._preloaded(parts, tmp_path / "other", COPY)
    assert f"--preload {tmp_path}/other: neither the application nor an argument of it is that file" == (
        refused.value.message
    )
    assert "as the command does" in refused.value.hint
