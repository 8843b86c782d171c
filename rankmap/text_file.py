"""Reads the text files that a request names, or the environment of a job."""

from __future__ import annotations

from pathlib import Path

from rankmap.errors import UsageError
from rankmap.layout_parts import TextFile

__all__ = ["read_text_file"]

_MOST_BYTES = 64 << 20


def read_text_file(name: str, *, called: str, what: str, hint: str) -> TextFile:
    """Return what stands in a file.

    Args:
        name: Its path.
        called: What messages call it.
        what: What it should be: "list of hosts".
        hint: What to do where it cannot be read.

    Raises:
        UsageError: It cannot be read, is no text, or is much too long.
    """
    try:
        with Path(name).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        lines = tuple(data.decode().splitlines())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        msg = f"{called} cannot be read: {reason}"
        raise UsageError(msg, hint=hint) from error
    if len(data) > _MOST_BYTES:
        msg = f"{called} has more than {_MOST_BYTES >> 20} MiB: no {what}"
        raise UsageError(msg, hint=hint)
    return TextFile(name=name, lines=lines)
