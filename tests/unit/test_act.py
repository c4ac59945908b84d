"""What act does where the world has moved on between decision and deed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.unit.plan_builder import follower, leader

from chefha_core.act import Actor
from chefha_core.leaderl.memory import Memory
from chefha_core.model import Lease
from chefha_core.parts.postgres import PostgresError
from chefha_core.plan import commands as c
from chefha_core.settings import Secrets, Settings

SETTINGS = Settings(members={"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}, vip="10.0.0.9",
                    secrets=Secrets("s", "r", "t"), profile="fast")  # fmt: skip


class Part:
    """Notes what it is asked; `late` is how far the clock moves on while the kernel is told of the address."""

    def __init__(self, clock: list[float] | None = None, late: float = 0.0) -> None:
        self.calls: list[str] = []
        self.clock, self.late = clock or [0.0], late

    def hold(self, seconds: int) -> None:
        self.calls.append(f"hold {seconds}")
        self.clock[0] += self.late

    def drop(self) -> None:
        self.calls.append("drop")

    def present(self) -> bool:
        return "hold 2" in self.calls

    def end_client_sessions(self) -> None:
        raise PostgresError("1 sessions of clients do not end")

    def emergency(self, job: Any) -> None:
        self.calls.append("kill")


def actor(address: Part, memory: Memory, worker: Part) -> Actor:
    part: Any = Part()
    return Actor(SETTINGS, "a", part, part, address, part, memory, worker)  # type: ignore[arg-type]


@pytest.mark.parametrize(("late", "calls"), [(0.0, ["hold 2"]), (1.5, ["hold 2", "drop"])])
def test_f06_an_address_that_would_outlive_the_lease_is_withdrawn(
    late: float, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """leaderl was stopped between its look at the clock and the kernel's."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("chefha_core.act.suspended", lambda: 0.0)
    address = Part(clock, late)
    memory = Memory(lease=Lease(3, 99.99))
    actor(address, memory, Part()).carry_out((c.HoldAddress("due", 2.2, take=False, check=False),), leader())
    assert address.calls == calls


def test_f15_an_address_is_not_taken_in_a_round_in_which_the_machine_was_suspended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock by which the lease is counted stood still meanwhile."""
    monkeypatch.setattr("chefha_core.act.suspended", lambda: 60.0)
    address = Part()
    memory = Memory(lease=Lease(3, time.monotonic()))
    actor(address, memory, Part()).carry_out((c.HoldAddress("due", 2.2, take=False, check=False),), leader())
    assert address.calls == []


def test_f18_a_session_that_does_not_end_keeps_nothing_from_happening() -> None:
    address, worker = Part(), Part()
    commands = (c.KillPostgres("x"), c.EndClientSessions("x"), c.DropAddress("x"))
    actor(address, Memory(), worker).carry_out(commands, follower())
    assert (worker.calls, address.calls) == (["kill"], ["drop"])
