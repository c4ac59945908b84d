"""restore --target-time: a base backup and the archived log, across a change of leader, to a moment in between."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional import pg_cluster
from tests.functional.pg_cluster import Node

import chefha_core
from chefha_core.backup import wal
from chefha_core.parts.postgres import PostgresError
from chefha_core.parts.postgres_restore import make_ready
from chefha_core.settings import Backup, Settings
from chefha_core.verbs import backup
from chefha_core.verbs.restore_checks import Source, moment, time_refusal

pytestmark = pytest.mark.skipif(bool(pg_cluster.usable()), reason=pg_cluster.usable())


@dataclasses.dataclass
class Past:
    """A node that archives its log, an archive of it, and moments after which rows were written."""

    node: Node
    settings: Settings
    archive: Path
    moments: list[str]

    def restored(self, at: str) -> Path:
        """The data directory of that moment, which nobody has started."""
        source, folder = Source(self.settings, str(self.archive)), self.node.places.home / "restore"
        shutil.rmtree(folder, ignore_errors=True)
        for path in (folder, folder / "data"):
            path.mkdir(mode=0o700)
            shutil.chown(path, "postgres", "postgres")
        about = source.extract(folder / "data", self.node.places, 60, lambda name, done: None)
        target = source.target(moment(at), about, folder / "data")
        make_ready(self.node.places, self.settings, folder / "data", 21, target, 60)
        return folder / "data"


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    with pg_cluster.cluster(more={"backup": {"wal_archive": True}}) as made, pytest.MonkeyPatch.context() as patch:
        node = made.nodes[0]
        store = node.places.home.parent / "store"
        (store / "wal").mkdir(parents=True)
        shutil.chown(store / "wal", "postgres", "postgres")
        wanted = Backup(directory=str(store), wal_archive=True)
        settings = dataclasses.replace(node.settings, backup=wanted)
        config, library = store.parent / "backup.json", store.parent / "library"
        config.write_text(wal.config_text(settings))
        config.chmod(0o644)
        shutil.copytree(Path(chefha_core.__file__).parent, library / "chefha_core")
        python = f"env PYTHONPATH={library} CHEFHA_BACKUP_CONFIG={config} /usr/bin/python3"
        node.places.write(
            node.places.config, node.places.config.read_text().replace(f"'{sys.executable}", f"'{python}")
        )
        command = wal.restore_command(python)
        patch.setattr(wal, "restore_command", lambda: command)
        made.first()
        node.sql("create table kept (n int)")
        done = backup.backup(settings, "be-1", force=True, places=node.places)
        yield Past(node, settings, Path(done["archive"]), _written(node, store))


def _written(node: Node, store: Path) -> list[str]:
    """10 rows, a moment, a change of leader, 10 rows, a moment, 10 rows; the two moments."""
    moments = []
    for batch in range(3):
        node.sql("insert into kept select generate_series(1, 10)")
        time.sleep(0.2)
        moments.append(datetime.datetime.now(datetime.UTC).isoformat())
        time.sleep(0.2)
        if batch == 0:
            node.postgres.stop("fast", 20)
            node.postgres.start(primary=False, timeout=20)
            node.postgres.promote(9, timeout=20)
    ((name,),) = node.sql("select pg_walfile_name(pg_switch_wal())")
    until = time.monotonic() + 40
    while not list(store.glob(f"wal/*/*/{name}.z")):
        assert time.monotonic() < until, node.log()[-2000:]
        time.sleep(0.1)
    return moments[:2]


@pytest.mark.parametrize("number", [0, 1])
def test_the_data_is_that_of_the_moment_whoever_led_then(past: Past, number: int) -> None:
    data = past.restored(past.moments[number])
    data.rename(past.node.places.restored)
    past.node.postgres.stop("fast", 20)
    was = past.node.places.data.rename(past.node.places.home / "was")
    try:
        past.node.postgres.swap_in(past.node.postgres.staged())
        past.node.postgres.start(primary=True, timeout=20)
        assert past.node.sql("select count(*) from kept") == [(10 * (number + 1),)]
    finally:
        past.node.postgres.stop("fast", 20)
        shutil.rmtree(past.node.places.data)
        was.rename(past.node.places.data)
        past.node.postgres.start(primary=True, timeout=20)


def test_a_moment_after_the_archived_log_is_refused_with_its_end(past: Past) -> None:
    with pytest.raises(PostgresError, match=r"after the archived log ends, with a transaction of \d{4}-"):
        past.restored(datetime.datetime.now(datetime.UTC).isoformat())


def test_a_moment_before_the_archive_is_refused_with_its_begin(past: Past) -> None:
    about = Source(past.settings, str(past.archive)).about()
    begun = datetime.datetime.fromisoformat(about.time)
    assert "is before this archive, which was begun at" in time_refusal(begun - datetime.timedelta(seconds=1), about)
    assert time_refusal(begun + datetime.timedelta(seconds=1), about) == time_refusal(None, about) == ""
