"""Tables as text, by tabulate: imported when the first table is made, because that takes as long as planning."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["plain", "simple"]


def simple(rows: Sequence[Sequence[object]], headers: Sequence[str], *, align: Sequence[str] | None = None) -> str:
    """Return the rows under their headers and a line, columns to the left or as ``align`` says."""
    from tabulate import tabulate  # noqa: PLC0415 - see above

    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)


def plain(rows: Sequence[Sequence[object]], headers: Sequence[str] = (), *, align: str = "left") -> str:
    """Return the rows without lines, all columns to one side."""
    from tabulate import tabulate  # noqa: PLC0415 - see above

    return tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True, stralign=align)
