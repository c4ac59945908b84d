"""What a leader does while it leads, and when it must stop."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.plan_builder import (
    KEY,
    NOW,
    POLICY,
    TIMES,
    decide,
    follower,
    kinds,
    leader,
    only,
    primary,
    report,
    standby,
    stands,
    stopped,
    view,
)

from chefha_core.model import ClusterConfig, Intent, LeaderState, Lease, Observation, PgState, Position, Probe
from chefha_core.plan import commands as c
from chefha_core.plan import fence

DUE = Lease(3, NOW - 0.6)
PROMOTING = dataclasses.replace(KEY, state=LeaderState.PROMOTING, timeline=5)
DEAD = stopped(was_primary=True, position=None)
ASKED = view(intent=Intent("b", "operator", 3, mod_revision=45), intent_seen_at=NOW - 0.1)
CUT_OFF = dataclasses.replace(ASKED, members={**ASKED.members, "b": report("b", streaming=False)})

TABLE: list[tuple[str, Observation, list[type[c.Command]], str]] = [
    ("all is well, nothing is due", leader(), [], "leads"),
    ("renewal due: key, then address", leader(lease=DUE), [c.Renew, c.HoldAddress], "leads"),
    ("no address yet", leader(address=False), [c.HoldAddress], "leads"),
    (
        "first write of the new state",
        leader(etcd=view(leader=dataclasses.replace(PROMOTING, timeline=1))),
        [c.Renew, c.HoldAddress],
        "leads",
    ),
    (
        "no clients before commits wait for a second node",
        leader(address=False, pg=primary(sync_names=())),
        [c.SetSync],
        "no clients",
    ),
    ("slots of the others", leader(pg=primary(slots={})), [c.Slots], "leads"),
    ("checkpoint that others wait for", leader(pg=primary(position=Position(5, 100))), [c.Checkpoint], "leads"),
    ("F03 leaderl restarted: key first, address kept", leader(lease=None), [c.Renew], "just started"),
    (
        "F06 lease over: nothing held until renewed",
        leader(lease=Lease(3, NOW - 3.1)),
        [c.DropAddress, c.Renew],
        "lease had ended",
    ),
    ("F15 machine was paused", leader(paused=True), [c.DropAddress, c.Renew], "paused"),
    ("lease of an earlier epoch", leader(lease=Lease(2, NOW)), [c.DropAddress, c.Renew], "lease had ended"),
    (
        "F38 key deleted by hand: its holder writes it again",
        leader(etcd=view(leader=None, leader_revision=0), lease=DUE),
        [c.Renew, c.HoldAddress],
        "leads",
    ),
    (
        "F38 key deleted, no lease: stop",
        leader(etcd=view(leader=None, leader_revision=0), lease=None),
        [c.KillPostgres, c.DropAddress, c.EndClientSessions],
        "nobody leads",
    ),
    (
        "F39 another cluster's data is never touched",
        leader(pg=primary(system_id="other")),
        [c.KillPostgres, c.DropAddress, c.EndClientSessions],
        "another cluster",
    ),
    (
        "F36 etcd was restored from before this data: nobody leads by it",
        leader(pg=standby(position=Position(5, 900), upstream="", receiver=False, streaming=False), lease=None),
        [c.DropAddress],
        "etcd is older than the data",
    ),
    (
        "the leader's PostgreSQL runs as a standby: who is ahead is for an election to say",
        leader(pg=standby(upstream="", receiver=False, streaming=False), address=False),
        [c.ReleaseKey],
        "gives up",
    ),
    (
        "F31 a stranger answers for the VIP",
        leader(address=False, address_taken_by="02:42:ac:11:00:09", lease=Lease(3, NOW - 0.1)),
        [c.HoldAddress],
        "02:42:ac:11:00:09 answers for it",
    ),
    (
        "F05 PostgreSQL hangs in a checkpoint: ended",
        leader(pg=primary(state=PgState.HUNG), job="Checkpoint", address=False, lease=Lease(3, NOW - 0.1)),
        [c.KillPostgres],
        "busy",
    ),
    (
        "F51 asked for too long ago: not any more",
        leader(etcd=dataclasses.replace(ASKED, intent_seen_at=NOW - TIMES.handover_timeout - 1)),
        [c.ClearIntent],
        "not possible within",
    ),
    (
        "F01 postmaster dead: address down, restart in place",
        leader(pg=DEAD),
        [c.DropAddress, c.StartPrimary],
        "restarting",
    ),
    (
        "a stopped standby is never started as a primary",
        leader(pg=stopped(), address=False),
        [c.Renew],
        "a standby's",
    ),
    (
        "F08 started twice without success: give up",
        leader(pg=DEAD, address=False, restarts=2),
        [c.ReleaseKey],
        "gives up",
    ),
    (
        "F18 dead and unfit: give up",
        leader(pg=DEAD, address=False, unfit="the disk is full"),
        [c.ReleaseKey],
        "the disk is full",
    ),
    (
        "F58 dead, failover off: restart whatever happens",
        leader(etcd=view(config=ClusterConfig("system-1", False)), pg=DEAD, address=False, restarts=5),
        [c.StartPrimary],
        "restarting",
    ),
    (
        "F01 too much to replay",
        leader(pg=dataclasses.replace(DEAD, redo_bytes=1 << 30), address=False),
        [c.ReleaseKey],
        "longer than a failover",
    ),
    (
        "F05 postmaster hangs: killed and restarted",
        leader(pg=primary(state=PgState.HUNG)),
        [c.DropAddress, c.StartPrimary],
        "does not answer",
    ),
    ("starting: wait", leader(pg=primary(state=PgState.STARTING), address=False), [], "is starting"),
    (
        "F08 starts for ever: killed and restarted",
        leader(pg=primary(state=PgState.STARTING, since=61.0), address=False),
        [c.StartPrimary],
        "does not answer",
    ),
    (
        "F10 PROMOTING and starting: wait, do not give up",
        leader(etcd=view(leader=PROMOTING), pg=standby(state=PgState.STARTING), address=False),
        [],
        "is starting",
    ),
    (
        "F08 elected, but it does not start: give up",
        leader(etcd=view(leader=PROMOTING), pg=stopped(), address=False, failed_rejoins=2),
        [c.ReleaseKey],
        "cannot be promoted",
    ),
    (
        "elected: leave a moment to Salt",
        leader(etcd=view(leader=PROMOTING), pg=standby(), address=False, took_at=NOW - 0.1),
        [],
        "Salt",
    ),
    (
        "F61 elected, nobody reacts",
        leader(etcd=view(leader=PROMOTING), pg=standby(), address=False, took_at=NOW - 0.4),
        [c.Promote],
        "promoting",
    ),
    (
        "elected and asked to converge",
        leader(etcd=view(leader=PROMOTING), pg=standby(), address=False, took_at=NOW, asked_to_converge=3),
        [c.Promote],
        "promoting",
    ),
    (
        "F63 an old event does not hurry it",
        leader(etcd=view(leader=PROMOTING), pg=standby(), address=False, took_at=NOW, asked_to_converge=2),
        [],
        "Salt",
    ),
    (
        "F41 promoted by hand to another timeline: stop",
        leader(etcd=view(leader=PROMOTING), pg=primary(position=Position(2, 100)), address=False),
        [c.StopPostgres],
        "not the one it leads on",
    ),
    (
        "own candidacy left over: withdrawn first",
        leader(etcd=view(candidates={"a": stands("a")})),
        [c.WithdrawCandidacy],
        "stands no more",
    ),
    ("F51 hand-over: checkpoint first", leader(etcd=ASKED), [c.Checkpoint], "checkpoint"),
    (
        "F51 hand-over: then stop",
        leader(etcd=ASKED, prepared_for=45),
        [c.DropAddress, c.EndClientSessions, c.StopPostgres],
        "stopping",
    ),
    (
        "F51 hand-over: the follower streams no more because of the stop, which goes on",
        leader(etcd=CUT_OFF, prepared_for=45, job="StopPostgres", address=False),
        [],
        "hand-over: stopping",
    ),
    (
        "F51 hand-over: a follower that streams no more before the stop is refused",
        leader(etcd=CUT_OFF, prepared_for=45),
        [c.ClearIntent],
        "does not stream",
    ),
    (
        "F51 hand-over: stopped, release",
        leader(etcd=ASKED, prepared_for=45, address=False, pg=stopped(was_primary=True, clean=True)),
        [c.ReleaseKey],
        "released the key to b",
    ),
    (
        "F51 hand-over: not stopped cleanly, lead on",
        leader(etcd=ASKED, prepared_for=45, address=False, pg=DEAD),
        [c.ClearIntent],
        "keeps leading",
    ),
    (
        "F51 hand-over to a dead candidate: refused",
        leader(etcd=dataclasses.replace(ASKED, members={"c": report("c")})),
        [c.ClearIntent],
        "has not reported",
    ),
    (
        "F51 hand-over asked of an earlier leader",
        leader(etcd=view(intent=Intent("b", "x", 2, 45))),
        [c.ClearIntent],
        "leads",
    ),
    ("F33 etcd silent: lead on the lease that is left", leader(etcd=None), [c.HoldAddress], "lease that is left"),
    (
        "F33 etcd silent for longer: ask the members",
        leader(etcd=None, lease=Lease(3, NOW - 1.0)),
        [c.AskFailsafe, c.HoldAddress],
        "lease that is left",
    ),
    (
        "F33 the address comes back with a yes of all",
        leader(etcd=None, address=False),
        [c.HoldAddress],
        "lease that is left",
    ),
    (
        "F33 not where commits do not wait for a second node",
        leader(etcd=None, address=False, pg=primary(sync_names=())),
        [],
        "lease that is left",
    ),
    (
        "F33 lease over: stop",
        leader(etcd=None, lease=Lease(3, NOW - 3.1)),
        [c.KillPostgres, c.DropAddress, c.EndClientSessions],
        "not leading",
    ),
    (
        "F33 etcd silent and PostgreSQL dead: address down",
        leader(etcd=None, pg=DEAD),
        [c.DropAddress],
        "lease that is left",
    ),
]


@pytest.mark.parametrize(("seen", "expected", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_leader(seen: Observation, expected: list[type[c.Command]], reason: str) -> None:
    found = decide(seen)
    assert [type(command) for command in found.commands] == expected, found.reason
    assert reason in found.reason


def test_the_promotion_sets_who_acknowledges_first() -> None:
    found = decide(leader(etcd=view(leader=PROMOTING), pg=standby(), address=False, took_at=NOW - 1))
    promote = only(found, c.Promote)
    assert (promote.timeline, promote.sync_names) == (5, ("b", "c"))


def test_the_longest_life_of_the_address_ends_before_anybody_may_take_over() -> None:
    latest = TIMES.address + 1.0  # Linux may be a second late
    assert latest <= TIMES.stale_after


def test_the_duplicate_check_is_spared_only_after_a_clean_hand_over() -> None:
    assert only(decide(leader(address=False)), c.HoldAddress).check
    assert not only(decide(leader(address=False, handed_over=True)), c.HoldAddress).check


def test_release_and_renewal_compare_the_revision_that_was_seen() -> None:
    assert only(decide(leader(lease=DUE)), c.Renew).expect == 40
    assert only(decide(leader(pg=DEAD, address=False, restarts=2)), c.ReleaseKey).expect == 40


def test_nothing_but_stopping_follows_from_a_key_that_names_another() -> None:
    seen = dataclasses.replace(leader(), name="b")
    assert kinds(seen) == [c.KillPostgres, c.DropAddress, c.EndClientSessions]


VIEW = view()
FAILSAFE = [
    ("etcd answers", VIEW, VIEW, "a", 3, "with a quorum"),
    ("no leader known", None, view(leader=None), "a", 3, "knows no leader"),
    ("nothing known", None, None, "a", 3, "knows no leader"),
    ("another leader", None, VIEW, "c", 3, "knows a as leader"),
    ("another epoch", None, VIEW, "a", 2, "epoch 3"),
    ("stands itself", None, view(candidates={"b": stands("b")}), "a", 3, "stands for election"),
    ("agrees", None, VIEW, "a", 3, ""),
]


@pytest.mark.parametrize(
    ("now", "last", "who", "epoch", "reason"), [row[1:] for row in FAILSAFE], ids=[row[0] for row in FAILSAFE]
)
def test_f33_failsafe_answer(now: object, last: object, who: str, epoch: int, reason: str) -> None:
    answer = fence.failsafe_answer(now, last, "b", who, epoch)  # type: ignore[arg-type]
    assert reason in answer and bool(reason) == bool(answer)


def test_plans_wake_when_the_key_gets_stale() -> None:
    seen = follower(etcd=view(leader_changed_at=NOW - TIMES.ask_leader_after + 0.01), probe=Probe.UNKNOWN)
    assert decide(seen).wake_at == pytest.approx(NOW + 0.01)
    assert decide(leader()).wake_at == pytest.approx(NOW - 0.2 + POLICY.times.interval)
