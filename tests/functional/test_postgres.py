"""The class Postgres and its monitor on real servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from tests.functional.pg_cluster import PASSWORD, Cluster, Node, cluster, dump, load, monitored, usable

from chefha_core.model import PgState
from chefha_core.parts import postmaster
from chefha_core.parts.postgres import PostgresError
from chefha_core.parts.postgres_control import not_an_ancestor
from chefha_core.parts.postgres_observe import LOG_GONE
from chefha_core.parts.postgres_roles import MONITORS

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "-")


@pytest.fixture
def made() -> Iterator[Cluster]:
    with cluster() as fresh:
        yield fresh


def fail_over(leader: Node, follower: Node, timeline: int) -> None:
    """The follower takes over as leaderl does it; the leader is not asked."""
    follower.postgres.cut_receiver(5)
    follower.postgres.promote(timeline, 10)
    follower.postgres.checkpoint()


# ---- making and following


def test_first_primary_and_clone(made: Cluster) -> None:
    empty = made.nodes[0].postgres.observe()
    assert (empty.state, empty.position) == (PgState.EMPTY, None)
    leader, follower = made.pair()
    facts = leader.wait(lambda f: f.standbys == ("be-2",))
    assert (facts.state, facts.slots, facts.was_primary) == (PgState.PRIMARY, {"be-2": True}, True)
    assert leader.sql("show data_checksums") == [("on",)]
    seen = follower.postgres.observe()
    assert (seen.state, seen.upstream, seen.receiver, seen.streaming) == (PgState.STANDBY, leader.address, True, True)
    assert seen.system_id == facts.system_id and seen.position is not None
    leader.sql("create table t as select 1")
    follower.wait(lambda f: not f.replaying and f.position is not None and f.position > seen.position)  # type: ignore[operator]
    assert oct(leader.places.pgpass.stat().st_mode) == "0o100600"
    for text in (Path(f"/proc/{p}/cmdline").read_bytes() for p in postmaster.processes(follower.places.data)):
        assert PASSWORD.encode() not in text
    assert PASSWORD not in leader.log() and "SCRAM-SHA-256" not in leader.log()


def test_everything_between_members_is_encrypted() -> None:
    with cluster(tls=True) as made:
        leader, follower = made.pair()
        ask = "select bool_and(ssl), count(*) from pg_stat_ssl join pg_stat_replication using (pid)"
        assert leader.sql(ask) == [(True, 1)]
        fail_over(leader, follower, 2)
        leader.postgres.stop("immediate", 5)
        assert leader.postgres.observe(follower.address).upstream_history[-1].timeline == 2
        leader.postgres.rewind(follower.address, 60)
        with pytest.raises(psycopg2.OperationalError, match="no pg_hba"):
            psycopg2.connect(
                host=follower.address,
                port=follower.places.port,
                user="chef_pgsql",
                password=PASSWORD,
                sslmode="disable",
            )


def test_initdb_is_refused_where_data_is(made: Cluster) -> None:
    node = made.first()
    node.postgres.stop("fast", 10)
    with pytest.raises(PostgresError, match="not empty"):
        node.postgres.initdb()
    node.places.data.rename(node.places.old)
    with pytest.raises(PostgresError, match="not empty"):
        node.postgres.initdb()


def with_secrets(node: Node, **changed: str) -> None:
    """As if leaderl was started anew with other settings."""
    secrets = dataclasses.replace(node.settings.secrets, **changed)
    node.settings = dataclasses.replace(node.settings, secrets=secrets)
    node.postgres.settings = node.settings


def test_roles_get_new_passwords_while_followers_stream(made: Cluster) -> None:
    leader, follower = made.pair()
    assert leader.postgres.renew_roles() == []
    new = {"superuser_password": "p'2", "replication_password": "r:2", "rewind_password": "w\\2"}
    with_secrets(follower, **new)
    follower.postgres.write_pgpass()  # is updated first, and cannot come back for the moment
    follower.postgres.cut_receiver(5)
    follower.postgres.set_role(leader.address)
    time.sleep(0.5)
    assert not follower.postgres.observe().streaming
    with_secrets(leader, **new)
    assert leader.postgres.renew_roles() == ["replicator", "rewinder", "chef_pgsql"]
    assert leader.postgres.renew_roles() == []
    follower.wait(lambda f: f.streaming)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        leader.sql("select 1")
    with contextlib.closing(login(leader, "chef_pgsql", "p'2")):
        pass
    receiver = leader.wait(lambda f: f.standbys == ("be-2",))
    with_secrets(leader, replication_password="r3")
    assert leader.postgres.renew_roles() == ["replicator"]
    assert leader.postgres.observe().standbys == receiver.standbys, "what streams goes on"
    assert "SCRAM-SHA-256" not in leader.log()


def test_what_chef_makes_is_md5_and_what_chefha_makes_is_scram(made: Cluster) -> None:
    node = made.first()
    for fronts, kind in (({"fe1": "127.0.0.5"}, "md5"), ({}, "SCRAM-SHA-256")):
        node.postgres.settings = dataclasses.replace(node.settings, frontends=fronts)
        assert node.postgres.renew_roles() == ["chef_pgsql"] and node.postgres.renew_roles() == []
        node.sql("drop role if exists bifrost; create role bifrost login password 'x'")
        stored = dict(node.sql("select rolname, rolpassword from pg_authid where rolpassword is not null"))
        assert str(stored.pop("bifrost")).startswith(kind)
        assert len(stored) == 4 and all(str(text).startswith("SCRAM-SHA-256") for text in stored.values())


def login(
    node: Node, user: str, password: str, database: str = "postgres", source: str = "", **more: str
) -> psycopg2.extensions.connection:
    host = {"host": source or node.address}
    return psycopg2.connect(**host, port=node.places.port, user=user, password=password, dbname=database, **more)


def test_each_role_can_do_its_own_and_nothing_else(made: Cluster) -> None:
    leader, _ = made.pair()
    password = "t" * 32
    leader.sql("create database other")
    leader.sql("create table secret as select 1 as n")
    for user in ("rewinder", "chefha_monitor"):
        with contextlib.closing(login(leader, user, password)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("select count(*) from pg_stat_replication where state is not null and sent_lsn is not null")
            assert cursor.fetchall() == [(1,)]
            for refused in ("select * from secret", "create role more", "select pg_promote()", "checkpoint",
                            "copy (select 1) to program 'true'", "alter role replicator superuser"):  # fmt: skip
                with pytest.raises(psycopg2.Error):
                    cursor.execute(refused)
        for database, more in (("other", {}), ("postgres", {"replication": "true"})):
            with pytest.raises(psycopg2.OperationalError, match="pg_hba"):
                login(leader, user, password, database, **more)
    with pytest.raises(psycopg2.OperationalError, match="pg_hba"):
        login(leader, "replicator", "a:b\\c'd")
    with contextlib.closing(login(leader, "rewinder", password)) as connection, connection.cursor() as cursor:
        cursor.execute("select length(pg_read_binary_file('PG_VERSION'))")
    with contextlib.closing(login(leader, "chefha_monitor", password)) as connection:
        cursor = connection.cursor()
        with pytest.raises(psycopg2.Error):
            cursor.execute("select pg_read_binary_file('PG_VERSION')")
    kinds = leader.sql("select distinct split_part(rolpassword, '$', 1) from pg_authid where rolpassword is not null")
    assert kinds == [("SCRAM-SHA-256",)]


def test_monitors_cannot_use_up_the_places(made: Cluster) -> None:
    node = made.first()
    with contextlib.ExitStack() as taken:
        for _ in range(MONITORS):
            taken.enter_context(contextlib.closing(login(node, "chefha_monitor", "t" * 32)))
        with pytest.raises(psycopg2.OperationalError, match="too many connections"):
            login(node, "chefha_monitor", "t" * 32)


def test_slots(made: Cluster) -> None:
    node = made.first()
    node.postgres.ensure_slots(["be-2", "be-3"])
    node.postgres.ensure_slots(["be-2"])
    node.sql("select pg_create_physical_replication_slot('somebody_elses')")
    node.sql("select pg_create_physical_replication_slot('chefha_gone')")
    assert node.postgres.observe().slots == {"be-2": False, "be-3": False, "chefha_gone": False}
    node.postgres.drop_slots(["be-3", "chefha_gone"])
    assert node.postgres.observe().slots == {"be-2": False}


def test_a_clone_replaces_and_keeps_what_was_there(made: Cluster) -> None:
    leader, follower = made.pair()
    follower.postgres.stop("immediate", 5)
    (follower.places.data / "mark").touch()
    follower.places.fresh.mkdir()  # left by a killed attempt
    (follower.places.fresh / "rubbish").touch()
    seen: list[tuple[int, int]] = []
    follower.postgres.clone(leader.address, 60, lambda done, whole: seen.append((done, whole)), slot=True)
    assert (follower.places.old / "mark").exists() and not (follower.places.data / "mark").exists()
    assert seen and seen[-1][0] <= seen[-1][1]
    follower.postgres.start(primary=False, timeout=20)
    follower.wait(lambda f: f.streaming)
    follower.postgres.forget_old_data()
    assert not follower.places.old.exists()


def test_f43_a_follower_whose_slot_was_lost_is_cloned_and_has_a_slot_again(made: Cluster) -> None:
    leader, follower = made.pair()
    leader.postgres.ensure_slots(["be-2"])
    follower.wait(lambda f: f.streaming)
    follower.postgres.stop("immediate", 5)
    for parameter in ("wal_keep_size = 0", "max_slot_wal_keep_size = '16MB'"):
        leader.sql(f"alter system set {parameter}")
    leader.sql("select pg_reload_conf()")
    for _ in range(4):
        leader.sql("select pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")
    leader.sql("checkpoint")
    assert leader.sql("select wal_status from pg_replication_slots where slot_name = 'chefha_be_2'") == [("lost",)]
    assert leader.postgres.observe().slots == {}, "it keeps no log, so it has to be made again"
    leader.postgres.ensure_slots(["be-2"])
    assert leader.postgres.observe().slots == {"be-2": False}
    follower.postgres.clone(leader.address, 60)
    follower.postgres.start(primary=False, timeout=20)
    follower.wait(lambda f: f.streaming)
    assert leader.postgres.observe().slots == {"be-2": True}
    assert leader.sql("select wal_status from pg_replication_slots where slot_name = 'chefha_be_2'") != [("lost",)]


def test_a_failed_clone_leaves_everything(made: Cluster) -> None:
    leader, follower = made.pair()
    follower.postgres.stop("fast", 10)
    leader.postgres.stop("fast", 10)
    with pytest.raises(PostgresError, match=r"127\.0\.0\.1 cannot be asked for a base backup"):
        follower.postgres.clone(leader.address, 30)
    assert (follower.places.data / "PG_VERSION").exists() and not follower.places.old.exists()
    assert "cannot be asked" in follower.postgres.observe().problem


def test_half_a_swap_is_undone(made: Cluster) -> None:
    leader, follower = made.pair()
    follower.postgres.stop("fast", 10)
    follower.places.data.rename(follower.places.old)
    (follower.places.old / "mark").touch()
    follower.postgres.clone(leader.address, 60)
    assert (follower.places.old / "mark").exists()


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
