"""What the hosts of a Dragon runtime are like: an agent on each looks, and goes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.errors import AllocationError
from rankmap.runtime.ending import no_start
from rankmap.runtime.fleet import Fleet
from rankmap.runtime.link import PREFERRED
from rankmap.runtime.loop import Loop
from rankmap.runtime.rank_output import tell
from rankmap.runtime.session import ControlDirectory
from rankmap.runtime.several import fanout_of, start_timeout_s
from rankmap.runtime.starting import hosts_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.cpuset import CpuSet
    from rankmap.runtime.ending import Outcome
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.starting import Reach

__all__ = ["hosts_looked_at"]


def hosts_looked_at(reach: Reach, *, environ: Mapping[str, str], kept: CpuSet) -> list[HostFacts]:
    """Return what these hosts are like, in their order.

    Args:
        reach: The hosts.
        environ: The environment of the program that asks.
        kept: PU os indices that the site keeps on each of them.

    Raises:
        AllocationError: One of them cannot be looked at; the message has its name.
        UsageError: See ``fanout_of``.
    """
    fanout = fanout_of(environ)
    control = ControlDirectory()
    look = {
        "kind": "look",
        "control": str(control.path),
        "environ": hosts_environment(environ),
        "kept": str(kept),
        "commands": [],
        "cwd": "/",
        "set_env": {},
        "libpmix": False,
        "inside": True,
        "ports": [],
    }
    found: list[HostFacts] = []
    failed: list[Outcome] = []
    loop = Loop((), lambda _signals: fleet.on_wake())
    fleet = Fleet(
        loop,
        kind=reach.kind,
        hosts=reach.hosts,
        job=control.path.name,
        look=look,
        network_prefix=PREFERRED,
        fanout=fanout,
        n_spares=0,
        say=tell,
        on_ready=found.extend,
        on_failure=failed.append,
        on_message=lambda _member, _message: None,
        on_lost=lambda _member: None,
    )
    limit_s = start_timeout_s(reach)
    with loop:
        try:
            fleet.start(environ)
            loop.call_after(limit_s, lambda: failed.append(no_start(limit_s, late=fleet.missing(), log_tail="")))
            while not found and not failed:
                loop.step()
        finally:
            fleet.end(gentle=True, hurry=lambda: False)
            control.remove()
    if not found:
        raise AllocationError(failed[0].reason, hint=failed[0].hint)
    return found
