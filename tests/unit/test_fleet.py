"""Unit tests of rankmap.runtime.fleet and agent: agents that are processes of this host, started as on any other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, ApplicationNotFoundError, LaunchError, RuntimeUnusableError
from rankmap.node_plan import NodePlan
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime import fleet as fleet_module
from rankmap.runtime import shim
from rankmap.runtime.agent import DOOR
from rankmap.runtime.application import Application
from rankmap.runtime.fleet import FANOUT, Fleet
from rankmap.runtime.host_job import HostJob
from rankmap.runtime.inside import Asked
from rankmap.runtime.limits import Limits
from rankmap.runtime.loop import Loop
from rankmap.runtime.member import Member
from rankmap.runtime.processes import JOB_VARIABLE, carrying
from rankmap.runtime.shared_memory import job_directory, remove_directories
from rankmap.runtime.starting import Kind
from rankmap.runtime.wire import Connection
from rankmap.topology import Allocation
from tests.agents import AgentsByHand
from tests.children import LIMIT_S, has_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rankmap.runtime.ending import Outcome
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.wire import Message

HERE = "localhost"
SRUN = '#!/bin/sh\nwhile [ "$1" != env ]; do shift; done\nexport SLURMD_NODENAME=n1\nexec "$@"\n'
DENIED = "#!/bin/sh\necho 'nobody may log in' >&2\nexit 255\n"


class FleetOfTest:
    """A fleet, and what it tells."""

    def __init__(
        self,
        hosts: Sequence[str],
        folder: Path,
        *,
        kind: Kind = Kind.SSH,
        command: Sequence[str] = ("sh",),
        n_spares: int = 0,
    ) -> None:
        self.loop = Loop((), lambda _caught: self.fleet.on_wake())
        self.job = f"rankmap-{uuid.uuid4()}"
        self.path = folder / self.job
        self.environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", JOB_VARIABLE: self.job}
        self.ready: list[list[HostFacts]] = []
        self.failed: list[Outcome] = []
        self.said: list[str] = []
        self.lost: list[str] = []
        self.told: list[Message] = []
        self.written: dict[tuple[int, int], bytes] = {}
        look = {
            "kind": "look",
            "control": str(self.path),
            "environ": self.environ,
            "kept": "",
            "commands": [list(command)],
            "cwd": "/",
            "set_env": {},
            "libpmix": False,
            "inside": False,
            "ports": [],
        }
        self.fleet = Fleet(
            self.loop,
            kind=kind,
            hosts=hosts,
            job=self.job,
            look=look,
            network_prefix="^hsn",
            fanout=FANOUT,
            n_spares=n_spares,
            say=self.said.append,
            on_ready=self.ready.append,
            on_failure=self.failed.append,
            on_message=lambda _member, message: self.told.append(message),
            on_lost=lambda member: self.lost.append(member.name),
        )
        self.fleet.take = self.take
        self.ended = False

    def take(self, rank: int, end: int, data: bytes) -> None:
        """Take what a rank has written."""
        self.written[rank, end] = self.written.get((rank, end), b"") + data

    def too_late(self) -> None:
        """End a test that waits for what does not come."""
        raise TimeoutError(
            self.failed, self.said, self.told, self.lost, [one.lines for one in self.fleet._starters.running]
        )

    def until(self, condition: Callable[[], object]) -> None:
        """Serve what comes until the condition holds."""
        while not condition():
            self.loop.step()

    def outcome(self) -> Outcome:
        """Serve until the fleet is of no use, and return why."""
        self.until(lambda: self.failed)
        (outcome,) = self.failed
        return outcome

    def member(self) -> Member:
        """Return the first host, when all are ready."""
        self.until(lambda: self.ready or self.failed)
        assert [] == self.failed
        return self.fleet.members[0]

    def end(self, *, gentle: bool = False, hurry: bool = False) -> list[str]:
        """End it."""
        self.ended = True
        return self.fleet.end(gentle=gentle, hurry=lambda: hurry)

    def close(self) -> None:
        """Leave nothing of it, nor of an agent that was killed."""
        if not self.ended:
            self.end()
        remove_directories(self.path)

    def left(self) -> list[object]:
        """Return what is left of the job on this host."""
        files = [path for path in (self.path, job_directory(self.path.name)) if path.exists()]
        return [*files, *carrying(JOB_VARIABLE, self.job)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a directory with a short name, which comes first on the fleet's PATH."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., FleetOfTest]]:
    """Return a function that starts a fleet on these hosts."""
    with ExitStack() as stack:

        def start(*hosts: str, **words: object) -> FleetOfTest:
            made = FleetOfTest(hosts, folder, **words)  # type: ignore[arg-type]
            stack.enter_context(made.loop)
            stack.callback(made.close)
            made.loop.call_after(LIMIT_S, made.too_late)
            made.fleet.start(made.environ)
            return made

        yield start


def script(folder: Path, name: str, text: str) -> None:
    """Put a program on the fleet's PATH."""
    file = folder / name
    file.write_text(text)
    file.chmod(0o700)


