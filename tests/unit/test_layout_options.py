from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from rankmap.cli.layout_options import LayoutCommand, layout_options
from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec
from rankmap.layout_parts import BindTo, Level, MapBy, Order, Pattern, RankBy, ReservePer

if TYPE_CHECKING:
    from pathlib import Path

    from rankmap.placement import Plan


@click.command(cls=LayoutCommand)
@layout_options
@click.option("--other", default="")
def show(*, specs: tuple[LayoutSpec, ...], saved: Plan | None, other: str) -> None:
    """Print the specs as options."""
    assert saved is None
    click.echo(f"{' : '.join(map(str, specs))}|{other}")


@click.command(cls=LayoutCommand)
@layout_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def start(
    *,
    specs: tuple[LayoutSpec, ...],
    saved: Plan | None,
    command: tuple[str, ...],
    more: list[dict[str, Any]] | None = None,
) -> None:
    """Print the specs with their applications."""
    assert saved is None
    commands = [command, *(part["command"] for part in more or ())]
    click.echo(" | ".join(f"{spec} {' '.join(words)}" for spec, words in zip(specs, commands, strict=True)))


start.context_settings = {"ignore_unknown_options": False, "allow_interspersed_args": False}


def _spec(text: str) -> str:
    result = CliRunner().invoke(show, shlex.split(text), catch_exceptions=False)
    return result.stdout.strip()


@pytest.mark.parametrize(
    "spec",
    [
        LayoutSpec(),
        LayoutSpec(n_ranks=3, ranks_per_node=2, cpus_per_rank=4, oversubscribe=True),
        LayoutSpec(reserve=CpuSet.parse("0-3,8"), hosts=("a", "b7"), exclude_hosts=("c",)),
        LayoutSpec(
            map_by=MapBy(pattern=Pattern.OBJECT, level=Level.NUMA, pe=2, span=True),
            rank_by=RankBy(order=Order.PLANE, count=4),
            bind_to=BindTo(level=Level.CORE, overload=True),
            smt=1,
            reserve_per=ReservePer(level=Level.L3CACHE, count=1),
        ),
        LayoutSpec(hosts=("n0", "n1", "n4", "m"), slots=(("n0", 8), ("n1", 8), ("m", 2))),
    ],
)
def test_a_specs_text_is_read_back(spec: LayoutSpec) -> None:
    """What a message suggests can be typed: the options give the spec that wrote them."""
    expected = f"{spec}|"

    assert expected == _spec(str(spec))


def test_long_names_and_hostlists() -> None:
    """Long option names mean the same, hostlists are expanded, repeated hosts are one, other options pass through."""
    text = "--np 3 --ppn 2 --cpus-per-rank 1 --hosts 'n[0-1]' --hosts n1,x --other y"

    assert _spec(text) == "-n 3 -N 2 -c 1 --hosts 'n[0-1],x'|y"


def test_a_hostfile_is_read(tmp_path: Path) -> None:
    """Its hosts and slots arrive as if they had been typed."""
    file = tmp_path / "hosts"
    file.write_text("a slots=2\nb\n")

    assert _spec(f"-n 1 --hostfile {file}") == "-n 1 --hosts a:2,b|"


def test_parts_of_a_job_have_options_of_their_own() -> None:
    """A colon begins the next part; the command's own options are those of the first."""
    assert _spec("-n 4 --other y : -n 8 -c 2 : --map-by core") == "-n 4 : -n 8 -c 2 : --map-by core|y"


def test_each_part_has_its_application() -> None:
    """With its arguments, options among them."""
    done = CliRunner().invoke(start, shlex.split("-n 4 ./a -n 9 : -c 2 ./b x : -- ./c"), catch_exceptions=False)

    assert done.stdout.strip() == "-n 4 ./a -n 9 | -c 2 ./b x |  ./c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-n 4 ./a : -n 2", "part 2 of the job (after `:`): Missing argument"),
        ("./a : -n x ./b", "part 2 of the job (after `:`): Invalid value for '-n'"),
        ("./a : ./b : --wrong ./c", "part 3 of the job (after `:`): No such option '--wrong'"),
    ],
)
def test_a_part_that_cannot_be_parsed_is_named(text: str, message: str) -> None:
    """A missing application, a bad value and an unknown option are ours to refuse, with the part's number."""
    with pytest.raises(UsageError) as refused:
        CliRunner().invoke(start, shlex.split(text), catch_exceptions=False)
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "-n 0",
        "-N -1",
        "--reserve x",
        "--hosts 'n['",
        "--map-by x",
        "--rank-by x",
        "--bind-to x",
        "--smt 0",
        "--reserve-per x",
        "--hostfile /nonexistent",
        "-n 1 : -n 0",
        "-n 1 : --hosts n0:0",
        "-n 1 : -n x",
        "-n 1 : --other y",
    ],
)
def test_bad_values_are_usage_errors(text: str) -> None:
    """A value that makes no sense ends as our usage error."""
    with pytest.raises(UsageError):
        _spec(text)


@pytest.mark.parametrize("text", ["-n x", "-n 1.5", "-n", "--np ''", "--wrong"])
def test_what_click_refuses_has_status_two(text: str) -> None:
    """Text where a number belongs and unknown options are usage errors."""
    expected = 2

    assert expected == CliRunner().invoke(show, shlex.split(text)).exit_code
