"""Unit tests of rankmap.runtime.rank_process: what a shim is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.application import Application
from rankmap.runtime.limits import Limits
from rankmap.runtime.rank_process import go
from rankmap.visible_gpus import counted_gpus
from tests.topologies_made import allocation, made, with_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

_GPUS = with_gpus(made([[2]]), 0)
AMD = replace(_GPUS, gpus=counted_gpus("AMD", ("0",), {"ROCR_VISIBLE_DEVICES": "6"}))
CALLERS = {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "2,3"}

LIMITS = Limits(slack_ns=0, n_files=1024)


def variables(gpu_bind: str, **set_env: str | None) -> Mapping[str, str | None]:
    """Return the variables that a rank is given, beside those of Dragon."""
    made_plan = plan(allocation(AMD), request(n_ranks=1, gpus_per_rank=1, gpu_bind=gpu_bind))
    application = Application(path="/bin/true", argv=("true",), cwd="/", set_env=set_env)
    message = go(
        application,
        made_plan.ranks[0],
        variables={},
        gpu_variables=CALLERS,
        drop_paths=(),
        limits=LIMITS,
    )
    found: Mapping[str, str | None] = message["env"]["set"]
    return found


def test_a_rank_with_gpus_has_their_variables_only() -> None:
    """HIP's of the caller would count what ROCr has no longer; those of other vendors go."""
    shown = variables("closest")
    assert (shown["ROCR_VISIBLE_DEVICES"], shown["HIP_VISIBLE_DEVICES"]) == ("6", "0")


def test_a_rank_without_gpus_of_its_own_has_the_callers_variables() -> None:
    """Dragon has changed one of them and left the other; what the caller has not set is taken out."""
    shown = variables("none")
    assert (shown["ROCR_VISIBLE_DEVICES"], shown["HIP_VISIBLE_DEVICES"]) == ("4,5,6,7", "2,3")
    assert shown["CUDA_VISIBLE_DEVICES"] is None


def test_the_user_has_the_last_word() -> None:
    """--env is set after both; the report says so if it contradicts the plan."""
    assert variables("closest", ROCR_VISIBLE_DEVICES="9")["ROCR_VISIBLE_DEVICES"] == "9"
