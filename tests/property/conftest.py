"""Hypothesis profiles: short and the same every time by default; a search on request.

``pytest tests/property --hypothesis-profile nightly`` runs the second.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = (HealthCheck.too_slow,)

settings.register_profile(
    "default", max_examples=30, derandomize=True, deadline=None, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.load_profile("default")
