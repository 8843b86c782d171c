"""Dragon's own reading of GPU masks, and rankmap's: each row of the table in docs/design/0010-devices.md.

Dragon sets a rank's variable from the GPUs of its Policy and the mask that the runtime was started with; rankmap's
shim sets it from the plan. Where a job's Policies are used without the shim (``Plan.policies``) the first is all there
is, so the two have to agree wherever rankmap hands GPUs to Dragon. In a process of its own: importing dragon changes
much.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.live import live_allocation, rank_places
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Mapping

CUDA, ROCR, HIP = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
DRAGON = """
import json, sys
from dragon.infrastructure.gpu_desc import apply_gpu_affinity
rows = []
for ids, variable, inherited in json.load(sys.stdin):
    env = dict(inherited)
    try: apply_gpu_affinity(env, ids, variable, inherited)
    except IndexError: env = None
    rows.append(env)
print(json.dumps(rows))
"""

pytestmark = pytest.mark.skipif(find_spec("dragon") is None, reason="dragonhpc is not installed")


def dragons(*rows: tuple[list[int], str, Mapping[str, str]]) -> list[dict[str, str] | None]:
    """Return the variables that Dragon gives a process with GPUs of these ids; None: it fails."""
    command = [sys.executable, "-c", DRAGON]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=True)
    answer: list[dict[str, str] | None] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("gpus", "n_gpus", "variable", "mask"),
    [
        ("2", 4, CUDA, {}),
        ("3,1", 4, CUDA, {}),
        ("2", 3, CUDA, {CUDA: "4,5,7"}),
        ("2,0", 3, CUDA, {CUDA: "4,5,7"}),
        ("1", 2, CUDA, {CUDA: "GPU-aaaa,GPU-bbbb"}),
        ("1", 2, ROCR, {ROCR: "4,5,6,7", HIP: "2,3"}),
        ("1", 2, ROCR, {HIP: "2,3"}),
        ("1", 4, ROCR, {ROCR: "4,5,6,7"}),
    ],
)
def test_a_rank_sees_what_dragon_shows_it(gpus: str, n_gpus: int, variable: str, mask: dict[str, str]) -> None:
    """By the same word of the inherited mask, in the same order."""
    node: dict[str, Any] = {
        "name": "localhost",
        "cpus": (0, 1),
        "gpus": tuple(range(n_gpus)),
        "gpu_variable": variable,
    }
    host = HostFacts(name="vm", own_name="vm", topology=made([[2]]), paths=())
    allocation, _ = live_allocation([node], [host], environ=mask)
    made_plan = plan(allocation, request(n_ranks=1, gpu_bind=f"list:{gpus}"))
    ((_, _, ids),) = rank_places(made_plan, {})
    (shown,) = dragons(([int(gpu) for gpu in ids], variable, mask))
    assert shown is not None
    assert gpus.split(",") == ids
    assert shown[variable] == dict(made_plan.ranks[0].env)[variable]


def test_what_dragon_fails_on_is_refused_before() -> None:
    """A GPU that a mask has no word for ends the runtime, if it still does; test_visible_gpus.py has the refusals."""
    rows = dragons(([3], CUDA, {CUDA: "4,5,7"}), ([0], ROCR, {ROCR: "6,7", HIP: "2,3"}))
    assert rows == [None, None]
