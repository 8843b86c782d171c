"""Unit tests of rankmap.runtime.starting: the words that start agents and Dragon, and what goes to other hosts."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from rankmap.errors import UsageError
from rankmap.runtime.agent import TICKET_VARIABLE
from rankmap.runtime.starting import Fabric, Kind, Reach, agent_starts, dragon_words, hosts_environment, is_here
from tests.children import CHECKOUT

OWN = os.uname().nodename
HOSTS = ("n1", "n2", "n3")
SECRET = "5ec2e7"  # noqa: S105 - of no job
TICKET = {"addresses": [["10.0.0.1", 4000]], "secret": SECRET, "job": "rankmap-x"}


@pytest.mark.parametrize("kind", Kind)
def test_the_secret_is_in_no_command(kind: Kind) -> None:
    """Everybody on a host can read what its processes were started with; environment and stdin they cannot."""
    starts = agent_starts(kind, (*HOSTS, OWN), TICKET, {})
    assert not any(SECRET in word for start in starts for word in (*start.argv, str(start)))
    for start in starts:
        assert SECRET in start.stdin + str(start.variables)


@pytest.mark.parametrize("kind", [Kind.SSH, Kind.DRUN])
def test_ssh_gets_an_agent_onto_each_host(kind: Kind) -> None:
    """One login each, without a question for a password; each ticket says which host it is for."""
    starts = agent_starts(kind, HOSTS, TICKET, {})
    assert [(host,) for host in HOSTS] == [start.hosts for start in starts]
    for index, start in enumerate(starts):
        assert ("ssh", "-oBatchMode=yes", "-oConnectTimeout=15", HOSTS[index]) == start.argv[:4]
        (command,) = start.argv[4:]  # one word: a shell reads it there
        assert ("rankmap.agent", f"PYTHONPATH={CHECKOUT}") == (shlex.split(command)[-1], shlex.split(command)[1])
        assert {**TICKET, "index": index} == json.loads(start.stdin)
        assert start.stdin.endswith("\n")
        assert () == start.variables


def test_this_host_needs_no_login() -> None:
    """Nobody may be able to log in to where they are."""
    (here,) = agent_starts(Kind.SSH, (OWN,), TICKET, {})
    assert ("env", "rankmap.agent") == (here.argv[0], here.argv[-1])
    assert {**TICKET, "index": 0} == json.loads(here.stdin)


def test_a_runtime_gets_an_agent_as_a_process_on_each_of_its_hosts() -> None:
    """Each ticket says which host it is for."""
    starts = agent_starts(Kind.DRAGON, HOSTS, TICKET, {})
    assert [(host,) for host in HOSTS] == [start.hosts for start in starts]
    for index, start in enumerate(starts):
        assert ("env", "rankmap.agent", "") == (start.argv[0], start.argv[-1], start.stdin)
        ((name, text),) = start.variables
        assert (TICKET_VARIABLE, {**TICKET, "index": index}) == (name, json.loads(text))


def test_a_slurm_job_gets_all_agents_with_one_step() -> None:
    """Beside the steps that there are, one on each host, bound to nothing, with the ticket in its environment."""
    (start,) = agent_starts(Kind.SLURM, HOSTS, TICKET, {})
    words = set(start.argv)
    assert ("srun", HOSTS, "") == (start.argv[0], start.hosts, start.stdin)
    assert {"--overlap", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--nodelist=n1,n2,n3"} <= words
    assert {"--export=ALL", "--cpu-bind=none", "--mem=0", "--mpi=none", "--input=none", "--wait=0"} <= words
    assert {TICKET_VARIABLE: TICKET} == {name: json.loads(value) for name, value in start.variables}


def test_a_pbs_job_gets_all_agents_with_one_mpiexec() -> None:
    """As PALS has it."""
    (start,) = agent_starts(Kind.PBS, HOSTS, TICKET, {})
    words = ("mpiexec", "--np", "3", "--ppn", "1", "--cpu-bind", "none", "--hosts", "n1,n2,n3")
    assert words == start.argv[: len(words)]
    assert {TICKET_VARIABLE: TICKET} == {name: json.loads(value) for name, value in start.variables}


def test_more_hosts_than_go_into_a_word(tmp_path: Path) -> None:
    """They are read from a file; each command is one that the kernel starts."""
    hosts = tuple(f"x{i:04}c0s{j}b0n0" for i in range(1250) for j in range(8))
    (slurm,) = agent_starts(Kind.SLURM, hosts, TICKET, {}, tmp_path)
    (nodelist,) = (word for word in slurm.argv if word.startswith("--nodelist="))
    assert "--nodelist=/" == nodelist[:12]  # which is what tells Slurm that it is a file
    assert hosts == tuple(Path(nodelist[11:]).read_text().split())
    (pbs,) = agent_starts(Kind.PBS, hosts, TICKET, {}, tmp_path)
    reach = Reach(kind=Kind.SSH, hosts=hosts, source="x")
    dragon = dragon_words(reach, hosts, folder=tmp_path)
    for words in (pbs.argv, dragon):
        assert hosts == tuple(Path(value_of(words, "--hostfile") or "").read_text().split())
    for words in (slurm.argv, pbs.argv, dragon):
        subprocess.run(["/bin/true", *words], check=True)
    assert "FILE" == value_of(dragon_words(reach, hosts), "--hostfile")


@pytest.mark.parametrize(
    ("host", "here"),
    [(OWN, True), (OWN.partition(".")[0], True), ("localhost", True), (f"{OWN}x", False), ("n1", False)],
)
def test_this_host_is_known_by_its_names(host: str, *, here: bool) -> None:
    """Another one whose name only begins like it is another one."""
    assert here is is_here(host)


def value_of(words: tuple[str, ...], option: str) -> str | None:
    """Return what stands behind this option; None without it."""
    return words[words.index(option) + 1] if option in words else None


@pytest.mark.parametrize(
    ("kind", "wlm", "hostlist"),
    [
        (Kind.SSH, "ssh", "n1,n2,n3"),
        (Kind.DRUN, "ssh", "n1,n2,n3"),
        (Kind.SLURM, "slurm", None),
        (Kind.PBS, "pbs+pals", None),
    ],
)
def test_dragon_starts_as_the_batch_system_does(kind: Kind, wlm: str, hostlist: str | None) -> None:
    """Over the agents only where there is none; a batch system's own launcher knows the hosts."""
    words = dragon_words(Reach(kind=kind, hosts=HOSTS, source="x"), HOSTS)
    assert (wlm, hostlist) == (value_of(words, "--wlm"), value_of(words, "--hostlist"))


