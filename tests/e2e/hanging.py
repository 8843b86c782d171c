"""A program for ``dragon`` that makes its runtime hang: it kills processes in the middle of requests until it does.

Then it runs a command there, writes to ANSWER where itself hangs and how the command ended, and ends the runtime.
Where the runtime does not hang, there is no answer.

    dragon -s hanging.py ANSWER COMMAND...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from dragon.globalservices import process
from dragon.native.process import Popen, Process

PATIENCE_S = 8.0


def ask() -> None:
    """Ask global services one thing after the other."""
    os.write(1, b"%d\n" % os.getpid())
    while True:
        process.get_list()


def when_it_hangs(main_thread: int, answer: Path, command: list[str]) -> None:
    """Say so, and end all."""
    waiting_in = [frame.name for frame in traceback.extract_stack(sys._current_frames()[main_thread])]
    start_s = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - start_s
    answer.write_text(
        json.dumps({"waiting_in": waiting_in, "status": done.returncode, "stderr": done.stderr, "seconds": took_s})
    )
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    for number in range(40):
        watch = threading.Timer(PATIENCE_S, when_it_hangs, [threading.get_ident(), Path(sys.argv[1]), sys.argv[2:]])
        watch.start()
        asking = Process(target=ask, stdout=Popen.PIPE)
        asking.start()
        pid = int(asking.stdout_conn.recv())
        time.sleep(0.1 + 0.003 * number)  # into another moment of a request each time
        os.kill(pid, signal.SIGKILL)
        asking.join()
        watch.cancel()
