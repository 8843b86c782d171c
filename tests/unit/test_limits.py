"""Unit tests of rankmap.runtime.limits: a process that launches jobs is afterwards as it was."""

from __future__ import annotations

import resource

import pytest

from rankmap.runtime.limits import Limits, raised_descriptor_limit


def test_the_limit_of_open_files_is_raised_for_a_while() -> None:
    """The second job of a program has the same limit as the first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        before = Limits.own()
        with raised_descriptor_limit():
            assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
        assert (256, before) == (before.n_files, Limits.own())
        with pytest.raises(KeyError), raised_descriptor_limit():
            raise KeyError
        assert before == Limits.own()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