@pytest.mark.parametrize("kind", Kind)
def test_on_a_part_of_an_allocation_dragon_starts_over_the_agents(kind: Kind) -> None:
    """Neither srun nor mpiexec, as Dragon calls them, can be told which hosts."""
    words = dragon_words(Reach(kind=kind, hosts=HOSTS[:2], source="x", whole=False), HOSTS[:2])
    assert ("ssh", "n1,n2") == (value_of(words, "--wlm"), value_of(words, "--hostlist"))


@pytest.mark.parametrize("kind", Kind)
def test_of_hosts_of_which_some_are_not_used_too(kind: Kind) -> None:
    """One has turned out to be of no use: Dragon starts on the others."""
    words = dragon_words(Reach(kind=kind, hosts=HOSTS, source="x"), HOSTS[1:])
    assert ("ssh", "n2,n3") == (value_of(words, "--wlm"), value_of(words, "--hostlist"))


def test_interfaces_are_named_by_a_regular_expression() -> None:
    """As Dragon takes it; what is none is refused with what is wrong in it."""
    with pytest.raises(UsageError) as refused:
        Fabric(network_prefix="*")
    assert "--network-prefix '*' is no regular expression: nothing to repeat at position 0" == refused.value.message


def test_dragon_is_told_of_the_network_what_the_user_says() -> None:
    """Of interfaces nothing where nothing was said; words of the user's own come last, and so they win."""
    words = dragon_words(Reach(kind=Kind.PBS, hosts=HOSTS, source="x", fabric=Fabric(transport="tcp")), HOSTS)
    assert ("tcp", False) == (value_of(words, "--transport"), "--network-prefix" in words)
    fabric = Fabric(transport="hsta", network_prefix="^hsn", words=("--no-label", "-l", "DEBUG"))
    words = dragon_words(Reach(kind=Kind.PBS, hosts=HOSTS, source="x", fabric=fabric), HOSTS)
    assert ("hsta", "^hsn") == (value_of(words, "--transport"), value_of(words, "--network-prefix"))
    assert ("--no-label", "-l", "DEBUG") == words[-3:]


def test_dragon_gets_ports_of_the_jobs_own() -> None:
    """Its own are the same for all jobs."""
    words = dragon_words(Reach(kind=Kind.SSH, hosts=HOSTS, source="x"), HOSTS, ports=(1, 2, 3))
    assert ["1", "2", "3"] == [value_of(words, option) for option in ("--port", "--overlay-port", "--frontend-port")]


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        *((name, True) for name in ("PATH", "HOME", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SLURM_JOB_ID", "PBS_JOBID")),
        *((name, False) for name in ("HOSTNAME", "SSH_CONNECTION", "DISPLAY", "SLURM_PROCID", "SLURM_STEP_ID")),
        *((name, False) for name in ("PMI_RANK", "PMIX_RANK", "SLINGSHOT_VNIS", "BASH_FUNC_module%%")),
    ],
)
def test_what_is_one_hosts_own_does_not_go_to_others(name: str, *, goes: bool) -> None:
    """Nor what is one login's or one task's: the rest is the user's, and goes."""
    assert ({name: "x"} if goes else {}) == hosts_environment({name: "x"})
