from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import rankmap
from rankmap.cli.plan import plan
from rankmap.errors import AllocationError, PlacementError, RankmapError, UsageError
from rankmap.placement import Plan

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = "synthetic:pack:2 numa:2 core:4 pu:2"


def _run(*args: str) -> Result:
    return CliRunner().invoke(plan, args, catch_exceptions=False)


def test_a_table_on_stdout_and_notes_on_stderr() -> None:
    """The result can be piped; what there is to say about it does not get into it."""
    result = _run("-n", "1", "-c", "6", "--machine", f"2x{MACHINE}")

    assert [line.split() for line in result.stdout.splitlines()][2:] == [["0", "n0", "0", "0-11", "0,1", "-"]]
    assert result.stderr.splitlines() == [
        "rankmap: note: rank 0 spans NUMA domains 0,1 (asked: -c 6, a domain has 4 cores)",
        "rankmap: note: 10 of 16 cores on n0 stay idle",
        "rankmap: note: n1 has no ranks",
    ]


def test_json_loads_back(tmp_path: Path) -> None:
    """--format json is one line that Plan.from_json reads; -o writes it to a file, - is stdout."""
    file = tmp_path / "p.json"
    shown = _run("-N", "4", "--machine", f"2x{MACHINE}", "--format", "json").stdout

    saved = _run("-N", "4", "--machine", f"2x{MACHINE}", "--format", "json", "-o", str(file))

    assert saved.stdout == ""
    assert shown == file.read_text()
    assert shown == _run("-N", "4", "--machine", f"2x{MACHINE}", "--format", "json", "-o", "-").stdout
    assert Plan.from_json(shown).n_ranks == 8


def test_ranks_are_one_line_each() -> None:
    """--format ranks follows the contract of DESIGN.md to the byte."""
    assert _run(
        "-n", "2", "-c", "1", "--machine", "synthetic:numa:2 core:4 pu:2", "--format", "ranks"
    ).stdout.splitlines() == [
        '{"rank":0,"node":0,"host":"n0","local_rank":0,"cpus":[0,1],"numa":[0],"gpus":[],"mem":null,"env":{}}',
        '{"rank":1,"node":0,"host":"n0","local_rank":1,"cpus":[8,9],"numa":[1],"gpus":[],"mem":null,"env":{}}',
    ]


def test_without_a_machine_this_host_is_planned() -> None:
    """Every CPU of the plan is one that this process may use."""
    result = _run("--format", "ranks")

    assert result.exit_code == 0
    assert result.stdout.startswith('{"rank":0,"node":0,')


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["-n", "0"], UsageError),
        (["-n", "99"], PlacementError),
        (["--hosts", "n7"], AllocationError),
        (["-o", "/nonexistent/x"], UsageError),
    ],
)
def test_errors_are_raised_to_the_one_boundary(args: list[str], kind: type[RankmapError]) -> None:
    """The command raises; status and text are the group's business."""
    with pytest.raises(kind):
        _run("--machine", MACHINE, *args)


def test_a_score_is_json_too() -> None:
    """Each number by its name, on one line."""
    shown = json.loads(_run("-n", "4", "--machine", MACHINE, "--score", "--format", "json").stdout)
    assert 0 == shown["unbound"]
    assert list(shown) == [
        number.slug for number in rankmap.score(rankmap.plan(rankmap.load(MACHINE), n_ranks=4)).numbers()
    ]
