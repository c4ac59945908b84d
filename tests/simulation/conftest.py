"""How many histories: CHEFHA_HISTORIES, 1000 if unset. ``--hypothesis-seed=N`` repeats a run."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "histories",
    deadline=None,
    database=None,
    derandomize="CHEFHA_HISTORIES" not in os.environ,  # the usual run is the same each time; long ones explore
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("histories")
