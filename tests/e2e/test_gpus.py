"""GPUs under the real Dragon, with a stub of the vendors' run-time libraries (tests/rig/fakegpu.c).

hwloc sees no GPU here, so of these GPUs Dragon and the run-time library know the number, and nobody the place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import CHECKOUT, Done
from tests.stub_libraries import build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Rankmap = Callable[..., Done]

pytestmark = pytest.mark.dragon

SOURCE = (CHECKOUT / "tests" / "rig" / "fakegpu.c").read_text()
SHOW = "echo $RANKMAP_RANK ${CUDA_VISIBLE_DEVICES-none} ${ROCR_VISIBLE_DEVICES-none} ${HIP_VISIBLE_DEVICES-none}"
UNPLACED = "GPUs here are known by their run-time library only: nobody knows which cores they are close to"


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a CUDA run-time library of 4 GPUs; skip where there is no C compiler."""
    return build(tmp_path_factory.mktemp("cuda") / "libcudart.so", SOURCE, "-shared", "-fPIC").parent


@pytest.fixture(scope="module")
def amd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a HIP run-time library of 8 GPUs."""
    return build(tmp_path_factory.mktemp("hip") / "libamdhip64.so", SOURCE, "-shared", "-fPIC", "-DHIP").parent


def launched(rankmap: Rankmap, libraries: Path, *words: str, **masks: str) -> tuple[Done, list[str]]:
    """Return what ranks print of their variables, in rank order, on a node with the GPUs of these libraries."""
    command = ("--oversubscribe", "--pmi", "none", *words, "--", "sh", "-c", SHOW)
    done = rankmap("launch", *command, env={"LD_LIBRARY_PATH": str(libraries), **masks})
    assert (done.status, done.last_line.split(":")[1]) == (0, " placement"), done.stderr
    return done, sorted(done.stdout.splitlines())


def test_each_rank_has_a_gpu_of_its_own(rankmap: Rankmap, nvidia: Path, tmp_path: Path) -> None:
    """Four ranks, four GPUs, no mask; the report has them, and the user is told once what nobody knows of them."""
    report = tmp_path / "report.json"
    done, shown = launched(rankmap, nvidia, "-n", "4", "--gpus-per-rank", "1", "--report", str(report))
    assert [f"{rank} {rank} none none" for rank in range(4)] == shown
    assert [rank["observed"]["gpus"] for rank in json.loads(report.read_text())["ranks"]] == [
        ["0"],
        ["1"],
        ["2"],
        ["3"],
    ]
    assert done.stderr.count(UNPLACED) == 1


def test_an_inherited_mask_is_kept(rankmap: Rankmap, nvidia: Path) -> None:
    """CUDA_VISIBLE_DEVICES=4,5,7: three GPUs, called as the scheduler calls them, in the order that is asked for."""
    words = ("-n", "2", "--gpu-bind", "list:2,0:1")
    _, shown = launched(rankmap, nvidia, *words, CUDA_VISIBLE_DEVICES="4,5,7")
    assert shown == ["0 7,4 none none", "1 5 none none"]


def test_a_mask_of_uuids_is_kept(rankmap: Rankmap, nvidia: Path) -> None:
    """Each rank gets the UUID at its place."""
    _, shown = launched(rankmap, nvidia, "-n", "2", "--gpus-per-rank", "1", CUDA_VISIBLE_DEVICES="GPU-aaaa,GPU-bbbb")
    assert shown == ["0 GPU-aaaa none none", "1 GPU-bbbb none none"]


def test_a_hip_mask_counts_what_rocr_has_left(rankmap: Rankmap, amd: Path) -> None:
    """ROCR=4,5,6,7 HIP=2,3 are GPUs 6 and 7; Dragon alone leaves HIP as it is, and a rank without any GPU."""
    masks = {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "2,3"}
    _, shown = launched(rankmap, amd, "-n", "2", "--gpus-per-rank", "1", **masks)
    assert shown == ["0 none 6 0", "1 none 7 0"]


def test_ranks_that_ask_for_no_gpus_see_what_the_caller_sees(rankmap: Rankmap, amd: Path) -> None:
    """Dragon has set one of the two variables for them as if the other were not there; nothing is said about GPUs."""
    masks = {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "2,3"}
    done, shown = launched(rankmap, amd, "-n", "2", **masks)
    assert shown == ["0 none 4,5,6,7 2,3", "1 none 4,5,6,7 2,3"]
    assert UNPLACED not in done.stderr


def test_masks_that_make_no_sense_stop_only_those_that_ask_for_gpus(rankmap: Rankmap, amd: Path) -> None:
    """Dragon alone would end its runtime on these, whatever is asked for; the ranks get them as the caller has them."""
    masks = {"ROCR_VISIBLE_DEVICES": "6,7", "HIP_VISIBLE_DEVICES": "2,3"}
    _, shown = launched(rankmap, amd, "-n", "1", **masks)
    assert shown == ["0 none 6,7 2,3"]
    words = ("-n", "1", "--gpus-per-rank", "1", "--pmi", "none", "--", "true")
    refused = rankmap("launch", *words, env={"LD_LIBRARY_PATH": str(amd), **masks})
    message = "HIP_VISIBLE_DEVICES=2,3: '2' is none of them: ROCR_VISIBLE_DEVICES leaves 2 GPUs"
    assert (120, True) == (refused.status, message in refused.stderr)


def test_a_rank_that_sees_another_gpu_than_planned_stops_the_job(
    rankmap: Rankmap, nvidia: Path, tmp_path: Path
) -> None:
    """The user's own mask is that of rank 0: rank 1 would share its GPU."""
    report = tmp_path / "report.json"
    words = ("-n", "2", "--gpus-per-rank", "1", "--oversubscribe", "--pmi", "none", "--report", str(report))
    environ = {"LD_LIBRARY_PATH": str(nvidia)}
    done = rankmap("launch", *words, "--env", "CUDA_VISIBLE_DEVICES=0", "--", "sleep", "60", env=environ)
    assert done.status == 125, done.stderr
    assert done.seconds < 50
    ranks = json.loads(report.read_text())["ranks"]
    found = [[(f["slug"], f["expected"], f["observed"]) for f in rank["findings"]] for rank in ranks]
    assert found == [[], [("gpus-differ", "CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=0")]]
    assert [rank["observed"]["gpus"] for rank in ranks] == [["0"], ["0"]]


def test_gpus_that_are_not_there_are_refused_before_dragon_starts(rankmap: Rankmap, nvidia: Path) -> None:
    """Dragon alone would drop GPU 3 of a mask of three in silence, and start a rank that asks for a fifth with all."""
    environ = {"LD_LIBRARY_PATH": str(nvidia), "CUDA_VISIBLE_DEVICES": "4,5,7"}
    for words, message in (
        (("-n", "1", "--gpu-bind", "list:3,1"), "no free GPU 3; it has 0,1,2"),
        (("-n", "4", "--gpus-per-rank", "1"), "3 free GPUs"),
    ):
        done = rankmap("launch", *words, "--oversubscribe", "--pmi", "none", "--", "true", env=environ)
        assert (done.status, message in done.stderr) == (121, True)
        assert done.seconds < 4
