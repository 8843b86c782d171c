"""Unit tests of rankmap.schedulers.batch, pbs and slurm: what directives say, and what they cannot."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import shlex
from functools import partial

import pytest

from rankmap import schedulers
from rankmap.discovery.machine import required_preset
from rankmap.errors import UsageError
from rankmap.schedulers.batch import (
    BatchJob,
    Scheduler,
    directives,
    file_systems,
    job_name,
    name_for,
    overriding,
    walltime,
    word,
)
from rankmap.schedulers.table import SCHEDULERS

JOB = BatchJob(name="app", n_nodes=4, account="acc", queue="q", walltime_s=5400)


def made(scheduler: str, **changes: object) -> tuple[str, ...]:
    """Return the directives of the job with these fields changed."""
    return directives(dataclasses.replace(JOB, **changes), SCHEDULERS[scheduler])  # type: ignore[arg-type]


def test_the_table_has_every_scheduler() -> None:
    """A module of the package that has directives is in the table."""
    names = [one.name for one in pkgutil.iter_modules(schedulers.__path__)]
    modules = [importlib.import_module(f"rankmap.schedulers.{name}") for name in names]
    members = [one for module in modules for one in vars(module).values() if isinstance(one, Scheduler)]
    assert {id(one) for one in SCHEDULERS.values()} == {id(one) for one in members}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=list(SCHEDULERS))
def test_every_scheduler_says_the_same_things(scheduler: Scheduler) -> None:
    """The contract of the family: nodes, account, queue, time and name are there, each refused as --directive."""
    text = directives(JOB, scheduler)
    assert all(line.startswith(f"{scheduler.prefix} -") and line.isprintable() for line in text)
    for value in ("app", "=4", "acc", "1:30:00"):
        assert 1 == sum(value in line for line in text)
    options = {option for line in text for option in scheduler.options_of(line.split()[1:])}
    assert len(text) == len(options)
    assert scheduler.options_of(shlex.split(scheduler.example))
    assert scheduler.variables.keys() <= {*options, "--constraint", "--gpus-per-node", "--qos", "--threads-per-core"}
    assert directives(dataclasses.replace(JOB, directives=(scheduler.example,)), scheduler)[:-1] == text
    for option in scheduler.refused:
        value = "=1" if option.startswith(("-l ", "--")) else " 1"
        with pytest.raises(UsageError, match=r"^--directive "):
            directives(dataclasses.replace(JOB, directives=(option + value,)), scheduler)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:30:00", 1800), ("30:00", 1800), ("0:01", 1), ("1:00:00", 3600), ("100:00:00", 360000), ("90:00", 5400)],
)
def test_a_time_is_read(text: str, seconds: int) -> None:
    """[H:]MM:SS, and written the one way that PBS and Slurm both read."""
    assert seconds == walltime(text)
    hours, rest = divmod(seconds, 3600)
    assert dataclasses.replace(JOB, walltime_s=seconds).walltime == f"{hours}:{rest // 60:02}:{rest % 60:02}"


@pytest.mark.parametrize(
    "text", ["", "0", "30", "-1", "abc", "0:00", "0:00:00", "1:99", "1:60:00", "1:2", "1-0:00:00", "0:30:00\n", "٣:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """A number alone too, which PBS and Slurm read differently."""
    with pytest.raises(UsageError, match="--walltime"):
        walltime(text)


@pytest.mark.parametrize("text", ["", " ", "a b", "a\nb", "a'b", "$a", "-x;", "é", "a\n", "a;b"])
def test_what_a_directive_cannot_carry_is_refused(text: str) -> None:
    """There is no quoting in a directive, so a word is plain."""
    for check in (partial(word, "--account"), job_name, file_systems):
        with pytest.raises(UsageError):
            check(text)


def test_plain_words_are_taken() -> None:
    """As sites have them."""
    for text in ("m1234_g", "R123456@server", "short,long"):
        assert text == word("--queue", text)
    assert "home:eagle" == file_systems("home:eagle")
    assert "run-1.a" == job_name("run-1.a")


@pytest.mark.parametrize(
    ("application", "name"),
    [
        ("./app", "app"),
        ("/a b/x y", "x_y"),
        ("3d.exe", "d.exe"),
        ("é", "rankmap"),
        ("a" * 99, "a" * 64),
        ("x/", "rankmap"),
    ],
)
def test_a_job_is_named_after_its_application(application: str, name: str) -> None:
    """As far as it can be."""
    assert name == name_for(application)
    assert name == job_name(name)


def test_pbs_on_a_known_machine() -> None:
    """Each chunk is a node of that machine."""
    text = made("pbs", preset=required_preset("polaris"), filesystems="home:eagle")
    assert "#PBS -l select=4:system=polaris" in text
    assert "#PBS -l place=scatter" in text
    assert "#PBS -l filesystems=home:eagle" in text


def test_pbs_elsewhere_asks_for_whole_hosts() -> None:
    """Where nothing is known of the site, place says that nobody else is there."""
    assert {"#PBS -l select=4", "#PBS -l place=scatter:exclhost", "#PBS -k doe", "#PBS -j oe"} < set(made("pbs"))


def test_slurm_elsewhere_asks_for_the_memory_too() -> None:
    """An exclusive job has all CPUs of a node, and of its memory what it asks for."""
    assert {"#SBATCH --exclusive", "#SBATCH --mem=0"} < set(made("slurm"))
    assert not {line for line in made("slurm", directives=("--mem=9G",)) if "mem=0" in line}
    assert not {line for line in made("slurm", preset=required_preset("frontier")) if "mem" in line}


def test_slurm_on_known_machines() -> None:
    """A queue is a partition on one, a QOS on the other, which has directives of its own."""
    assert {"#SBATCH --partition=q", "#SBATCH --exclusive"} < set(made("slurm", preset=required_preset("frontier")))
    text = made("slurm", preset=required_preset("frontier"))
    assert {"#SBATCH --threads-per-core=2", "#SBATCH --gpus-per-node=8"} < set(text)
    text = made("slurm", preset=required_preset("perlmutter-gpu"))
    assert {"#SBATCH --qos=q", "#SBATCH --constraint=gpu", "#SBATCH --gpus-per-node=4"} < set(text)


def test_directives_of_the_user_replace_those_of_rankmap() -> None:
    """Also by the short name, and one resource of PBS, not all."""
    perlmutter = required_preset("perlmutter-gpu")
    text = made("slurm", preset=perlmutter, directives=("-C gpu&hbm80g", "--output=o", "--partition=x"))
    assert ("#SBATCH -C gpu&hbm80g", "#SBATCH --output=o", "#SBATCH --partition=x") == text[-3:]
    assert 1 == sum("gpu&" in line or "constraint" in line for line in text)
    assert 1 == sum("output" in line for line in text)
    text = made("pbs", directives=("-l select=1:a=b+3:c=d", "-k oed", "-M a@b"))
    assert 1 == sum("select" in line for line in text)
    assert "#PBS -l walltime=1:30:00" in text
    assert "#PBS -k doe" not in text


@pytest.mark.parametrize(
    ("scheduler", "text", "option"),
    [
        ("pbs", "-mabe", "-m"),
        ("pbs", "-V", "-V"),
        ("pbs", '-v A="x y",B', "-v"),
        ("pbs", "-W depend=afterok:1", "-W"),
        ("pbs", "-lplace=group=rack", "-l place"),
        ("slurm", "-C cpu&x", "--constraint"),
        ("slurm", "-Ccpu", "--constraint"),
        ("slurm", "--constraint cpu", "--constraint"),
        ("slurm", "--exclusive=user", "--exclusive"),
        ("slurm", "--nice", "--nice"),
        ("slurm", "-H", "--hold"),
        ("slurm", '--comment="a --nodes=3"', "--comment"),
    ],
)
def test_one_option_is_told(scheduler: str, text: str, option: str) -> None:
    """In each of the ways in which it can be written; what is in quotes is its value."""
    assert (option,) == SCHEDULERS[scheduler].options_of(shlex.split(text))
    assert f"{SCHEDULERS[scheduler].prefix} {text}" == made(scheduler, directives=(text,))[-1]


def test_options_that_a_site_has_added() -> None:
    """Its preset names them, and only there they are taken."""
    directive = "--gpu-power-cap=500"
    assert f"#SBATCH {directive}" == made("slurm", preset=required_preset("frontier"), directives=(directive,))[-1]
    with pytest.raises(UsageError, match="is no option of sbatch"):
        made("slurm", directives=(directive,))


def test_variables_that_go_before_a_script() -> None:
    """Those of an option that the script has."""
    environ = {"SBATCH_ACCOUNT": "x", "SBATCH_QOS": "y", "SBATCH_GPUS_PER_NODE": "1", "PATH": "/"}
    assert ("SBATCH_ACCOUNT",) == overriding(JOB, SCHEDULERS["slurm"], environ)
    perlmutter = dataclasses.replace(JOB, preset=required_preset("perlmutter-gpu"))
    assert ("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_GPUS_PER_NODE") == overriding(
        perlmutter, SCHEDULERS["slurm"], environ
    )
    assert () == overriding(JOB, SCHEDULERS["pbs"], environ)


@pytest.mark.parametrize(
    ("scheduler", "changes", "message"),
    [
        ("pbs", {"directives": ("-l select=2",)}, "asks for 2 nodes, --nodes for 4"),
        ("pbs", {"directives": ("-l select=ncpus=8+2:ncpus=8",)}, "asks for 3 nodes, --nodes for 4"),
        ("pbs", {"directives": ("-l place=scatter,select=3:x=y",)}, "asks for 3 nodes, --nodes for 4"),
        ("pbs", {"directives": ("-l select=3:x=y,place=scatter",)}, "asks for 3 nodes, --nodes for 4"),
        ("pbs", {"directives": ("-l place=scatter,walltime=1:00",)}, "the time is --walltime"),
        ("pbs", {"directives": ("-l WallTime=1:00",)}, "the time is --walltime"),
        ("pbs", {"directives": ("-l Select=2",)}, "asks for 2 nodes, --nodes for 4"),
        ("pbs", {"directives": ("-m a -l walltime=9:00:00",)}, "is no option of qsub with its value, or more than one"),
        ("pbs", {"directives": ("-Vq x",)}, "is no option of qsub"),
        ("pbs", {"directives": ("-v A=it's",)}, "is no option of qsub"),
        ("pbs", {"directives": ("-m a # why",)}, "is no option of qsub"),
        ("pbs", {"directives": ("-S /bin/csh",)}, "the script is one of bash"),
        ("pbs", {"directives": ("-z",)}, "the job's id is what --submit prints"),
        ("pbs", {"directives": ("--nodes=3",)}, "is no option of qsub"),
        ("pbs", {"directives": ("-l",)}, "is no option of qsub"),
        ("pbs", {"directives": ("-y",)}, "is no option of qsub"),
        ("pbs", {"directives": ("",)}, "is no option of qsub"),
        ("pbs", {"directives": ("#PBS -m abe",)}, "is no option of qsub"),
        ("pbs", {"directives": ("-m a\n#PBS -q x",)}, "one line of printable ASCII"),
        ("pbs", {"directives": ("-m a\\",)}, "one line of printable ASCII"),
        ("pbs", {"preset": "polaris"}, "--filesystems is missing: Polaris (ALCF) refuses jobs that do not say theirs"),
        ("slurm", {"directives": ("mail-type=END",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("--bogus=1",)}, "is no option of sbatch with its value, or more than one"),
        (
            "slurm",
            {"directives": ("--comment=x --nodes=3",)},
            "is no option of sbatch with its value, or more than one",
        ),
        ("slurm", {"directives": ("--comment=a b",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("--comment",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("--accoun=x",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("--requeue=x",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("-HN7",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("-sN 7",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("--wrap=true",)}, "is no option of sbatch"),
        ("slurm", {"directives": ("-N4",)}, "the nodes are --nodes"),
        ("slurm", {"directives": ("-A x",)}, "the account is --account"),
        ("slurm", {"directives": ("-D/tmp",)}, "the job runs where it is submitted"),
        ("slurm", {"directives": ("--time 9",)}, "the time is --walltime"),
        ("slurm", {"directives": ("-p x",)}, "the partition is --queue"),
        ("slurm", {"directives": ("-q x",), "preset": "perlmutter-cpu"}, "the qos is --queue"),
        ("slurm", {"directives": ("--comment=é",)}, "one line of printable ASCII"),
        ("slurm", {"filesystems": "home"}, "--filesystems home: Slurm has no such resource"),
    ],
)
def test_what_cannot_be_asked_is_refused(scheduler: str, changes: dict[str, object], message: str) -> None:
    """With the option to use instead, or the form."""
    if isinstance(name := changes.get("preset"), str):
        changes = {**changes, "preset": required_preset(name)}
    with pytest.raises(UsageError) as refused:
        made(scheduler, **changes)
    assert message in refused.value.message
