"""The class Postgres on real servers that are promoted, cut, rewound and handed over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.pg_cluster import Cluster, cluster, dump, load, monitored, usable

from chefha_core.model import PgState, Position
from chefha_core.parts.postgres import PostgresError
from chefha_core.parts.postgres_control import not_an_ancestor
from chefha_core.parts.postgres_observe import LOG_GONE

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "-")


@pytest.fixture
def made() -> Iterator[Cluster]:
    with cluster() as fresh:
        yield fresh


# ---- elections


def test_promotion_yields_the_timeline_asked_for(made: Cluster) -> None:
    leader, follower = made.pair()
    third = made.nodes[2]
    made.follow(third, leader)
    leader.sql("create table t as select 1 as n")
    leader.postgres.stop("immediate", 5)
    follower.postgres.cut_receiver(5)
    third.postgres.cut_receiver(5)
    begun = time.monotonic()
    follower.postgres.promote(6, 10)
    print(f"promotion took {time.monotonic() - begun:.3f} s")
    assert follower.postgres.observe().position.timeline == 6  # type: ignore[union-attr]
    follower.postgres.promote(6, 10)  # again is harmless
    with pytest.raises(PostgresError, match="timeline 6, not 9"):
        follower.postgres.promote(9, 10)
    follower.postgres.ensure_slots([third.name])
    third.postgres.set_role(follower.address)
    third.wait(lambda f: f.streaming)
    follower.sql("insert into t values (2)")
    third.wait(lambda f: f.position is not None and f.position.timeline == 6)
    # and once more, with gaps of both promotions in the third's past
    follower.postgres.stop("immediate", 5)
    third.postgres.cut_receiver(5)
    third.postgres.promote(11, 10)
    assert third.sql("select n from t order by 1") == [(1,), (2,)]
    history = third.postgres.history(third.address, None)[0]
    assert [row.timeline for row in history] == [1, 6, 11]


def test_a_follower_of_long_ago_finds_its_way(made: Cluster) -> None:
    """It was away for two leaders, and has to walk over all skipped timelines."""
    leader, follower = made.pair()
    third = made.nodes[2]
    made.follow(third, leader)
    follower.postgres.stop("fast", 10)  # is away from now on
    leader.postgres.stop("fast", 10)
    leader.postgres.start(primary=False, timeout=20)
    leader.postgres.promote(4, 10)
    leader.postgres.checkpoint()
    third.wait(lambda f: f.streaming and f.position is not None and f.position.timeline == 4)
    leader.postgres.stop("immediate", 5)
    third.postgres.cut_receiver(5)
    third.postgres.promote(8, 10)
    third.postgres.ensure_slots([follower.name])
    follower.postgres.set_role(third.address)
    follower.postgres.start(primary=False, timeout=20)
    facts = follower.wait(lambda f: f.streaming and f.position is not None and f.position.timeline == 8)
    assert facts.upstream == third.address


def test_cut_under_load_ends_where_the_log_ends(made: Cluster) -> None:
    leader, follower = made.pair()
    with load(leader) as done:
        time.sleep(0.5)
        begun = time.monotonic()
        position = follower.postgres.cut_receiver(5)
        print(f"cut took {time.monotonic() - begun:.3f} s")
        time.sleep(0.3)
    assert len(done) > 10
    facts = follower.postgres.observe(leader.address)
    assert (facts.position, facts.replaying, facts.receiver, facts.upstream) == (position, False, False, "")
    assert not_an_ancestor(position, facts.upstream_history) == ""
    follower.postgres.promote(2, 10)
    assert follower.sql("select pg_is_in_recovery()") == [(False,)]
    history = follower.postgres.history(follower.address, None)[0]
    assert (history[0].timeline, history[0].lsn) == (position.timeline, position.lsn)


def test_acknowledged_commits_are_held_by_the_cut_standby() -> None:
    with cluster("quorum") as made:
        leader, follower = made.pair()
        leader.postgres.set_role("", ("be-2", "be-3"))
        assert leader.postgres.observe().sync_names == ("be-2", "be-3")
        with load(leader) as done:
            time.sleep(0.5)
            position = follower.postgres.cut_receiver(5)
            time.sleep(0.2)
            leader.postgres.stop("immediate", 5)  # first end the commit that waits for ever, then count
            acknowledged = len(done)
        assert follower.postgres.observe().sync_names == ("be-1", "be-3")  # in force before any promotion
        follower.postgres.set_role("")
        follower.postgres.promote(position.timeline + 1, 10)
        follower.postgres._set_role("", (), 1)
        assert follower.sql("select count(*) from load")[0][0] >= acknowledged > 10  # type: ignore[operator]


def test_a_standby_that_is_behind_catches_up_from_another_one_that_is_cut(made: Cluster) -> None:
    """Whoever must not lead may have most; the one behind has missed two leaders."""
    leader, ahead = made.pair()
    behind = made.nodes[2]
    made.follow(behind, leader)
    leader.sql("create table t as select 0 as n")
    behind.postgres.cut_receiver(5)
    for timeline in (5, 9):
        leader.postgres.stop("fast", 10)
        leader.postgres.start(primary=False, timeout=20)
        leader.postgres.promote(timeline, 10)
        leader.sql("insert into t values (1)")
    leader.sql("insert into t select generate_series(1, 5000)")
    ahead.wait(lambda f: f.streaming and f.position == leader.postgres.observe().position)
    leader.postgres.stop("immediate", 5)
    position = ahead.postgres.cut_receiver(5)
    assert behind.postgres.cut_receiver(5) < position
    begun = time.monotonic()
    behind.postgres.catch_up(ahead.address, position, 10)
    print(f"catching up took {time.monotonic() - begun:.3f} s")
    facts = behind.postgres.observe()
    assert facts.position is not None and facts.position >= position
    assert (facts.upstream, facts.receiver, facts.streaming) == ("", False, False)
    assert ahead.postgres.observe().upstream == ""
    behind.postgres.promote(13, 10)
    assert behind.sql("select count(*) from t") == [(5003,)]
    behind.postgres.ensure_slots([ahead.name])
    ahead.postgres.set_role(behind.address)
    ahead.wait(lambda f: f.streaming and f.position is not None and f.position.timeline == 13)


def test_catching_up_in_vain_leaves_the_receiver_cut(made: Cluster) -> None:
    leader, follower = made.pair()
    position = follower.postgres.cut_receiver(5)
    more = Position(position.timeline, position.lsn + (1 << 20))
    begun = time.monotonic()
    with pytest.raises(PostgresError, match=f"has the log up to {position} and not yet all that {leader.address} has"):
        follower.postgres.catch_up(leader.address, more, 60)
    assert time.monotonic() - begun < 30  # it does not wait for what does not come
    facts = follower.postgres.observe()
    assert (facts.upstream, facts.receiver) == ("", False)


def test_a_receiver_without_its_slot_is_told_from_one_that_follows(made: Cluster) -> None:
    """Whoever was interrupted while it caught up, from the member that leads now, has to follow it anew."""
    leader, follower = made.pair()
    follower.postgres._set_role(leader.address, (), 1, by_slot=False)
    follower.wait(lambda f: f.streaming and f.upstream == leader.address and not f.by_slot)
    follower.postgres.set_role(leader.address)
    follower.wait(lambda f: f.streaming and f.upstream == leader.address and f.by_slot)


def test_durability_holds_from_the_first_commit_after_it_is_set(made: Cluster) -> None:
    node = made.first()
    with contextlib.closing(node.connect()) as connection, connection.cursor() as cursor:
        for number in range(5):
            node.postgres.set_role("", ("be-2",))
            patience = threading.Timer(0.15, connection.cancel)
            patience.start()
            cursor.execute(f"create table t{number} (n int)")
            patience.join()
            assert "synchronous replication" in connection.notices.pop()  # it waited, until it was told not to
            node.postgres.set_role("", ())
            node.wait(lambda f: f.sync_names == ())


def test_alter_system_cannot_hide_the_role(made: Cluster) -> None:
    node = made.first()
    node.sql("alter system set synchronous_standby_names = 'nobody'")
    node.sql("alter system set work_mem = '5MB'")
    node.postgres.set_role("", ())
    node.wait(lambda f: f.sync_names == ())
    assert "work_mem" in (node.places.data / "postgresql.auto.conf").read_text()


# ---- rejoining


def test_diverged_primary_is_rewound(made: Cluster) -> None:
    leader, follower = made.pair()
    leader.sql("create table t (n int)")
    follower.wait(lambda f: not f.replaying)
    follower.postgres.cut_receiver(5)
    leader.sql("insert into t values (1)")  # lost: nobody else has it
    os.kill(leader.pid(), signal.SIGKILL)
    leader.postgres.stop("immediate", 5)
    follower.postgres.promote(3, 10)
    follower.postgres.checkpoint()
    follower.sql("insert into t values (2)")
    dead = leader.postgres.observe(follower.address)
    assert (dead.state, dead.was_primary, dead.clean, dead.position) == (PgState.STOPPED, True, False, None)
    assert dead.redo_bytes > 0 and [row.timeline for row in dead.upstream_history] == [1, 3]
    begun = time.monotonic()
    leader.postgres.rewind(follower.address, 60)
    print(f"rewind took {time.monotonic() - begun:.3f} s")
    follower.postgres.ensure_slots([leader.name])
    leader.postgres.set_role(follower.address)
    leader.postgres.start(primary=False, timeout=20)
    leader.wait(lambda f: f.streaming and not f.damaged)
    follower.sql("insert into t values (3)")
    follower.postgres.stop("fast", 10)
    leader.postgres.cut_receiver(5)
    leader.postgres.promote(4, 10)
    assert leader.sql("select n from t order by 1") == [(2,), (3,)]


def test_a_rewind_that_cannot_begin_damages_nothing(made: Cluster) -> None:
    leader, follower = made.pair()
    follower.postgres.stop("fast", 10)
    leader.postgres.stop("fast", 10)
    with pytest.raises(PostgresError, match="pg_rewind failed"):
        follower.postgres.rewind(leader.address, 30)
    facts = follower.postgres.observe()
    assert not facts.damaged and "pg_rewind" in facts.problem and follower.places.standby_signal.exists()
    follower.places.write(follower.places.rewinding, "")  # a rewind that was killed half-way
    assert follower.postgres.observe().damaged
    with pytest.raises(PostgresError, match="half rewound"):
        follower.postgres.start(primary=False, timeout=5)


def test_hand_over_needs_no_rewind(made: Cluster) -> None:
    leader, follower = made.pair()
    with load(leader):
        time.sleep(0.3)
        leader.postgres.checkpoint()
        leader.postgres.end_client_sessions()
        begun = time.monotonic()
        leader.postgres.stop("fast", 10)
        stopped = time.monotonic()
    end = leader.postgres.observe()
    assert (end.state, end.was_primary, end.clean) == (PgState.STOPPED, True, True) and end.position is not None
    held = follower.wait(lambda f: f.position is not None and f.position >= end.position and not f.replaying)  # type: ignore[operator]
    assert held.position == end.position
    assert "CHECKPOINT_SHUTDOWN" in dump(follower.places, "-s", "0/2000000", "-t", "1", "-r", "XLOG")
    seen = time.monotonic()
    position = follower.postgres.cut_receiver(5)
    assert position == end.position
    follower.postgres.promote(2, 10)
    taken = time.monotonic()
    print(f"stop {stopped - begun:.3f} s, seen after {seen - stopped:.3f} s, promotion {taken - seen:.3f} s")
    again = leader.postgres.observe(follower.address)
    assert again.upstream_history[0].lsn == end.position.lsn
    assert not_an_ancestor(end.position, again.upstream_history) == ""
    follower.postgres.ensure_slots([leader.name])
    leader.postgres.set_role(follower.address)
    leader.postgres.start(primary=False, timeout=20)
    leader.wait(lambda f: f.streaming)
    assert Path(leader.places.data / "backup_label.old").exists() is False  # no rewind, no clone


def test_a_clean_stop_that_nobody_heard_is_seen_as_diverged(made: Cluster) -> None:
    leader, follower = made.pair()
    before = follower.postgres.cut_receiver(5)
    leader.postgres.stop("fast", 10)
    follower.postgres.promote(2, 10)
    end = leader.postgres.observe(follower.address)
    assert end.clean and end.position is not None and end.position > before
    assert "goes on to" in not_an_ancestor(end.position, end.upstream_history)


def test_an_upstream_without_the_log_is_told_apart(made: Cluster) -> None:
    leader, follower = made.pair()
    follower.postgres.stop("fast", 10)
    leader.postgres.drop_slots([follower.name])
    leader.sql("alter system set wal_keep_size = 0")
    leader.sql("select pg_reload_conf()")
    leader.sql("create table t (n int)")
    for _ in range(4):
        leader.sql("insert into t values (1); select pg_switch_wal()")
        leader.postgres.checkpoint()
    leader.postgres.ensure_slots([follower.name])
    follower.postgres.start(primary=False, timeout=20)
    facts = follower.wait(lambda f: LOG_GONE in f.problem, history_from=leader.address)
    assert not facts.streaming


def test_a_dead_upstream_does_not_hold_up_looks(made: Cluster) -> None:
    leader, follower = made.pair()
    with monitored(follower, interval=0.2) as (monitor, _):
        monitor.history_from = leader.address
        os.kill(leader.pid(), signal.SIGSTOP)
        follower.postgres.cut_receiver(5)
        for _ in range(3):
            begun = time.monotonic()
            assert monitor.look().upstream == ""
            assert time.monotonic() - begun < 0.4
        time.sleep(1.2)
        assert "cannot be read" in monitor.facts.problem
        os.kill(leader.pid(), signal.SIGCONT)
        until = time.monotonic() + 5
        while not monitor.facts.upstream_history:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert monitor.facts.problem == ""
