from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Order, Pattern, RankBy, ReservePer, TextFile
from rankmap.requests import request

if TYPE_CHECKING:
    from pathlib import Path


def _hostfile(folder: Path, text: str) -> Path:
    file = folder / "hosts"
    file.write_text(text)
    return file


def test_no_words_are_the_empty_request() -> None:
    """Nothing asked is nothing asked."""
    assert LayoutSpec() == request()


def test_every_word_is_parsed() -> None:
    """Text becomes the values of a LayoutSpec."""
    made = request(
        n_ranks=8,
        ranks_per_node=4,
        cpus_per_rank=2,
        map_by="numa:PE=2",
        rank_by="plane:2",
        bind_to="core",
        smt=1,
        oversubscribe=True,
        reserve="0,8",
        reserve_per="l3cache:1",
        hosts=["n[0-1]:4,x", "y"],
        exclude_hosts=["n1", "n[1-2]"],
    )
    assert made == LayoutSpec(
        n_ranks=8,
        ranks_per_node=4,
        cpus_per_rank=2,
        map_by=MapBy(pattern=Pattern.OBJECT, level=Level.NUMA, pe=2),
        rank_by=RankBy(order=Order.PLANE, count=2),
        bind_to=BindTo(level=Level.CORE),
        smt=1,
        oversubscribe=True,
        reserve=CpuSet.parse("0,8"),
        reserve_per=ReservePer(level=Level.L3CACHE, count=1),
        hosts=("n0", "n1", "x", "y"),
        slots=(("n0", 4), ("n1", 4)),
        exclude_hosts=("n1", "n2"),
    )
    assert request(reserve=CpuSet.parse("0,8")) == request(reserve="0,8")


def test_files_are_kept_by_name_and_line(tmp_path: Path) -> None:
    """A plan needs the file only once."""
    file = tmp_path / "order"
    file.write_text("0,1\n# x\n")

    expected = TextFile(name=str(file), lines=("0,1", "# x"))
    assert expected == request(rank_by=f"file:{file}").rank_by.file  # type: ignore[union-attr]
    assert expected == request(map_by=f"seq:{file}").map_by.file
    assert expected == request(map_by=f"rankfile:file={file}").map_by.file


@pytest.mark.parametrize(
    ("map_by", "flag", "expected"),
    [
        ("core", False, False),
        ("core", True, True),
        ("core:OVERSUBSCRIBE", False, True),
        ("core:OVERSUBSCRIBE", True, True),
        ("core:NOOVERSUBSCRIBE", False, False),
    ],
)
def test_oversubscribing_is_allowed_by_either_word(map_by: str, flag: bool, expected: bool) -> None:  # noqa: FBT001
    """The option and the modifier mean the same."""
    assert expected is request(map_by=map_by, oversubscribe=flag).oversubscribe


def test_oversubscribing_is_not_both_allowed_and_forbidden() -> None:
    """Words that contradict each other are refused."""
    with pytest.raises(UsageError, match="one allows what the other forbids"):
        request(map_by="core:NOOVERSUBSCRIBE", oversubscribe=True)


@pytest.mark.parametrize(
    ("hosts", "names", "slots"),
    [
        (["n[0-3]:8"], ["n0", "n1", "n2", "n3"], {"n0": 8, "n1": 8, "n2": 8, "n3": 8}),
        (["n[0,2]:8,n1"], ["n0", "n2", "n1"], {"n0": 8, "n2": 8}),
        (["a:1", "b,a:2"], ["a", "b"], {"a": 2}),
        (["a,a,b"], ["a", "b"], {}),
    ],
)
def test_hosts_may_have_slots(hosts: list[str], names: list[str], slots: dict[str, int]) -> None:
    """A count after a colon goes to every host of the item; each host is there once, in its first place."""
    made = request(hosts=hosts)

    assert (tuple(names), tuple(slots.items())) == (made.hosts, made.slots)


@pytest.mark.parametrize("text", ["n0:0", "n0:-1", "n0:x", "n0:", "n0:2:3", "n0:2147483648", "n0:1.5", "n0:٣"])
def test_slots_are_a_number(text: str) -> None:
    """From 1 to what MPI counts."""
    with pytest.raises(UsageError, match="is no number of slots"):
        request(hosts=[text])


def test_a_number_of_slots_with_thousands_of_digits_is_refused() -> None:
    """Python converts no text that long; a user reads a usage error all the same."""
    with pytest.raises(UsageError, match="is no number of slots"):
        request(hosts=["n0:" + "1" * 5000])


