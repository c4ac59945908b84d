"""How long the machine has been suspended: then Python's monotonic clock stands still, and everybody else's goes on."""

from __future__ import annotations

import time

#: seconds by which CLOCK_BOOTTIME may move on without CLOCK_MONOTONIC before the machine counts as suspended
PAUSE = 0.5


def suspended() -> float:
    """Seconds for which the machine has been suspended since it booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
