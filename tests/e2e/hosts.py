"""Several hosts on this machine, for tests of what runs on more than one (tests/rig/fakehosts.sh)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from tests.e2e.conftest import CHECKOUT, LIMIT_S, TEMPORARY, Done, rig_is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Hosts", "Started", "hosts_up", "wait_for"]

FAKEHOSTS = str(CHECKOUT / "tests" / "rig" / "fakehosts.sh")
UP_LIMIT_S = 300.0  # the first time on a machine, packages are fetched
LOOK_AGAIN_S = 0.02
RIGS_OWN = ("sshd:", "slurmstepd-wlm:")  # they go by themselves a moment after what they started; that is listed itself


class Started:
    """A command that runs on a host, outputs to files (a pipe could be held open by what it leaves behind).

    ``pid`` is the command's own as seen from outside, for signals and for /proc.
    """

    def __init__(self, process: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> None:
        self.pid = _child(process)
        self._process = process
        self._start_s = time.monotonic()
        self._outputs = (out, err)

    @property
    def stdout(self) -> str:
        """Return what it has written so far."""
        return _text(self._outputs[0])

    @property
    def stderr(self) -> str:
        """Return what it has written so far."""
        return _text(self._outputs[1])

    def has_ended(self) -> bool:
        """Return whether it has."""
        return self._process.poll() is not None

    def end(self, *, limit_s: float = LIMIT_S) -> Done:
        """Wait for its end; beyond the limit kill it and raise what it has said."""
        try:
            status = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, 9)
            self._process.wait()
            pytest.fail(f"still running after {limit_s:g} s\nstdout: {self.stdout}\nstderr: {self.stderr}")
        seconds = time.monotonic() - self._start_s
        done = Done(status=status, stdout=self.stdout, stderr=self.stderr, seconds=seconds)
        self.close()
        return done

    def close(self) -> None:
        """Wait for an end that has come, or is about to, and close the files."""
        self._process.wait(LIMIT_S)
        for file in self._outputs:
            file.close()


class Hosts:
    """``node0``, ``node1``, ...: up. ``shared`` is a directory that all of them see, by this very path."""

    def __init__(self, n_hosts: int, variables: Mapping[str, str], shared: Path) -> None:
        self.names = tuple(f"node{host}" for host in range(n_hosts))
        self.shared = shared
        self._environment = {**os.environ, **variables}
        self._init = {host: int(self.rig("pid", f"{host}")) for host in range(n_hosts)}
        self._namespace = {host: _pid_namespace(pid) for host, pid in self._init.items()}
        self._own: set[int] = set()
        self._started: list[Started] = []
        self._note_own()
        self._files = {host: self._listed(host) for host in range(n_hosts)}

    def rig(self, *command: str) -> str:
        """Run a command of the rig itself, a fault for instance, and return what it says."""
        done = subprocess.run(
            [FAKEHOSTS, *command],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=UP_LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def slurm(self) -> None:
        """Start Slurm on all hosts; its daemons are no trace of a job."""
        self.rig("slurm")
        self._note_own()

    def slurm_job(self, job: str, *, limit_s: float = LIMIT_S) -> dict[str, str]:
        """Wait for a job's end, and return what Slurm then says of it: JobState, ExitCode, ...

        sbatch --wait asks after 2, 4, 8, 16 and each further 32 seconds only.
        """
        end_s = time.monotonic() + limit_s
        while True:
            done = self.run("scontrol", "--oneliner", "show", "job", job)
            said = dict(word.partition("=")[::2] for word in done.stdout.split())
            if said.get("JobState") not in {"PENDING", "RUNNING", "COMPLETING"} or time.monotonic() > end_s:
                return said
            time.sleep(LOOK_AGAIN_S)

    def start(
        self,
        *command: str,
        host: int = 0,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        how: str = "run",
    ) -> Started:
        """Start a command on a host in the checkout; ``how`` is ``run`` or ``pbs-run``."""
        out, err, into = tempfile.TemporaryFile(), tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        with into:
            into.write(stdin.encode())
            into.seek(0)
            process = subprocess.Popen(
                [FAKEHOSTS, how, *command],
                stdin=into,
                stdout=out,
                stderr=err,
                env={**self._environment, "NODE": f"{host}", **(env or {})},
                cwd=CHECKOUT,
            )
        self._started.append(started := Started(process, out, err))
        return started

    def close(self) -> None:
        """Forget what was started; the hosts are down."""
        for started in self._started:
            started.close()

    def run(
        self,
        *command: str,
        host: int = 0,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        limit_s: float = LIMIT_S,
    ) -> Done:
        """Run a command on a host, in the checkout, to its end."""
        return self.start(*command, host=host, env=env, stdin=stdin).end(limit_s=limit_s)

    def running(self, host: int) -> dict[int, str]:
        """Return the processes of a host but the rig's own: command lines by process ids, as seen from outside."""
        found = {pid: _command_line(pid) for pid in self._processes(host) if pid not in self._own}
        return {pid: line for pid, line in found.items() if line and not line.startswith(RIGS_OWN)}

    def files(self, host: int) -> set[str]:
        """Return what there is in /tmp and /dev/shm of a host that lives, but what was there from its start."""
        return self._listed(host) - self._files[host]

    def left(self) -> dict[str, list[str]]:
        """Return, for each host that lives and on which there is something, its processes and its files."""
        found = {}
        for host, name in enumerate(self.names):
            if Path(f"/proc/{self._init[host]}").exists():
                found[name] = [f"{pid} {line}" for pid, line in self.running(host).items()] + sorted(self.files(host))
        return {name: things for name, things in found.items() if things}

    def _processes(self, host: int) -> list[int]:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if _pid_namespace(pid) == self._namespace[host]]

    def _note_own(self) -> None:
        self._own |= {pid for host in self._init for pid in self._processes(host)}

    def _listed(self, host: int) -> set[str]:
        folders = ("/tmp", "/dev/shm")  # noqa: S108 - looked at, nothing is made there
        root = f"/proc/{self._init[host]}/root"
        return {f"{folder}/{path.name}" for folder in folders for path in Path(f"{root}{folder}").iterdir()}


