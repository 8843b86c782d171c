"""What all tests share: golden files, and the recorded topologies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --update-golden."""
    parser.addoption(
        "--update-golden", action="store_true", help="write what the golden tests produce as what they expect"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a check: ``golden("case", text)`` compares text with tests/golden/case/expected.txt.

    A mismatch fails and leaves the text in ``actual/`` beside it; ``pytest --update-golden`` writes it instead,
    and git diff is then for a person to read.
    """
    update = request.config.getoption("--update-golden")

    def check(case: str, text: str, name: str = "expected.txt") -> None:
        expected = TESTS / "golden" / case / name
        actual = expected.parent / "actual" / name
        if update:
            expected.parent.mkdir(parents=True, exist_ok=True)
            expected.write_text(text, encoding="utf-8")
        recorded = expected.read_text(encoding="utf-8") if expected.is_file() else None
        if recorded == text:
            actual.unlink(missing_ok=True)
            return
        actual.parent.mkdir(parents=True, exist_ok=True)
        actual.write_text(text, encoding="utf-8")
        what = "differs from" if recorded is not None else "has no"
        pytest.fail(f"{actual} {what} {expected}; `pytest --update-golden` accepts it\n{text}", pytrace=False)

    return check


@pytest.fixture
def topologies() -> Path:
    """Return the directory of the project's own recorded topologies."""
    return TESTS / "topologies"


@pytest.fixture
def shared_topologies() -> Path:
    """Return the 26 real machines' topologies, which are beside the checkout, not in it; skip without them."""
    path = TESTS.parent.parent / "shared" / "topologies"
    if not path.is_dir():
        pytest.skip("../shared/topologies is not there")
    return path
