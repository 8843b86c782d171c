"""The text of a batch script: directives, set-up, the launch, and nothing of the environment it was written in.

The launch replaces the shell (``exec``): its status is the job's, and the signals of the scheduler reach it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rankmap.schedulers.batch import directives

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.preset import Preset
    from rankmap.schedulers.batch import BatchJob, Scheduler

__all__ = ["OwnSetUp", "batch_script"]

_KEYWORDS: Final = frozenset(("do", "done", "elif", "else", "esac", "fi", "then"))
"""Words that mean nothing behind a command, but look like a mistake there."""

_DOUBTED: Final[Mapping[str, str]] = {"SC1003": "\\", "SC1112": "\u2018\u2019", "SC2016": "$`", "SC2088": "~"}
"""What shellcheck doubts in quotes. Source: its wiki, by these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSetUp:
    """The user's own lines of shell, instead of those of the machine: a file's name, for the reader, and its text."""

    name: str
    text: str


def batch_script(
    job: BatchJob, scheduler: Scheduler, launch: Sequence[str], *, setup: OwnSetUp | None, path: str
) -> str:
    """Return the script; words of the user that are no valid text keep their bytes as surrogates (``os.fsencode``).

    Args:
        job: What is asked for.
        scheduler: Whom.
        launch: The words behind ``rankmap launch``.
        setup: Lines of shell that make the environment; None: those that the machine's preset has.
        path: A directory to put in front of PATH, where rankmap, dragon and python are, absolute or below the one of
            the submission; "" for none.

    Raises:
        UsageError: A directive cannot say what is asked for.
    """
    head = [
        "#!/bin/bash -l",  # module and conda are functions of a login shell
        *directives(job, scheduler),
        "",
        f'cd "${scheduler.directory}" || exit',
        "",
    ]
    lines = [*head, *_set_up(job.preset, setup, path), *_transport(job.preset), *_launch(launch)]
    return "\n".join(lines) + "\n"


def _set_up(preset: Preset | None, setup: OwnSetUp | None, path: str) -> list[str]:
    if setup is not None:
        # The line before the end mark is empty: a backslash at the end of the text continues nothing of ours.
        text = setup.text.removesuffix("\n")
        body = [f"# --- set-up: {setup.name} ---", text, "", f"# --- end of {setup.name} ---"]
        return [*_path(path), *body, ""]
    lines = []
    if preset is not None and preset.setup:
        lines = [_comment(f"set-up of {preset.title}; `rankmap machines {preset.name}` has the sources")]
        lines += [one.line for one in preset.setup]
    lines += _path(path)
    return [*lines, ""] if lines else []


def _comment(text: str) -> str:
    """Return a comment that ends with its line, whatever a preset's file says."""
    return "# " + "".join(char if char.isprintable() else "?" for char in text)


def _path(path: str) -> list[str]:
    if not path:
        return []
    here = "" if path.startswith("/") else '"$PWD"/'
    return [*_as_it_is(path), f"export PATH={here}{shlex.quote(path)}:$PATH"]


def _as_it_is(*words: str) -> list[str]:
    """Return the line that keeps shellcheck from doubting words of the user; [] where it would not."""
    codes = [code for code, chars in _DOUBTED.items() if any(char in word for word in words for char in chars)]
    return [f"# shellcheck disable={','.join(codes)} # words in quotes are meant as they are"] if codes else []


def _transport(preset: Preset | None) -> list[str]:
    """Return how Dragon is told of the network's library, which is done once for each installation of Dragon.

    Source: ``dragon-config add --help`` of dragonhpc 0.15.
    """
    dragon = preset.dragon if preset is not None else None
    if dragon is None or dragon.transport != "hsta" or not dragon.library:
        return []
    library = {"ofi": "libfabric.so", "ucx": "libucp.so"}[dragon.library]
    folder = dragon.runtime_lib or f"DIRECTORY_OF_{library}"
    return [
        "# Dragon's fast transport needs, once for each installation of Dragon:",
        _comment(f"  dragon-config add --{dragon.library}-runtime-lib={folder}"),
        "",
    ]


def _launch(words: Sequence[str]) -> list[str]:
    quoted = (f"'{word}'" if word in _KEYWORDS else shlex.quote(word) for word in words)
    return [
        "command -v rankmap >/dev/null || {",
        "  echo 'rankmap is not on PATH in this job: rankmap submit --path DIR, or --setup FILE, puts it there' >&2",
        "  exit 127",
        "}",
        *_as_it_is(*words),
        " ".join(["exec rankmap launch", *quoted]),
    ]
