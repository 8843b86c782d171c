"""Unit tests of rankmap submit: what is written where, what is said, and what never gets into a queue."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cli import main
from rankmap.discovery import presets

if TYPE_CHECKING:
    from collections.abc import Callable

    Submit = Callable[..., tuple[int, str, str]]

BASE = ("--nodes", "2", "--account", "acc", "--queue", "q", "--walltime", "0:10:00")
PRESETS = Path(presets.__file__).parents[1] / "machines"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, with no scheduler on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


@pytest.fixture
def submit(capfd: pytest.CaptureFixture[str]) -> Submit:
    """Return a function that runs ``rankmap submit`` and returns its status, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["submit", *words])
        said = capfd.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def test_a_script_is_written_beside_the_user(submit: Submit, here: Path) -> None:
    """Named after the application; the next one of that name only with --force."""
    words = ("pbs", *BASE, "--", "-n", "4", "./app")
    assert (0, "", "rankmap: wrote app.pbs; `qsub app.pbs` submits it\n") == submit(*words)
    first = (here / "app.pbs").read_text()
    status, out, err = submit(*words[:-1], "./other/app")
    assert (2, "", first) == (status, out, (here / "app.pbs").read_text())
    assert "app.pbs is already there" in err
    assert 0 == submit("pbs", "--force", *BASE, "--", "-n", "4", "./other/app")[0]
    assert (here / "app.pbs").read_text().endswith("exec rankmap launch -n 4 ./other/app\n")


def test_a_script_goes_where_it_is_told(submit: Submit, here: Path) -> None:
    """With a name that a shell would take apart."""
    status, out, err = submit("slurm", *BASE, "-o", "a b", "--job-name", "x", "--", "./app")
    assert (0, "", "rankmap: wrote a b; `sbatch 'a b'` submits it\n") == (status, out, err)
    assert "#SBATCH --job-name=x\n" in (here / "a b").read_text()


def test_a_script_is_printed(submit: Submit, here: Path) -> None:
    """And nothing is written; bytes that are no text are printed as they are."""
    assert 0 == submit("slurm", *BASE, "--print", "--", "./app")[0]
    assert [] == list(here.iterdir())


