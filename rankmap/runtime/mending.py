"""Mends faults of Dragon 0.15.0 in Dragon's own processes, on all hosts of a runtime, as their modules are imported.

What is mended, why, and which test shows it: docs/design/0005-dragon-faults.md and 0007-quiet-services.md. How it gets
into these processes: ``startup/sitecustomize.py``. Nothing is changed in the ranks.
"""

from __future__ import annotations

import asyncio
import os
import queue
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

__all__ = ["MENDED", "STARTUP", "mend", "python_path"]

STARTUP = Path(__file__).with_name("startup")
# How often a waiting process looks: often when something has just come, else seldom. Who waits longer may wait longer.
_SHORTEST_S = 0.001
_LONGEST_S = 0.05
# A message to another host waits for this one at most; as long as messages come, for _SHORTEST_S.
_LONGEST_AT_GATEWAY_S = 0.02
# What a service of a host may take to come up; a start as a whole has its own limit (``--start-timeout``).
_SLOWEST_START_S = 300.0


def python_path(environ: Mapping[str, str]) -> str:
    """Return the PYTHONPATH for Dragon's processes: the user's, with our start-up hook and rankmap itself in front."""
    parts = (str(STARTUP), str(Path(__file__).parents[2]), environ.get("PYTHONPATH"))
    return ":".join(part for part in parts if part)


def mend(module: ModuleType) -> None:
    """Mend this module of Dragon's, which has just been imported."""
    MENDED[module.__name__](module)


def _mend_queue(module: ModuleType) -> None:
    """Let ``Queue.poll`` and ``Queue.get`` sleep while they wait.

    ``poll(timeout)`` returns at once: threads that wait for exceptions or control messages take a core each.
    ``get(timeout)`` begins every wait by spinning: who calls it every 0.3 s takes 20 % of a core.
    """
    queue_class = module.Queue
    poll_now, get_now = queue_class.poll, queue_class.get

    pause_s = _SHORTEST_S

    def poll(self: Any, timeout: float | None = 0) -> bool:  # noqa: ANN401 - a class of Dragon's, known when it is imported
        nonlocal pause_s  # over calls: many wait again and again, for a short time each
        end_s = None if timeout is None else time.monotonic() + timeout
        while not poll_now(self, 0):
            if end_s is not None and time.monotonic() >= end_s:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_S)
        pause_s = _SHORTEST_S
        return True

    def get(self: Any, block: bool = True, timeout: float | None = None, **others: Any) -> Any:  # noqa: ANN401, FBT001, FBT002 - Dragon's signature
        if timeout is not None and not poll(self, timeout if block else 0):
            raise queue.Empty
        return get_now(self, block, timeout, **others)

    queue_class.poll, queue_class.get = poll, get


def _mend_gateway(module: ModuleType) -> None:
    """Let a TCP agent sleep while it waits for messages to other hosts.

    It waits in a thread, 0.1 s at a time, and each of these waits begins by spinning.
    """

    async def recv(self: Any, interval: float = 0.1) -> Any:  # noqa: ANN401, ARG001 - Dragon's signature
        pause_s = _SHORTEST_S
        message = None
        while message is None:
            try:
                message = self._recv_handle.recv(blocking=False)
            except (module.ChannelEmpty, module.ChannelRecvTimeout):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_AT_GATEWAY_S)
        try:
            return module.GatewayMessage.from_message(message)
        finally:
            message.destroy()

    module.Client.recv = recv


