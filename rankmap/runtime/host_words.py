"""How commands are told of hosts: as one word, or in a file where that word would be longer than the kernel takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LONGEST_WORD", "host_words"]

LONGEST_WORD = 100_000
"""Characters; execve(2) takes 131,072 bytes in one word (MAX_ARG_STRLEN). Some 9,000 names are longer."""


def host_words(hosts: Sequence[str], folder: Path | None, *, listed: str, filed: str) -> tuple[str, str]:
    """Return an option and its value that name these hosts.

    Args:
        hosts: Their names.
        folder: Where a file is written if one is needed; None: the words are shown only, and nothing is written.
        listed: The option that takes names separated by commas.
        filed: The one that takes a file with a name on each line.
    """
    text = ",".join(hosts)
    if len(text) <= LONGEST_WORD:
        return listed, text
    if folder is None:
        return filed, "FILE"
    file = folder / "hosts"
    file.write_text("\n".join(hosts) + "\n")
    return filed, str(file)
