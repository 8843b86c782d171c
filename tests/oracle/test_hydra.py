"""MPICH's hydra agrees on a single node, but for what differences.py lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.oracle.comparison import Outcome, compared
from tests.oracle.hydra import hydra_path
from tests.oracle.machines import machines
from tests.oracle.requests_sampled import sampled_for_hydra

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(hydra_path() is None, reason="there is no MPICH (see tests/oracle/hydra.py)")
def test_same_map(tmp_path: Path) -> None:
    """A sample of 30 requests."""
    results = [compared(asked, oracle="hydra") for asked in sampled_for_hydra(machines(tmp_path), 30)]
    assert [] == [str(result) for result in results if result.outcome.is_wrong]
    assert sum(result.outcome is Outcome.EQUAL for result in results) > 15
