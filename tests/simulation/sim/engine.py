"""Virtual time: events in order, tasks as generators that yield how long they sleep, hosts that freeze and crash."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from typing import Any

#: yields seconds to sleep; a ``Nap`` may be cut short by ``poke``
Steps = Generator[float, None, Any]


class Nap(float):
    """A sleep from which ``Task.poke`` wakes."""


class Owner:
    """What events belong to: frozen, its events wait; after a crash they never happen."""

    def __init__(self, parent: Owner | None = None) -> None:
        self.parent = parent
        self.incarnation = 0
        self.frozen = False
        self.deferred: list[tuple[Owner, Callable[[], None]]] = []

    def lives(self) -> int:
        """Changes whenever this owner or the host it is on has crashed."""
        return self.incarnation + (self.parent.lives() if self.parent else 0)

    def freezer(self) -> Owner | None:
        """Who keeps this owner from going on: itself, or its host."""
        if self.frozen:
            return self
        return self.parent.freezer() if self.parent else None

    def forget(self) -> None:
        """A crash: nothing that was under way here happens any more."""
        self.incarnation += 1
        self.deferred.clear()


class Engine:
    """The clock and the queue."""

    def __init__(self) -> None:
        self.t = 0.0
        self._heap: list[tuple[float, int, Owner | None, int, Callable[[], None]]] = []
        self._count = 0
        #: called after every step
        self.after_step: Callable[[], None] = lambda: None

    def at(self, delay: float, call: Callable[[], None], owner: Owner | None = None) -> None:
        """Do ``call`` in ``delay`` seconds, as part of ``owner``."""
        self._count += 1
        incarnation = owner.lives() if owner else 0
        heapq.heappush(self._heap, (self.t + max(0.0, delay), self._count, owner, incarnation, call))

    def spawn(self, steps: Steps, owner: Owner | None, done: Callable[[], None] | None = None) -> Task:
        """Run a generator as a task of ``owner``, beginning now."""
        return Task(self, steps, owner, done)

    def thaw(self, owner: Owner) -> None:
        """Let a frozen owner go on with whatever it had under way."""
        owner.frozen = False
        calls, owner.deferred = owner.deferred, []
        for whose, call in calls:
            self.at(0.0, call, whose)

    def run(self, until: float) -> None:
        """Advance to ``until``."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.t, _, owner, incarnation, call = heapq.heappop(heap)
            if owner is not None:
                if owner.lives() != incarnation:
                    continue
                freezer = owner.freezer()
                if freezer is not None:
                    freezer.deferred.append((owner, call))
                    continue
            call()
            self.after_step()
        self.t = max(self.t, until)


class Task:
    """A generator under way."""

    def __init__(self, engine: Engine, steps: Steps, owner: Owner | None, done: Callable[[], None] | None) -> None:
        self.engine, self.steps, self.owner, self.done = engine, steps, owner, done
        self.dead = False
        self._token = 0
        self._napping = False
        engine.at(0.0, lambda: self._resume(0), owner)

    def _resume(self, token: int) -> None:
        if self.dead or token != self._token:
            return
        self._napping = False
        try:
            delay = next(self.steps)
        except StopIteration:
            self.dead = True
            if self.done:
                self.done()
            return
        if self.dead:  # it ended itself
            return
        self._napping = isinstance(delay, Nap)
        self._sleep(delay)

    def _sleep(self, delay: float) -> None:
        self._token += 1
        token = self._token
        self.engine.at(delay, lambda: self._resume(token), self.owner)

    def poke(self) -> None:
        """End a nap now."""
        if self._napping and not self.dead:
            self._napping = False
            self._sleep(0.001)

    def kill(self) -> None:
        """The task never goes on."""
        self.dead = True
