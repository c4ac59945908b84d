"""Steps of a verb that takes a while: each is told as it ends, with its outcome and how long it all took so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

OnStep = Callable[[dict[str, Any]], None]


def nobody_looks(step: dict[str, Any]) -> None:
    """For whoever only reads the answer."""


class StepLog:
    """``rows`` has the steps that are over; whoever looks is told each."""

    #: of a second
    DIGITS = 3

    def __init__(self, on_step: OnStep = nobody_looks) -> None:
        self.rows: list[dict[str, Any]] = []
        self.began = time.monotonic()
        self._on_step = on_step

    @property
    def seconds(self) -> float:
        """Since the first one began."""
        return round(time.monotonic() - self.began, self.DIGITS)

    def done(self, step: str, outcome: str = "done") -> None:
        """This one is over."""
        self.rows.append({"step": step, "seconds": self.seconds, "outcome": outcome})
        self._on_step(self.rows[-1])


class Steps(StepLog):
    """Steps whose names, and whose order, are known before."""

    def __init__(self, names: Sequence[str], on_step: OnStep = nobody_looks) -> None:
        super().__init__(on_step)
        self._names = list(names)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Carry out one; if it fails, those after it are not reached."""
        try:
            yield
        except BaseException:
            self.done(name, "failed")
            for later in self._names[self._names.index(name) + 1 :]:
                self.done(later, "not reached")
            raise
        self.done(name)