def test_slots_without_a_host_are_refused() -> None:
    """``:8`` must not mean every host."""
    with pytest.raises(UsageError):
        request(hosts=[":8"])


@pytest.mark.parametrize(
    ("text", "names", "slots"),
    [
        ("a\nb\n", ["a", "b"], {}),
        ("a slots=2\nb slots = 3\n", ["a", "b"], {"a": 2, "b": 3}),
        ("a SLOTS=2 max_slots=4\nb max-slots=9\n", ["a", "b"], {"a": 2, "b": 9}),
        ("# cluster\n\n  a:4  # here\nb:2\n", ["a", "b"], {"a": 4, "b": 2}),
        ("a\na\na\nb\n", ["a", "b"], {"a": 3}),
        ("a slots=2\nb\na slots=3\n", ["a", "b"], {"a": 5}),
        ("a slots=2\na slots=2\nb\nb\n", ["a", "b"], {"a": 4, "b": 2}),
        ("n[0-2] slots=2\n", ["n0", "n1", "n2"], {"n0": 2, "n1": 2, "n2": 2}),
        ("a,b slots=2\r\n", ["a", "b"], {"a": 2, "b": 2}),
    ],
)
def test_a_hostfile_has_hosts_and_slots(text: str, names: list[str], slots: dict[str, int], tmp_path: Path) -> None:
    """Open MPI's form, Hydra's colon, PBS's repeated lines; comments and blank lines say nothing."""
    made = request(hostfile=_hostfile(tmp_path, text))

    assert (tuple(names), slots) == (made.hosts, dict(made.slots))


def test_hosts_choose_of_the_hostfile(tmp_path: Path) -> None:
    """In the file's order; what is typed goes before what is in the file."""
    file = _hostfile(tmp_path, "a slots=2\nb slots=2\nc slots=2\n")

    made = request(hosts=["c:5,b,z"], hostfile=str(file))

    assert (("b", "c"), (("b", 2), ("c", 5))) == (made.hosts, made.slots)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{} names no host"),
        ("# nobody\n\n", "{} names no host"),
        ("a\nb c\n", "{}:2: not a line of a hostfile: b c"),
        ("a\n\n slots=4\n", "{}:3: not a line of a hostfile: slots=4"),
        ("a slots=0\n", "{}:1: '0' is no number of slots"),
        ("a slots=many\n", "{}:1: 'many' is no number of slots"),
        ("a:\n", "{}:1: '' is no number of slots"),
        ("a slots=\n", "{}:1: not a line of a hostfile: a slots="),
        ("n[0-\n", "'n[0-' is not a list of hosts"),
    ],
)
def test_a_hostfile_that_cannot_be_understood_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """With the file and the line."""
    file = _hostfile(tmp_path, text)

    with pytest.raises(UsageError) as refused:
        request(hostfile=file)
    assert message.format(file) == refused.value.message


def test_hosts_and_hostfile_must_meet(tmp_path: Path) -> None:
    """No host in common is not all hosts."""
    file = _hostfile(tmp_path, "a\n")
    with pytest.raises(UsageError, match=f"--hosts and --hostfile {file} have no host in common"):
        request(hosts=["b"], hostfile=file)


@pytest.mark.parametrize("words", ["hostfile", "seq", "rankfile", "rank_by"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "No such file or directory"),
        ("folder", "Is a directory"),
        ("binary", "it is no text"),
        ("nul\0", "it is no text"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(words: str, name: str, why: str, tmp_path: Path) -> None:
    """With its name and the reason, whichever word names it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    path = f"{tmp_path}/{name}"

    asked = {"hostfile": path, "rank_by": f"file:{path}", "seq": f"seq:{path}", "rankfile": f"rankfile:{path}"}[words]
    keyword = words if words in {"hostfile", "rank_by"} else "map_by"

    with pytest.raises(UsageError) as refused:
        request(**{keyword: asked})  # type: ignore[arg-type]
    option = "--hostfile " if words == "hostfile" else ""
    assert f"{option}{path!r} cannot be read: {why}" == refused.value.message


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Before it is read."""
    file = tmp_path / "large"
    file.touch()
    os.truncate(file, (64 << 20) + 1)

    with pytest.raises(UsageError, match="has more than 64 MiB"):
        request(hostfile=file)
