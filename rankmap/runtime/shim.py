"""The exec shim: starts in a rank's place, says what it sees, gets leave to go, and becomes the application.

Run as ``python -I -S -B shim.py SOCKET RANK`` by Dragon, with the affinity that Dragon gave the rank. It tells the
supervisor its pid, host and CPUs; the answer holds the application's command, working directory and environment
changes, with the file descriptors for stdout and stderr (and stdin) beside it. The last word is what the application
gets of the variables that the supervisor wants to know (``shown``), and the memory policy that the kernel has for it
now, where one was asked for. It keeps the pid. A shim that is told to stop, or
whose supervisor is gone, ends without starting anything.

Standard library only and few modules of it: this runs once per rank before the application may start
(``make bench`` holds it to 30 ms of CPU), so it speaks the protocol of wire.py without importing that.
"""

from __future__ import annotations

import os
import sys
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from marshal import dumps, loads
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit

TYPE_CHECKING = False  # typing's own costs an import of typing, a tenth of the shim's time
if TYPE_CHECKING:
    from typing import Any

MEMORY_MODES = {"preferred": 1, "bind": 2, "interleave": 3, "local": 4}  # linux/mempolicy.h
PREFERRED_MANY = 5  # since Linux 5.15; of several domains MPOL_PREFERRED takes the first
MODE_BITS = (1 << 13) - 1  # the flags of a mode are above
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "ppc64le": 261, "riscv64": 237}  # asm/unistd.h
GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236, "ppc64le": 260, "riscv64": 236}
MOST_DOMAINS = (
    4096  # at least what the kernel was built for, else get_mempolicy(2) fails; Linux numbers them below 1024
)
WORD_BITS = 64
N_STANDARD_FDS = 3
FD_BYTES = 4
LENGTH_BYTES = 4
STOPPED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
NO_START = 123


def see(rank: int) -> dict[str, Any]:
    """Return what this process is really like, before the application has run a single instruction.

    ``cpus`` are PU os indices (sched_getaffinity(2)), ``pmix_uris`` where the PMIx server listens.
    """
    return {
        "kind": "shim",
        "rank": rank,
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "cpus": sorted(os.sched_getaffinity(0)),
        "pmix_uris": [value for name, value in os.environ.items() if name.startswith("PMIX_SERVER_URI")],
    }


def send(sock: socket, message: dict[str, Any]) -> None:
    """Send one message in wire.py's format."""
    body = dumps(message)
    sock.sendall(len(body).to_bytes(LENGTH_BYTES, "big") + body)


