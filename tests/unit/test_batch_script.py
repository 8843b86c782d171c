"""Unit tests of rankmap.schedulers.script and submitting: the text of a script, its file, its way to the scheduler."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rankmap.discovery.machine import required_preset
from rankmap.errors import LaunchError, UsageError
from rankmap.schedulers import submitting
from rankmap.schedulers.batch import BatchJob
from rankmap.schedulers.script import OwnSetUp, batch_script
from rankmap.schedulers.submitting import read_set_up, require_command, submit, write_script
from rankmap.schedulers.table import SCHEDULERS

JOB = BatchJob(name="app", n_nodes=2, account="acc", queue="q", walltime_s=60)
HOSTILE = [
    "./a b",
    "$x",
    "$(id)",
    "it's",
    "`w`",
    "*",
    "~",
    "~/x",
    "#",
    "",
    "a\\",
    "\\n",
    "a\nb",
    "then",
    "fi",
    "[",
    "{",
]
HOSTILE += ["!", "\u2019", "\u201cx\u201d", "\u00a0", "%s", "&&", "a=b", "$'", '"$x"', "\x1b[0m", "\r", "))", "-x"]
RANKMAP = '#!/bin/bash\necho "ran in $PWD: $*"\nexit 7\n'


def text_of(scheduler: str = "slurm", job: BatchJob = JOB, **words: object) -> str:
    """Return a script that launches ``./app``."""
    asked = {"launch": ["./app"], "setup": None, "path": "", **words}
    return batch_script(job, SCHEDULERS[scheduler], **asked)  # type: ignore[arg-type]


def run(text: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a scheduler does, from another directory, with a stub of rankmap in ``folder``/bin."""
    (folder / "bin").mkdir(exist_ok=True)
    stub = folder / "bin" / "rankmap"
    stub.write_text(RANKMAP)
    stub.chmod(0o755)
    return subprocess.run(
        ["/bin/bash", "-c", text],
        env={"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder), "PBS_O_WORKDIR": str(folder), **environ},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_the_job_runs_where_it_was_submitted_with_the_status_of_the_launch(scheduler: str, tmp_path: Path) -> None:
    """Even where that directory has a space in its name, and PATH one below it."""
    folder = tmp_path / "a b"
    folder.mkdir()
    done = run(text_of(scheduler, path="bin"), folder)
    assert (7, f"ran in {folder}: launch ./app\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_job_without_rankmap_says_so(tmp_path: Path) -> None:
    """Not only that a command was not found."""
    done = run(text_of(), tmp_path)
    assert (127, "") == (done.returncode, done.stdout)
    assert "rankmap submit --path DIR, or --setup FILE" in done.stderr


def test_a_directory_that_is_gone_ends_the_job(tmp_path: Path) -> None:
    """It must not run in another one."""
    done = run(text_of(path=str(tmp_path / "bin")), tmp_path, SLURM_SUBMIT_DIR=str(tmp_path / "gone"))
    assert (1, "") == (done.returncode, done.stdout)
    assert "gone" in done.stderr


@pytest.mark.parametrize("own", ["export A=1", "set -eu\nexport A=1\n", "export A=1 \\", "export A=1 # \\\n", ""])
def test_the_set_up_of_the_user_is_there_as_it_is(own: str, tmp_path: Path) -> None:
    """Between two marks, instead of the machine's, and nothing in it reaches the launch: no -e, no open line."""
    job = dataclasses.replace(JOB, preset=required_preset("aurora"), filesystems="home")
    text = text_of("pbs", job, setup=OwnSetUp(name="env.sh", text=own), path=str(tmp_path / "bin"))
    assert f"\n# --- set-up: env.sh ---\n{own.removesuffix(chr(10))}\n\n# --- end of env.sh ---\n" in text
    assert "module load" not in text
    assert 7 == run(text, tmp_path).returncode


def test_directives_are_before_the_first_command() -> None:
    """Schedulers read no further, so nothing in a set-up is one."""
    text = text_of("pbs", setup=OwnSetUp(name="x", text="#PBS -q other"))
    assert text.index("#PBS -j oe") < text.index("\ncd ") < text.index("#PBS -q other")


def test_what_a_preset_says_stays_in_its_line() -> None:
    """A file of one's own may have anything in its title."""
    aurora = required_preset("aurora")
    assert aurora.dragon is not None
    evil = dataclasses.replace(
        aurora, title="a\nrm -rf x", dragon=dataclasses.replace(aurora.dragon, runtime_lib="b\nrm -rf y")
    )
    text = text_of("pbs", dataclasses.replace(JOB, preset=evil, filesystems="home"))
    assert "rm -rf y" in text
    assert [] == [line for line in text.splitlines() if line.startswith("rm")]


@pytest.mark.parametrize(
    ("machine", "hint"),
    [
        ("aurora", "--ofi-runtime-lib=/opt/cray/libfabric/1.22.0/lib64"),
        ("frontier", "--ofi-runtime-lib=DIRECTORY_OF_libfabric.so"),
        ("juwels-booster", "--ucx-runtime-lib=DIRECTORY_OF_libucp.so"),
        ("laptop", ""),
    ],
)
def test_the_fast_transport_is_hinted_at(machine: str, hint: str) -> None:
    """With the directory where a page says it, and not at all where there is none."""
    text = text_of("slurm", dataclasses.replace(JOB, preset=required_preset(machine)))
    assert bool(hint) == ("dragon-config add" in text)
    assert hint in text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("machine", ["", "polaris", "frontier", "perlmutter-gpu"])
def test_shellcheck_finds_nothing(machine: str, tmp_path: Path) -> None:
    """Words that need quotes, and look like mistakes, among those of the launch and in the path."""
    preset = required_preset(machine) if machine else None
    scheduler = preset.site.scheduler if preset is not None and preset.site is not None else "pbs"
    job = dataclasses.replace(JOB, preset=preset, filesystems="home" if scheduler == "pbs" else "")
    file = tmp_path / "script"
    file.write_text(text_of(scheduler, job, launch=["--", *HOSTILE, "".join(HOSTILE)], path="~/it's\\$(id)`id`\u2019"))
    done = subprocess.run(["shellcheck", file], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout)


def test_a_script_is_written_once(tmp_path: Path) -> None:
    """It is no program, the umask holds, nothing else is left; another one only with force, which keeps the mode."""
    file = tmp_path / "a.pbs"
    write_script("one\n", file, force=False)
    assert ("one\n", 0) == (file.read_text(), file.stat().st_mode & 0o111)
    with pytest.raises(UsageError, match="is already there"):
        write_script("two\n", file, force=False)
    file.chmod(0o640)
    write_script("three\n", file, force=True)
    assert ("three\n", 0o640) == (file.read_text(), file.stat().st_mode & 0o777)
    assert [file] == list(tmp_path.iterdir())


def test_links_are_followed_with_force_only(tmp_path: Path) -> None:
    """The link stays; one that leads nowhere is there too."""
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(UsageError, match="is already there"):
        write_script("one\n", link, force=False)
    write_script("one\n", link, force=True)
    assert (True, "one\n") == (link.is_symlink(), target.read_text())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is no file that can be replaced"),
        ("pipe", "is no file that can be replaced"),
        ("none/a.pbs", "cannot be written to .*: No such file or directory"),
        ("file/a.pbs", "cannot be written to .*: Not a directory"),
        ("a" * 300, "cannot be written to .*: File name too long"),
    ],
)
def test_what_is_no_place_for_a_script_is_refused(name: str, message: str, tmp_path: Path) -> None:
    """With the reason, and nothing is left."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=message):
        write_script("one\n", tmp_path / name, force=True)
    assert before == sorted(tmp_path.rglob("*"))


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    """File names on Linux are bytes."""
    write_script("echo '\udcff'\n", tmp_path / "x", force=False)
    assert b"echo '\xff'\n" == (tmp_path / "x").read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "cannot be read: it is no text"),
        (b"module load a\r\n", r"has the character '\\r'"),
        (b"export A='b\n", "is not complete for a shell: .*quote|unexpected EOF|is not complete"),
        (b"cat <<E\nhello\n", "is not complete for a shell: .*here-document"),
        (b"if true; then\n", "is not complete for a shell"),
    ],
)
def test_a_set_up_that_would_swallow_the_launch_is_refused(data: bytes | None, message: str, tmp_path: Path) -> None:
    """As a shell sees it."""
    file = tmp_path / "setup.sh"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read_set_up(file)


def test_a_set_up_is_read(tmp_path: Path) -> None:
    """Whatever it loads: it is not run."""
    file = tmp_path / "setup.sh"
    file.write_text("module load x\n[[ -n $A ]] && exit 1\n")
    assert OwnSetUp(name=str(file), text="module load x\n[[ -n $A ]] && exit 1\n") == read_set_up(file)
    with pytest.raises(UsageError, match="cannot"):
        read_set_up(tmp_path / "a\nb")


def test_a_setup_that_a_shell_does_not_read_in_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no traceback."""
    monkeypatch.setattr(submitting, "_LOOK_TIMEOUT_S", 0.0)
    file = tmp_path / "setup"
    file.write_text("true\n" * 1000)
    with pytest.raises(UsageError, match="`bash -n` does not read it within 0 s"):
        read_set_up(file)


def scheduler_command(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stub of a scheduler's command on PATH."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_script_goes_to_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its full path, so that no name is an option; its id and its messages are passed on."""
    scheduler_command(tmp_path, "sbatch", 'echo "hello" >&2; echo "$#:$1:$2"', monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert 0 == submit(Path("-x"), SCHEDULERS["slurm"], environ=os.environ)
    assert (f"2:--parsable:{tmp_path}/-x\n", "hello\n") == tuple(capfd.readouterr())


@pytest.mark.parametrize(("text", "status"), [("exit 32", 32), ("kill -TERM $$", 143)])
def test_the_status_of_the_scheduler_is_passed_on(
    text: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell would have it."""
    scheduler_command(tmp_path, "qsub", text, monkeypatch)
    assert status == submit(tmp_path / "a.pbs", SCHEDULERS["pbs"], environ=os.environ)


def test_a_scheduler_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the script is written, and when its command cannot be started after all."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="qsub is not on PATH here"):
        require_command(SCHEDULERS["pbs"])
    with pytest.raises(LaunchError, match="qsub cannot be started: No such file"):
        submit(tmp_path / "a.pbs", SCHEDULERS["pbs"], environ=os.environ)
    scheduler_command(tmp_path, "qsub", "", monkeypatch)
    require_command(SCHEDULERS["pbs"])
