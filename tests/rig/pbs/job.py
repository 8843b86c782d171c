"""A stub of PBS Pro's qsub, qstat and qdel on the fake hosts: one queue, every job starts at once on the first hosts.

What a job has: a clean environment (or with -V the caller's), PBS_NODEFILE on its first host only, one line a slot,
its script's start in the home directory, and output files that are there when it has ended.
Source: qsub(1B), qstat(1B), qdel(1B) of PBS Professional; not compared with a real PBS.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

JOBS = Path("/run/pbs")
NODES = Path("/run/rig/nodes")
PROGRAMS = "/run/rig/pbs/bin:/run/rig/pbs/pals/bin"
SITE_PATH = f"{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
QUEUES = ("workq", "debug")
UNKNOWN_JOB, FINISHED_JOB, UNKNOWN_QUEUE, TOO_LARGE = 153, 35, 170, 188
KILL_DELAY_S = 3.0


def die(message: str, status: int) -> NoReturn:
    """End as PBS's programs do."""
    sys.stderr.write(f"{message}\n")
    sys.exit(status)


def options() -> argparse.ArgumentParser:
    """Return qsub's options, as far as the stub has them; any other is refused."""
    parser = argparse.ArgumentParser(prog="qsub", allow_abbrev=False)
    parser.add_argument("-A", dest="account")
    parser.add_argument("-I", dest="interactive", action="store_true")
    parser.add_argument("-N", dest="name")
    parser.add_argument("-V", dest="whole_environment", action="store_true")
    parser.add_argument("-W", dest="attributes", action="append", default=[])
    parser.add_argument("-e", dest="stderr")
    parser.add_argument("-j", dest="join", choices=("oe", "eo", "n"), default="n")
    parser.add_argument("-k", dest="keep")
    parser.add_argument("-l", dest="resources", action="append", default=[])
    parser.add_argument("-o", dest="stdout")
    parser.add_argument("-q", dest="queue", default="workq")
    parser.add_argument("-v", dest="variables", default="")
    parser.add_argument("command", nargs="*", help="a script; with -I, after --, a command")
    return parser


