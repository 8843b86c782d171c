"""Requests as text: what is written is read back, and what cannot be understood is refused as such, whatever it is.

``RANKMAP_FUZZ_EXAMPLES=100000 pytest tests/property/test_requests.py`` looks longer.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rankmap.discovery import presets
from rankmap.discovery.machine import load
from rankmap.errors import RankmapError, UsageError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Order, Pattern, RankBy, ReservePer, TextFile
from rankmap.planner import plan
from rankmap.requests import request
from tests.property.strategies import BINDINGS, RESERVED, layouts, map_bys, rank_bys, spec_of
from tests.topologies_made import allocation, interleaved, made, with_caches, with_gpus

EXAMPLES = int(os.environ.get("RANKMAP_FUZZ_EXAMPLES", "2000"))
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
NODES = allocation(
    with_gpus(with_caches(made([[2], [2]], smt=2, number=interleaved(4), extra_memory=1), 3, [2, 2]), 1, 0), made([[3]])
)

MODIFIERS = ("PE", "SPAN", "HWTCPUS", "CORECPUS", "PACK", "SCATTER", "OVERSUBSCRIBE", "NOOVERSUBSCRIBE", "pe-list")
WORDS = (*Pattern, *Level, *Order, *MODIFIERS, "none", "explicit", "overload-allowed", "a=", "c=", "g=", "rank", "slot")
NUMBERS = ("0", "1", "2", "3", "7", "-1", "0-3", "3-0", "0,2", "*", "1.5", "٣", "²", "1" * 5000, "999999999")
SIGNS = (
    ":",
    ":",
    ":",
    "=",
    ",",
    ";",
    "-",
    " ",
    "#",
    "+",
    "[",
    "]",
    "\t",
    "\0",
    "\ud800",
    "n0",
    "n1",
    "+n1",
    "n[0-1]",
    "",
)
TEXTS = st.lists(st.sampled_from((*WORDS, *NUMBERS, *SIGNS, *SIGNS)), max_size=7).map("".join)
SENSIBLE = st.builds(
    ":".join, st.lists(st.sampled_from((*WORDS, "0", "1", "2", "0-3", "PE=2", "a=1,c=2", "pe-list=0-5")), max_size=4)
)
ANY_TEXT = TEXTS | SENSIBLE
GPU_WORDS = (
    "closest",
    "none",
    "round-robin",
    "list",
    "local",
    "bind",
    "preferred",
    "interleave",
    "hbm",
    "dram",
    "1/2",
    "0.1",
)
DEVICE_TEXT = st.lists(
    st.sampled_from((*GPU_WORDS, *GPU_WORDS, *NUMBERS, ":", ":", ",", "/", "-", " ", "\0")), max_size=5
).map("".join)
LINE = TEXTS | st.sampled_from(
    ("n0", "n1 slots=2", "n0:2", "rank 0=n0 slot=0", "rank 1=+n1 slot=1", "rank 1=n0 slot=0:*", "0-3", "0,1", "# x")
)


@pytest.mark.parametrize("pattern", list(Pattern))
@given(st.data())
def test_map_by_reads_what_it_writes(pattern: Pattern, data: st.DataObject) -> None:
    """The text of a value is read back as the value."""
    value = data.draw(map_bys(pattern))
    assert (value, None) == MapBy.parse(str(value), lambda name: value.file or TextFile(name=name, lines=()))


@given(rank_bys())
def test_rank_by_reads_what_it_writes(value: RankBy) -> None:
    """The text of a value is read back as the value."""
    assert value == RankBy.parse(str(value), lambda name: value.file or TextFile(name=name, lines=()))


@given(BINDINGS, RESERVED)
def test_bind_to_and_reserve_per_read_what_they_write(binding: BindTo, reserved: ReservePer) -> None:
    """The text of a value is read back as the value; unbound is never explicit."""
    assert binding == BindTo.parse(str(binding))
    assert reserved == ReservePer.parse(str(reserved))


@pytest.mark.parametrize("pattern", list(Pattern))
@given(st.data())
def test_a_request_reads_what_it_writes(pattern: Pattern, data: st.DataObject) -> None:
    """As options and as JSON; files are read where they are, so only JSON has them."""
    spec = data.draw(layouts(pattern))
    assert spec == LayoutSpec.from_dict(spec.to_dict())
    if spec.map_by.file is None and (spec.rank_by is None or spec.rank_by.file is None):
        assert spec == spec_of(str(spec))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for the files of all examples."""
    return tmp_path_factory.mktemp("fuzz")


