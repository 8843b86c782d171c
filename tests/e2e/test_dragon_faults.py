"""The faults of Dragon that rankmap works around, shown in bare Dragon.

A test here that fails is good news: Dragon has mended the fault, and what docs/design/0005-dragon-faults.md names for
it can go.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import BIN, CHECKOUT, RANKMAP, SHARED_MEMORY, environment, run, traces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.dragon, pytest.mark.upstream]

DRAGON = str(BIN / "dragon")
PYTHON = sys.executable


@pytest.fixture
def swept() -> Iterator[list[int]]:
    """Return a list for the pids of launchers; end and remove what these leave, which is Dragon's fault."""
    before = traces()
    launchers: list[int] = []
    yield launchers
    for trace in traces() - before:
        if trace.startswith("process "):
            os.kill(int(trace.split()[1]), signal.SIGKILL)
    for pid in launchers:  # Dragon names its pools so
        for pool in Path(SHARED_MEMORY).glob(f"DD{pid % 1000:04d}*"):
            pool.unlink()


GROUP = """
import sys
from dragon.globalservices.process import multi_join
from dragon.infrastructure.facts import PMIBackend
from dragon.native.process import ProcessTemplate
from dragon.native.process_group import ProcessGroup

if __name__ == "__main__":
    group = ProcessGroup(restart=False, ignore_error_on_exit=True, pmi=PMIBackend.PMIX)
    group.add_process(2, ProcessTemplate(sys.argv[1], args=sys.argv[2:]))
    group.init()
    group.start()
    puids = list(group.puids)
    codes = {}
    for _ in range(2):
        ended, _ = multi_join([puid for puid in puids if puid not in codes], timeout=6, join_all=False)
        codes.update(ended or [])
    if len(codes) < 2:
        group.kill()
    print("codes", sorted(codes.values()))
"""


def group(tmp_path: Path, env: Mapping[str, str], *command: str) -> str:
    """Run two PMIx ranks of this command under bare Dragon, for a while; return what it prints."""
    program = tmp_path / "group.py"
    program.write_text(GROUP)
    # Dragon's PMIx server leaves directories in TMPDIR.
    return run(DRAGON, "-s", str(program), *command, env={**env, "TMPDIR": str(tmp_path)}, cwd=tmp_path).stdout


def test_two_runtimes_name_their_jobs_the_same(libpmix: Mapping[str, str], tmp_path: Path) -> None:
    """So the MPI libraries of two jobs on a host name their shared memory the same."""
    for name in ("one", "two"):
        group(tmp_path, libpmix, "/bin/sh", "-c", f"echo $PMIX_NAMESPACE >{tmp_path}/{name}")
    assert (tmp_path / "one").read_text().startswith("client-nspace-")
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()


def test_an_abort_leaves_the_other_ranks(libpmix: Mapping[str, str], tmp_path: Path) -> None:
    """MPI_Abort of rank 1 is not passed on to rank 0, which waits for ever."""
    program = "from mpi4py import MPI; w = MPI.COMM_WORLD; w.Abort(9) if w.rank == 1 else w.Barrier()"
    assert "codes [9]\n" in group(tmp_path, libpmix, PYTHON, "-c", program)


