"""The archived log: PostgreSQL hands it over, gets it back, and whoever asks is told when it does not get through."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional import pg_cluster
from tests.functional.pg_cluster import Node

import chefha_core
from chefha_core.backup import wal
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.stores import Directory
from chefha_core.settings import Backup

pytestmark = pytest.mark.skipif(bool(pg_cluster.usable()), reason=pg_cluster.usable())
SEGMENT = "000000010000000000000003"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory, as far as the program looks at one."""
    folder = tmp_path / "data"
    (folder / "global").mkdir(parents=True)
    (folder / "pg_wal").mkdir()
    (folder / "global/pg_control").write_bytes((42).to_bytes(8, sys.byteorder) + bytes(100))
    (folder / "pg_wal" / SEGMENT).write_bytes(random.Random(1).randbytes(1 << 20) + bytes(15 << 20))
    monkeypatch.chdir(folder)
    return folder


def test_a_segment_goes_there_and_comes_back(data: Path, tmp_path: Path) -> None:
    store = Directory(tmp_path / "store")
    segment = data / "pg_wal" / SEGMENT
    name = wal.push(store, segment)
    assert name == f"wal/42/{SEGMENT[:16]}/{SEGMENT}.z"
    assert store.size(name) < 2 << 20
    assert wal.fetch(store, SEGMENT, data / "back") and (data / "back").read_bytes() == segment.read_bytes()
    assert not wal.fetch(store, "000000010000000000000004", data / "none") and not (data / "none").exists()


def test_the_same_again_is_fine_and_another_content_is_refused(data: Path, tmp_path: Path) -> None:
    store, segment = Directory(tmp_path / "store"), data / "pg_wal" / SEGMENT
    first = wal.push(store, segment)
    assert wal.push(store, segment) == first
    for changed in (bytes(16 << 20), segment.read_bytes() + b"x", segment.read_bytes()[:-1]):
        segment.write_bytes(changed)
        with pytest.raises(ArchiveError, match="with another content"):
            wal.push(store, segment)


def test_what_an_attempt_left_does_not_matter(data: Path, tmp_path: Path) -> None:
    store = Directory(tmp_path / "store")
    rest = tmp_path / f"store/wal/42/{SEGMENT[:16]}/{SEGMENT}.z.partial"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(b"half")
    wal.push(store, data / "pg_wal" / SEGMENT)
    assert [path.name for path in rest.parent.iterdir()] == [f"{SEGMENT}.z"]


def test_log_that_no_archive_needs_is_deleted_and_histories_stay(data: Path, tmp_path: Path) -> None:
    store = Directory(tmp_path / "store")
    names = ["000000010000000000000003", "000000020000000000000004", "000000010000000100000000", "00000002.history"]
    for name in names:
        (data / "pg_wal" / name).write_bytes(b"x")
        wal.push(store, data / "pg_wal" / name)
    assert wal.retire(store, "42", 5 << 24) == 2
    assert {path.rpartition("/")[2] for path in store.below("wal")} == {f"{name}.z" for name in names[2:]}
    assert wal.retire(store, "41", 1 << 40) == 0


def test_a_damaged_segment_is_not_taken_for_the_end_of_the_log(data: Path, tmp_path: Path) -> None:
    store = Directory(tmp_path / "store")
    path = tmp_path / "store" / wal.push(store, data / "pg_wal" / SEGMENT)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArchiveError, match="truncated"):
        wal.fetch(store, SEGMENT, data / "back")
    config = tmp_path / "backup.json"
    config.write_text(wal.config_text(_settings(tmp_path / "store")))

    def run(*words: str) -> int:
        environment = {**os.environ, "CHEFHA_BACKUP_CONFIG": str(config)}
        return subprocess.run([sys.executable, "-m", "chefha_core.backup.wal", *words], env=environment).returncode

    assert run("fetch", SEGMENT, "back") == 200  # which ends a recovery
    assert run("fetch", SEGMENT[:-1] + "4", "back") == 1
    config.unlink()
    assert run("fetch", SEGMENT, "back") == 200 and run("push", f"pg_wal/{SEGMENT}") == 1


def _settings(store: Path):  # type: ignore[no-untyped-def]
    from chefha_core.settings import Settings

    base = Settings(members={}, vip="")
    return dataclasses.replace(base, backup=Backup(directory=str(store), wal_archive=True))


@pytest.fixture(scope="module")
def archiving() -> Iterator[tuple[Node, Path]]:
    """A primary that archives by the command in its own postgresql.conf."""
    with pg_cluster.cluster(more={"backup": {"wal_archive": True}}) as made:
        node = made.nodes[0]
        store = node.places.home.parent / "store"
        (store / "wal").mkdir(parents=True)
        store.chmod(0o711)
        shutil.chown(store / "wal", "postgres", "postgres")
        config = store.parent / "backup.json"
        config.write_text(wal.config_text(_settings(store)))
        config.chmod(0o644)
        library = store.parent / "library"  # where PostgreSQL's user may read it
        shutil.copytree(Path(chefha_core.__file__).parent, library / "chefha_core")
        text = node.places.config.read_text()
        more = f"env PYTHONPATH={library} CHEFHA_BACKUP_CONFIG={config} /usr/bin/python3"
        text = text.replace(f"'{sys.executable}", f"'{more}")
        assert more in text
        node.places.write(node.places.config, text)
        yield made.first(), store


def test_postgresql_archives_its_log_by_the_command_of_its_configuration(archiving: tuple[Node, Path]) -> None:
    node, store = archiving
    node.sql("create table archived as select generate_series(1, 1000)")
    ((name,),) = node.sql("select pg_walfile_name(pg_switch_wal())")
    until = time.monotonic() + 20
    while not list(store.glob(f"wal/*/*/{name}.z")):
        assert time.monotonic() < until, node.log()[-2000:]
        time.sleep(0.1)
    assert wal.problem(node.places, time.monotonic() + 5) == ""


def test_a_log_that_cannot_be_archived_is_a_problem_with_numbers(archiving: tuple[Node, Path]) -> None:
    node, store = archiving
    store.rename(store.with_name("away"))
    store.write_text("not a folder")
    try:
        node.sql("create table unarchived as select generate_series(1, 1000)")
        node.sql("select pg_switch_wal()")
        until = time.monotonic() + 20
        while not (said := wal.problem(node.places, time.monotonic() + 5)):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert "the log is not archived" in said and "segments wait" in said
        assert "log archive" in node.log()  # the reason, in one line
    finally:
        store.unlink()
        store.with_name("away").rename(store)
    until = time.monotonic() + 90
    while wal.problem(node.places, time.monotonic() + 5):
        assert time.monotonic() < until, "it was not archived once that was possible again"
        time.sleep(0.5)
