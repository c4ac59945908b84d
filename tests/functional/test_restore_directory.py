"""A base backup becomes data of its own: replayed, promoted where it shall be, with another system identifier."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.pg_cluster import Cluster, Node, cluster, usable

from chefha_core.model import PgState
from chefha_core.parts import postgres_control as control_file
from chefha_core.parts.postgres import PostgresError
from chefha_core.parts.postgres_restore import Target, crc32c, make_ready

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable())


@pytest.fixture(name="three")
def _three() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def staging(node: Node) -> Path:
    """A folder beside the data directory that belongs to PostgreSQL's user."""
    folder = node.places.home / "restore"
    folder.mkdir()
    shutil.chown(folder, "postgres", "postgres")
    return folder


def base_backup(node: Node) -> Path:
    """What an archive holds."""
    data = staging(node) / "data"
    argv = [str(node.places.bin / "pg_basebackup"), "-D", str(data), "-h", str(node.places.sockets), "-p",
            str(node.places.port), "-U", "postgres", "-X", "stream", "-c", "fast"]  # fmt: skip
    subprocess.run(argv, check=True, user="postgres", group="postgres", cwd="/", capture_output=True)
    return data


def rows(node: Node) -> int:
    [(count,)] = node.sql("select count(*) from kept")
    assert isinstance(count, int)
    return count


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_a_base_backup_becomes_data_of_its_own_that_a_follower_of_the_old_one_refuses(three: Cluster) -> None:
    leader, follower = three.pair()
    leader.sql("create table kept as select generate_series(1, 100) n")
    data = base_backup(leader)
    leader.sql("insert into kept select generate_series(1, 50)")
    old = leader.postgres.observe().system_id

    new = make_ready(leader.places, leader.settings, data, 9, Target(), 60)
    data.rename(leader.places.restored)
    assert leader.postgres.staged() == new != old
    leader.postgres.stop("fast", 20)
    leader.postgres.swap_in(new)
    assert control_file.system_id(leader.places.replaced(new)) == old
    leader.postgres.set_role("")
    leader.postgres.start(primary=True, timeout=20)
    facts = leader.postgres.observe()
    assert (facts.system_id, facts.state) == (new, PgState.PRIMARY)
    assert facts.position is not None and facts.position.timeline == facts.checkpoint_timeline == 9
    assert rows(leader) == 100

    leader.postgres.ensure_slots([follower.name])
    time.sleep(1.0)
    assert not follower.postgres.observe().streaming
    follower.postgres.stop("immediate", 10)
    three.follow(follower, leader)
    follower.wait(lambda facts: facts.system_id == new)
    leader.postgres.forget_old_data()
    assert [path.name for path in leader.places.home.iterdir() if "before" in path.name] == []


def test_the_leader_may_have_to_start_it_as_a_standby_first(three: Cluster) -> None:
    """As after a restart of leaderl before PostgreSQL ran; a log fresh from pg_resetwal would refuse that."""
    leader = three.first()
    new = make_ready(leader.places, leader.settings, data := base_backup(leader), 5, Target(), 60)
    data.rename(leader.places.restored)
    leader.postgres.stop("fast", 20)
    leader.postgres.swap_in(new)
    leader.postgres.start(primary=False, timeout=20)
    leader.postgres.promote(9, timeout=20)
    assert leader.postgres.observe().state is PgState.PRIMARY


def test_the_passwords_of_now_are_those_of_the_restored_data(three: Cluster) -> None:
    leader = three.first()
    data = base_backup(leader)
    leader.sql("alter role replicator password 'changed since'")
    leader.sql("create table kept (n int)")
    new = make_ready(leader.places, leader.settings, data, 5, Target(), 60)
    data.rename(leader.places.restored)
    leader.postgres.stop("fast", 20)
    leader.postgres.swap_in(new)
    leader.postgres.start(primary=True, timeout=20)
    three.follow(three.nodes[1], leader)


def test_killed_between_its_two_renames_a_swap_goes_on(three: Cluster) -> None:
    leader = three.first()
    new = make_ready(leader.places, leader.settings, data := base_backup(leader), 5, Target(), 60)
    data.rename(leader.places.restored)
    leader.postgres.stop("fast", 20)
    leader.places.data.rename(leader.places.replaced(new))
    assert leader.postgres.observe().state is PgState.EMPTY
    leader.postgres.swap_in(new)
    leader.postgres.start(primary=True, timeout=20)
    with pytest.raises(PostgresError, match="is not the restored data"):
        leader.postgres.swap_in(new)


def test_no_swap_while_postgresql_runs(three: Cluster) -> None:
    leader = three.first()
    new = make_ready(leader.places, leader.settings, data := base_backup(leader), 5, Target(), 60)
    data.rename(leader.places.restored)
    with pytest.raises(PostgresError, match="still uses it"):
        leader.postgres.swap_in(new)
    assert leader.postgres.observe().state is PgState.PRIMARY


def test_a_time_before_and_after_what_is_archived_is_refused_in_words(three: Cluster) -> None:
    leader = three.first()
    leader.sql("create table kept (n int)")
    data = base_backup(leader)
    target = Target(time=(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat())
    with pytest.raises(PostgresError, match="is after the archived log ends"):
        make_ready(leader.places, leader.settings, data, 5, target, 60)


def test_a_base_backup_that_lost_a_file_does_not_verify(three: Cluster) -> None:
    leader = three.first()
    data = base_backup(leader)
    next(path for path in (data / "base" / "1").iterdir() if path.stat().st_size > 8000).unlink()
    with pytest.raises(PostgresError, match="pg_verifybackup failed"):
        make_ready(leader.places, leader.settings, data, 5, Target(), 60)