def directives(script: str) -> list[str]:
    """Return what the #PBS lines before the first command say; they come before the command line's options."""
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#PBS"):
            words += shlex.split(line[4:], comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return words


def resources(given: list[str]) -> dict[str, str]:
    """Return the parts of all -l options by name: ``select``, ``walltime``, ..."""
    return dict(part.partition("=")[::2] for text in given for part in text.split(","))


def slots(select: str) -> tuple[list[str], int]:
    """Return one host name a slot, and the CPUs of a chunk; a chunk is a host of its own."""
    count, *parts = select.split("+", maxsplit=1)[0].split(":")
    chunk = dict(part.partition("=")[::2] for part in parts)
    nodes = NODES.read_text().split()
    if int(count) > len(nodes):
        die("qsub: Job violates queue and/or server resource limits", TOO_LARGE)
    n_slots = int(chunk.get("mpiprocs", "1"))
    return [node for node in nodes[: int(count)] for _ in range(n_slots)], int(chunk.get("ncpus", "1"))


def new_job() -> tuple[str, Path]:
    """Return the next job id and the job's new directory."""
    JOBS.mkdir(exist_ok=True)
    number = 1
    while True:
        try:
            (folder := JOBS / f"{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return f"{number}.{socket.gethostname()}", folder


def environment(asked: argparse.Namespace, job_id: str, folder: Path, n_cpus: int) -> dict[str, str]:
    """Return the variables of a job."""
    caller = dict(os.environ)
    variables = {name: caller.get(name, "") for name in ("HOME", "LOGNAME", "USER", "SHELL", "LANG")}
    variables |= {"HOME": variables["HOME"] or "/root", "SHELL": "/bin/bash", "PATH": SITE_PATH}
    if asked.whole_environment:
        variables |= caller | {"PATH": f"{PROGRAMS}:{caller['PATH']}"}
    for text in asked.variables.split(",") if asked.variables else ():
        name, equals, value = text.partition("=")
        variables[name] = value if equals else caller.get(name, "")
    origin = {f"PBS_O_{name}": caller.get(name, "") for name in ("HOME", "LANG", "LOGNAME", "PATH", "SHELL")}
    return (
        variables
        | origin
        | {
            "NCPUS": f"{n_cpus}",
            "OMP_NUM_THREADS": f"{n_cpus}",
            "PBS_ENVIRONMENT": "PBS_INTERACTIVE" if asked.interactive else "PBS_BATCH",
            "PBS_JOBID": job_id,
            "PBS_JOBNAME": asked.name,
            "PBS_NODEFILE": str(folder / "nodefile"),
            "PBS_NODENUM": "0",
            "PBS_O_HOST": socket.gethostname(),
            "PBS_O_QUEUE": asked.queue,
            "PBS_O_WORKDIR": str(Path.cwd()),
            "PBS_QUEUE": asked.queue,
        }
    )


def qsub(arguments: list[str]) -> int:
    """Start a job and print its id; with -I run the command in it; with -W block=true wait for its end."""
    parser = options()
    asked = parser.parse_args(arguments)
    script = ""
    if not asked.interactive:
        source = Path(asked.command[0]) if asked.command else None
        script = source.read_text() if source else sys.stdin.read()
        asked = parser.parse_args([*directives(script), *arguments])
        asked.name = asked.name or (source.name[:15] if source else "STDIN")
    asked.name = asked.name or "STDIN"
    if asked.queue not in QUEUES:
        die("qsub: Unknown queue", UNKNOWN_QUEUE)
    limits = resources(asked.resources)
    hosts, n_cpus = slots(limits.get("select", "1"))
    job_id, folder = new_job()
    (folder / "nodefile").write_text("".join(f"{host}\n" for host in hosts))
    variables = environment(asked, job_id, folder, n_cpus)
    if asked.interactive:
        os.execvpe(asked.command[0], asked.command, variables)  # noqa: S606 - the command is the caller's
    (folder / "script").write_text(script)
    number = folder.name
    job = {
        "name": asked.name,
        "queue": asked.queue,
        "environment": variables,
        "stdout": str(Path(asked.stdout or f"{asked.name}.o{number}").absolute()),
        "stderr": str(Path(asked.stderr or f"{asked.name}.e{number}").absolute()),
        "joined": asked.join == "oe",
        "walltime_s": seconds(limits["walltime"]) if "walltime" in limits else None,
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-IS", __file__, "execute", number]
    quiet = subprocess.DEVNULL
    mom = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd="/")
    sys.stdout.write(f"{job_id}\n")
    sys.stdout.flush()
    return mom.wait() if "block=true" in asked.attributes else 0


def seconds(walltime: str) -> int:
    """Return a wall-clock time, [[hours:]minutes:]seconds, in seconds."""
    total = 0
    for part in walltime.split(":"):
        total = 60 * total + int(part)
    return total


def execute(number: str) -> int:
    """Run a job's script to its end or its time limit, and deliver its output."""
    folder = JOBS / number
    job = json.loads((folder / "job.json").read_text())
    with (folder / "OU").open("wb") as out, (folder / "ER").open("wb") as err:
        process = subprocess.Popen(
            ["/bin/bash", str(folder / "script")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out if job["joined"] else err,
            env=job["environment"],
            cwd=job["environment"]["HOME"],
            start_new_session=True,
        )
        (folder / "session").write_text(f"{process.pid}")
        try:
            status = process.wait(job["walltime_s"])
        except subprocess.TimeoutExpired:
            err.write(f"=>> PBS: job killed: walltime exceeded limit {job['walltime_s']}\n".encode())
            end_session(process.pid)
            status = process.wait()
    Path(job["stdout"]).write_bytes((folder / "OU").read_bytes())
    if not job["joined"]:
        Path(job["stderr"]).write_bytes((folder / "ER").read_bytes())
    status = status if status >= 0 else 256 - status  # 256 + the signal
    (folder / "status").write_text(f"{status}")
    return min(status, 255)


def end_session(leader: int) -> None:
    """End all processes of a session, those that do not go by SIGTERM by SIGKILL."""
    for number, patience_s in ((signal.SIGTERM, KILL_DELAY_S), (signal.SIGKILL, 0.0)):
        for pid in (members := session(leader)):
            os.kill(pid, number)
        deadline_s = time.monotonic() + patience_s
        while members and session(leader) and time.monotonic() < deadline_s:
            time.sleep(0.05)


def session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(its_session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def known(program: str, job_id: str) -> Path:
    """Return the directory of a job; end as PBS's programs do where there is none."""
    folder = JOBS / job_id.partition(".")[0]
    if not (folder / "job.json").exists():
        die(f"{program}: Unknown Job Id {job_id}", UNKNOWN_JOB)
    return folder


def qstat(arguments: list[str]) -> int:
    """List the jobs that run; with -x those that have ended too, with -f one attribute a line."""
    parser = argparse.ArgumentParser(prog="qstat", allow_abbrev=False)
    parser.add_argument("-f", dest="full", action="store_true")
    parser.add_argument("-x", dest="history", action="store_true")
    parser.add_argument("ids", nargs="*")
    asked = parser.parse_args(arguments)
    folders = [known("qstat", job_id) for job_id in asked.ids] or sorted(JOBS.glob("*/job.json"))
    for folder in [path.parent if path.name == "job.json" else path for path in folders]:
        job = json.loads((folder / "job.json").read_text())
        job_id = job["environment"]["PBS_JOBID"]
        status = (folder / "status").read_text() if (folder / "status").exists() else None
        if status is not None and not asked.history:
            if asked.ids:
                die(
                    f"qstat: {job_id} Job has finished, use -x or -H to obtain historical job information", FINISHED_JOB
                )
            continue
        state = "R" if status is None else "F"
        if asked.full:
            sys.stdout.write(f"Job Id: {job_id}\n    Job_Name = {job['name']}\n    job_state = {state}\n")
            sys.stdout.write(f"    Exit_status = {status}\n" if status is not None else "")
        else:
            sys.stdout.write(f"{job_id:17} {job['name']:16} root             00:00:00 {state} {job['queue']}\n")
    return 0


def qdel(arguments: list[str]) -> int:
    """End jobs: SIGTERM to all processes of the script's session, SIGKILL after some seconds."""
    for job_id in arguments:
        folder = known("qdel", job_id)
        if (folder / "status").exists():
            die(f"qdel: Job has finished {job_id}", FINISHED_JOB)
        end_session(int((folder / "session").read_text()))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "execute":
        sys.exit(execute(sys.argv[2]))
    sys.exit({"qsub": qsub, "qstat": qstat, "qdel": qdel}[sys.argv[1]](sys.argv[2:]))
