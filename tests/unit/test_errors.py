from __future__ import annotations

import pickle

import pytest

from rankmap import errors
from rankmap.errors import RankmapError

KINDS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_pickles_with_its_data(kind: type[RankmapError]) -> None:
    """An error that crosses a process keeps its class, message and hint."""
    error = kind("-n 9: there are 8", hint="-n 8")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (kind, error.message, error.hint, str(error)) == (type(copy), copy.message, copy.hint, str(copy))


def test_a_hint_is_not_needed() -> None:
    """A message that says it all has an empty hint."""
    assert RankmapError("no").hint == ""


def test_exit_statuses_are_the_contract() -> None:
    """Scripts rely on these numbers (docs/guide.md, "Exit status"); two kinds never share one."""
    assert {kind.__name__: kind.exit_status for kind in KINDS} == {
        "RankmapError": 1,
        "UsageError": 2,
        "AllocationError": 120,
        "PlacementError": 121,
        "RuntimeUnusableError": 122,
        "LaunchError": 123,
        "ApplicationNotExecutableError": 126,
        "ApplicationNotFoundError": 127,
    }


def test_every_error_is_listed_and_an_ordinary_exception() -> None:
    """``except Exception`` in a user's program catches each of them, and none is missing from ``__all__``."""
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__)
    assert all(issubclass(kind, RankmapError) and issubclass(kind, Exception) for kind in KINDS)
