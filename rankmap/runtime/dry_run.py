"""``launch --dry-run``: what would be run, as words that can be read and tried, with nothing run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.hostlist import fold
from rankmap.runtime import application
from rankmap.runtime.preloading import all_preloaded
from rankmap.runtime.session import dragon_command, in_runtime
from rankmap.runtime.starting import agent_starts, dragon_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.runtime.launching import LaunchOptions
    from rankmap.runtime.starting import Reach

__all__ = ["dry_run_text"]

_SHOWN_STARTS = 3


def dry_run_text(
    commands: Sequence[Sequence[str]], *, reach: Reach | None, options: LaunchOptions, environ: Mapping[str, str]
) -> str:
    """Return what a launch would run: on which hosts, how it would get there, Dragon's command, the ranks' command.

    Where each rank would go depends on what the hosts are like, which nobody has looked at: `rankmap plan` says it.

    Raises:
        RankmapError: The application is not usable here, or there is no Dragon.
    """
    cwd = options.cwd or Path()
    found = [application.resolve(argv, cwd=cwd, environ=environ, set_env=options.set_env) for argv in commands]
    lines = [] if reach is None else _hosts(reach, environ)
    head = [sys.executable, "-m", "rankmap.runtime.head", "SOCKET"]
    if in_runtime(environ):
        lines.append("runtime: the one around this process")
    else:
        words = ("-s",) if reach is None else dragon_words(reach, reach.hosts)
        lines.append(f"runtime: {shlex.join([str(dragon_command(environ)), *words, *head])}")
    if options.preload is not None and reach is not None:
        all_preloaded(found, options.preload, Path("COPY"))
        lines.append(f"copied to every host first: {options.preload}")
    for one in found:
        lines.append(f"ranks:   {shlex.join([one.path, *one.argv[1:]])}")
        lines.append(f"   in    {one.cwd}")
    for name, value in options.set_env.items():
        lines.append(f"   with  {name}={shlex.quote(value)}" if value is not None else f"   without {name}")
    return "\n".join(lines)


def _hosts(reach: Reach, environ: Mapping[str, str]) -> list[str]:
    starts = agent_starts(reach.kind, reach.hosts, {}, environ)
    lines = [f"hosts:   {fold(reach.hosts)} ({len(reach.hosts)}, from {reach.source})"]
    lines += [f"agents:  {start}" for start in starts[:_SHOWN_STARTS]]
    if len(starts) > _SHOWN_STARTS:
        lines.append(f"         ... and so on for {len(starts) - _SHOWN_STARTS} more")
    return lines