def test_an_agent_looks_at_its_host_and_leaves_nothing(started: Callable[..., FleetOfTest]) -> None:
    """From its start to the word that it is over; nobody misses it."""
    made = started(HERE)
    assert HERE == made.fleet.missing()
    member = made.member()
    ((facts,),) = made.ready
    assert (HERE, os.uname().nodename, "") == (facts.name, facts.own_name, made.fleet.missing())
    assert CpuSet.of(os.sched_getaffinity(0)) == facts.topology.usable
    assert facts.paths[0].endswith("/sh")
    assert made.path.is_dir()
    assert [] == made.end(gentle=True)
    assert (True, [], []) == (member.over, made.lost, made.left())


def test_what_an_agent_was_told_to_start_is_ended_by_force(started: Callable[..., FleetOfTest]) -> None:
    """Nobody waits for it."""
    made = started(HERE)
    made.member().send(
        {"kind": "spawn", "number": 1, "command": "echo up; trap '' TERM; sleep 600; sleep 600", "set": {}}
    )
    made.until(lambda: made.told)
    assert [] == made.end()
    assert [] == made.left()


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("echo out; echo err >&2; exit 3", 3, {1: b"out\n", 2: b"err\n"}),
        ("exit 0", 0, {}),
        ("kill -9 $$", -9, {}),
        ("echo $A-$0", 0, {1: b"-/bin/bash\n"}),
        ("(sleep 0.05; echo late) & exit 5", 5, {1: b"late\n"}),
        ("exec >&- 2>&-; sleep 0.05; exit 6", 6, {}),
    ],
)
def test_a_command_is_run_on_the_host_and_what_it_says_comes_back(
    command: str, status: int, said: dict[int, bytes], started: Callable[..., FleetOfTest]
) -> None:
    """Both ends, and the status in the end: whether its output ended before it did, or long after."""
    made = started(HERE)
    made.member().send({"kind": "spawn", "number": 8, "command": command, "set": {}})
    made.until(lambda: made.told and made.told[-1]["kind"] == "exited")
    *parts, last = made.told
    assert {"kind": "exited", "number": 8, "status": status} == last
    got: dict[int, bytes] = {}
    for part in parts:
        assert ("said", 8) == (part["kind"], part["number"])
        got[part["end"]] = got.get(part["end"], b"") + part["data"]
    assert said == got


def test_a_command_that_goes_on_without_output_does_not_stop_the_agent(started: Callable[..., FleetOfTest]) -> None:
    """It hears the supervisor all the while."""
    made = started(HERE)
    member = made.member()
    member.send({"kind": "spawn", "number": 1, "command": "exec >&- 2>&-; exec sleep 600", "set": {}})
    member.send({"kind": "spawn", "number": 2, "command": "exit 0", "set": {}})
    made.until(lambda: made.told)
    assert [{"kind": "exited", "number": 2, "status": 0}] == made.told
    member.send({"kind": "report"})
    made.until(lambda: len(made.told) == 2)
    assert {"kind": "report", "report": None} == made.told[1]


