"""What the launch command makes of its words; whole runs are in tests/e2e and test_bad_input.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from rankmap.cli import launch as cli
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec
from rankmap.report import RankReport, Report, Verdict
from rankmap.runtime.job import JobResult, Verify
from rankmap.runtime.launching import LaunchOptions
from tests.topologies_made import allocation, made

NODE = made([[2], [2]])
PLANNED = {"host": "n0", "cpus": [0], "numa": [0], "gpus": [], "mem": None}
REPORT = Report(ranks=(RankReport(rank=0, planned=PLANNED, observed=None, findings=()),))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("0.5", 0.5), ("1:30", 90.0), ("1:00:00", 3600.0), ("0:0:1.5", 1.5), ("90:00", 5400.0)],
)
def test_a_time_is_seconds_or_clock_time(text: str, seconds: float) -> None:
    """[H:]M:S counts from the right, and every part may be as large as it likes."""
    assert seconds == cli._Duration().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:", ":1", "1e3", "1:2:3:4", "5m", "inf", "nan", "0", "0:00", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """The message shows both ways of writing one, or that it must be more than 0."""
    with pytest.raises(click.BadParameter, match=r"is not a time; write seconds|more than 0"):
        cli._Duration().convert(text, None, None)


@pytest.mark.parametrize("watch_s", [0, -1, 0.09, float("nan")])
def test_ranks_are_looked_at_now_and_then_and_not_all_the_time(watch_s: float) -> None:
    """The API refuses what the command line refuses; what is not to be verified is not watched."""
    with pytest.raises(UsageError, match=r"every 0\.1 s or less often"):
        LaunchOptions(watch_s=watch_s)
    with pytest.raises(UsageError, match="--watch 1 and --verify off"):
        LaunchOptions(watch_s=1, verify=Verify.OFF)
    assert (0.1, None) == (LaunchOptions(watch_s=0.1).watch_s, LaunchOptions(verify=Verify.OFF).watch_s)


def test_variables_are_set_handed_on_or_taken_out() -> None:
    """The first = ends the name; without one the shell's value is handed on; the last word on a name counts."""
    expected = {"A": "b=c", "B": "", "PATH": os.environ["PATH"], "C": None, "D": "2"}
    assert expected == cli._variables(("A=b=c", "B=", "PATH", "D=1", "D=2"), ("C", "D"))


def test_a_variable_that_is_not_there_cannot_be_handed_on() -> None:
    """Mpirun -x NAME hands on; a NAME that is not set is a mistake, never a removal."""
    with pytest.raises(UsageError, match="--env NOT_SET_HERE: there is no such variable") as caught:
        cli._variables(("NOT_SET_HERE",), ())
    assert "--unset NOT_SET_HERE" in caught.value.hint


@pytest.mark.parametrize("text", ["", "=x", "="])
def test_a_variable_has_a_name(text: str) -> None:
    """What was typed is in the message."""
    with pytest.raises(UsageError, match="--env") as caught:
        cli._variables((text,), ())
    assert repr(text) in caught.value.message


def test_standard_input_goes_to_a_rank_of_the_job() -> None:
    """Also where the number of ranks follows from the machine."""
    assert [cli._stdin_rank(text) for text in ("none", "0", "12")] == [None, 0, 12]
    assert cli._planned(allocation(NODE), [LayoutSpec()], saved=None, stdin_rank=3).n_ranks == 4
    with pytest.raises(UsageError, match="--stdin 4: the job has ranks 0 to 3"):
        cli._planned(allocation(NODE), [LayoutSpec()], saved=None, stdin_rank=4)


def test_a_report_file_that_could_not_be_written_is_refused_before_the_job(tmp_path: Path) -> None:
    """A missing directory, a name that is too long, no permission to write (root may write all)."""
    cli._check_writable(None)
    cli._check_writable(tmp_path / "new.json")
    (tmp_path / "old.json").touch()
    cli._check_writable(tmp_path / "old.json")
    with pytest.raises(UsageError, match="there is no directory"):
        cli._check_writable(tmp_path / "missing" / "r.json")
    with pytest.raises(UsageError, match="there is no directory"):
        cli._check_writable(tmp_path / ("x" * 5000) / "r.json")
    if os.getuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(UsageError, match="no permission"):
            cli._check_writable(tmp_path / "new.json")


def test_the_report_is_written_and_a_full_disk_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The job has run by then: what it said stays, and only a status of 0 becomes 1."""
    assert cli._write_report(REPORT, tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text()) == REPORT.to_dict()
    assert capsys.readouterr().err == ""
    assert cli._write_report(REPORT, Path("/dev/full")) == 1
    assert capsys.readouterr().err == "rankmap: --report /dev/full could not be written: No space left on device\n"


@pytest.mark.parametrize(
    ("verify", "last"),
    [
        (Verify.FAIL, "rankmap: placement: 0/1 ranks as planned, 1 not observed"),
        (Verify.WARN, "rankmap: placement: 0/1 ranks as planned, 1 not observed"),
        (Verify.OFF, "rankmap: placement: not verified (--verify off)"),
    ],
)
def test_the_verdict_is_the_last_line_on_stderr(verify: Verify, last: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Reason and hint come first, the table when asked for, stdout stays the application's."""
    job = cli._planned(allocation(NODE), [LayoutSpec(n_ranks=1)], saved=None, stdin_rank=None)
    result = JobResult(status=3, reason="rank 0 exited", hint="look", plan=job, report=REPORT, exit_codes={0: 3})
    cli._tell(result, verify=verify, report_bindings=True, verbose=False)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert ("", ["rankmap: rank 0 exited", "  look"], last) == (said.out, lines[:2], lines[-1])
    assert any(line.startswith("rank    host") for line in lines)
    assert REPORT.verdict is Verdict.UNOBSERVED


def test_a_job_that_never_had_a_plan_has_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the reason is said."""
    result = JobResult(status=122, reason="no runtime", hint="", plan=None, report=None, exit_codes={})
    cli._tell(result, verify=Verify.FAIL, report_bindings=True, verbose=True)
    assert capsys.readouterr().err == "rankmap: no runtime\n"
