"""Laws of batch scripts: what a shell hands to the launch is what was written behind ``--``, whatever it is."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from rankmap.schedulers.batch import BatchJob
from rankmap.schedulers.script import batch_script
from rankmap.schedulers.table import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Sequence

JOB = BatchJob(name="app", n_nodes=2, account="acc", queue="q", walltime_s=60)
NASTY = [
    "",
    " ",
    "--",
    ":",
    "'",
    '"',
    "\\",
    "$HOME",
    "$(id)",
    "`id`",
    "a\nb",
    "\t",
    "~",
    "*",
    "!x",
    "#",
    ";",
    "&",
    "-n",
    "=",
    "{a,b}",
]
WORDS = st.lists(
    st.one_of(st.sampled_from(NASTY), st.binary(max_size=12).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))),
    max_size=6,
)
STUB = 'rankmap() { printf "%s\\0" "$@"; }; exec() { "$@"; }\n'


def handed_over(words: Sequence[str]) -> list[bytes]:
    """Return the words that the launch of a script has, as a shell hands them over."""
    text = batch_script(JOB, SCHEDULERS["slurm"], words, setup=None, path="a b/$c/bin")
    done = subprocess.run(
        ["/bin/bash", "-c", os.fsencode(STUB + text)],
        env={"SLURM_SUBMIT_DIR": "/", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert b"" == done.stderr
    return done.stdout.split(b"\0")[:-1]


@given(words=WORDS)
def test_words_come_back_through_a_shell(words: list[str]) -> None:
    """Quotes, dollars, newlines and bytes that are no text: each word is one word, and the same."""
    assert [b"launch", *map(os.fsencode, words)] == handed_over(words)


@given(words=WORDS)
def test_words_are_in_the_last_command_only(words: list[str]) -> None:
    """Nothing that a user writes reaches a directive, or the set-up."""
    head, _, _ = batch_script(JOB, SCHEDULERS["slurm"], words, setup=None, path="").partition("exec rankmap launch")
    plain, _, _ = batch_script(JOB, SCHEDULERS["slurm"], [], setup=None, path="").partition("exec rankmap launch")
    assert plain == "".join(line for line in head.splitlines(keepends=True) if not line.startswith("# shellcheck"))
