"""Storage is health: what counts as trouble, and what a leader, a follower and the verbs make of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.unit.plan_builder import (
    KEY,
    NOW,
    SETTINGS,
    TIMES,
    cut,
    decide,
    follower,
    kinds,
    leader,
    only,
    primary,
    report,
    stale,
    standby,
    stopped,
    view,
)

from chefha_core.leaderl.disk_monitor import DiskMonitor, Limits, Storage, judged
from chefha_core.model import Intent, LeaderState, Observation, PgState
from chefha_core.parts.disks import Disk, DiskProbe, Look, ProbeBroken
from chefha_core.plan import commands as c
from chefha_core.plan.handover import why_not_eligible
from chefha_core.verbs import status
from chefha_core.verbs.cluster_status import Answers
from chefha_core.verbs.cluster_status import report as cluster_report
from chefha_core.verbs.reach import VerbError

MIB = 1 << 20
LIMITS = Limits(deadline=10.0, failures=3, least_free=64 * MIB)
GOOD = Look((Disk("/data", free=900 * MIB, seconds=0.002),))
LOW = Look((Disk("/data", free=60 * MIB, seconds=0.002),))
BETTER = Look((Disk("/data", free=100 * MIB, seconds=0.002),))
SLOW = Look((Disk("/data", free=900 * MIB, seconds=9.9),))
TOO_SLOW = Look((Disk("/data", free=900 * MIB, seconds=10.1),))
READ_ONLY = Look((Disk("/data", problem="Read-only file system"),))
HANGS = Look(hangs="/data")
WAL_FULL = Look((Disk("/data", free=900 * MIB), Disk("/wal", free=0)))
FULL = "less than 64 MiB are free on /data"


def after(*looks: Look) -> Storage:
    """What is said after these looks."""
    storage = Storage()
    for look in looks:
        storage = judged(storage, look, LIMITS)
    return storage


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (LOW, FULL),
        (READ_ONLY, "/data cannot be written: Read-only file system"),
        (HANGS, "a write to /data does not come back within 10 s"),
        (TOO_SLOW, "a write to /data took longer than 10 s"),
        (WAL_FULL, "less than 64 MiB are free on /wal"),
    ],
)
def test_trouble_begins_with_the_third_failure_in_a_row(look: Look, words: str) -> None:
    assert (after(look, look).trouble, after(look, look).problem) == ("", words)
    assert after(look, look, look).trouble == words
    assert after(look, look, GOOD, look, look).trouble == ""
    assert after(look, look, look).hangs is (look is HANGS)


def test_a_disk_that_is_only_slow_is_no_trouble() -> None:
    assert after(*[SLOW] * 20) == dataclasses.replace(Storage(), successes=20, disks=SLOW.disks)


def test_it_is_well_again_only_with_twice_the_room_and_after_twice_as_many_good_looks() -> None:
    full = [LOW] * 3
    assert after(*full, *[BETTER] * 20).trouble == "less than 128 MiB are free on /data"
    assert after(*full, *[GOOD] * 5).trouble == FULL
    assert after(*full, *[GOOD] * 5, LOW, *[GOOD] * 5).trouble
    assert after(*full, *[GOOD] * 6).trouble == ""
    assert after(*[BETTER] * 20).trouble == ""


def test_room_is_not_looked_at_where_the_settings_say_so() -> None:
    storage = Storage()
    for _ in range(5):
        storage = judged(storage, WAL_FULL, dataclasses.replace(LIMITS, least_free=0))
    assert storage.trouble == ""


class Scripted(DiskProbe):
    """A probe that says what it is told to say."""

    def __init__(self, *answers: Look | ProbeBroken) -> None:
        self.answers = list(answers)

    def ask(self, deadline: float) -> Look:
        answer = self.answers.pop(0)
        if isinstance(answer, ProbeBroken):
            raise answer
        return answer


def test_changes_are_told_once_and_a_broken_probe_says_nothing() -> None:
    told: list[tuple[str, bool]] = []
    broken = ProbeBroken("out of memory")
    answers = [LOW, LOW, broken, broken, LOW, LOW, *[GOOD] * 7, *[HANGS] * 4]
    monitor = DiskMonitor(Scripted(*answers), LIMITS, 5.0, lambda now: told.append((now.trouble, now.hangs)))
    for _ in answers:
        monitor.look()
    hangs = "a write to /data does not come back within 10 s"
    assert told == [(FULL, False), ("", False), ("", True), (hangs, True)]


# ---- the plan


def in_trouble(**fields: Any) -> Observation:
    """The leader, whose storage is in trouble."""
    return leader(storage=FULL, **fields)


def asked(since: float = 1.0, **fields: Any) -> Observation:
    """The same, which asked for a hand-over some seconds ago."""
    etcd = view(intent=Intent("", "a", KEY.epoch, 70), intent_seen_at=NOW - since, **fields.pop("etcd", {}))
    return in_trouble(etcd=etcd, asked_at=NOW - since, **fields)


#: members whose storage is in trouble as well
ALL_FULL = {
    "a": report("a", pg=PgState.PRIMARY, storage=FULL),
    "b": report("b", storage=FULL),
    "c": report("c", storage=FULL),
}
OVERDUE = TIMES.handover_timeout + 1


def test_a_leader_in_trouble_asks_for_a_hand_over() -> None:
    command = only(decide(in_trouble()), c.AskHandOver)
    assert (command.epoch, command.reason) == (KEY.epoch, f"storage: {FULL}")
    assert c.Checkpoint in kinds(asked()), "and then it is one like any other"


@pytest.mark.parametrize(
    ("why", "seen"),
    [
        ("all members are in trouble", in_trouble(etcd=view(members=ALL_FULL))),
        ("nobody else is there", in_trouble(etcd=view(members={"a": ALL_FULL["a"]}))),
        ("it asked lately, and in vain", in_trouble(asked_at=NOW - 50)),
    ],
)
def test_a_leader_in_trouble_leads_on_where_nobody_is_better_off(why: str, seen: Observation) -> None:
    decided = decide(seen)
    assert [command for command in decided.commands if isinstance(command, (c.AskHandOver, c.ReleaseKey))] == [], why
    assert decided.role == "leader" and FULL in decided.reason


def test_it_asks_again_after_a_minute() -> None:
    assert c.AskHandOver in kinds(in_trouble(asked_at=NOW - 61))


def test_a_leader_that_can_neither_checkpoint_nor_stop_gives_the_key_up() -> None:
    checkpointing = asked(OVERDUE, job="Checkpoint")
    stopping = asked(OVERDUE, job="StopPostgres", prepared_for=70, pg=primary(state=PgState.STARTING), address=False)
    for seen in (checkpointing, stopping):
        decided = decide(seen)
        expected = [c.KillPostgres, *([c.DropAddress] if seen.address else []), c.EndClientSessions, c.ReleaseKey]
        assert [type(command) for command in decided.commands] == expected
        release = only(decided, c.ReleaseKey)
        assert (release.fit, release.clean, release.to) == (False, False, "")


@pytest.mark.parametrize(
    ("why", "seen"),
    [
        ("not overdue", asked(TIMES.handover_timeout - 1, job="Checkpoint")),
        ("it writes, the follower was too slow", asked(OVERDUE, prepared_for=70)),
        ("nobody else may lead", asked(OVERDUE, job="Checkpoint", etcd={"members": ALL_FULL})),
        ("its storage is well again", dataclasses.replace(asked(OVERDUE, job="Checkpoint"), storage="")),
    ],
)
def test_otherwise_it_keeps_the_key(why: str, seen: Observation) -> None:
    assert c.ReleaseKey not in kinds(seen), why


def test_who_gave_up_takes_the_key_back_only_when_its_storage_is_well() -> None:
    key = dataclasses.replace(KEY, state=LeaderState.RELEASING)
    late = view(leader=key, leader_changed_at=NOW - 60)
    seen = leader(etcd=late, pg=stopped(was_primary=True, upstream=""), address=False, lease=None)
    assert c.Renew in kinds(seen)
    assert c.Renew not in kinds(dataclasses.replace(seen, storage=FULL))


def test_a_dead_postgresql_on_bad_storage_is_not_restarted_unless_nobody_else_could_lead() -> None:
    dead = primary(state=PgState.STOPPED)
    assert c.ReleaseKey in kinds(in_trouble(pg=dead, address=False))
    assert c.StartPrimary in kinds(in_trouble(pg=dead, address=False, etcd=view(members=ALL_FULL)))


def test_a_member_in_trouble_asserts_what_it_holds_but_must_not_lead() -> None:
    seen = follower(etcd=stale(), pg=cut(), storage=FULL)
    assert kinds(dataclasses.replace(seen, storage="")) == kinds(seen)
    behind = why_not_eligible(report("b", storage=FULL), "b", 100, 0, search_fatal=False)
    assert behind == f"the storage of b is in trouble: {FULL}"


def test_nothing_that_replaces_data_begins_on_bad_storage() -> None:
    empty = standby(state=PgState.EMPTY, receiver=False, streaming=False)
    members = view().members | {"a": report("a", pg=PgState.PRIMARY, checkpoint_timeline=1)}
    seen = follower(pg=empty, etcd=view(members=members))
    assert kinds(seen) == [c.Clone]
    waits = dataclasses.replace(seen, storage=FULL)
    assert kinds(waits) == [] and FULL in decide(waits).reason


def test_nothing_is_written_where_a_write_hangs() -> None:
    elsewhere = standby(upstream="10.0.0.3")
    assert kinds(follower(pg=elsewhere)) == [c.Follow]
    assert kinds(follower(pg=elsewhere, storage=FULL)) == [c.Follow]
    assert kinds(follower(pg=elsewhere, storage_hangs=True)) == []


# ---- the verbs


def test_cluster_status_says_whose_storage_is_in_trouble() -> None:
    members = view().members | {"b": report("b", storage=FULL)}
    data = cluster_report(SETTINGS, Answers(view(members=members), live={"c": {"storage": "hangs"}}))
    assert {row["name"]: row["storage"] for row in data["members"]} == {"a": "", "b": FULL, "c": "hangs"}
    assert data["problems"] == {"storage of b": FULL, "storage of c": "hangs"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"storage": FULL, "storage_problem": FULL, "disks": [{"seconds": 0.1}]}, f"IN TROUBLE: {FULL}"),
        ({"storage": "", "storage_problem": FULL, "disks": [{"seconds": 0.1}]}, f"suspicious: {FULL}"),
        (
            {"storage": "", "storage_problem": "", "disks": [{"seconds": 0.1}, {"seconds": 2}]},
            "test write 0.1 s and 2 s",
        ),
        ({}, "not tested yet"),
        (None, "not tested: leaderl does not answer"),
    ],
)
def test_status_says_what_the_test_writes_found(said: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaderl_status(timeout: float) -> dict[str, Any]:
        if said is None:
            raise VerbError("leaderl does not answer")
        return dict(said)

    monkeypatch.setattr(status, "leaderl_status", leaderl_status)
    row = status.disks(SETTINGS, 1.0)[SETTINGS.postgresql.data_dir]
    assert "GB free" in row and row.endswith(f", {words}")
