"""Unit tests of rankmap.runtime.dry_run: the words of what would be run; tests/golden/launch-dry-run has it whole."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rankmap.errors import ApplicationNotFoundError, UsageError
from rankmap.runtime.dry_run import dry_run_text
from rankmap.runtime.launching import LaunchOptions
from rankmap.runtime.session import dragon_command
from rankmap.runtime.starting import Fabric, Kind, Reach

HEAD = f"{shlex.quote(sys.executable)} -m rankmap.runtime.head SOCKET"
SSH = "agents:  ssh -oBatchMode=yes -oConnectTimeout=15"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which there is a Dragon, be it that of this Python or not."""
    (tmp_path / "dragon").write_text("#!/bin/sh\n")
    (tmp_path / "dragon").chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.defpath}"}


def lines(environ: dict[str, str], *commands: tuple[str, ...], reach: Reach | None = None, **more: object) -> list[str]:
    """Return the text of a launch of these commands."""
    options = LaunchOptions(cwd=Path("/"), **more)  # type: ignore[arg-type]
    text = dry_run_text(commands or [("/bin/sh",)], reach=reach, options=options, environ=environ)
    return text.splitlines()


def test_on_one_host_there_is_nothing_of_hosts(environ: dict[str, str]) -> None:
    """Dragon's command, and each part's with where it runs, quoted for a shell, and what is changed for it."""
    assert lines(environ, ("sh", "-c", "echo a"), ("/bin/sh",), set_env={"A": "b c", "B": None, "C": ""}) == [
        f"runtime: {dragon_command(environ)} -s {HEAD}",
        f"ranks:   {_found('sh')} -c 'echo a'",
        "   in    /",
        "ranks:   /bin/sh",
        "   in    /",
        "   with  A='b c'",
        "   without B",
        "   with  C=''",
    ]
    assert not any("copied" in line for line in lines(environ, preload=Path("/bin/sh")))


def _found(name: str) -> str:
    return next(f"{folder}/{name}" for folder in os.defpath.split(":") if os.access(f"{folder}/{name}", os.X_OK))


def test_several_hosts_have_agents(environ: dict[str, str]) -> None:
    """The first few commands are enough; Dragon is told of all hosts, and of the network."""
    reach = Reach(
        kind=Kind.SSH,
        hosts=tuple(f"n{i}" for i in range(1, 6)),
        source="--hosts",
        fabric=Fabric(transport="tcp", words=("-l", "DEBUG")),
    )
    said = lines(environ, reach=reach, preload=Path("/bin/sh"))
    assert "hosts:   n[1-5] (5, from --hosts)" == said[0]
    assert [f"{SSH} n{i}" for i in (1, 2, 3)] == [line.partition(" 'env ")[0] for line in said[1:4]]
    assert "         ... and so on for 2 more" == said[4]
    words = "--wlm ssh --hostlist n1,n2,n3,n4,n5 --transport tcp -l DEBUG"
    assert [f"runtime: {dragon_command(environ)} {words} {HEAD}", "copied to every host first: /bin/sh"] == said[5:7]


@pytest.mark.parametrize(
    ("kind", "launcher", "wlm"), [(Kind.SLURM, "srun", "--wlm slurm"), (Kind.PBS, "mpiexec", "--wlm pbs+pals")]
)
def test_a_batch_system_starts_all_agents_at_once(kind: Kind, launcher: str, wlm: str, environ: dict[str, str]) -> None:
    """Dragon too, unless that is not for all of its hosts."""
    reach = Reach(kind=kind, hosts=("n1", "n2", "n3", "n4"), source="SOURCE", fabric=Fabric(transport="tcp"))
    said = lines(environ, reach=reach)
    assert ["hosts:", "agents:", "runtime:", "ranks:", "in"] == [line.split()[0] for line in said]
    assert "(4, from SOURCE)" in said[0]
    assert said[1].startswith(f"agents:  {launcher} ")
    assert "n1,n2,n3,n4" in said[1]
    assert f"{dragon_command(environ)} {wlm} --transport tcp {HEAD}" in said[2]
    part = lines(environ, reach=replace(reach, hosts=("n1",), whole=False))
    assert f"{dragon_command(environ)} --wlm ssh --hostlist n1 --transport tcp {HEAD}" in part[2]


def test_a_file_that_no_part_of_the_job_names_is_refused(environ: dict[str, str]) -> None:
    """As the launch would."""
    reach = Reach(kind=Kind.SSH, hosts=("n1", "n2"), source="--hosts")
    with pytest.raises(UsageError, match="--preload /bin/true: neither the application nor an argument of it"):
        lines(environ, reach=reach, preload=Path("/bin/true"))


def test_in_a_runtime_none_is_started(environ: dict[str, str]) -> None:
    """It is there."""
    assert "runtime: the one around this process" == lines({**environ, "DRAGON_MY_PUID": "7"})[0]


def test_an_application_that_is_not_there_is_refused(environ: dict[str, str]) -> None:
    """As the launch would: a text of it would be wrong."""
    with pytest.raises(ApplicationNotFoundError, match="no-such-program is not on PATH"):
        lines(environ, ("no-such-program",))
