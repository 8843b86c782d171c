"""rankmap topo."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from rankmap.cli.topo import topo
from rankmap.codec import decode
from rankmap.discovery import machine
from rankmap.errors import RankmapError, UsageError
from rankmap.topology import NodeTopology

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: str) -> str:
    """Return what the command prints; what it raises passes."""
    result = CliRunner().invoke(topo, args, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_table_of_machines() -> None:
    """Each kind of node has a block that names its hosts."""
    text = run("--machine", "2xsynthetic:pu:2", "--machine", "synthetic:pu:4")
    assert [line.split(" with ")[0] for line in text.splitlines() if line.startswith("n")] == [
        "n[0-1]: 2 nodes, each",
        "n2: 1 node",
    ]


def test_this_host_by_default() -> None:
    """Without --machine it is this host."""
    assert run().startswith(f"{os.uname().nodename}: 1 node with ")


def test_json(topologies: Path) -> None:
    """The JSON names hosts and shapes, and a shape reads back as the same topology."""
    path = topologies / "gpus-and-nics.xml"
    document = json.loads(run("--machine", f"2x{path}", "--format", "json"))
    assert (document["schema"], [node["host"] for node in document["nodes"]]) == ("rankmap.topology/1", ["n0", "n1"])
    shapes = machine.load(str(path), environ=os.environ).shapes
    assert shapes == tuple(decode(NodeTopology, shape, where="shapes") for shape in document["shapes"])


def test_xml_reads_back(topologies: Path, tmp_path: Path) -> None:
    """The XML is hwloc's own, and describes the same node again."""
    output = tmp_path / "out.xml"
    assert run("--machine", str(topologies / "hbm-restricted.xml"), "--format", "xml", "-o", str(output)) == ""
    again = machine.load(str(output), environ=os.environ)
    assert machine.load(str(topologies / "hbm-restricted.xml"), environ=os.environ) == again
    assert run("--format", "xml").startswith("<?xml")


def test_xml_of_several_kinds_is_refused() -> None:
    """One XML describes one kind of node."""
    with pytest.raises(UsageError, match="there are 2 kinds here"):
        run("--machine", "synthetic:pu:2", "--machine", "synthetic:pu:4", "--format", "xml")
    assert "<topology" in run("--machine", "synthetic:pu:2", "--machine", "3xsynthetic:pu:2", "--format", "xml")


def test_unwritable_output(tmp_path: Path) -> None:
    """A result that cannot be written says so with the file's name."""
    with pytest.raises(UsageError, match=r"cannot be written to .*nowhere"):
        run("--machine", "synthetic:pu:2", "-o", str(tmp_path / "nowhere" / "file"))


@pytest.mark.parametrize(
    ("args", "status"),
    [(["--machine", "frontir"], 120), (["--machine", "0xa"], 2), (["--machine", "synthetic:x"], 120)],
)
def test_refusals_carry_their_exit_status(args: list[str], status: int) -> None:
    """Bad machines leave the command as errors of rankmap's own."""
    with pytest.raises(RankmapError) as caught:
        run(*args)
    assert status == caught.value.exit_status


def test_unknown_format() -> None:
    """An unknown format is click's own usage error."""
    result = CliRunner().invoke(topo, ["--format", "yaml"])
    assert (result.exit_code, "'yaml'" in result.output) == (2, True)
