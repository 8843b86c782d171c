"""A stub of PALS's mpiexec on the fake hosts: one ssh a rank, the caller's whole environment and directory go along.

An agent on the far side runs the program and watches the connection: when mpiexec ends, by whatever signal, so do the
ranks' process groups. Ranks have /dev/null as stdin. The status is the worst of all ranks'.
Source: dragon/launcher/wlm/pbs.py uses these options and reads these labels; not compared with a real PALS.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

KILL_DELAY_S = 3.0
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
NOT_FOUND = 127


def die(message: str) -> NoReturn:
    """End as mpiexec does where it cannot start the application."""
    sys.stderr.write(f"mpiexec: {message}\n")
    sys.exit(1)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; those that the stub has not are refused."""
    parser = argparse.ArgumentParser(prog="mpiexec", allow_abbrev=False)
    parser.add_argument("-n", "--np", "-np", dest="n_ranks", type=int)
    parser.add_argument("-ppn", "--ppn", "-N", dest="ranks_per_host", type=int)
    parser.add_argument("-host", "--hosts", "--hostlist", dest="hosts")
    parser.add_argument("-hostfile", "--hostfile", "-f", dest="hostfile")
    parser.add_argument("-cpu-bind", "--cpu-bind", dest="cpu_bind", choices=("none",), default="none")
    parser.add_argument("-l", "--label", dest="label", action="store_true")
    parser.add_argument("-line-buffer", "--line-buffer", dest="line_buffer", action="store_true")
    parser.add_argument("-genv", "--genv", dest="pairs", action="append", nargs=2, default=[])
    parser.add_argument("-env", "--env", dest="variables", action="append", default=[])
    parser.add_argument("-envall", "--envall", "-genvall", "--genvall", dest="everything", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    asked.command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not asked.command:
        die("no command")
    return asked


def places(asked: argparse.Namespace) -> list[str]:
    """Return the host of each rank, blocks of --ppn ranks; more ranks than places are refused."""
    if asked.hosts:
        hosts = asked.hosts.split(",")
    else:
        file = asked.hostfile or os.environ.get("PBS_NODEFILE") or die("no hosts: not in a job, and no --hosts")
        hosts = list(dict.fromkeys(Path(file).read_text().split()))
    n_ranks = asked.n_ranks or len(hosts) * (asked.ranks_per_host or 1)
    per_host = asked.ranks_per_host or -(-n_ranks // len(hosts))
    if n_ranks > per_host * len(hosts):
        die(f"insufficient hosts: {n_ranks} ranks, {per_host} a host, {len(hosts)} hosts")
    return [hosts[rank // per_host] for rank in range(n_ranks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """A rank's connection, and the threads that copy its output where that is labelled."""

    process: subprocess.Popen[bytes]
    copiers: tuple[threading.Thread, ...]


def start(rank: int, hosts: list[str], asked: argparse.Namespace) -> Rank:
    """Start a rank, and send its agent what to run."""
    host = hosts[rank]
    pipe = subprocess.PIPE if asked.label else None
    options = ("-oBatchMode=yes", "-oServerAliveInterval=5", "-oServerAliveCountMax=3")
    process = subprocess.Popen(
        ["ssh", *options, host, f"{sys.executable} -IS {__file__} --agent"],
        stdin=subprocess.PIPE,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,  # a ^C is for mpiexec alone
    )
    variables = dict(os.environ) | dict(text.partition("=")[::2] for text in asked.variables) | dict(asked.pairs)
    variables |= {
        "PALS_RANKID": f"{rank}",
        "PALS_NODEID": f"{list(dict.fromkeys(hosts)).index(host)}",
        "PALS_LOCAL_RANKID": f"{hosts[:rank].count(host)}",
        "PALS_LOCAL_SIZE": f"{hosts.count(host)}",
    }
    task = json.dumps({"command": asked.command, "directory": str(Path.cwd()), "variables": variables})
    assert process.stdin is not None
    try:
        process.stdin.write(f"{task}\n".encode())
        process.stdin.flush()
    except BrokenPipeError:
        pass  # ssh has said why
    label = f"{host} {rank}: ".encode()
    streams = ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer)) if asked.label else ()
    copiers = tuple(threading.Thread(target=copy, args=(label, *pair), daemon=True) for pair in streams)
    for copier in copiers:
        copier.start()
    return Rank(process=process, copiers=copiers)


def copy(label: bytes, source: IO[bytes], target: IO[bytes]) -> None:
    """Copy a rank's lines, each with the host's name and the rank before it."""
    for line in source:
        os.write(target.fileno(), label + line.removesuffix(b"\n") + b"\n")


def mpiexec(arguments: list[str]) -> int:
    """Run the ranks to their end; a signal ends them first."""
    asked = parse(arguments)
    hosts = places(asked)
    ends: list[int] = []
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (*ENDING, signal.SIGCHLD):
        signal.signal(number, lambda got, _frame: ends.append(got) if got != signal.SIGCHLD else None)
    ranks = [start(rank, hosts, asked) for rank in range(len(hosts))]
    while not ends and any(rank.process.poll() is None for rank in ranks):
        select.select([read_end], [], [])
        os.read(read_end, 4096)
    deadline_s = time.monotonic() + 2 * KILL_DELAY_S
    for rank in ranks:
        if ends and rank.process.stdin is not None:
            rank.process.stdin.close()  # the agent ends its process
        try:
            rank.process.wait(max(0.1, deadline_s - time.monotonic()) if ends else None)
        except subprocess.TimeoutExpired:
            rank.process.kill()
        for copier in rank.copiers:
            copier.join(KILL_DELAY_S)
    return 128 + ends[0] if ends else max(rank.process.wait() for rank in ranks)


def agent() -> int:
    """Run what one line of stdin says, until it ends or the connection does; return its status as a shell does."""
    task = json.loads(sys.stdin.readline())
    try:
        child = subprocess.Popen(
            task["command"],
            stdin=subprocess.DEVNULL,
            env=task["variables"],
            cwd=task["directory"],
            process_group=0,
        )
    except OSError as error:
        sys.stderr.write(f"mpiexec: {error.filename}: {error.strerror}\n")
        return NOT_FOUND
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([sys.stdin, ended], [], [])
    if ended not in ready:
        os.killpg(child.pid, signal.SIGTERM)
        if not select.select([ended], [], [], KILL_DELAY_S)[0]:
            os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(agent() if sys.argv[1:] == ["--agent"] else mpiexec(sys.argv[1:]))
