"""Who takes over, and who does not, as a table of what is seen and what follows."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.plan_builder import (
    HERE,
    KEY,
    NOW,
    POLICY,
    TIMES,
    cut,
    decide,
    follower,
    kinds,
    leader,
    only,
    primary,
    released,
    report,
    stale,
    standby,
    stands,
    stopped,
    view,
)

from chefha_core.model import (
    ClusterConfig,
    LeaderState,
    Observation,
    PgState,
    Position,
    Probe,
    SyncRule,
    TimelineSwitch,
)
from chefha_core.plan import commands as c
from chefha_core.plan.facts import APART

SILENT = {"probe": Probe.SILENT}
BOTH = {"b": stands("b"), "c": stands("c")}
EARLIER = Position(1, 90)

TABLE: list[tuple[str, Observation, list[type[c.Command]], str]] = [
    ("healthy: nothing", follower(), [], "follows a"),
    (
        "key gets stale: the leader is asked before it is",
        follower(etcd=view(leader_changed_at=NOW - TIMES.ask_leader_after - 0.01)),
        [c.AskLeader],
        "a leads",
    ),
    (
        "F14 key nearly stale, leader silent: stands already",
        follower(etcd=view(leader_changed_at=NOW - TIMES.stand_after - 0.01), **SILENT),
        [c.CutReceiver],
        "standing",
    ),
    (
        "two stand before the key is stale: nobody takes it yet",
        follower(etcd=view(leader_changed_at=NOW - TIMES.stale_after + 0.01, candidates=BOTH), pg=cut(), **SILENT),
        [],
        "waits to take over",
    ),
    (
        "key nearly stale, leader says it leads",
        follower(etcd=view(leader_changed_at=NOW - TIMES.stand_after - 0.01), probe=Probe.LEADS),
        [c.AskLeader],
        "answers",
    ),
    (
        "F38 key nearly gone for a lease: no head start",
        follower(etcd=view(leader=None, leader_revision=0, leader_changed_at=NOW - TIMES.stale_after + 0.01)),
        [],
        "its holder has",
    ),
    ("F37 key stale, not asked yet: asked, nothing else", follower(etcd=stale()), [c.AskLeader], "is being asked"),
    (
        "F34 key stale, leader says it leads: stands",
        follower(etcd=stale(), probe=Probe.LEADS),
        [c.AskLeader],
        "answers",
    ),
    (
        "F14 key stale, leader silent: cut the receiver first",
        follower(etcd=stale(), **SILENT),
        [c.CutReceiver],
        "standing",
    ),
    ("F03 key stale, leader denies", follower(etcd=stale(), probe=Probe.DENIES), [c.CutReceiver], "standing"),
    ("cut: say where the log ends", follower(etcd=stale(), pg=cut(), **SILENT), [c.PostCandidacy], "standing"),
    ("still replaying: wait", follower(etcd=stale(), pg=cut(replaying=True), **SILENT), [], "replaying"),
    (
        "receiver not gone yet: cut again",
        follower(etcd=stale(), pg=cut(receiver=True), **SILENT),
        [c.CutReceiver],
        "standing",
    ),
    ("F24 alone: no quorum", follower(etcd=stale(candidates={"b": stands("b")}), pg=cut(), **SILENT), [], "1 of the 2"),
    (
        "two stand, this is the first of equals",
        follower(etcd=stale(candidates=BOTH), pg=cut(), **SILENT),
        [c.TakeKey],
        "taking over",
    ),
    (
        "two stand, the other is first",
        follower("c", etcd=stale(candidates=BOTH), pg=cut(), **SILENT),
        [],
        "b is the most advanced",
    ),
    (
        "F40 the more advanced one leads",
        follower("c", etcd=stale(candidates={"b": stands("b", EARLIER), "c": stands("c")}), pg=cut(), **SILENT),
        [c.TakeKey],
        "taking over",
    ),
    (
        "F40 the most advanced one is barred, an equal is not",
        follower("c", etcd=stale(candidates={"b": stands("b", fit=False), "c": stands("c")}), pg=cut(), **SILENT),
        [c.TakeKey],
        "taking over",
    ),
    (
        "F40 only a barred one has everything: fetch it",
        follower(
            "c",
            etcd=stale(candidates={"b": stands("b", fit=False), "c": stands("c", EARLIER)}),
            pg=cut(position=EARLIER),
            **SILENT,
        ),
        [c.CatchUp],
        "b has everything, but must not lead: fetching it",
    ),
    (
        "F40 the barred one waits meanwhile, whose own report may not have come yet",
        follower(
            etcd=stale(candidates={"b": stands("b", fit=False), "c": stands("c", EARLIER)}, members={"c": report("c")}),
            pg=cut(),
            unfit="its search is offline",
            **SILENT,
        ),
        [],
        "b has everything, but must not lead; c fetches it",
    ),
    (
        "F40 nobody may lead",
        follower(
            "c",
            etcd=stale(candidates={"b": stands("b", fit=False), "c": stands("c", EARLIER, fit=False)}),
            pg=cut(position=EARLIER),
            unfit="its search is offline",
            **SILENT,
        ),
        [],
        "and nobody else that stands may",
    ),
    (
        "leaderl was restarted while it fetched: cut first",
        follower("c", etcd=stale(), pg=cut(position=EARLIER, upstream="10.0.0.2", by_slot=False), **SILENT),
        [c.CutReceiver],
        "standing",
    ),
    (
        "the leader is asked again before its silence is too old",
        follower(etcd=stale(), pg=cut(), **SILENT, probe_age=0.6),
        [c.AskLeader, c.PostCandidacy],
        "standing",
    ),
    (
        "candidacies of an earlier epoch do not count",
        follower(etcd=stale(candidates={"b": stands("b"), "c": stands("c", epoch=2)}), pg=cut(), **SILENT),
        [],
        "1 of the 2",
    ),
    (
        "own log has moved since: post again",
        follower(etcd=stale(candidates={"b": stands("b", EARLIER)}), pg=cut(), **SILENT),
        [c.PostCandidacy],
        "standing",
    ),
    (
        "F41 a timeline that no leader was given does not count",
        follower(etcd=stale(), pg=cut(position=Position(2, 300)), **SILENT),
        [],
        "somebody promoted by hand",
    ),
    (
        "F41 nor does it in another's candidacy",
        follower(etcd=stale(candidates={"b": stands("b"), "c": stands("c", Position(2, 300))}), pg=cut(), **SILENT),
        [],
        "1 of the 2",
    ),
    (
        "promised to the leader: does not stand",
        follower(etcd=stale(), promised_until=NOW + 1, **SILENT),
        [],
        "promised",
    ),
    (
        "F58 failover off for the cluster",
        follower(etcd=stale(config=ClusterConfig("system-1", failover=False)), **SILENT),
        [],
        "switched off",
    ),
    ("a job is under way", follower(etcd=stale(), job="Rewind", **SILENT), [], "busy: Rewind"),
    (
        "F14 stopped: start to see where the log ends",
        follower(etcd=stale(), pg=stopped(), **SILENT),
        [c.StartStandby],
        "starting",
    ),
    ("F08 start failed lately", follower(etcd=stale(), pg=stopped(), retry_at=NOW + 5, **SILENT), [], "does not start"),
    (
        "no data: cannot assert",
        follower(etcd=stale(), pg=standby(state=PgState.EMPTY, position=None), **SILENT),
        [],
        "cannot assert",
    ),
    ("F38 key deleted: its holder has time", follower(etcd=view(leader=None, leader_revision=0)), [], "no rule"),
    (
        "F38 key gone for longer than any lease",
        follower(etcd=stale(leader=None, leader_revision=0)),
        [c.CutReceiver],
        "standing",
    ),
    ("given up: stand at once", follower(etcd=released()), [c.CutReceiver], "standing"),
    ("F51 handed over to this node: take it", follower(etcd=released(to="b", clean=True)), [c.TakeKey], "handed over"),
    ("F51 handed over to another: wait", follower("c", etcd=released(to="b", clean=True)), [], ""),
    (
        "F51 handed over, but the end of the log is missing: an election",
        follower(etcd=released(to="b", clean=True, lsn=101)),
        [c.CutReceiver],
        "standing",
    ),
    (
        "F40 the most advanced candidate has died since: a quorum without it elects",
        follower(
            etcd=stale(
                candidates={**BOTH, "a": stands("a", Position(1, 500))},
                members={name: report(name) for name in "bc"},
            ),
            pg=cut(),
            **SILENT,
        ),
        [c.TakeKey],
        "the most advanced of 2",
    ),
    (
        "F40 without it there is no quorum",
        follower(etcd=stale(candidates=BOTH, members={"b": report("b")}), pg=cut(), **SILENT),
        [],
        "1 of the 2 nodes needed",
    ),
    (
        "F41 promoted by hand after it stood: it stands no more, or the others would wait for it",
        follower(etcd=stale(candidates=BOTH), pg=cut(position=Position(2, 500)), **SILENT),
        [c.WithdrawCandidacy],
        "stands no more: this log does not count",
    ),
    (
        "its PostgreSQL died after it stood",
        follower(etcd=stale(candidates=BOTH), pg=stopped(), **SILENT),
        [c.WithdrawCandidacy],
        "stands no more: PostgreSQL here is stopped",
    ),
    (
        "F41 handed over, but this log is on another timeline",
        follower(
            etcd=dataclasses.replace(released(to="b", clean=True), timelines=frozenset({1, 2})),
            pg=cut(position=Position(2, 300)),
        ),
        [c.PostCandidacy],
        "standing",
    ),
]


@pytest.mark.parametrize(("seen", "expected", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_election(seen: Observation, expected: list[type[c.Command]], reason: str) -> None:
    found = decide(seen)
    assert [type(command) for command in found.commands] == expected, found.reason
    assert reason in found.reason


def test_the_take_over_compares_everything_it_counted() -> None:
    take = only(decide(follower(etcd=stale(candidates=BOTH), pg=cut(), **SILENT)), c.TakeKey)
    assert (take.expect, take.epoch, take.previous) == (40, 4, "a")
    assert {x.name: x.mod_revision for x in take.compared} == {"b": 60, "c": 60}


def test_f41_the_new_timeline_is_none_that_pg_promote_would_choose() -> None:
    take = only(decide(follower(etcd=stale(candidates=BOTH, last_timeline=9), pg=cut(), **SILENT)), c.TakeKey)
    assert take.timeline == 9 + APART and APART > 1


def test_a_clean_hand_over_needs_no_election() -> None:
    take = only(decide(follower(etcd=released(to="b", clean=True))), c.TakeKey)
    assert take.compared == () and take.expect == 40


def test_with_a_quorum_of_one_the_others_get_a_moment_to_stand() -> None:
    rule = SyncRule(("a", "b", "c"), numsync=0, quorum=1)
    etcd = stale(candidates={"b": stands("b")}, sync=rule)
    assert kinds(follower(etcd=etcd, pg=cut(), asserted_at=NOW - 0.1, **SILENT)) == []
    assert kinds(follower(etcd=etcd, pg=cut(), asserted_at=NOW - 0.6, **SILENT)) == [c.TakeKey]


def test_async_loses_no_more_than_the_setting_allows_and_says_how_much() -> None:
    rule = SyncRule(("a", "b", "c"), numsync=0, quorum=1)
    for missing, expected in ((700, [c.TakeKey]), (POLICY.max_behind + 1, [])):
        key = dataclasses.replace(KEY, lsn=HERE.lsn + missing)
        seen = follower(etcd=stale(leader=key, candidates=BOTH, sync=rule), pg=cut(), **SILENT)
        found = decide(seen)
        assert [type(command) for command in found.commands] == expected
        assert str(missing) in found.reason


def test_async_followers_do_not_stand_before_the_address_is_gone() -> None:
    """What is committed until then would be lost."""
    rule = SyncRule(("a", "b", "c"), numsync=0, quorum=1)
    seen = follower(etcd=view(leader_changed_at=NOW - TIMES.stale_after + 0.01, sync=rule), **SILENT)
    assert c.CutReceiver not in kinds(seen)


def test_an_unfit_node_asserts_what_it_holds_but_says_that_it_must_not_lead() -> None:
    post = only(decide(follower(etcd=stale(), pg=cut(), unfit="the disk is full", **SILENT)), c.PostCandidacy)
    assert (post.fit, post.position, post.epoch) == (False, HERE, 3)


def test_f41_a_primary_that_does_not_lead_is_killed_before_anything_else() -> None:
    for etcd in (view(), stale(), released()):
        assert kinds(follower(etcd=etcd, pg=primary(), address=True))[:3] == [
            c.KillPostgres,
            c.DropAddress,
            c.EndClientSessions,
        ]


def test_a_leader_that_gave_up_takes_part_in_the_election_of_its_successor() -> None:
    """Of three nodes one may be dead: the two that are left must both assert."""
    gone = stopped(was_primary=True, position=None)
    seen = dataclasses.replace(follower("b"), name="a", etcd=released(), pg=gone)
    assert kinds(seen) == [c.StartStandby]
    assert kinds(dataclasses.replace(seen, pg=cut(), unfit="the disk is full")) == [c.PostCandidacy]


@pytest.mark.parametrize(
    ("clean", "waits", "state"),
    [
        (True, TIMES.yield_after, LeaderState.LEADING),
        (False, TIMES.yield_after + TIMES.ttl, LeaderState.PROMOTING),
    ],
)
def test_f51_a_released_key_is_taken_back_where_nobody_came(clean: bool, waits: float, state: LeaderState) -> None:
    """After anything but a clean hand-over it may never have been a primary on the key's timeline: it is promoted."""
    etcd = dataclasses.replace(released(clean=clean), leader_changed_at=NOW - waits - 0.01)
    seen = dataclasses.replace(follower("b"), name="a", etcd=etcd, pg=stopped(was_primary=True, clean=clean))
    renew = only(decide(seen), c.Renew)
    assert (renew.expect, renew.epoch, renew.state) == (40, KEY.epoch, state)