def test_the_second_command_of_a_script_hangs(tmp_path: Path) -> None:
    """The handshake of its identity went to the first."""
    (tmp_path / "ask.py").write_text(
        "import faulthandler; faulthandler.dump_traceback_later(8, exit=True)\n"
        "from dragon.native.process import Process; Process(target=print, args=('in child',)).start()\n"
    )
    (tmp_path / "ask.sh").write_text(
        f"#!/bin/sh\nfor i in 1 2; do '{PYTHON}' {tmp_path}/ask.py; echo status $?; done\n"
    )
    (tmp_path / "ask.sh").chmod(0o755)
    done = run(DRAGON, "-s", str(tmp_path / "ask.sh"), cwd=tmp_path)
    assert ["status 0", "status 1"] == [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert "connect_to_infrastructure" in done.stderr


def test_killing_processes_that_ask_global_services_hangs_all_who_ask(tmp_path: Path, swept: list[int]) -> None:
    """Each takes a place in the queue of requests with it; a launch in there says so when its time is over."""
    answer = tmp_path / "answer.json"
    program = str(CHECKOUT / "tests" / "e2e" / "hanging.py")
    launch = [RANKMAP, "launch", "-n", "1", "--pmi", "none", "--start-timeout", "5", "--", "true"]
    with subprocess.Popen(
        [DRAGON, "-s", program, str(answer), *launch], env=environment({}), process_group=0,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as launcher:  # fmt: skip
        swept.append(launcher.pid)
    got = json.loads(answer.read_text())
    assert "gs_request" in got["waiting_in"]
    assert 122 == got["status"], got["stderr"]
    assert "the Dragon runtime was not ready after 5 s" in got["stderr"]
    assert got["seconds"] < 20


FACTS = """
import json, os, sys, time
from dragon.infrastructure.policy import Policy
from dragon.native.machine import Node, System
from dragon.native.process import Process, ProcessTemplate
from dragon.native.queue import Queue

def places(queue):
    queue.put(sorted(os.sched_getaffinity(0)))

if __name__ == "__main__":
    queue = Queue()
    start = time.monotonic()
    queue.poll(timeout=2.0)
    poll_s = time.monotonic() - start
    process = Process(target=places, args=(queue,), policy=Policy(cpu_affinity=[9999]))
    process.start()
    cpus = queue.get()
    process.join()
    host = Node(System().nodes[0]).hostname
    with open(sys.argv[1], "w") as file:
        json.dump({"poll_s": poll_s, "cpus": cpus, "host": host}, file)
"""


def test_waiting_for_a_queue_does_not_wait_wrong_cpus_mean_all_and_a_host_is_local(tmp_path: Path) -> None:
    """Three faults in one runtime."""
    (tmp_path / "facts.py").write_text(FACTS)
    done = run(DRAGON, "-s", str(tmp_path / "facts.py"), str(tmp_path / "facts.json"), cwd=tmp_path)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert 0 == done.status
    assert facts["poll_s"] < 1
    assert sorted(os.sched_getaffinity(0)) == facts["cpus"]
    assert "localhost" == facts["host"]


def test_a_killed_dragon_leaves_processes_and_files(swept: list[int]) -> None:
    """SIGKILL of the launcher: its head lives on, and the pools stay in /dev/shm."""
    before = traces()
    with subprocess.Popen(
        [DRAGON, "-s", "/bin/sh", "-c", "echo up; exec sleep 600"], env=environment({}), stdout=subprocess.PIPE,
        process_group=0,
    ) as launcher:  # fmt: skip
        swept.append(launcher.pid)
        assert launcher.stdout is not None
        assert b"up\n" == launcher.stdout.readline()
        launcher.kill()
        launcher.stdout.close()
    left = traces() - before
    assert 1 <= sum(trace.startswith("process ") for trace in left)
    assert 4 <= sum(trace.startswith(SHARED_MEMORY) for trace in left)


def test_dragon_hangs_as_a_session_leader(swept: list[int]) -> None:
    """As it would be from cron or as the first process of a container."""
    launcher = subprocess.Popen(
        [DRAGON, "-s", "/bin/true"], env=environment({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    swept.append(launcher.pid)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            launcher.wait(timeout=15)
    finally:
        launcher.kill()
        launcher.wait()


def test_a_small_shared_memory_hangs_dragon() -> None:
    """With 2 GiB it neither starts nor says why; in a PID namespace of its own, so that all of it ends."""
    isolated = ["unshare", "-rmpf", "--mount-proc", "--kill-child", "sh", "-c"]
    mount = "mount -t tmpfs -o size=2g tmpfs /dev/shm"
    if run(*isolated, mount).status != 0:
        pytest.skip("this system lets us make no namespaces")
    start_s = time.monotonic()
    done = run(*isolated, f"{mount} && timeout -s KILL 15 '{DRAGON}' -s /bin/true")
    assert (137, True) == (done.status, time.monotonic() - start_s > 14), done