def receive(sock: socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the supervisor's answer and the file descriptors beside it; None when it is gone."""
    data, fds = b"", []
    while len(data) < LENGTH_BYTES or len(data) < LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big"):
        try:
            part, ancillary, _, _ = sock.recvmsg(1 << 16, 256)
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
        for level, kind, raw in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds += [int.from_bytes(raw[i : i + FD_BYTES], sys.byteorder) for i in range(0, len(raw), FD_BYTES)]
    return loads(data[LENGTH_BYTES:]), fds  # noqa: S302 - from our own supervisor


def environment(changes: dict[str, Any]) -> dict[str, str]:
    """Return the application's environment: this process's, with variables set and directories taken out.

    ``set`` maps names to values (None: the variable is removed); ``drop_paths`` are directories that were put into
    LD_LIBRARY_PATH for Dragon's sake and are no business of the application.
    """
    env = dict(os.environ)
    drop = set(changes["drop_paths"])
    paths = [path for path in env.pop("LD_LIBRARY_PATH", "").split(":") if path and path not in drop]
    if paths:
        env["LD_LIBRARY_PATH"] = ":".join(paths)
    for name, value in changes["set"].items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def set_memory(policy: str) -> None:
    """Take this process's pages from where the policy says: ``local``, ``bind:0-1``, ``preferred:2``, ...

    It holds for what the process becomes, and for its threads and children.

    Raises:
        OSError: The kernel refuses.

    Source: set_mempolicy(2).
    """
    from ctypes import CDLL, c_ulong, get_errno  # noqa: PLC0415 - 5 ms that only those pay who ask for it

    mode, _, domains = policy.partition(":")
    mask = 0
    for part in domains.split(",") if domains else ():
        first, _, last = part.partition("-")
        mask |= (1 << (int(last or first) + 1)) - (1 << int(first))
    n_words = mask.bit_length() // WORD_BITS + 1
    words = (c_ulong * n_words)(*((mask >> (WORD_BITS * i)) & (1 << WORD_BITS) - 1 for i in range(n_words)))
    number = SET_MEMPOLICY[os.uname().machine]
    n_bits = n_words * WORD_BITS + 1 if mask else 0
    kernels = PREFERRED_MANY if mode == "preferred" and mask & (mask - 1) else MEMORY_MODES[mode]
    libc = CDLL(None, use_errno=True)
    if libc.syscall(number, kernels, words if mask else None, c_ulong(n_bits)) != 0:
        raise OSError(get_errno(), os.strerror(get_errno()), policy)


def memory() -> list[Any] | None:
    """Return the mode of this process's memory policy and its domains, as the kernel has them now.

    None where the kernel does not say. Domains that the process may not use (cpuset.mems) are not among them.

    Source: get_mempolicy(2); before Linux 5.14 MPOL_LOCAL is read back as MPOL_PREFERRED without a domain.
    """
    from ctypes import CDLL, byref, c_int, c_ulong  # noqa: PLC0415 - as above

    n_words = MOST_DOMAINS // WORD_BITS
    mode, words = c_int(), (c_ulong * n_words)()
    number = GET_MEMPOLICY[os.uname().machine]
    if CDLL(None).syscall(number, byref(mode), words, c_ulong(MOST_DOMAINS + 1), None, c_ulong(0)) != 0:
        return None
    mask = sum(word << WORD_BITS * i for i, word in enumerate(words))
    names = {number: name for name, number in MEMORY_MODES.items()} | {PREFERRED_MANY: "preferred"}
    found = mode.value & MODE_BITS
    name = names.get(found, str(found)) if mask or found != MEMORY_MODES["preferred"] else "local"
    return [name, [i for i in range(mask.bit_length()) if mask >> i & 1]]


def limit_files(n_files: int) -> None:
    """Set the soft limit of open files to so many, or to the hard limit where that is lower; -1 is as many as may be.

    An agent on another host has raised its own, and what it starts inherits that.
    """
    _, hard = getrlimit(RLIMIT_NOFILE)
    most = [limit for limit in (n_files, hard) if limit != RLIM_INFINITY]
    setrlimit(RLIMIT_NOFILE, (min(most, default=RLIM_INFINITY), hard))


def become(sock: socket, rank: int, row: dict[str, Any], fds: list[int]) -> None:
    """Say what the application gets, and replace this process by it; returns only by an OSError.

    Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays ignored over exec, so both are set back.
    """
    env = environment(row["env"])
    if row["mem"]:
        set_memory(row["mem"])
    shown = {name: env[name] for name in row["shown"] if name in env}
    send(sock, {"kind": "goes", "rank": rank, "variables": shown, "mem": memory() if row["mem"] else None})
    if row["slack_ns"]:  # Dragon's processes were given a large timer slack, which is inherited
        try:
            with open("/proc/self/timerslack_ns", "w") as file:  # noqa: PTH123 - pathlib costs 5 ms
                file.write(str(row["slack_ns"]))
        except OSError:
            pass
    limit_files(row["n_files"])
    if len(fds) < N_STANDARD_FDS:
        fds = [os.open("/dev/null", os.O_RDONLY), *fds]
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    for fd in fds:
        if fd >= N_STANDARD_FDS:
            os.close(fd)
    signal(SIGPIPE, SIG_DFL)
    signal(SIGXFSZ, SIG_DFL)
    os.execve(row["path"], row["argv"], env)  # noqa: S606 - no shell is the point


def main(path: str, rank: int) -> int:
    """Report, wait for leave, become the application; return the exit status where that failed."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.connect(path)
        send(sock, see(rank))
        answer = receive(sock)
    except OSError as error:
        sys.stderr.write(f"rankmap: rank {rank} cannot reach its supervisor at {path}: {error}\n")
        return NO_START
    if answer is None:
        return NO_START
    row, fds = answer
    if row["kind"] != "go":
        return STOPPED
    try:
        os.chdir(row["cwd"])
    except OSError as error:
        send(sock, {"kind": "failed", "rank": rank, "errno": error.errno, "path": row["cwd"], "what": "directory"})
        return NO_START
    # The application's exec closes the socket: the supervisor reads its end as "it runs".
    try:
        become(sock, rank, row, fds)
    except OSError as error:
        return fail(sock, rank, row, error)
    return 0


def fail(sock: socket, rank: int, row: dict[str, Any], error: OSError) -> int:
    """Say why the application could not be started; return the exit status."""
    what = "memory" if error.filename == row["mem"] else "application"
    failure = {"kind": "failed", "rank": rank, "errno": error.errno, "path": error.filename or row["path"]}
    send(sock, {**failure, "what": what})
    if what == "memory":
        return NO_START
    return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
