"""Every error that rankmap raises on purpose: its message, its hint, its exit status.

A message names what was asked, what there is and where; the hint says what to do next.
The exit statuses are a contract (docs/guide.md, "Exit status").
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AllocationError",
    "ApplicationNotExecutableError",
    "ApplicationNotFoundError",
    "LaunchError",
    "PlacementError",
    "RankmapError",
    "RuntimeUnusableError",
    "UsageError",
]


class RankmapError(Exception):
    """Something that rankmap refuses, with its reason and the next step.

    Args:
        message: One paragraph: what was asked, what there is, where.
        hint: What to do next; empty when the message says it all.

    Pickles with its data: Dragon carries errors between processes.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[RankmapError], message: str, hint: str) -> RankmapError:
    return kind(message, hint=hint)


class UsageError(RankmapError):
    """The request cannot be understood."""

    exit_status = 2


class AllocationError(RankmapError):
    """The topology or the allocation cannot be read."""

    exit_status = 120


class PlacementError(RankmapError):
    """No plan satisfies the request."""

    exit_status = 121


class RuntimeUnusableError(RankmapError):
    """Dragon, PMI or the MPI library cannot be used."""

    exit_status = 122


class LaunchError(RankmapError):
    """The job could not be started, or the runtime died under it."""

    exit_status = 123


class ApplicationNotExecutableError(RankmapError):
    """The application exists but cannot be executed."""

    exit_status = 126


class ApplicationNotFoundError(RankmapError):
    """The application does not exist."""

    exit_status = 127
