"""The class Postgres on real servers: making, following, cloning, roles and slots."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from tests.functional.pg_cluster import PASSWORD, Cluster, Node, cluster, usable

from chefha_core.model import PgState
from chefha_core.parts import postmaster
from chefha_core.parts.postgres import PostgresError
from chefha_core.parts.postgres_roles import MONITORS
from chefha_core.verbs import pending_restart

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
    for pid in postmaster.processes(follower.places.data):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            assert PASSWORD.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
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


def test_settings_that_count_only_after_a_restart_are_told(made: Cluster) -> None:
    node = made.first()
    assert pending_restart.problem(node.places, time.monotonic() + 5) == ""
    for setting in ("shared_buffers = '20MB'", "work_mem = '5MB'"):
        node.sql(f"alter system set {setting}")
    node.sql("select pg_reload_conf()")
    until = time.monotonic() + 10
    while "its former shared_buffers until" not in (said := pending_restart.problem(node.places, until)):
        assert time.monotonic() < until, said
        time.sleep(0.1)


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
