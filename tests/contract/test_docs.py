"""The documentation is complete: what the program has, the documents describe, in the same words."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from rankmap import errors
from rankmap.cli import rankmap
from rankmap.report import Severity
from rankmap.runtime import job
from rankmap.verification import SLUGS

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = DOCS / "guide.md"
FINDINGS = DOCS / "findings.md"

CONTEXT = rankmap.make_context("rankmap", [], resilient_parsing=True)
COMMANDS = tuple(rankmap.list_commands(CONTEXT))
ERROR_STATUSES = {kind.exit_status: kind.__name__ for kind in (getattr(errors, name) for name in errors.__all__)}
OTHER_STATUSES = {
    0: "success",
    job.TIMEOUT_STATUS: "--timeout",
    job.MISMATCH_STATUS: "a mismatch",
    129: "SIGHUP",
    130: "Ctrl-C",
    143: "SIGTERM",
}
STATUSES = {**ERROR_STATUSES, **OTHER_STATUSES}


def section(path: Path, title: str) -> str:
    """Return the text below this heading, up to the next one of its level or above."""
    text = path.read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(title)}\s*$(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"{path} has no section {title!r}"
    return match[2]


def options(command: str) -> list[tuple[str, ...]]:
    """Return the spellings of every option of a command, ``--help`` aside."""
    found = rankmap.get_command(CONTEXT, command)
    assert found is not None
    return [tuple(parameter.opts) for parameter in found.params if isinstance(parameter, click.Option)]


@pytest.mark.parametrize("status", sorted(STATUSES), ids=lambda status: f"{status}-{STATUSES[status]}")
def test_every_exit_status_is_described(status: int) -> None:
    """docs/guide.md, "Exit status", has each number."""
    assert re.search(rf"(?<!\d){status}(?!\d)", section(GUIDE, "Exit status"))


def test_every_finding_has_an_entry_and_no_other() -> None:
    """docs/findings.md has one row per kind of finding, with a severity, a meaning, a cause and what to do."""
    rows = re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", FINDINGS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(SLUGS) == sorted(slug for slug, _ in rows)
    for slug, row in rows:
        severity, *texts = (cell.strip() for cell in row.split("|"))
        assert (slug, True) == (slug, severity in set(Severity))
        assert (slug, [True] * 3) == (slug, [len(text) > 10 for text in texts])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_guide(command: str) -> None:
    """docs/guide.md names each option of each command as it is typed, in one of its spellings."""
    guide = GUIDE.read_text(encoding="utf-8")
    assert [names for names in options(command) if not any(_occurs(name, guide) for name in names)] == []


def _occurs(option: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_guide(command: str) -> None:
    """As a person types it."""
    assert f"rankmap {command}" in GUIDE.read_text(encoding="utf-8")


def test_the_guide_names_no_option_that_does_not_exist() -> None:
    """An option that was renamed or removed is not left in a ``rankmap`` command of the guide."""
    known = {"--help", "--version", *(name for command in COMMANDS for names in options(command) for name in names)}
    commands = re.findall(r"\brankmap (?:launch|plan|topo|doctor)\b[^\n`]*", GUIDE.read_text(encoding="utf-8"))
    asked = {word for text in commands for word in re.findall(r"(?<=\s)--[a-z][a-z-]+", text.split(" -- ")[0])}
    assert asked - known == set()


@pytest.mark.parametrize("title", ["Exit status", "The report"])
def test_sections_that_the_program_refers_to_exist(title: str) -> None:
    """Docstrings and messages send readers there by name."""
    assert section(GUIDE, title).strip()


def test_documents_that_the_program_refers_to_exist() -> None:
    """Every docs/... path in the code is a file."""
    package = Path(errors.__file__).parent
    named = {name for file in package.rglob("*.py") for name in re.findall(r"docs/[\w/-]+\.md", file.read_text())}
    assert [name for name in sorted(named) if not (DOCS.parent / name).is_file()] == []
