"""A clock for whatever waits in a loop: it takes no time."""

from __future__ import annotations


class Clock:
    """In the place of the module ``time`` in one module: other threads of the tests go by the real one."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
