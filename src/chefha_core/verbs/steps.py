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
    #: seconds between two lines about something that goes on
    NEWS = 5.0

    def __init__(self, on_step: OnStep = nobody_looks) -> None:
        self.rows: list[dict[str, Any]] = []
        self.began = self._told = time.monotonic()
        self._on_step = on_step

    @property
    def seconds(self) -> float:
        """Since the first one began."""
        return round(time.monotonic() - self.began, self.DIGITS)

    def left(self, timeout: float) -> float:
        """Seconds that are left of the time-out, one at least."""
        return max(1.0, self.began + timeout - time.monotonic())

    def done(self, step: str, outcome: str = "done") -> None:
        """This one is over."""
        self.rows.append({"step": step, "seconds": self.seconds, "outcome": outcome})
        self._on_step(self.rows[-1])

    def going_on(self, step: str, outcome: str = "goes on") -> None:
        """Something takes its time: a line now and then, which is no step."""
        if time.monotonic() - self._told > self.NEWS:
            self._told = time.monotonic()
            self._on_step({"step": step, "seconds": self.seconds, "outcome": outcome})


class Steps(StepLog):
    """Steps whose names, and whose order, are known before."""

    def __init__(self, names: Sequence[str], on_step: OnStep = nobody_looks) -> None:
        super().__init__(on_step)
        self._names = list(names)

    def then(self, *names: str) -> None:
        """It turned out that these come next."""
        self._names[len(self.rows) : len(self.rows)] = names

    def failed(self, name: str = "") -> None:
        """``name``, or the first that is not over, failed; those after it are not reached."""
        first = self._names.index(name) if name else len(self.rows)
        for number, step in enumerate(self._names[first:]):
            self.done(step, "not reached" if number else "failed")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Carry out one; if it fails, those after it are not reached."""
        try:
            yield
        except BaseException:
            self.failed(name)
            raise
        self.done(name)

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Carry out all that are left, each told by ``done``; if one fails, those after it are not reached."""
        try:
            yield
        except BaseException:
            self.failed()
            raise
