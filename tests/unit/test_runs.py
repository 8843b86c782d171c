from __future__ import annotations

import pytest

from rankmap.runs import Run, compress, expand, joined, length, locate, shifted


@pytest.mark.parametrize(
    ("runs", "numbers"),
    [
        ((), []),
        ((Run(first=3, size=2, blocks=3, stride=8),), [3, 4, 11, 12, 19, 20]),
        ((Run(first=0, size=2), Run(first=5, size=1, blocks=2, stride=3)), [0, 1, 5, 8]),
    ],
)
def test_runs_stand_for_their_numbers(runs: tuple[Run, ...], numbers: list[int]) -> None:
    """All questions have the answer that the list of numbers would give."""
    assert numbers == list(expand(runs))
    assert len(numbers) == length(runs)
    assert list(range(len(numbers))) == [locate(runs, number) for number in numbers]
    assert {None} == {locate(runs, number) for number in set(range(-2, 30)) - set(numbers)}
    assert [number + 7 for number in numbers] == list(expand(shifted(runs, 7)))
    assert list(expand(compress(numbers))) == numbers


def test_a_pattern_is_one_run() -> None:
    """What is equally wide and equally far apart costs no more the longer it is."""
    assert (Run(first=0, size=1000),) == compress(range(1000))
    assert (Run(first=2, size=1, blocks=100, stride=5),) == compress(range(2, 502, 5))
    assert (Run(first=0, size=4),) == joined([Run(first=0, size=2), Run(first=2, size=2)])
