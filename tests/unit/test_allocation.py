"""Unit tests of rankmap.schedulers.allocation: the hosts of the job around this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rankmap.errors import AllocationError
from rankmap.schedulers.allocation import AllocationKind, HostAllocation, allocated_hosts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def nodefile(tmp_path: Path) -> Path:
    """Return a file with two hosts of two slots and one of one, in the order of PBS."""
    file = tmp_path / "nodes"
    file.write_text("x1.site\nx1.site\nx0.site\nx2.site\nx2.site\n")
    return file


def test_no_job_is_no_allocation() -> None:
    """A laptop, a login node."""
    assert None is allocated_hosts({"PATH": "/bin"})


def test_pbs_has_a_line_for_each_slot(nodefile: Path) -> None:
    """Hosts keep their order; how many lines each has says nothing."""
    environ = {"PBS_JOBID": "7.server", "PBS_NODEFILE": str(nodefile)}
    expected = HostAllocation(
        source=f"PBS_NODEFILE {nodefile}",
        kind=AllocationKind.PBS,
        hosts=("x1.site", "x0.site", "x2.site"),
    )
    assert expected == allocated_hosts(environ)


@pytest.mark.parametrize("variable", ["SLURM_JOB_NODELIST", "SLURM_NODELIST"])
def test_slurm_has_a_hostlist(variable: str) -> None:
    """As Slurm folds it, several brackets in a name too; the older variable does where the newer is not set."""
    found = allocated_hosts({"SLURM_JOB_ID": "9", variable: "nid[001002-001004,001009],r[1-2]n[08-09]"})
    assert found is not None
    assert ("nid001002", "nid001003", "nid001004", "nid001009", "r1n08", "r1n09", "r2n08", "r2n09") == found.hosts
    assert (variable, AllocationKind.SLURM) == (found.source, found.kind)


def test_dhosts_comes_before_the_scheduler(nodefile: Path, tmp_path: Path) -> None:
    """It is there to use a part of a job, and Dragon goes by it first; its file has no newline at the end."""
    part = tmp_path / "part"
    part.write_text("x2.site\nx1.site")
    environ = {"PBS_JOBID": "7", "PBS_NODEFILE": str(nodefile), "DRAGON_RUN_NODEFILE": str(part)}
    found = allocated_hosts(environ)
    assert found is not None
    assert (AllocationKind.DRUN, ("x2.site", "x1.site")) == (found.kind, found.hosts)


def test_a_list_without_a_job_is_left_and_said(nodefile: Path) -> None:
    """A shell that outlived its job has its variables still."""
    said: list[str] = []
    assert None is allocated_hosts({"PBS_NODEFILE": str(nodefile), "SLURM_JOB_NODELIST": "a"}, say=said.append)
    assert ["PBS_NODEFILE is set, but PBS_JOBID is not", "SLURM_JOB_NODELIST is set, but SLURM_JOB_ID is not"] == [
        text.partition(":")[0] for text in said
    ]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PBS_JOBID": "7"}, "PBS_JOBID is '7', but PBS_NODEFILE is not set"),
        ({"PBS_JOBID": "7", "PBS_NODEFILE": "{}/none"}, "PBS_NODEFILE {}/none cannot be read: No such file"),
        ({"PBS_JOBID": "7", "PBS_NODEFILE": "{}"}, "PBS_NODEFILE {} cannot be read: Is a directory"),
        ({"PBS_JOBID": "7", "PBS_NODEFILE": "{}/empty"}, "PBS_NODEFILE {}/empty names no host"),
        ({"PBS_JOBID": "7", "PBS_NODEFILE": "{}/bytes"}, "PBS_NODEFILE {}/bytes cannot be read: it is no text"),
        ({"PBS_JOBID": "7", "PBS_NODEFILE": "{}/words"}, "PBS_NODEFILE {}/words:1: not a line of a hostfile: a b"),
        ({"DRAGON_RUN_NODEFILE": "{}/none"}, "DRAGON_RUN_NODEFILE {}/none cannot be read: No such file"),
        ({"SLURM_JOB_ID": "9"}, "SLURM_JOB_ID is '9', but SLURM_JOB_NODELIST is not set"),
        ({"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "n[1-"}, "SLURM_JOB_NODELIST: 'n[1-' is not a list of hosts"),
        ({"SLURM_JOB_ID": "9", "PBS_JOBID": "7"}, "PBS_JOBID and SLURM_JOB_ID are both set"),
    ],
)
def test_what_cannot_be_read_is_refused(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    """With the variable, the file, the reason, and what to do: hosts of one's own among that."""
    (tmp_path / "empty").write_text("\n# nothing\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "words").write_text("a b\n")
    here = {name: value.replace("{}", str(tmp_path)) for name, value in environ.items()}
    with pytest.raises(AllocationError) as refused:
        allocated_hosts(here)
    assert message.replace("{}", str(tmp_path)) in refused.value.message
    assert "--hosts" in refused.value.hint


def test_a_file_without_an_end_is_refused() -> None:
    """It must not fill the memory."""
    with pytest.raises(AllocationError, match="more than 64 MiB"):
        allocated_hosts({"PBS_JOBID": "7", "PBS_NODEFILE": "/dev/zero"})
