"""What act does where the world has moved on between decision and deed."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from tests.unit.plan_builder import KEY, SETTINGS, follower, leader, view

from chefha_core import codec
from chefha_core.act import Actor, Failed
from chefha_core.leaderl.memory import Memory
from chefha_core.model import LeaderState, Lease, PgFacts, PgState, Position, SyncRule
from chefha_core.parts.etcd import Delete, KeyValue, Put, TxnResult
from chefha_core.parts.postgres import PostgresError
from chefha_core.plan import commands as c


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
    monkeypatch.setattr("chefha_core.leaderl.memory.suspended", lambda: 0.0)
    address = Part(clock, late)
    memory = Memory(lease=Lease(3, 99.99))
    actor(address, memory, Part()).carry_out((c.HoldAddress("due", 2.2, take=False, check=False),), leader())
    assert address.calls == calls


def test_f15_an_address_is_not_taken_in_a_round_in_which_the_machine_was_suspended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock by which the lease is counted stood still meanwhile."""
    monkeypatch.setattr("chefha_core.leaderl.memory.suspended", lambda: 60.0)
    address = Part()
    memory = Memory(lease=Lease(3, time.monotonic()))
    actor(address, memory, Part()).carry_out((c.HoldAddress("due", 2.2, take=False, check=False),), leader())
    assert address.calls == []


def test_f18_a_session_that_does_not_end_keeps_nothing_from_happening() -> None:
    address, worker = Part(), Part()
    commands = (c.KillPostgres("x"), c.EndClientSessions("x"), c.DropAddress("x"))
    actor(address, Memory(), worker).carry_out(commands, follower())
    assert (worker.calls, address.calls) == (["kill"], ["drop"])


@pytest.mark.parametrize(
    ("state", "tries"), [(LeaderState.RELEASING, (0, 0)), (LeaderState.LEADING, (2, 3))], ids=["taken back", "kept"]
)
def test_f08_whoever_takes_a_released_key_back_tries_again_what_was_in_vain(
    state: LeaderState, tries: tuple[int, int]
) -> None:
    """Nobody else came: with the tries of before it would give the key up again at once, for ever."""
    memory = Memory(restarts=2, failed_rejoins=3)
    made = actor(Part(), memory, Part())
    made.etcd = Etcd([])  # type: ignore[assignment]
    key = dataclasses.replace(KEY, state=state)
    seen = leader(etcd=view(leader=key))
    made.carry_out((c.Renew("because", 40, key.epoch, LeaderState.PROMOTING, 1, 100, 8),), seen)
    assert (memory.restarts, memory.failed_rejoins) == tries


@pytest.mark.parametrize(
    ("rule", "alone"),
    [(SyncRule(("a",), 0, 1), Put("alone", "a")), (SyncRule(("a", "b", "c"), 1, 2), Delete("alone"))],
)
def test_etcd_knows_who_is_alone_in_the_same_transaction_as_the_rule(rule: SyncRule, alone: Put | Delete) -> None:
    """The rule of one and the name of who has the data never stand there without each other."""
    made, written = actor(Part(), Memory(), Part()), []
    made.etcd = Etcd(written)  # type: ignore[assignment]
    made._publish_sync(c.PublishSync("because", rule), leader())
    assert written[0][1] == alone


def test_since_when_commits_wait_is_known_from_the_end_of_the_change_on() -> None:
    """Whatever was acknowledged before ends at that place at the latest."""
    memory = Memory(waits=(("b",), 7))
    made = actor(Part(), memory, Part())
    made.postgres = Server(memory)  # type: ignore[assignment]
    made._set_sync(c.SetSync("because", ("b", "c")), leader())
    assert memory.waits == (("b", "c"), 900)


@pytest.mark.parametrize("unchanged", [True, False])
def test_f40_no_log_is_fetched_while_a_candidacy_counts(unchanged: bool) -> None:
    """The receiver is connected only after the candidacy is of no epoch; if that fails, not at all."""
    made, done = actor(Part(), Memory(), Part()), []
    made.etcd = Etcd(done, unchanged)  # type: ignore[assignment]
    made.postgres = Catcher(done)  # type: ignore[assignment]
    command = c.CatchUp("because", "10.0.0.3", Position(1, 900))
    if unchanged:
        made._catch_up(command, follower())
        (put,) = done[0]
        assert codec.candidacy(KeyValue(put.key, put.value, 0, 40, 0, 0)).epoch == 0
        assert done[1:] == [("10.0.0.3", Position(1, 900))]
    else:
        with pytest.raises(Failed, match="looking again"):
            made._catch_up(command, follower())
        assert len(done) == 1


class Catcher:
    """A PostgreSQL that notes from where it was to catch up."""

    def __init__(self, done: list[Any]) -> None:
        self.done = done

    def catch_up(self, source: str, position: Position, timeout: float) -> None:
        self.done.append((source, position))


class Etcd:
    """An etcd whose leader key is this node's."""

    def __init__(self, written: list[Any], unchanged: bool = True) -> None:
        self.written, self.unchanged = written, unchanged

    def get(self, key: str) -> Any:
        return KeyValue(key, codec.dump(KEY), 0, 40, 0, 0)

    def txn(self, compare: Any, puts: list[Any]) -> Any:
        self.written.append(list(puts))
        return TxnResult(self.unchanged, 41)


class Server:
    """A PostgreSQL whose log ends at 900 when it has taken over whom to wait for."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def set_role(self, upstream: str, sync_names: tuple[str, ...]) -> None:
        assert self.memory.waits == ((), 0), "what was known before does not count any more"

    def observe(self, timeout: float) -> PgFacts:
        return PgFacts(PgState.PRIMARY, position=Position(1, 900))