@contextmanager
def hosts_up(n_hosts: int, **words: str) -> Iterator[Hosts]:
    """Make hosts, by the words of fakehosts.sh (``CPUS="0 1"``), and remove them; skip the test where that cannot be.

    Args:
        n_hosts: they are called node0, node1, ...
        words: what ``fakehosts.sh up`` reads: CPUS, NUMA, GPUS, TMP_MB, SHM_MB, CLOCKS
    """
    if os.geteuid() != 0:
        rig_is_missing("tests/rig/fakehosts.sh needs root to make namespaces")
    if os.environ.get("RANKMAP_REQUIRE_RIG") != "1" and not Path("/usr/sbin/sshd").exists():
        rig_is_missing("no sshd: `make e2e` installs it")
    folder = Path(tempfile.mkdtemp(prefix="fakehosts-", dir=TEMPORARY))
    rig = Path(tempfile.mktemp(prefix="fakehosts-"))  # noqa: S306 - up refuses one that is there
    variables = {"RIG": str(rig), "PYTHON": sys.executable, "KEEP": str(folder), **words}
    environment = {**os.environ, **variables}
    hosts = None
    try:
        up = [FAKEHOSTS, "up", f"{n_hosts}"]
        done = subprocess.run(up, env=environment, capture_output=True, text=True, check=False, timeout=UP_LIMIT_S)
        assert done.returncode == 0, done.stderr
        hosts = Hosts(n_hosts, variables, folder)
        yield hosts
    finally:
        subprocess.run([FAKEHOSTS, "down"], env=environment, check=True, timeout=UP_LIMIT_S)
        if hosts is not None:
            hosts.close()
        shutil.rmtree(folder)


def wait_for(what: Callable[[], bool], told: Callable[[], str], *, limit_s: float = LIMIT_S) -> None:
    """Return when this is so; fail with what is told where it is not in time.

    It is looked for again and again, but not all the time: what is waited for needs the CPUs.
    """
    end_s = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < end_s, told()
        time.sleep(LOOK_AGAIN_S)


def _child(process: subprocess.Popen[bytes]) -> int:
    """Return the child of nsenter(1), which is the command; or nsenter where it has ended already."""
    deadline_s = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            entered = Path(f"/proc/{process.pid}/comm").read_text().strip() == "nsenter"
        except OSError:
            continue
        if children and entered:
            return int(children[0])
        time.sleep(LOOK_AGAIN_S)
    return process.pid


def _text(file: IO[bytes]) -> str:
    """Return all of a file that another process may be writing at its end."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def _pid_namespace(pid: int) -> int:
    """Return the number of a process's pid namespace, 0 where it has ended."""
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return 0


def _command_line(pid: int) -> str:
    """Return a process's command line, "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