@FUZZ
@given(st.data())
def test_any_text_is_a_request_or_refused(folder: Path, data: st.DataObject) -> None:
    """Whatever is written in options and files: a plan, or a RankmapError; never another error."""
    which = data.draw(st.sampled_from(("map_by", "map_by", "rank_by", "bind_to", "hosts", "file", "other", "devices")))
    words: dict[str, object] = {"n_ranks": data.draw(st.none() | st.integers(-1, 9))}
    if which in {"map_by", "rank_by", "bind_to"}:
        words[which] = data.draw(ANY_TEXT)
    elif which == "hosts":
        slots = st.builds("{}:{}".format, st.sampled_from(("n0", "n[0-1]", "")), st.sampled_from(NUMBERS))
        words["hosts"] = data.draw(st.lists(ANY_TEXT | slots, max_size=2))
        words["exclude_hosts"] = data.draw(st.lists(ANY_TEXT, max_size=1))
    elif which == "devices":
        words["map_by"] = data.draw(st.sampled_from(("auto", "gpu", "core", "nic", "gpu:PE=1")))
        for name in data.draw(st.sets(st.sampled_from(("gpus_per_rank", "gpu_bind", "mem_bind")), max_size=2)):
            words[name] = data.draw(DEVICE_TEXT)
        for name in data.draw(st.sets(st.sampled_from(("ranks_per_gpu", "nics_per_rank", "threads_per_rank")))):
            words[name] = data.draw(st.integers(-1, 4))
        words["share_gpus"] = data.draw(st.booleans())
    elif which == "other":
        words[data.draw(st.sampled_from(("reserve", "reserve_per")))] = data.draw(ANY_TEXT)
        words["smt"] = data.draw(st.none() | st.integers(-1, 3))
    else:
        file = folder / "file"
        lines = data.draw(st.lists(LINE, max_size=4))
        file.write_bytes(
            "\n".join(lines).encode("utf-8", errors=data.draw(st.sampled_from(("replace", "surrogatepass"))))
        )
        use = data.draw(st.sampled_from(("hostfile", "seq", "rankfile", "rankfile", "file")))
        key = {"hostfile": "hostfile", "file": "rank_by"}.get(use, "map_by")
        words[key] = file if use == "hostfile" else f"{use}:{file}"
    spec = _understood(words)
    if spec is not None:
        assert spec == LayoutSpec.from_dict(spec.to_dict())
        assume(max(dict(spec.slots).values(), default=0) < 1000)
        with contextlib.suppress(RankmapError):
            assert plan(NODES, spec).n_ranks


PRESET = (Path(presets.__file__).parents[1] / "machines" / "aurora.toml").read_text(encoding="utf-8").splitlines()
VALUES = (
    "1",
    "-1",
    "3.5",
    '""',
    '"0-3"',
    '"x"',
    "[]",
    '["0-3"]',
    "{}",
    "true",
    "[[1]]",
    '"pack:1 core:2"',
    '"\\u0000"',
)


@settings(max_examples=max(100, EXAMPLES // 20), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_preset_is_a_node_or_refused(folder: Path, data: st.DataObject) -> None:
    """Lines of a preset taken out, doubled, or with other values: a node, or an error with the file's name."""
    lines = [*PRESET]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(("out", "twice", "value", "name", "cut"))):
            case "out":
                del lines[at]
            case "twice":
                lines.insert(at, lines[at])
            case "value":
                lines[at] = lines[at].partition("=")[0] + "= " + data.draw(st.sampled_from(VALUES))
            case "name":
                lines[at] = "x" + lines[at]
            case _:
                lines[at] = lines[at][: len(lines[at]) // 2]
    file = folder / "fuzz.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    refused = ""
    try:
        assert load(str(file), environ=os.environ).shapes[0].cores
    except RankmapError as error:
        refused = error.message
    assert not refused or "fuzz.toml" in refused


def _understood(words: dict[str, object]) -> LayoutSpec | None:
    """Return the request; None where a usage error says why it is none."""
    try:
        return request(**words)  # type: ignore[arg-type]
    except UsageError:
        return None
