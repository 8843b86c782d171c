"""What is mended in Dragon does what Dragon's own does, but for the fault: its own classes, without a runtime."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rankmap.runtime.mending import MENDED, python_path

pytestmark = pytest.mark.dragon

HOSTS = """
from types import SimpleNamespace
from dragon.globalservices import group_int
from dragon.infrastructure import messages

def create(pmi):
    return messages.GSProcessCreate(tag=1, p_uid=1, r_c_uid=1, exe="a", args=[], pmi=pmi).serialize()

if __name__ == "__main__":
    from dragon.infrastructure.facts import PMIBackend
    helper = object.__new__(group_int.PMIJobHelper)
    helper.items = [(2, create(PMIBackend.PMIX)), (1, create(None)), (3, create(PMIBackend.PMIX))]
    helper.layout_list = [SimpleNamespace(h_uid=number) for number in range(10, 16)]
    print([helper.get_host_id_from_index(rank) for rank in range(5)])
"""
MESSAGES = """
import threading
from dragon.infrastructure import messages
from dragon.launcher import frontend, util

front_end = object.__new__(frontend.LauncherFrontEnd)
front_end._first_error, front_end._first_error_lock = None, threading.Lock()
front_end._abnormal_termination, front_end._bumpy_exit = threading.Event(), threading.Event()
front_end._STATE = frontend.FrontendState.LAUNCHER_DOWN
front_end.la_fe_stdin = util.OverlayNetLaFEQueue()
for message in (messages.TAUp(tag=1, idx=0), messages.GSIsUp(tag=2), messages.TAUp(tag=3, idx=1)):
    front_end.la_fe_stdin.send(message.serialize())
try:
    print([m.idx for m in front_end._recv_startup_msgs(messages.TAUp, 2)])
    print([type(m).__name__ for m in front_end._recv_startup_msgs(messages.GSIsUp)])
    front_end.la_fe_stdin.send(messages.ExceptionlessAbort(tag=4).serialize())
    front_end._recv_startup_msgs(messages.TAUp, 1)
except RuntimeError as error:
    print(error)
"""
PATIENCE = """
import queue, subprocess, threading
from dragon.localservices.local_svc import _get_startup_msg

own, launcher = queue.Queue(), queue.Queue()
agent = subprocess.Popen(["sleep", "2"])
threading.Timer(1.5, own.put, ["up"]).start()
try:
    print(_get_startup_msg(own, 0.1, launcher, "agent", agent))
    agent.wait()
    _get_startup_msg(own, 0.1, launcher, "agent", agent)
except RuntimeError as error:
    print(error)
"""


def run(program: str, path: str) -> list[str]:
    """Run a Python program with this PYTHONPATH; return the lines that it prints."""
    command = [sys.executable, "-B", "-c", program]
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


@pytest.mark.parametrize("module", sorted(MENDED))
def test_the_hook_reaches_the_module(module: str) -> None:
    """A module that Dragon renames is found here, not by its CPU use."""
    program = (
        f"import {module} as m; "
        "print(any(getattr(f, '__module__', '') == 'rankmap.runtime.mending' "
        "for o in (m, *vars(m).values()) if isinstance(o, type | type(m)) for f in vars(o).values()))"
    )
    assert ["True"] == run(program, python_path({}))
    assert ["False"] == run(program, "")


def test_the_hosts_of_ranks_are_the_same() -> None:
    """The table has, for every rank, what Dragon finds by going through the templates; other processes count not."""
    expected = ["[10, 11, 13, 14, 15]"]
    assert expected == run(HOSTS, "")
    assert expected == run(HOSTS, python_path({}))


def test_messages_of_a_start_may_overtake_each_other() -> None:
    """Global services may be up before a slow host's transport agent; what ends a start still ends it."""
    assert ["[0, 1]", "['GSIsUp']", "Runtime startup aborted while waiting for TAUp"] == run(MESSAGES, python_path({}))
    assert ["Expected TAUp during startup but received GSIsUp"] == run(MESSAGES, "")


def test_a_slow_service_may_come_up_and_a_dead_one_is_told() -> None:
    """Dragon's own waits for the service to end as soon as its time is over."""
    failed = "Unable to bring up Dragon agent: timed out waiting for LS bringup message after {} seconds"
    assert ["up", failed.format(0)] == run(PATIENCE, python_path({}))
    assert [failed.format(0.1)] == run(PATIENCE, "")