def test_ranks_of_another_host_run_over_its_agent(started: Callable[..., FleetOfTest]) -> None:
    """Their shims report to the agent; what they write, and how they end, comes to the supervisor."""
    made = started(HERE)
    member = made.member()
    ((facts,),) = made.ready
    job = plan(Allocation.of(((os.uname().nodename, facts.topology),)), request(n_ranks=1, bind_to="none"))
    share = HostJob(
        name=made.job,
        plan=NodePlan.of(job, 0),
        applications=(Application(path="/bin/sh", argv=("sh", "-c", "read x; echo got $x"), cwd="/", set_env={}),),
        head_pid=0,
        limits=Limits(slack_ns=0, n_files=1024),
        drop_paths=(),
        reserve=CpuSet(),
        gpu_variables={},
        all_gpus=lambda _vendor: (),
        stdin_rank=0,
    )
    words = [sys.executable, "-I", "-S", "-B", str(Path(shim.__file__)), str(made.path / DOOR), "0"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as rank:
        member.send({"kind": "prepare", "job": share.to_values()})

        def kinds() -> list[str]:
            return [message["kind"] for message in made.told]

        made.until(lambda: "shims" in kinds())
        assert [[0, rank.pid]] == made.told[kinds().index("shims")]["ranks"]
        member.send({"kind": "check"})
        made.until(lambda: "checked" in kinds())
        member.send({"kind": "release"})
        made.until(lambda: "stdin" in kinds())  # it wants some
        member.send({"kind": "stdin", "data": b"hello\n"})
        made.until(lambda: "ended" in kinds())
        member.send({"kind": "drain"})
        made.until(lambda: "drained" in kinds())
        made.until(lambda: made.written.get((0, 1)) == b"")
        assert {(0, 0): b"got hello\n", (0, 1): b""} == made.written
        assert 0 == rank.wait(LIMIT_S)


def test_in_a_runtime_that_stays_dragon_starts_the_agents(
    started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the job has there gets its time to end by itself, however its end is asked for."""
    by_hand = AgentsByHand()
    monkeypatch.setattr(fleet_module, "ask_for_agents", by_hand)
    made = started(HERE, kind=Kind.DRAGON)
    made.member()
    ends = "echo up; read x; exit 3"
    marked = {**os.environ, JOB_VARIABLE: made.job}
    with subprocess.Popen(("sh", "-c", ends), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=marked) as ours:
        assert ours.stdin is not None
        assert ours.stdout is not None
        assert b"up\n" == ours.stdout.readline()
        made.fleet.members[0].send({"kind": "over", "gentle": False})
        ours.stdin.write(b"go\n")
        ours.stdin.close()
        assert 3 == ours.wait(LIMIT_S)
    assert [] == made.end()
    assert [0] == [agent.wait(LIMIT_S) for agent in by_hand.agents]
    assert [] == made.left()


def test_agents_that_are_on_their_way_when_the_job_is_over_are_told_so(
    started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would say that it cannot find its supervisor."""
    by_hand = AgentsByHand()
    monkeypatch.setattr(fleet_module, "ask_for_agents", by_hand)
    made = started(HERE, kind=Kind.DRAGON)
    assert [] == made.end()
    assert ([0], True, []) == (
        [agent.wait(LIMIT_S) for agent in by_hand.agents],
        made.fleet.members[0].over,
        made.left(),
    )


def test_agents_that_dragon_does_not_start_are_not_waited_for(
    started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is why, in whatever kind of exception."""

    def refuse() -> None:
        msg = "no such node"
        raise ValueError(msg)

    monkeypatch.setattr(fleet_module, "ask_for_agents", lambda _starts, on_failure: Asked(refuse, on_failure))
    made = started(HERE, kind=Kind.DRAGON)
    outcome = made.outcome()
    assert (RuntimeUnusableError.exit_status, "Dragon: ValueError: no such node") == (outcome.status, outcome.reason)
    assert [] == made.end()


def test_all_that_the_head_says_at_once_is_passed_on(started: Callable[..., FleetOfTest]) -> None:
    """It says who it is and what nodes there are, one right behind the other."""
    made = started(HERE)
    made.member()
    said: list[Message] = [{"kind": "head", "pid": 7}, {"kind": "nodes", "nodes": []}]
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Connection.connect(str(made.path / DOOR))) as head:
        for message in said:
            Connection(ours).send(message)
        head.sock.sendall(theirs.recv(1 << 16))
        made.until(lambda: len(made.told) == 2)
    assert said == [message["message"] for message in made.told]


def test_what_a_host_lacks_is_the_jobs_failure(
    started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the status that it would have here, and its name in front."""
    monkeypatch.setattr(fleet_module, "_OTHERS_S", 0.01)
    made = started(HERE, command=("./no-such-program",))
    outcome = made.outcome()
    assert ApplicationNotFoundError.exit_status == outcome.status
    assert outcome.reason.startswith(f"{HERE}: ")
    assert "no-such-program" in outcome.reason
    assert ([], []) == (made.end(), made.left())


def test_a_host_that_nobody_may_log_in_to(
    folder: Path, started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ssh says, how it ended, and what to try by hand."""
    monkeypatch.setattr(fleet_module, "_OTHERS_S", 0.01)
    script(folder, "ssh", DENIED)
    made = started("n1")
    outcome = made.outcome()
    assert LaunchError.exit_status == outcome.status
    assert outcome.reason.startswith("n1: `ssh ")
    assert outcome.reason.endswith("` ended with status 255\n  nobody may log in")
    assert "`ssh n1`" in outcome.hint
    assert [] == made.end()


def test_hosts_that_the_batch_system_does_not_reach(folder: Path, started: Callable[..., FleetOfTest]) -> None:
    """A password is not what it wants."""
    script(folder, "srun", DENIED)
    outcome = started("n1", kind=Kind.SLURM).outcome()
    assert "does `srun hostname` work by hand, in this job?" == outcome.hint


def test_all_hosts_that_cannot_be_used_are_named_at_once(folder: Path, started: Callable[..., FleetOfTest]) -> None:
    """Not one launch for each."""
    script(folder, "ssh", DENIED)
    outcome = started("n1", HERE, "n2").outcome()
    assert outcome.reason.startswith("2 of 3 hosts cannot be used:\n  n1: ")
    assert "\n  n2: " in outcome.reason


def test_a_host_that_is_spare_may_be_of_no_use(
    folder: Path, started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on without it, and the user hears of it."""
    monkeypatch.setattr(fleet_module, "_OTHERS_S", 0.01)
    script(folder, "ssh", DENIED)
    made = started("n1", HERE, n_spares=1)
    made.until(lambda: made.ready)
    ((facts,),) = made.ready
    assert (HERE, []) == (facts.name, made.failed)
    assert any("n1" in text for text in made.said)


def test_without_ssh_it_is_said_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come with a module."""
    monkeypatch.setenv("PATH", str(folder))
    made = FleetOfTest(("n1",), folder)
    with made.loop, closing(made), pytest.raises(LaunchError) as caught:
        made.fleet.start({"PATH": str(folder)})
    assert "ssh cannot be started: No such file or directory" == caught.value.message
    assert caught.value.hint


def test_two_names_of_one_host_are_refused(
    started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its CPUs were given twice."""
    monkeypatch.setattr(fleet_module, "_OTHERS_S", 0.01)
    own = os.uname().nodename
    outcome = started(HERE, own).outcome()
    assert AllocationError.exit_status == outcome.status
    assert f"are the same host: both call themselves {own}" in outcome.reason


@pytest.mark.parametrize("name", ["n1", "n1.site"])
def test_an_agent_of_a_batch_job_is_known_by_the_name_that_the_system_gives_it(
    name: str, folder: Path, started: Callable[..., FleetOfTest]
) -> None:
    """One launcher starts all, and cannot tell them apart."""
    script(folder, "srun", SRUN)
    made = started(name, kind=Kind.SLURM)
    made.until(lambda: made.ready)
    assert [name] == [facts.name for facts in made.ready[0]]


def test_an_agent_of_another_host_than_the_jobs_is_refused(folder: Path, started: Callable[..., FleetOfTest]) -> None:
    """The list and the batch system do not agree."""
    script(folder, "srun", SRUN)
    outcome = started("n3", "n4", kind=Kind.SLURM).outcome()
    assert AllocationError.exit_status == outcome.status
    assert outcome.reason.endswith("which is none of the job's hosts n[3-4]")


def test_an_agent_that_dies_is_missed(started: Callable[..., FleetOfTest]) -> None:
    """Once; at the end nobody knows what it has left."""
    made = started(HERE)
    made.member()
    made.fleet._starters.running[0].process.kill()
    made.until(lambda: made.lost)
    assert ([HERE], [HERE]) == (made.lost, made.end())


def test_where_an_agent_was_killed_another_cleans_up(folder: Path, started: Callable[..., FleetOfTest]) -> None:
    """What the job runs there is ended; the reason says so, with the last words of what had started the agent."""
    script(folder, "srun", SRUN)
    made = started("n1.site", kind=Kind.SLURM)
    made.member().send({"kind": "spawn", "number": 1, "command": "echo up; sleep 600", "set": {}})
    made.until(lambda: made.told)
    made.fleet._starters.running[0].lines.append("srun: error: n1: task 0: Killed")
    made.fleet._starters.running[0].process.kill()
    made.until(lambda: made.lost)
    assert made.left()
    (known,) = made.fleet.clean_lost(hurry=lambda: False)
    assert (
        "rankmap's agent on n1.site was killed\n  srun: error: n1: task 0: Killed\n"
        "  nothing of the job is left there" == known
    )
    assert ([], []) == (made.left(), made.end())


def test_a_host_that_cannot_be_cleaned_because_of_this_one(folder: Path, started: Callable[..., FleetOfTest]) -> None:
    """Somebody has taken the command away."""
    script(folder, "srun", SRUN)
    made = started("n1", kind=Kind.SLURM)
    made.member()
    made.fleet._starters.running[0].process.kill()
    made.until(lambda: made.lost)
    (folder / "srun").unlink()
    made.fleet._environ = {"PATH": str(folder)}
    (known,) = made.fleet.clean_lost(hurry=lambda: False)
    assert known.endswith("its network has\n  srun cannot be started: No such file or directory")


@pytest.mark.parametrize("hurry", [False, True])
def test_a_host_that_cannot_be_cleaned_is_named(
    folder: Path, started: Callable[..., FleetOfTest], *, hurry: bool
) -> None:
    """With what ssh said; in a hurry nobody tries."""
    script(folder, "srun", SRUN)
    made = started("n1", kind=Kind.SLURM)
    made.member()
    made.fleet._starters.running[0].process.kill()
    made.until(lambda: made.lost)
    script(folder, "srun", DENIED)
    reason = "n1 cannot be reached any more: it has died, or its network has\n  nobody may log in"
    assert ([] if hurry else [reason]) == made.fleet.clean_lost(hurry=lambda: hurry)
    assert ["n1"] == made.end()


def comes(made: FleetOfTest, index: int, *said: Message, host: str = HERE, boot: str = "x") -> Connection:
    """Let an agent come that says this at once."""
    made.fleet.members.append(Member(name=f"n{index}", index=index))
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = Connection(socket.create_connection(server.getsockname()))
        ours = Connection(server.accept()[0])
    who = {"kind": "agent", "index": index, "host": host, "names": [], "boot": boot, "pid": 1}
    for message in (who, *said):
        theirs.send(message)
    assert made.fleet._entrance is not None
    made.fleet._entrance._on_connection(ours)
    return theirs


def test_all_that_an_agent_says_at_once_is_heard(started: Callable[..., FleetOfTest]) -> None:
    """It was sent a signal right behind its first words."""
    made = started()
    with closing(comes(made, 0, {"kind": "signalled", "number": 15}, {"kind": "say", "text": "x"})):
        made.until(lambda: made.told)
    assert ["signalled", "say"] == [message["kind"] for message in made.told]


def test_two_hosts_of_one_name_are_refused(
    started: Callable[..., FleetOfTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of one machine: Dragon would start the ranks of both on one of them."""
    monkeypatch.setattr(fleet_module, "_OTHERS_S", 0.01)
    made = started()
    with closing(comes(made, 0)), closing(comes(made, 1, boot="y")):
        outcome = made.outcome()
    assert (AllocationError.exit_status, f"both call themselves {HERE}") == (outcome.status, outcome.reason[10:])
    assert "hostname" in outcome.hint


def test_an_agent_that_ends_by_a_mistake_of_its_own_is_missed(started: Callable[..., FleetOfTest]) -> None:
    """It clears up and says that it is over; but nobody has told it to be."""
    made = started(HERE)
    made.member().send({"kind": "no such command"})
    made.until(lambda: made.lost)
    (known,) = made.fleet.clean_lost(hurry=lambda: False)
    assert known.startswith(f"rankmap's agent on {HERE} has failed\n  ")
    assert "rankmap's hands do not know the command 'no such command'" in known
    assert ([HERE], []) == (made.lost, made.end())
    assert [] == made.left()


def test_an_agent_whose_supervisor_is_gone_leaves_nothing(started: Callable[..., FleetOfTest]) -> None:
    """As if it had been told: the supervisor's host has died, or somebody has killed it."""
    made = started(HERE)
    member = made.member()
    member.send({"kind": "spawn", "number": 1, "command": "echo up; sleep 600", "set": {}})
    made.until(lambda: made.told)
    pidfd = os.pidfd_open(made.fleet._starters.running[0].process.pid)
    try:
        made.fleet._drop(member)
        assert has_ended([pidfd])
    finally:
        os.close(pidfd)
    assert [] == made.left()


def test_an_agent_that_does_not_answer_is_not_waited_for_in_a_hurry(started: Callable[..., FleetOfTest]) -> None:
    """Its host is named as one of which nobody knows."""
    made = started(HERE)
    made.member()
    made.fleet._starters.running[0].process.send_signal(signal.SIGSTOP)
    try:
        assert [HERE] == made.end(hurry=True)
    finally:
        subprocess.run(["rm", "-rf", str(made.path), str(job_directory(made.path.name))], check=True)


def test_an_agent_that_was_sent_a_signal_says_so(started: Callable[..., FleetOfTest]) -> None:
    """A batch system ends all of a job's processes; what comes of it is the supervisor's to decide."""
    made = started(HERE)
    made.member()
    made.fleet._starters.running[0].process.terminate()
    made.until(lambda: made.told)
    assert [{"kind": "signalled", "number": signal.SIGTERM}] == made.told
