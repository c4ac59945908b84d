"""Facts that nobody could renew do not lead for ever, and a pause of the whole process is no proof of anything."""

from __future__ import annotations

import time
from typing import Any

import pytest

from chefha_core.model import PgFacts, PgState
from chefha_core.parts.postgres_monitor import BLIND, STEADY, PostgresMonitor
from chefha_core.parts.postgres_observe import Look


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def monitor(state: PgState, looked_at: float) -> PostgresMonitor:
    part: Any = None
    made = PostgresMonitor(part, interval=0.5)
    made.facts, made.looked_at = PgFacts(state=state), looked_at
    return made


def ask(made: PostgresMonitor, clock: list[float], seconds: float) -> PgState:
    """As leaderl's loop does, twice a second."""
    end = clock[0] + seconds
    while clock[0] < end:
        clock[0] += 0.5
        made.recent_facts()
    return made.recent_facts().state


def test_f18_a_postgresql_that_nobody_can_look_at_counts_as_hung(clock: list[float]) -> None:
    made = monitor(PgState.PRIMARY, clock[0])
    assert ask(made, clock, BLIND / 2) is PgState.PRIMARY
    assert ask(made, clock, BLIND) is PgState.HUNG
    assert "nobody could look" in made.recent_facts().problem


def test_f15_after_a_pause_of_the_machine_the_monitor_gets_its_time(clock: list[float]) -> None:
    made = monitor(PgState.STANDBY, clock[0])
    made.recent_facts()
    clock[0] += 60
    assert made.recent_facts().state is PgState.STANDBY
    assert ask(made, clock, BLIND + 1) is PgState.HUNG


def test_where_nothing_runs_nothing_hangs(clock: list[float]) -> None:
    assert ask(monitor(PgState.STOPPED, clock[0]), clock, 3 * BLIND) is PgState.STOPPED


class Seen:
    """A PostgreSQL that looks as the test says."""

    def __init__(self) -> None:
        self.facts = PgFacts(state=PgState.STANDBY)

    def look(self, history_from: str = "", timeout: float = 1.0) -> Look:
        return Look(self.facts)


def without_stream(looks: list[tuple[float, PgFacts]], clock: list[float]) -> list[float]:
    """What the monitor says after each look, so many seconds after the one before."""
    seen: Any = Seen()
    made, said = PostgresMonitor(seen, interval=0.5), []
    for seconds, facts in looks:
        clock[0] += seconds
        seen.facts = facts
        said.append(made.look().without_stream)
    return said


WAITS, STREAMS = PgFacts(state=PgState.STANDBY), PgFacts(state=PgState.STANDBY, streaming=True)


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([(0, STREAMS), (9, STREAMS), (1, WAITS), (5, WAITS)], [0, 0, 0, 5]),
        ([(0, WAITS), (10, STREAMS), (1, WAITS), (1, STREAMS), (1, WAITS)], [0, 10, 11, 12, 13]),
        ([(0, WAITS), (10, STREAMS), (STEADY, STREAMS), (1, WAITS), (1, WAITS)], [0, 10, 0, 0, 1]),
        ([(0, WAITS), (10, PgFacts(state=PgState.STARTING)), (5, WAITS), (1, WAITS)], [0, 0, 0, 1]),
        ([(0, PgFacts(state=PgState.STARTING)), (1, STREAMS), (1, WAITS), (1, STREAMS)], [0, 0, 1, 2]),
        ([(0, PgFacts(state=PgState.PRIMARY)), (9, PgFacts(state=PgState.PRIMARY))], [0, 0]),
    ],
    ids=[
        "a stream ended",
        "a moment is no stream",
        "a stream again",
        "a start begins anew",
        "which begins with a moment",
        "a primary has none",
    ],
)
def test_how_long_a_standby_has_been_without_a_stream(
    looks: list[tuple[float, PgFacts]], said: list[float], clock: list[float]
) -> None:
    assert without_stream(looks, clock) == said
