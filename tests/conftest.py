"""What holds for every test: hypothesis judges what is answered, and never how soon.

WHY: its own bounds are wall time, 0.2 s for an example and a second for the first ten; on a busy
machine a single preemption is longer. Tests of cost measure processor time, each with its bound.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
