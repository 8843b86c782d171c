"""What ``rankmap plan``, ``why``, ``whatif`` and ``submit`` print, case by case, against text that a person has read.

A case is a folder with ``request.toml`` (``args``) and ``expected.txt``. ``pytest --update-golden`` rewrites the texts.
"""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cli import main
from rankmap.layout import LayoutSpec
from rankmap.planner import plan
from tests.topologies_made import allocation, interleaved, made

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/request.toml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_printed_is_as_reviewed(
    case: Path,
    capsys: pytest.CaptureFixture[str],
    golden: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Standard output, standard error and status are what was reviewed."""
    monkeypatch.chdir(HERE.parents[1])
    args = tomllib.loads((case / "request.toml").read_text())["args"]

    with pytest.raises(SystemExit) as end:
        main(args)

    said = capsys.readouterr()
    parts = [f"$ rankmap {shlex.join(args)}\n", said.out, f"stderr:\n{said.err}" if said.err else ""]
    golden(case.name, "".join([*parts, f"status: {end.value.code}\n"]))


def test_saved_plan_is_as_reviewed(golden: Callable[..., None]) -> None:
    """The saved form of a plan is a format that later versions must read: a change of it shows here."""
    node = made([[1], [1]], smt=2, number=interleaved(2))
    saved = plan(allocation(node, node), LayoutSpec(n_ranks=3)).to_json()

    golden("plan-saved", saved + "\n")
