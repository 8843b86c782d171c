"""Every help text, as a person reads it on a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rankmap.cli import main, rankmap

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = ("", *rankmap.list_commands(rankmap.make_context("rankmap", [], resilient_parsing=True)))


@pytest.mark.parametrize("command", COMMANDS)
def test_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, golden: Callable[..., None]
) -> None:
    """Help goes to stdout with status 0; ``-h`` says the same as ``--help``."""
    monkeypatch.setenv("COLUMNS", "80")
    texts = []
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as end:
            main([*command.split(), flag])
        said = capsys.readouterr()
        assert (end.value.code, said.err) == (0, "")
        texts.append(said.out)
    assert texts[0] == texts[1]
    golden(f"help-{command or 'rankmap'}", texts[0])
