"""How a node gets behind the leader, and how the cluster begins."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.unit.plan_builder import (
    HISTORY_OF_NEW_LEADER,
    KEY,
    NOW,
    cut,
    decide,
    follower,
    only,
    primary,
    report,
    standby,
    stands,
    stopped,
    view,
)

from chefha_core.model import LeaderState, Observation, PgFacts, PgState, Position, TimelineSwitch
from chefha_core.plan import commands as c
from chefha_core.plan.facts import diverged

LED = view(
    leader=dataclasses.replace(KEY, timeline=5),
    timelines=frozenset({1, 5}),
    members={"a": report("a", pg=PgState.PRIMARY, checkpoint_timeline=5), "b": report("b"), "c": report("c")},
)
UNCHECKED = dataclasses.replace(LED, members={"a": report("a", pg=PgState.PRIMARY, checkpoint_timeline=1)})
WAS = stopped(was_primary=True, position=None)
DIVERGED = cut(upstream="10.0.0.1", receiver=True, upstream_history=HISTORY_OF_NEW_LEADER)
EMPTY = PgFacts()
SILENT = cut(upstream="10.0.0.1", receiver=True, upstream_history=(TimelineSwitch(5, 900),), position=Position(5, 100))


def silent(seconds: float, **fields: Any) -> PgFacts:
    """A standby that could stream, and has not for so long."""
    return dataclasses.replace(SILENT, without_stream=seconds, **fields)


TABLE: list[tuple[str, Observation, list[type[c.Command]], str]] = [
    ("streams", follower(), [], "follows a"),
    (
        "F43 the log needed is gone: a fresh base backup",
        follower(etcd=LED, pg=cut(upstream="10.0.0.1", receiver=True, log_gone=True)),
        [c.Clone],
        "not the log any more",
    ),
    (
        "F43 the same, but the leader has not made its first checkpoint yet",
        follower(etcd=UNCHECKED, pg=cut(upstream="10.0.0.1", receiver=True, log_gone=True)),
        [],
        "first checkpoint",
    ),
    ("F05 a follower's PostgreSQL hangs: ended", follower(pg=standby(state=PgState.HUNG)), [c.KillPostgres], "ending"),
    (
        "starting, and waiting for the log of nobody: pointed to the leader",
        follower(pg=standby(state=PgState.STARTING, upstream="", streaming=False)),
        [c.Follow],
        "may not get up",
    ),
    (
        "F38 a leader whom the pillar does not name",
        follower(etcd=view(leader=dataclasses.replace(KEY, name="zz"))),
        [],
        "does not name",
    ),
    (
        "F36 etcd was restored from before this data: nothing of it is touched",
        follower(
            etcd=LED, pg=cut(position=Position(13, 900), upstream="10.0.0.1", upstream_history=HISTORY_OF_NEW_LEADER)
        ),
        [],
        "etcd is older than the data",
    ),
    ("old slots are dropped", follower(pg=standby(slots={"a": False})), [c.Slots], "follows a"),
    ("points elsewhere", follower(pg=cut()), [c.Follow], "pointing to a"),
    (
        "points there, but only to catch up: the leader must keep its log in a slot",
        follower(pg=standby(by_slot=False)),
        [c.Follow],
        "pointing to a",
    ),
    (
        "candidacy is withdrawn before the receiver connects",
        follower(etcd=view(candidates={"b": stands("b")}), pg=cut()),
        [c.WithdrawCandidacy],
        "stands no more",
    ),
    ("stopped standby", follower(pg=stopped()), [c.StartStandby], "starting to follow"),
    ("F14 old primary, crashed: rewind", follower(etcd=LED, pg=WAS), [c.Rewind], "was a primary"),
    ("F44 rewind only after the new leader's checkpoint", follower(etcd=UNCHECKED, pg=WAS), [], "first checkpoint"),
    (
        "F44 rewind only from a leader",
        follower(etcd=view(leader=dataclasses.replace(KEY, state=LeaderState.PROMOTING)), pg=WAS),
        [],
        "waiting until a leads",
    ),
    ("F44 two rewinds failed: clone", follower(etcd=LED, pg=WAS, failed_rejoins=2), [c.Clone], "rewinding failed"),
    ("F44 backs off", follower(etcd=LED, pg=WAS, retry_at=NOW + 8), [], "next attempt in 8 s"),
    (
        "F44 half rewound: clone",
        follower(etcd=LED, pg=dataclasses.replace(WAS, damaged=True)),
        [c.Clone],
        "base backup",
    ),
    ("F19 no data: clone", follower(pg=EMPTY), [c.Clone], "base backup"),
    ("F19 does not start: clone", follower(pg=stopped(), failed_rejoins=3), [c.Clone], "does not start"),
    (
        "handed over cleanly and an ancestor: just start",
        follower(
            etcd=LED,
            pg=stopped(was_primary=True, clean=True, position=Position(1, 90), upstream_history=HISTORY_OF_NEW_LEADER),
        ),
        [c.StartStandby],
        "starting to follow",
    ),
    (
        "stopped cleanly, but behind the fork: rewind",
        follower(
            etcd=LED,
            pg=stopped(was_primary=True, clean=True, position=Position(1, 91), upstream_history=HISTORY_OF_NEW_LEADER),
        ),
        [c.Rewind],
        "was a primary",
    ),
    (
        "stopped cleanly, history unknown yet",
        follower(etcd=LED, pg=stopped(was_primary=True, clean=True)),
        [],
        "tell its history",
    ),
    ("F41 running, diverged: rewind", follower(etcd=LED, pg=DIVERGED), [c.Rewind], "left timeline 1"),
    (
        "F41 on a timeline that the leader never had: rewind",
        follower(etcd=LED, pg=dataclasses.replace(DIVERGED, position=Position(2, 80))),
        [c.Rewind],
        "never was on timeline 2",
    ),
    (
        "not streaming yet, an ancestor",
        follower(etcd=LED, pg=dataclasses.replace(DIVERGED, position=Position(1, 90))),
        [],
        "not streaming",
    ),
    (
        "without a stream for a while: where to look",
        follower(etcd=LED, pg=silent(15)),
        [],
        "a answers; PostgreSQL's own log has the reason (journalctl",
    ),
    (
        "without a stream for long: started anew",
        follower(etcd=LED, pg=silent(30)),
        [c.Restart],
        "streamed from it for 30",
    ),
    ("started anew, and patience doubles", follower(etcd=LED, pg=silent(59), new_starts=1), [], "not streaming"),
    ("a second new start", follower(etcd=LED, pg=silent(60), new_starts=1), [c.Restart], "for 60 s"),
    (
        "two were in vain: cloned",
        follower(etcd=LED, pg=silent(120), new_starts=2),
        [c.Clone],
        "as before it was started anew",
    ),
    ("patience has an end", follower(etcd=LED, pg=silent(3840), new_starts=30), [c.Clone], "for 3840 s"),
    ("the leader does not answer", follower(etcd=LED, pg=silent(900, upstream_history=())), [], "not streaming"),
    ("it has enough to do with its own log", follower(etcd=LED, pg=silent(900, replaying=True)), [], "not streaming"),
    (
        "no new start while it fails again and again",
        follower(etcd=LED, pg=silent(900), retry_at=NOW + 8),
        [],
        "not streaming",
    ),
    ("no new start before the leader's checkpoint", follower(etcd=UNCHECKED, pg=silent(900)), [], "first checkpoint"),
    (
        "started anew, and does not get up: cloned",
        follower(etcd=LED, pg=silent(0, state=PgState.STARTING, since=60.0), new_starts=1),
        [c.Clone],
        "not up after 60 s",
    ),
    (
        "a first start takes as long as it takes",
        follower(etcd=LED, pg=silent(0, state=PgState.STARTING, since=9e9)),
        [],
        "starting",
    ),
    (
        "started anew, with more to replay than can be expected in that time",
        follower(etcd=LED, pg=silent(0, state=PgState.STARTING, since=60.0, redo_bytes=1 << 30), new_starts=1),
        [],
        "starting",
    ),
    (
        "cloned, and the log of the base backup takes as long as it takes",
        follower(etcd=LED, pg=silent(0, state=PgState.STARTING, since=9e9), new_starts=3),
        [],
        "starting",
    ),
    (
        "was a primary on the leader's own timeline: nothing that a rewind could find",
        follower(
            etcd=LED,
            pg=stopped(was_primary=True, clean=True, position=Position(5, 90), upstream_history=HISTORY_OF_NEW_LEADER),
        ),
        [c.Clone],
        "does not tell logs of one timeline apart",
    ),
    (
        "a standby ahead of its leader on the leader's own timeline",
        follower(etcd=LED, pg=dataclasses.replace(DIVERGED, position=Position(5, 901))),
        [c.Clone],
        "does not tell logs of one timeline apart",
    ),
    (
        "promoted by hand and killed: its first checkpoint there never came, and it is rewound",
        follower(etcd=LED, pg=dataclasses.replace(WAS, checkpoint_timeline=5)),
        [c.Rewind],
        "was a primary",
    ),
    ("F42 primary by hand: killed", follower(pg=primary()), [c.KillPostgres, c.EndClientSessions], "a leads"),
    (
        "F42 starting as a primary: killed",
        follower(pg=primary(state=PgState.STARTING)),
        [c.KillPostgres, c.EndClientSessions],
        "a leads",
    ),
    ("busy", follower(pg=cut(), job="StartStandby"), [], "busy"),
]


@pytest.mark.parametrize(("seen", "expected", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_follower(seen: Observation, expected: list[type[c.Command]], reason: str) -> None:
    found = decide(seen)
    assert [type(command) for command in found.commands] == expected, found.reason
    assert reason in found.reason


@pytest.mark.parametrize(
    ("position", "is_diverged"),
    [
        (Position(1, 90), False),
        (Position(1, 91), True),
        (Position(5, 200), False),
        (Position(5, 201), True),
        (Position(2, 50), True),
        (Position(9, 50), True),
    ],
)
def test_diverged(position: Position, is_diverged: bool) -> None:
    assert bool(diverged(cut(position=position), HISTORY_OF_NEW_LEADER)) is is_diverged


def test_nothing_is_said_about_data_of_which_nothing_is_known() -> None:
    assert diverged(cut(), ()) == ""
    assert diverged(cut(position=None), (TimelineSwitch(1, 1),)) == ""


# ---- the first start ----

NONE = {name: report(name, pg=PgState.EMPTY, position=None, streaming=False) for name in "abc"}
NEW = view(
    leader=None,
    leader_revision=0,
    config=None,
    initialiser="",
    sync=None,
    last_epoch=0,
    members=NONE,
    timelines=frozenset(),
)
WON = dataclasses.replace(NEW, initialiser="b")

FIRST: list[tuple[str, Observation, list[type[c.Command]], str]] = [
    ("nobody has data: claim", follower(etcd=NEW, pg=EMPTY), [c.ClaimInitialisation], "nobody has data"),
    (
        "a member has not reported",
        follower(etcd=dataclasses.replace(NEW, members={"b": NONE["b"]}), pg=EMPTY),
        [],
        "waiting until a, c",
    ),
    (
        "F39 another has data: never initdb",
        follower(etcd=dataclasses.replace(NEW, members={**NONE, "c": report("c")}), pg=EMPTY),
        [],
        "c has data",
    ),
    ("F39 empty etcd, data here: never touched", follower(etcd=NEW, pg=stopped()), [], "restore etcd"),
    (
        "F36 keys deleted, history left: never initdb",
        follower(etcd=dataclasses.replace(NEW, last_epoch=4), pg=EMPTY),
        [],
        "somebody deleted keys",
    ),
    ("another won", follower(etcd=dataclasses.replace(NEW, initialiser="c"), pg=EMPTY), [], "c creates"),
    ("won: initdb", follower(etcd=WON, pg=EMPTY), [c.InitDb], "won the right"),
    (
        "won, but another has data by now",
        follower(etcd=dataclasses.replace(WON, members={**NONE, "c": report("c")}), pg=EMPTY),
        [],
        "empty",
    ),
    ("initdb done: start", follower(etcd=WON, pg=stopped(was_primary=True)), [c.StartPrimary], "first start"),
    ("started: publish", follower(etcd=WON, pg=primary()), [c.PublishCluster], "ready"),
    ("busy", follower(etcd=WON, pg=EMPTY, job="InitDb"), [], "busy"),
]


@pytest.mark.parametrize(("seen", "expected", "reason"), [row[1:] for row in FIRST], ids=[row[0] for row in FIRST])
def test_first_start(seen: Observation, expected: list[type[c.Command]], reason: str) -> None:
    found = decide(seen)
    assert [type(command) for command in found.commands] == expected, found.reason
    assert reason in found.reason


def test_whatever_is_empty_nothing_runs_initdb_where_etcd_knows_a_cluster() -> None:
    assert only(decide(follower(pg=EMPTY)), c.Clone).upstream == "10.0.0.1"


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [(0, c.Restart, 1), (1, c.Restart, 2), (2, c.Clone, 3), (3, c.Clone, 4), (5000, c.Clone, 5001)],
)
def test_new_starts_are_counted_from_one_to_the_next(before: int, kind: type[c.Command], after: int) -> None:
    command: Any = only(decide(follower(etcd=LED, pg=silent(3840), new_starts=before)), kind)
    assert command.new_starts == after


def test_a_clone_after_a_vain_new_start_is_not_followed_by_another_while_it_replays() -> None:
    starting = silent(0, state=PgState.STARTING, since=60.0)
    command = only(decide(follower(etcd=LED, pg=starting, new_starts=1)), c.Clone)
    again = decide(follower(etcd=LED, pg=dataclasses.replace(starting, since=9e9), new_starts=command.new_starts))
    assert again.commands == () and "starting" in again.reason


def test_a_base_backup_for_another_reason_counts_for_nothing() -> None:
    assert only(decide(follower(etcd=LED, pg=EMPTY)), c.Clone).new_starts == 0