def _mend_frontend(module: ModuleType) -> None:
    """Let the launcher start on several hosts whatever the order, and never kill what is not its own.

    * It waits for one kind of message at a time and aborts when another comes first, which happens: global services
      report that they are up while a slow host's transport agent has not.
    * At SIGTERM and after any failure it runs ``dragon-cleanup``: SIGKILL for every Python of the user's on every host.
    """
    front_end = module.LauncherFrontEnd
    receive = module.dlutil.get_with_blocking
    expected = (module.dmsg.BEIsUp, module.dmsg.LSChannelsUp, module.dmsg.TAUp, module.dmsg.GSIsUp)

    def receive_startup_messages(self: Any, kind: type, count: int = 1, *, what: str | None = None) -> list[Any]:  # noqa: ANN401
        early: list[Any] = self.__dict__.setdefault("_rankmap_early", [])
        found = [message for message in early if isinstance(message, kind)][:count]
        early[:] = [message for message in early if message not in found]
        while len(found) < count:
            message = receive(self.la_fe_stdin)
            if isinstance(message, kind):
                found.append(message)
            elif isinstance(message, expected):
                early.append(message)
            else:
                self._raise_startup_failure(message, what or kind.__name__)
        return found

    def forget_bumpy_exit(self: Any) -> None:  # noqa: ANN401
        self._bumpy_exit.clear()

    front_end._recv_startup_msgs = receive_startup_messages  # noqa: SLF001 - the only way in
    front_end._dragon_cleanup_bumpy_exit = forget_bumpy_exit  # noqa: SLF001


def _mend_groups(module: ModuleType) -> None:
    """Let a PMIx group start in a time that grows with its ranks, not with ranks times templates.

    For every rank global services parse the group's templates from the first one on, to find the rank's host.
    """

    def host_of(self: Any, rank: int) -> int:  # noqa: ANN401
        if "_rankmap_hosts" not in self.__dict__:
            self._rankmap_hosts = hosts = []
            start = 0
            for count, text in self.items:
                message = module.dmsg.parse(text)
                if isinstance(message, module.dmsg.GSProcessCreate) and message.pmi is not None:
                    hosts += [layout.h_uid for layout in self.layout_list[start : start + count]]
                start += count
        return int(self._rankmap_hosts[rank])

    module.PMIJobHelper.get_host_id_from_index = host_of


def _mend_accelerators(module: ModuleType) -> None:
    """Let local services look for GPUs without six runs of ``dragon-config``, where nothing is configured.

    libdragon asks for a library's name and directory, of each of three makers, by that command: 0.3 s each.
    """
    find_now = module.find_accelerators
    configured = Path(module.__file__ or "").parents[1] / ".hsta-config" / "dragon-config.json"

    def find_accelerators() -> Any:  # noqa: ANN401
        path = os.environ.get("PATH", os.defpath)
        if not configured.exists():
            os.environ["PATH"] = f"{STARTUP / 'commands'}:{path}"
        try:
            return find_now()
        finally:
            os.environ["PATH"] = path

    module.__dict__["find_accelerators"] = find_accelerators


def _mend_local_services(module: ModuleType) -> None:
    """Let a slow host come up, and a failed one say so.

    Local services give their transport agent 10 s. When it needs more, as on a host with work of others, they wait for
    it to end, which it does not: the start hangs for ever, without a word.
    """
    give_up = module._get_startup_msg  # noqa: SLF001 - the only way in

    def get_startup_message(
        own: Any,  # noqa: ANN401
        timeout: float,
        launcher: Any,  # noqa: ANN401
        service: str,
        process: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        end_s = time.monotonic() + max(timeout, _SLOWEST_START_S)
        while time.monotonic() < end_s and (process is None or process.poll() is None):
            with suppress(queue.Empty, TimeoutError):
                return own.get(timeout=1.0)
        if process is not None and process.poll() is None:
            process.kill()
        return give_up(own, 0, launcher, service, process)

    module.__dict__["_get_startup_msg"] = get_startup_message


MENDED: dict[str, Callable[[ModuleType], None]] = {
    "dragon.globalservices.group_int": _mend_groups,
    "dragon.infrastructure.gpu_desc": _mend_accelerators,
    "dragon.launcher.frontend": _mend_frontend,
    "dragon.localservices.local_svc": _mend_local_services,
    "dragon.native.queue": _mend_queue,
    "dragon.transport.tcp.client": _mend_gateway,
}