def test_nothing_of_the_environment_is_in_it(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets stay where they are; only the directory of this rankmap is needed to find it again."""
    monkeypatch.setenv("TOKEN", "s3cret")
    before = submit("pbs", *BASE, "--print", "--", "./app", "$TOKEN")[1]
    assert "s3cret" not in before
    assert f"export PATH={sysconfig.get_path('scripts')}:$PATH\n" in before
    monkeypatch.setenv("OTHER", "x")
    assert before == submit("pbs", *BASE, "--print", "--", "./app", "$TOKEN")[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--path", "none"), ""),
        (("--path", "/opt/it's"), "export PATH='/opt/it'\"'\"'s':$PATH\n"),
        (("--path", "venv/bin"), 'export PATH="$PWD"/venv/bin:$PATH\n'),
        (("--setup", "/dev/null"), ""),
        (("--setup", "/dev/null", "--path", "/x"), "export PATH=/x:$PATH\n"),
    ],
)
def test_what_is_put_in_front_of_path(words: tuple[str, ...], line: str, submit: Submit) -> None:
    """What the user says; with a set-up of the user's own, nothing else."""
    text = submit("pbs", *BASE, *words, "--print", "--", "./app")[1]
    assert line == "".join(one for one in text.splitlines(keepends=True) if "PATH=" in one)


def test_the_machine_may_be_among_the_words_of_launch(submit: Submit) -> None:
    """It is the same machine then, said once, whose nodes the layout is planned on."""
    text = submit("slurm", *BASE, "--print", "--", "--machine", "frontier", "-N", "8", "./app")[1]
    assert text.endswith("exec rankmap launch --transport hsta --machine frontier -N 8 ./app\n")
    status, _, err = submit("slurm", *BASE, "--print", "--", "--machine", "frontier", "-N", "60", "./app")
    assert (121, True) == (status, "60 ranks do not fit" in err)


def test_a_machine_file_of_ones_own(submit: Submit, here: Path) -> None:
    """Its directives and set-up, and a scheduler that it does not know."""
    more = '\n[[directive]]\ntext = "--mem=0"\nsource = "https://e.org"\ndate = "2026-11"\n'
    more += '\n[[setup]]\nline = "module load a"\nsource = "https://e.org"\ndate = "2026-11"\n'
    (here / "mine.toml").write_text((PRESETS / "laptop.toml").read_text() + more)
    status, text, _ = submit("slurm", *BASE, "--machine", "mine.toml", "--print", "--", "-N", "4", "./app")
    assert 0 == status
    assert "#SBATCH --mem=0\n" in text
    assert "\nmodule load a\n" in text
    assert text.endswith("exec rankmap launch --machine mine.toml -N 4 ./app\n")


def test_a_saved_plan_needs_its_nodes(submit: Submit, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Fewer nodes than it has ranks on are refused."""
    with pytest.raises(SystemExit):
        main(["plan", "--machine", "3xlaptop", "-N", "2", "--format", "json", "-o", "p.json"])
    capfd.readouterr()
    assert 0 == submit("slurm", *BASE, "--nodes", "3", "--", "--plan", "p.json", "./app")[0]
    status, _, err = submit("slurm", *BASE, "--print", "--", "--plan", "p.json", "./app")
    assert (121, True) == (status, "--plan has ranks on 3 nodes, and --nodes is 2" in err)
    assert ["app.sbatch", "p.json"] == sorted(file.name for file in here.iterdir())


def test_what_is_known_only_later_is_said(submit: Submit) -> None:
    """Hosts have their names when the job runs; a layout may leave nodes idle."""
    for words in (("--hosts", "frontier1"), ("--exclude-hosts", "frontier1")):
        status, _, err = submit("slurm", *BASE, "--machine", "frontier", "--print", "--", *words, "-n", "1", "./app")
        assert (0, True) == (status, "the layout names hosts" in err)
    err = submit("slurm", *BASE, "--machine", "frontier", "--print", "--", "-n", "1", "./app")[2]
    assert "rankmap: note: 1 of 2 nodes have no ranks\n" in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("pbs", *BASE), 2, "Missing argument '-- [LAYOUT]"),
        (("pbs", *BASE, "--", "-n", "2"), 2, "Missing argument '[--] APP [ARGS]...'"),
        (("pbs", *BASE, "-n", "2", "./app"), 2, "what is for launch stands behind `--`"),
        (("pbs", *BASE, "--", "-n", "0", "./app"), 2, "-n 0: a job has at least one rank"),
        (("pbs", *BASE, "--", "--ntasks", "2", "./app"), 2, "ranks are -n"),
        (("pbs", *BASE, "--", "./a", ":", "--label", "./b"), 2, "part 2 of the job (after `:`)"),
        (("pbs", *BASE, "--", "--timeout", "soon", "./app"), 2, "'soon' is not a time"),
        (("pbs", *BASE, "--", "-n", "9", "-N", "4", "./app"), 121, "the nodes have room for 8 ranks\n  --nodes 3"),
        (
            ("pbs", *BASE, "--", "--nodes", "3", "./app"),
            121,
            "--nodes 3 behind `--`: the job has 2 nodes\n  --nodes 3 before",
        ),
        (("pbs", *BASE, "--", "--nodes", "2", "--spares", "1", "./app"), 121, "--nodes 3 before `--` makes"),
        (("pbs", *BASE, "--", "--spares", "1", "./app"), 2, "--spares 1 without --nodes"),
        (
            ("slurm", *BASE, "--machine", "frontier", "--", "--nodes", "1", "--spares", "1", "-n", "100", "./app"),
            121,
            "100 ranks do not fit on 1 node with room for 56",
        ),
        (("pbs", *BASE, "--nodes", "0", "--", "./app"), 2, "0 is not in the range"),
        (("pbs", *BASE, "--account", "", "--", "./app"), 2, "--account '': it is empty"),
        (("pbs", *BASE, "--queue", "a b", "--", "./app"), 2, "--queue 'a b': a directive cannot carry that"),
        (("pbs", *BASE, "--queue", "a\n#PBS -A b", "--", "./app"), 2, "a directive cannot carry that"),
        (("pbs", *BASE, "--walltime", "0:00:00", "--", "./app"), 2, "--walltime 0:00:00: a job needs some time"),
        (("pbs", *BASE, "--walltime", "1:99", "--", "./app"), 2, "--walltime 1:99: an hour has 60 minutes"),
        (("pbs", *BASE, "--walltime", "30", "--", "./app"), 2, "--walltime '30' is no wall-clock time"),
        (("pbs", *BASE, "--job-name", "1", "--", "./app"), 2, "--job-name '1' is no name of a job"),
        (("pbs", *BASE, "--filesystems", "a,b", "--", "./app"), 2, "--filesystems 'a,b' is no list of file systems"),
        (("pbs", *BASE, "--directive", "x", "--", "./app"), 2, "--directive 'x' is no option of qsub"),
        (("pbs", *BASE, "--setup", "none.sh", "--", "./app"), 2, "--setup none.sh cannot be read: No such file"),
        (("pbs", *BASE, "--path", "a:b", "--", "./app"), 2, "--path 'a:b' is no directory that PATH can have"),
        (("pbs", *BASE, "--path", "", "--", "./app"), 2, "--path '' is no directory that PATH can have"),
        (("pbs", *BASE, "--print", "-o", "x", "--", "./app"), 2, "--print and -o x: the script goes to one place"),
        (("pbs", *BASE, "-o", "-", "--", "./app"), 2, "-o -: a batch script is a file"),
        (("pbs", *BASE, "--print", "--submit", "--", "./app"), 2, "--print and --submit: the script goes to one"),
        (("pbs", *BASE, "--machine", "polari", "--", "./app"), 2, "did you mean polaris?"),
        (("pbs", *BASE, "--machine", "frontier", "--", "./app"), 2, "the scheduler of Frontier (OLCF) is slurm"),
        (("pbs", *BASE, "--machine", "summit", "--", "./app"), 2, "Summit (OLCF) is lsf"),
        (("slurm", *BASE, "--machine", "lumi-g", "--", "--machine", "lumi-c", "./app"), 2, "a job is for one machine"),
        (("slurm", *BASE, "--filesystems", "home", "--", "./app"), 2, "Slurm has no such resource"),
        (("slurm", *BASE, "-o", "none/x", "--", "./app"), 2, "cannot be written to none/x: No such file"),
        (("slurm", *BASE, "-o", ".", "--", "./app"), 2, ". is a directory\n  name another file with -o"),
        (("slurm", *BASE, "-o", "", "--", "./app"), 2, ". is a directory\n  name another file with -o"),
        (
            ("slurm", *BASE, "--directive", "-N4 -q x", "--", "./app"),
            2,
            "is no option of sbatch with its value, or more",
        ),
        (("slurm", *BASE, "--submit", "--", "./app"), 123, "--submit: sbatch is not on PATH here"),
        (("lsf", *BASE, "--", "./app"), 2, "'lsf' is not one of 'pbs', 'slurm'"),
    ],
)
def test_what_cannot_run_is_refused(
    words: tuple[str, ...], status: int, message: str, submit: Submit, here: Path
) -> None:
    """With the status that says why, and no script is left."""
    found, out, err = submit(*words)
    assert (status, "") == (found, out)
    assert message in err
    assert err.startswith("rankmap: error: ")
    assert [] == list(here.iterdir())


def stub(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a scheduler's command on PATH."""
    (folder / "bin").mkdir()
    file = folder / "bin" / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_a_job_is_submitted(submit: Submit, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id is all of stdout; the script stays."""
    stub(here, "qsub", 'echo "checking" >&2; head -2 "$1" >&2; echo 17.server', monkeypatch)
    expected = (0, "17.server\n", "checking\n#!/bin/bash -l\n#PBS -N app\n")
    assert expected == submit("pbs", *BASE, "--submit", "--", "./app")
    assert (here / "app.pbs").is_file()


def test_variables_of_the_scheduler_do_not_change_what_is_asked(
    submit: Submit, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sbatch takes them before what a script says: it does not get them from us, and who submits later is told."""
    stub(here, "sbatch", 'echo "${SBATCH_ACCOUNT-none} $SBATCH_RESERVATION"', monkeypatch)
    monkeypatch.setenv("SBATCH_ACCOUNT", "other")
    monkeypatch.setenv("SBATCH_RESERVATION", "mine")
    note = "rankmap: note: SBATCH_ACCOUNT=other is not used: the script says what was asked for\n"
    assert (0, "none mine\n", note) == submit("slurm", *BASE, "--submit", "--", "./app")
    status, _, err = submit("slurm", *BASE, "--force", "--", "./app")
    assert (0, True) == (status, "sbatch would take SBATCH_ACCOUNT of the environment instead of what" in err)


def test_a_job_that_is_not_taken(submit: Submit, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler's own words and status, and where the script is."""
    stub(here, "sbatch", 'echo "sbatch: error: invalid account" >&2; exit 9', monkeypatch)
    status, out, err = submit("slurm", *BASE, "--submit", "-o", "x.sh", "--", "./app")
    assert (9, "") == (status, out)
    assert "sbatch: error: invalid account\nrankmap: error: `sbatch x.sh` ended with status 9\n" == err
    assert (here / "x.sh").is_file()


def test_a_launch_that_wants_more_nodes_than_the_job_has_is_refused(submit: Submit) -> None:
    """Spares are nodes too; those that it does use are planned on."""
    for words in (("--nodes", "3"), ("--nodes", "2", "--spares", "1")):
        status, _, err = submit("slurm", *BASE, "--print", "--", *words, "./app")
        assert (121, f"rankmap: error: {' '.join(words)} behind `--`: the job has 2 nodes") == (
            status,
            err.split("\n")[0],
        )
    for n_ranks, expected in ((56, 0), (57, 121)):
        launched = ("--nodes", "1", "--spares", "1", "-n", str(n_ranks), "./app")
        assert expected == submit("slurm", *BASE, "--machine", "frontier", "--print", "--", *launched)[0]


def test_a_timeout_that_never_comes_is_said(submit: Submit) -> None:
    """The scheduler ends the job first."""
    for timeout, expected in (("9:59", False), ("10:00", True)):
        err = submit("slurm", *BASE, "--print", "--", "--timeout", timeout, "./app")[2]
        assert expected == ("--timeout is not below --walltime 0:10:00" in err)


def test_an_option_of_the_scheduler_gets_the_word_for_it(submit: Submit) -> None:
    """As far as there is one."""
    for option, word in (("--partition", "--queue"), ("-t", "--walltime"), ("-A", "--account"), ("-x", "--directive")):
        status, _, err = submit("slurm", *BASE, option, "a", "--", "./app")
        assert (2, True) == (status, word in err.split("\n")[1])


def test_a_script_that_asks_for_no_gpus_is_said(submit: Submit) -> None:
    """Where they are wanted, and nobody knows how the site wants to be asked."""
    words = ("--print", "--", "--gpus-per-rank", "1", "./app")
    for more, expected in (
        ((), True),
        (("--directive", "--gpus-per-node=4"), False),
        (("--machine", "frontier"), False),
    ):
        assert expected == ("the script asks for none" in submit("slurm", *BASE, *more, *words)[2])
    assert "GPUs" not in submit("slurm", *BASE, "--print", "--", "./app")[2]
