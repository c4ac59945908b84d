"""Steps of a verb that takes a while: each is told as it ends, with its outcome and how long it all took so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

OnStep = Callable[[dict[str, Any]], None]


def nobody_looks(step: dict[str, Any]) -> None:
    """For whoever only reads the answer."""


class Steps:
    """The steps that there will be, in order; ``rows`` has those that are over."""

    def __init__(self, names: Sequence[str], on_step: OnStep = nobody_looks) -> None:
        self.rows: list[dict[str, Any]] = []
        self._names, self._on_step, self._began = list(names), on_step, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the first one began."""
        return round(time.monotonic() - self._began, 3)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Carry out one; if it fails, those after it are not reached."""
        try:
            yield
        except BaseException:
            self._add(name, "failed")
            for later in self._names[self._names.index(name) + 1 :]:
                self._add(later, "not reached")
            raise
        self._add(name, "done")

    def _add(self, name: str, outcome: str) -> None:
        row = {"step": name, "seconds": self.seconds, "outcome": outcome}
        self.rows.append(row)
        self._on_step(row)
