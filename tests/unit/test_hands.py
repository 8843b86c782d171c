"""Unit tests of rankmap.runtime.hands: what is said to them and what they tell, with real shims and applications."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import LaunchError
from rankmap.gathering import Gathered
from rankmap.node_plan import NodePlan
from rankmap.planner import plan
from rankmap.report import Verdict
from rankmap.requests import request
from rankmap.runtime import draining, shim
from rankmap.runtime.application import Application
from rankmap.runtime.hands import Hands
from rankmap.runtime.host_job import HostJob
from rankmap.runtime.limits import Limits
from rankmap.runtime.loop import Loop
from rankmap.runtime.services import Service
from rankmap.runtime.wire import Connection, listen
from rankmap.topology import Allocation
from rankmap.verification import report_of_nodes
from tests.children import LIMIT_S, child, family, has_ended
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from rankmap.placement import Plan
    from rankmap.runtime.processes import Found
    from rankmap.runtime.wire import Message

CPUS = sorted(os.sched_getaffinity(0))
SHIM = str(Path(shim.__file__))
NODE = made([[len(CPUS)]], number=lambda core, _: CPUS[core])
CONNECTS = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
link.recv(1)
"""

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs for two ranks")


class Around:
    """What is around the ranks of a test: nothing, but for what it says."""

    def __init__(self) -> None:
        self.runtime_stays = True
        self.found_vital: list[Service] = []
        self.found_left: list[Found] = []

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return this process."""
        assert os.getpid() not in ranks
        return [os.getpid()]

    def vital(self, services: Iterable[Service]) -> list[Service]:
        """Return what the test says."""
        assert [os.getpid()] == [service.pid for service in services]
        return self.found_vital

    def left_by_ranks(self, services: Collection[int]) -> list[Found]:
        """Return what the test says."""
        assert {os.getpid()} == set(services)
        return self.found_left


class Bucket:
    """Takes what ranks write."""

    def __init__(self) -> None:
        self.got: dict[tuple[int, int], bytes] = {}

    def feed(self, rank: int, end: int, data: bytes) -> None:
        """Take it."""
        self.got[rank, end] = self.got.get((rank, end), b"") + data

    def full(self, rank: int, end: int) -> bool:
        """Return whether there is no room."""
        return (rank, end) not in self.got and rank < 0

    def taken(self) -> bool:
        """Return whether it has gone on its way."""
        return True


def planned(host: str) -> Plan:
    """Return a plan of two ranks, one on each of the first two CPUs of a host of this name."""
    return plan(Allocation.of(((host, NODE),)), request(n_ranks=2, cpus_per_rank=1))


class HostOfTest:
    """A host whose hands work in a loop of the test's; two ranks, one on each of the first two CPUs."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.around, self.bucket = Around(), Bucket()
        self.told: list[Message] = []
        self.stdin: list[int] = []
        self.loop = stack.enter_context(Loop((), lambda _caught: None))
        self.hands = Hands(self.loop, self.around, self.bucket, tell=self.told.append, stdin=self.stdin.pop)
        self.path = folder / "door"
        self.shims: list[subprocess.Popen[bytes]] = []
        self.connections: list[Connection] = []
        self.listener = stack.enter_context(listen(self.path, 8))
        self.loop.call_when_readable(self.listener, self.accept)
        self.loop.call_after(LIMIT_S, self.too_late)
        self.plan = planned(os.uname().nodename)
        stack.callback(self.end)

    def too_late(self) -> None:
        """End a test that waits for what does not come."""
        raise TimeoutError(self.told)

    def accept(self) -> None:
        """Take a shim in, as agents and the supervisor do."""
        connection = Connection(self.listener.accept()[0])
        connection.sock.settimeout(LIMIT_S)
        self.connections.append(connection)

        def hear() -> None:
            for message in connection.receive() or ():
                self.hands.take_in(connection, message)

        self.loop.call_when_readable(connection, hear)

    def job(self, *argv: str, path: str = "/bin/sh", stdin_rank: int | None = None) -> HostJob:
        """Return the host's share of a job that runs this."""
        application = Application(path=path, argv=argv, cwd="/", set_env={})
        return HostJob(
            name="rankmap-test",
            plan=NodePlan.of(self.plan, 0),
            applications=(application,),
            head_pid=0,
            limits=Limits(slack_ns=0, n_files=1024),
            drop_paths=(),
            reserve=CpuSet(),
            gpu_variables={},
            all_gpus=lambda _vendor: (),
            stdin_rank=stdin_rank,
        )

    def start(
        self, rank: int, environ: Mapping[str, str] = MappingProxyType({}), *, cpu: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a rank's shim on its CPU, or on another."""
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {CPUS[rank] if cpu is None else cpu})
        try:
            self.shims.append(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", SHIM, str(self.path), str(rank)],
                    env={"PATH": os.environ["PATH"], **environ},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        finally:
            os.sched_setaffinity(0, own)
        return self.shims[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.step()
            self.hands.after_step()

    def all_of(self, kind: str) -> list[Message]:
        """Return what was told of this kind."""
        return [message for message in self.told if message["kind"] == kind]

    def told_of(self, kind: str, times: int = 1) -> list[Message]:
        """Serve until this was told so often, and return what was."""
        self.until(lambda: len(self.all_of(kind)) >= times)
        return self.all_of(kind)

    def do(self, kind: str, **more: object) -> None:
        """Say this to the hands."""
        self.hands.do({"kind": kind, **more})

    def run(self, job: HostJob, **environ: str) -> None:
        """Have both ranks start, be looked at, and become the application."""
        self.do("prepare", job=job)
        for rank in (0, 1):
            self.start(rank, environ)
        self.told_of("shims", 2)
        self.do("check")
        self.do("release")

    def end(self) -> None:
        """Leave nothing."""
        self.hands.close()
        for connection in self.connections:
            connection.close()
        for process in self.shims:
            process.kill()
            process.wait()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostOfTest]:
    """Return one of which no job is known yet."""
    with ExitStack() as stack:
        yield HostOfTest(tmp_path, stack)


def verdict(host: HostOfTest) -> Verdict:
    """Return what the report says."""
    host.do("report")
    (told,) = host.all_of("report")
    return report_of_nodes(host.plan, [Gathered.from_values(told["report"])]).verdict


def test_a_hosts_share_from_start_to_end(host: HostOfTest) -> None:
    """Its ranks come, are where they should be, go, write, end, and are known of in the end."""
    host.run(host.job("sh", "-c", "echo out $RANKMAP_RANK $RANKMAP_JOB; echo err >&2; exit $RANKMAP_RANK"))
    assert [[]] == [message["lines"] for message in host.all_of("checked")]
    pids = {rank: pid for message in host.all_of("shims") for rank, pid in message["ranks"]}
    assert {rank: process.pid for rank, process in enumerate(host.shims)} == pids
    assert [0, 1] == sorted(message["rank"] for message in host.told_of("ended", 2))
    host.do("drain")
    host.told_of("drained")
    expected = {(rank, 0): b"out %d rankmap-test\n" % rank for rank in (0, 1)} | {
        (rank, 1): b"err\n" for rank in (0, 1)
    }
    assert expected == host.bucket.got
    assert [0, 1] == [process.wait(LIMIT_S) for process in host.shims]
    assert Verdict.MATCH is verdict(host)
    host.until(lambda: True)
    assert 1 == len(host.all_of("drained"))


def test_shims_may_come_before_the_plan(host: HostOfTest) -> None:
    """On another host Dragon may be quicker than the supervisor's message."""
    host.start(1)
    host.start(0)
    host.until(lambda: len(host.hands._early) == 2)
    assert [] == host.told
    host.do("prepare", job=host.job("true", path="/bin/true"))
    assert [0, 1] == sorted(rank for message in host.all_of("shims") for rank, _ in message["ranks"])
    host.do("check")
    host.do("release")
    host.told_of("ended", 2)


def test_ranks_in_the_wrong_place_are_told_before_they_go(host: HostOfTest) -> None:
    """The supervisor decides: nothing of the application has run."""
    host.do("prepare", job=host.job("true", path="/bin/true"))
    host.start(0, cpu=CPUS[1])
    host.start(1)
    host.told_of("shims", 2)
    host.do("check")
    (checked,) = host.all_of("checked")
    (line,) = checked["lines"]
    assert line.startswith(f"rank 0 (cpus-differ): planned CPUs {CPUS[0]}, found")
    assert [] == host.all_of("misplaced")
    host.do("signal", number=signal.SIGTERM)
    host.told_of("ended", 2)
    assert [shim.STOPPED] * 2 == [process.wait(LIMIT_S) for process in host.shims]
    assert Verdict.MISMATCH is verdict(host)


def test_a_host_may_have_another_name_in_the_job_than_of_its_own(host: HostOfTest) -> None:
    """As with --hosts n1.site where it calls itself n1: its ranks are where they should be."""
    host.plan = planned("n1.site")
    host.run(host.job("true", path="/bin/true"))
    host.told_of("ended", 2)
    assert [[]] == [message["lines"] for message in host.all_of("checked")]
    assert Verdict.MATCH is verdict(host)


def test_a_rank_that_is_started_on_a_host_of_others_ends_the_job(host: HostOfTest) -> None:
    """There is nothing planned for it here to compare it with."""
    host.do("prepare", job=host.job("true", path="/bin/true"))
    host.start(2, cpu=CPUS[0])
    (trouble,) = host.told_of("trouble")
    own = os.uname().nodename
    assert (125, f"rank 2 was started on {own}, where it is not planned (host-differs)") == (
        trouble["status"],
        trouble["reason"],
    )
    assert [] == host.all_of("shims")
    assert shim.STOPPED == host.shims[0].wait(LIMIT_S)


def test_a_shim_that_comes_when_the_end_has_begun_is_told_to_stop(host: HostOfTest) -> None:
    """It is not started after all."""
    host.do("prepare", job=host.job("true", path="/bin/true"))
    host.do("signal", number=signal.SIGTERM)
    late = host.start(0)
    host.told_of("ended")
    assert shim.STOPPED == late.wait(LIMIT_S)


def test_a_shim_that_dies_is_told_of(host: HostOfTest) -> None:
    """Before it was let go."""
    host.do("prepare", job=host.job("true", path="/bin/true"))
    process = host.start(1)
    host.told_of("shims")
    process.kill()
    assert [{"kind": "ended", "rank": 1}] == host.told_of("ended")


def test_a_signal_reaches_what_ranks_have_started(host: HostOfTest) -> None:
    """A shell does not pass it on; a rank that has ended gets none."""
    script = "test $RANKMAP_RANK = 1 && exit; sleep 600 >/dev/null 2>&1 & echo $!; wait"
    host.run(host.job("sh", "-c", script))
    host.told_of("ended")
    host.until(lambda: host.bucket.got.get((0, 0), b"").endswith(b"\n"))
    pidfd = os.pidfd_open(int(host.bucket.got[0, 0]))
    try:
        host.do("signal", number=signal.SIGTERM)
        assert has_ended([pidfd])
    finally:
        os.close(pidfd)
    host.told_of("ended", 2)
    assert [-signal.SIGTERM, 0] == [process.wait(LIMIT_S) for process in host.shims]


def test_an_application_that_cannot_be_started_is_told_with_its_reason(host: HostOfTest) -> None:
    """By each rank; their ends do not count."""
    host.run(host.job("x", path="/no/such/program"))
    failures = host.told_of("failed", 2)
    assert [0, 1] == sorted(message["rank"] for message in failures)
    for message in failures:
        assert ("application", errno.ENOENT, "/no/such/program") == (message["what"], message["errno"], message["path"])
    assert all(rank.ended_by_us for rank in host.hands.ranks.values())
    host.told_of("ended", 2)


def test_output_that_cannot_be_opened_lets_no_rank_go(host: HostOfTest) -> None:
    """No descriptor is left: the supervisor gets the status, the reason and what to do."""
    host.do("prepare", job=host.job("true", path="/bin/true"))
    for rank in (0, 1):
        host.start(rank)
    host.told_of("shims", 2)
    host.do("check")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    with ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            while True:
                held.callback(os.close, os.dup(0))
        host.do("release")
    (trouble,) = host.all_of("trouble")
    assert (LaunchError.exit_status, True) == (trouble["status"], "output cannot be opened" in trouble["reason"])
    assert "ulimit" in trouble["hint"]
    assert not any(rank.released for rank in host.hands.ranks.values())


def test_who_is_in_mpi_is_found_on_this_host(host: HostOfTest) -> None:
    """By the connection to the server that the shim was offered; who has ended is not in it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        uri = f"prterun;tcp4://127.0.0.1:{port}"
        script = f'test $RANKMAP_RANK = 1 && exec sleep 600; exec {sys.executable} -c "$0" {port}'
        host.run(host.job("sh", "-c", script, CONNECTS), PMIX_SERVER_URI41=uri)
        host.until(lambda: host.bucket.got.get((0, 0)) == b"up\n")
        host.do("mpi")
        host.shims[0].kill()
        host.told_of("ended")
        host.do("mpi")
        assert [[0], []] == [message["ranks"] for message in host.all_of("mpi")]


def test_what_ranks_leave_behind_does_not_hold_up_the_end(host: HostOfTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds their output open: it is killed after the grace, and then all is drained."""
    monkeypatch.setattr(draining, "_GRACE_S", 0.05)
    host.run(host.job("sh", "-c", "test $RANKMAP_RANK = 1 && exit; sleep 600 & echo $!"))
    host.told_of("ended", 2)
    host.until(lambda: host.bucket.got.get((0, 0), b"").endswith(b"\n"))
    left = int(host.bucket.got[0, 0])
    host.around.found_left = family(left)
    pidfd = os.pidfd_open(left)
    try:
        host.do("drain")
        host.told_of("drained")
        assert has_ended([pidfd])
    finally:
        os.close(pidfd)


def test_one_rank_may_read_what_the_caller_gives(host: HostOfTest) -> None:
    """The one that the job says; the other's input is empty."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"hello")
    os.close(write_end)
    host.stdin.append(read_end)
    host.run(host.job("cat", path="/bin/cat", stdin_rank=1))
    host.told_of("ended", 2)
    host.do("drain")
    host.told_of("drained")
    assert (b"", b"hello") == (host.bucket.got[0, 0], host.bucket.got[1, 0])


def test_the_end_of_a_service_is_told(host: HostOfTest) -> None:
    """One without which there is no job."""
    with child("sleep", "600") as process:
        host.around.found_vital = [Service(pid=process.pid, name="Dragon group service", cpus=CpuSet(), idle=False)]
        host.run(host.job("sleep", "600", path="/bin/sleep"))
        process.process.kill()
        told = {"kind": "service", "name": "Dragon group service", "pid": process.pid}
        assert [told] == host.told_of("service")


def test_a_command_that_nobody_knows_is_a_mistake_of_ours(host: HostOfTest) -> None:
    """It is not passed over."""
    with pytest.raises(ValueError, match="'dance'"):
        host.do("dance")


def test_before_there_was_a_plan_there_is_nothing_to_report(host: HostOfTest) -> None:
    """A job that ended before."""
    host.do("report")
    assert [{"kind": "report", "report": None}] == host.told


def test_ranks_found_in_the_wrong_place_later_are_told_at_once(host: HostOfTest) -> None:
    """The application has moved: no answer to a question, but news."""
    host.do("prepare", job=host.job("sleep", "600", path="/bin/sleep"))
    for rank in (0, 1):
        host.start(rank)
    host.told_of("shims", 2)
    host.do("check")
    second = host.hands.ranks[1]
    assert second.seen is not None
    second.seen = replace(second.seen, cpus=CpuSet.of(CPUS))  # as it would be seen
    host.do("release")
    (told,) = host.told_of("misplaced")
    assert told["lines"][0].startswith("rank 1 (cpus-differ): ")
