"""A launch that survives everything: each row of rows.py, and what does not fit into one."""

from __future__ import annotations

import pytest

from tests.e2e.rows import ROWS, Row, play

pytestmark = pytest.mark.dragon


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_job_ends_as_it_has_to(row: Row) -> None:
    """Right status, right words, in time, nothing left."""
    assert play(row) == []
