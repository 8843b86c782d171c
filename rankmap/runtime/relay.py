"""What Dragon's launcher finds as ``ssh`` in a job on several hosts: has the agent there run the command.

Run as ``python -I -S -B relay.py SOCKET [SSH-OPTIONS] HOST COMMAND...``. The agent of that host is there already, owns
what it starts, and has the whole environment; so nobody logs in a second time, and nothing of Dragon's gets away.
Standard library only.
"""

from __future__ import annotations

import sys
from marshal import dumps, loads
from os import write
from socket import AF_UNIX, SOCK_STREAM, socket

LENGTH_BYTES = 4
LOST = 255  # what ssh(1) exits with when the connection is gone


def main(path: str, words: list[str]) -> int:
    """Have it run, pass on what it says, and return its exit status."""
    while words and words[0].startswith("-"):
        words = words[1:]
    host, command = words[0], " ".join(words[1:])
    body = dumps({"kind": "remote", "host": host, "command": command})
    try:
        with socket(AF_UNIX, SOCK_STREAM) as sock:
            sock.connect(path)
            sock.sendall(len(body).to_bytes(LENGTH_BYTES, "big") + body)
            return pass_on(sock)
    except OSError as error:  # the job is over, or nobody reads what we say
        sys.stderr.write(f"rankmap: the connection to the job is gone: {error.strerror}\n")
        return LOST


def pass_on(sock: socket) -> int:
    """Write what is said there to the same end here; return the exit status of the command."""
    buffer = b""
    while data := sock.recv(1 << 16):
        buffer += data
        while len(buffer) >= LENGTH_BYTES:
            stop = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
            if len(buffer) < stop:
                break
            message = loads(buffer[LENGTH_BYTES:stop])  # noqa: S302 - from our own supervisor
            buffer = buffer[stop:]
            if message["kind"] == "exited":
                return int(message["status"])
            view = memoryview(message["data"])
            while view:
                view = view[write(message["end"], view) :]
    return LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
