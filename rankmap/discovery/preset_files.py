"""Where the machine presets that come with rankmap are: their names, without the cost of reading any."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["file_of", "names"]

_FOLDER: Final = Path(__file__).parent.parent / "machines"


@cache
def names() -> tuple[str, ...]:
    """Return the presets that come with rankmap, by name."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


def file_of(name: str) -> Path:
    """Return the file of a preset that comes with rankmap; of any other name the path that it is."""
    return _FOLDER / f"{name}.toml" if name in names() else Path(name)