NEXT = dataclasses.replace(KEY, name="b", epoch=4, timeline=5)
TAKEN = view(leader=dataclasses.replace(NEXT, state=LeaderState.PROMOTING))
LED_BY_B = view(leader=NEXT, timelines=frozenset({1, 5}))
DOWN = stopped(was_primary=True, clean=True, upstream_history=(TimelineSwitch(1, 100), TimelineSwitch(5, 200)))
#: what the leader that was demoted sees next, and the role that follows
DEMOTED: list[tuple[str, Observation, str]] = [
    ("released to b", leader(etcd=released(to="b", clean=True), pg=DOWN, address=False), "deposed_leader"),
    ("released to whoever", leader(etcd=released(clean=True), pg=DOWN, address=False), "deposed_leader"),
    ("b took it, and this is a primary still", leader(etcd=TAKEN, lease=None), "deposed_leader"),
    ("b promotes", leader(etcd=TAKEN, pg=DOWN, address=False, lease=None), "waiting_for_leader"),
    ("b leads", leader(etcd=LED_BY_B, pg=DOWN, address=False, lease=None), "waiting_for_leader"),
    ("started", leader(etcd=LED_BY_B, pg=standby(upstream="10.0.0.2"), address=False, lease=None), "follower"),
]


@pytest.mark.parametrize(("seen", "role"), [row[1:] for row in DEMOTED], ids=[row[0] for row in DEMOTED])
def test_f51_a_demoted_leader_is_deposed_until_another_leads_and_then_follows_that(
    seen: Observation, role: str
) -> None:
    """Nothing that it does on the way makes its data writable, or takes the address."""
    found = decide(seen)
    assert found.role == role, found.reason
    assert not {c.StartPrimary, c.Promote, c.HoldAddress, c.Renew} & set(kinds(seen))
