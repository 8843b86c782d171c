from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from rankmap.cli.layout_options import layout_options
from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec


@click.command()
@layout_options
@click.option("--other", default="")
def show(*, spec: LayoutSpec, other: str) -> None:
    """Print the spec as options."""
    click.echo(f"{spec}|{other}")


def _spec(text: str) -> str:
    result = CliRunner().invoke(show, shlex.split(text), catch_exceptions=False)
    return result.stdout.strip()


@pytest.mark.parametrize(
    "spec",
    [
        LayoutSpec(),
        LayoutSpec(n_ranks=3, ranks_per_node=2, cpus_per_rank=4, oversubscribe=True),
        LayoutSpec(reserve=CpuSet.parse("0-3,8"), hosts=("a", "b7"), exclude_hosts=("c",)),
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


@pytest.mark.parametrize("text", ["-n 0", "-N -1", "--reserve x", "--hosts 'n['"])
def test_bad_values_are_usage_errors(text: str) -> None:
    """A value that makes no sense ends as our usage error."""
    with pytest.raises(UsageError):
        _spec(text)


@pytest.mark.parametrize("text", ["-n x", "-n 1.5", "-n", "--np ''", "--wrong"])
def test_what_click_refuses_has_status_two(text: str) -> None:
    """Text where a number belongs and unknown options are usage errors."""
    expected = 2

    assert expected == CliRunner().invoke(show, shlex.split(text)).exit_code
