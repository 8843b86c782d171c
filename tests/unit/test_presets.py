"""Unit tests of rankmap.discovery.presets and preset_xml: the presets that there are, and files that are wrong."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import pytest

from rankmap.cpuset import CpuSet
from rankmap.discovery import presets
from rankmap.discovery.machine import MachineSpec, load, machine_xml, required_preset
from rankmap.discovery.preset_files import names
from rankmap.errors import AllocationError, UsageError

LAPTOP = Path(presets.__file__).parents[1] / "machines" / "laptop.toml"
DEVICES = """
[gpus]
vendor = "NVIDIA"
model = "A100"
near = ["0-7", ""]
source = "https://example.org"
date = "2026-11"

[nics]
names = ["ib0"]
devices = ["mlx5_0"]
near = ["0-7"]
source = "https://example.org"
date = "2026-11"

[site]
reserved = "0-1"
source = "https://example.org"
date = "2026-11"

[[memory]]
numa = 0
subtype = "HBM"
source = "https://example.org"
date = "2026-11"

[batch]
chunk = "system=lab"
queue = "qos"
source = "https://example.org"
date = "2026-11"

[[directive]]
text = "--constraint=gpu"
source = "https://example.org"
date = "2026-11"

[[setup]]
line = "module load a"
source = "https://example.org"
date = "2026-11"
"""


@pytest.mark.parametrize("name", names())
def test_every_fact_has_a_source_and_a_date(name: str) -> None:
    """Each table of a preset names a page on the web and the month in which it was read."""
    preset = presets.read(name)
    parts = (
        preset.structure,
        *preset.memory,
        preset.gpus,
        preset.nics,
        preset.site,
        *preset.environment,
        preset.dragon,
        preset.batch,
        *preset.directive,
        *preset.setup,
    )
    for part in parts:
        if part is not None:
            assert urlparse(part.source).scheme == "https"
            assert re.fullmatch(r"20\d\d-[01]\d", part.date)


@pytest.mark.parametrize("name", names())
def test_presets_are_what_libhwloc_reads(name: str, tmp_path: Path) -> None:
    """The XML of a preset, read and written again by libhwloc, is the same node."""
    file = tmp_path / "node.xml"
    file.write_text(machine_xml(MachineSpec.parse(name), environ=os.environ))
    node, again = load(name, environ=os.environ).shapes[0], load(str(file), environ=os.environ).shapes[0]

    # XML has no word for a device of unknown place: it is close to all of the node.
    gpus = [replace(gpu, cpus=known.cpus, numa=known.numa) for gpu, known in zip(again.gpus, node.gpus, strict=True)]
    nics = [replace(nic, cpus=known.cpus, numa=known.numa) for nic, known in zip(again.nics, node.nics, strict=True)]
    assert (node.gpus, node.nics) == (tuple(gpus), tuple(nics))
    assert all(gpu.cpus in {CpuSet(), other.cpus} for gpu, other in zip(node.gpus, again.gpus, strict=True))
    assert (node.cores, node.numa_domains, node.distances) == (again.cores, again.numa_domains, again.distances)


def test_a_file_of_ones_own_is_a_preset(tmp_path: Path) -> None:
    """``--machine 2xmine.toml`` takes a file as the presets are."""
    mine = tmp_path / "mine.toml"
    mine.write_text(LAPTOP.read_text() + DEVICES)
    allocation = load(f"2x{mine}", environ=os.environ)

    node = allocation.shapes[0]
    assert 2 == len(allocation.nodes)
    assert ("0-7", "0-7") == (str(node.gpus[0].cpus), str(node.nics[0].cpus))
    assert "0-1" == str(node.reserved)
    assert ["HBM"] == [domain.subtype for domain in node.numa_domains]


@pytest.mark.parametrize(
    ("pattern", "by", "said"),
    [
        ("^queue = .*", 'queue = "class"', ":37: Slurm has no 'class' that is asked for like a queue"),
        ("^chunk = .*", 'chunk = "system"', ":36: 'system' is not what a chunk asks for"),
        ("^chunk = .*", 'chunk = "a=b:c=d e"', ":36: 'a=b:c=d e' is not what a chunk asks for"),
        ("^text = .*", 'text = "constraint"', ":42: 'constraint' is no option"),
        ("^text = .*", 'text = "--a\\n#SBATCH"', ":42: '--a\\n#SBATCH' is no option"),
        ("^line = .*", 'line = "a\\nb"', ":47: 'a\\nb' is not one line"),
        ("^cores = 4", "cores = 5", ":5: cores = 5, and the synthetic description has 4"),
        ("^cpus = 8", "cpus = 9", ":6: cpus = 9, and the synthetic description has 8"),
        ("^cpus = 8", 'cpus = "8"', ":6: [topology].cpus is not a whole number: '8'"),
        ("^date.*\n", "", ":3: [topology] has no 'date'"),
        ("^cores", "kores", ":3: [topology] has an unknown key 'kores'"),
        ("^title.*", "", ":1: title is missing"),
        ("^title.*", "title = 3", ":1: title is no text"),
        ("^title", "unknown = 3\ntitle", ":1: unknown is no list of texts"),
        ("^title", "colour = 3\ntitle", ":1: there is no key 'colour'"),
        (r"^\[topology\]", "[dragon]", ":1: there is no [topology]"),
        ("pack:1", "pack:z", ":4: "),
        (r"pu:2", "pu:2(indexes=2*3:9*1)", ":4: hwloc does not take the indexes of pu: pack:1"),
        (r"^reserved = .*", 'reserved = "0,8"', ":25: there is no CPU 8; the CPUs are 0-7"),
        (r"^reserved = .*", 'reserved = "x"', ":25: "),
        ("^vendor = .*", 'vendor = "ATI"', ":11: 'ATI' is no vendor"),
        ("^near = .*0-7., ...", "near = []", ":10: 0 GPUs of 1 parts"),
        ("^model", "memory_gib = -5\nmodel", ":10: 2 GPUs of 1 parts and -5 GiB"),
        ("^source = .*", 'source = ""', ":7: '' is no page on the web"),
        (r"^names = .*", 'names = ["ib0", "ib0"]', ":18: a name is there twice"),
        (
            r"^\[site\]",
            '[dragon]\ntransport = "x"\nsource = "https://e.org"\ndate = "2026"\n[site]',
            ":24: there is no transp",
        ),
        (
            r"^\[site\]",
            '[[environment]]\nname = "A=B"\nvalue = ""\nsource = "https://e.org"\ndate = "2026"\n[site]',
            ":25: 'A=B' is no name of a variable",
        ),
        (r'near = \["0-7", ""\]', 'near = ["0-6", ""]', ":13: no object of the topology has just the CPUs 0-6"),
        (r'near = \["0-7", ""\]', 'near = ["0-9", ""]', ":13: there are no CPUs 0-9"),
        (r'near = \["0-7", ""\]', 'near = ["a", ""]', ":13: "),
        (r"^devices = .*", 'devices = ["a", "b"]', ":19: 2 devices for 1 names"),
        ("^numa = 0", "numa = 5", ":30: there is no NUMA domain 5; the domains are 0"),
        (r"\[\[memory\]\]", "[memory]", ":29: write [[memory]], there can be several"),
        ("^cores", "distances = [[10, 20]]\ncores", ":5: 1 NUMA domains need 1 rows of 1"),
        ("^cores", "cores = = 2", "cannot be read: "),
    ],
)
def test_wrong_files_are_refused_with_their_line(tmp_path: Path, pattern: str, by: str, said: str) -> None:
    """A preset with a missing field or a wrong sum names file, line, what it says and what there is."""
    text = LAPTOP.read_text() + DEVICES
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(re.sub(pattern, lambda _match: by, text, count=1, flags=re.MULTILINE))
    assert wrong.read_text() != text

    with pytest.raises(AllocationError) as refused:
        load(str(wrong), environ=os.environ)

    assert str(wrong) in refused.value.message
    assert said in refused.value.message
    assert refused.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A preset file that cannot be read is named."""
    with pytest.raises(AllocationError, match="No such file"):
        load(str(tmp_path / "none.toml"), environ=os.environ)


def test_names_that_are_nearly_right() -> None:
    """A slip of the pen is answered with the presets that are meant."""
    with pytest.raises(AllocationError) as refused:
        load("4xauroa", environ=os.environ)
    assert "did you mean aurora?" in refused.value.hint


def test_the_machine_that_this_is_must_be_a_preset() -> None:
    """An XML file does not say what a site keeps."""
    with pytest.raises(UsageError, match="is no machine preset"):
        required_preset("synthetic:core:2")
