"""backup against a real PostgreSQL: what it makes, what it refuses, and what is left when it is cut short."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.functional import pg_cluster
from tests.functional.pg_cluster import Node

from chefha_core.backup import archive_writer, take
from chefha_core.backup.archive import About, extract
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.stores import Directory
from chefha_core.backup.tar_stream import TarStream
from chefha_core.cli.backups import Progress
from chefha_core.settings import Backup
from chefha_core.verbs import backup
from chefha_core.verbs.reach import VerbError

pytestmark = pytest.mark.skipif(bool(pg_cluster.usable()), reason=pg_cluster.usable())
ROWS = 120_000


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    with pg_cluster.cluster() as made:
        leader, follower = made.pair()
        leader.sql(
            f"create table t as select n, md5(n::text) || md5((n + 1)::text) as text from generate_series(1, {ROWS}) n"
        )
        leader.sql("checkpoint")
        end = leader.postgres.observe().position
        follower.wait(lambda facts: facts.position is not None and facts.position >= end)
        yield leader, follower


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def taken(node: Node, store: Path, **wish: object) -> dict[str, object]:
    """A backup into ``store``."""
    settings = dataclasses.replace(node.settings, backup=Backup(directory=str(store)))
    return backup.backup(settings, node.name, places=node.places, **wish)  # type: ignore[arg-type]


def refused(node: Node, store: Path, **wish: object) -> str:
    with pytest.raises(VerbError) as caught:
        taken(node, store, **wish)
    return str(caught.value)


def extracted(path: Path, folder: Path) -> About:
    """Its data directory, as PostgreSQL's user has it."""
    folder.mkdir(mode=0o700)
    shutil.chown(folder, "postgres", "postgres")
    with path.open("rb") as stream:
        return extract(stream, folder)


def verifies(node: Node, folder: Path) -> bool:
    """What PostgreSQL's own check says."""
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    argv = [f"{node.settings.pg_bin}/pg_verifybackup", "-q", str(folder)]
    return subprocess.run(argv, user="postgres", capture_output=True, cwd="/").returncode == 0


def left(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir()) if store.exists() else []


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_backup_of_a_follower_is_what_pg_verifybackup_accepts_and_starts(
    pair: tuple[Node, Node], store: Path, compression: str
) -> None:
    _, follower = pair
    done = taken(follower, store, compression=compression)
    path = Path(str(done["archive"]))
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size == done["bytes"]
    assert left(store) == [path.name] and done["verified"]
    assert not (follower.places.home / "backup.check").exists()
    folder = store.parent / "data"
    about = extracted(path, folder)
    assert (about.node, about.encoding, about.cluster) == ("be-2", compression, "chefha")
    assert verifies(follower, folder)
    assert rows_in(follower, folder) == ROWS


def rows_in(node: Node, data: Path) -> int:
    """Start a server on an extracted data directory, count, stop it."""
    sockets = data.parent / "sockets"
    sockets.mkdir(exist_ok=True)
    shutil.chown(sockets, "postgres")
    (data / "standby.signal").unlink(missing_ok=True)
    options = f"-c listen_addresses='' -c unix_socket_directories={sockets} -c port=5599 -c hot_standby=off"

    def ctl(*words: str) -> None:
        argv = [f"{node.settings.pg_bin}/pg_ctl", "-D", str(data), "-w", "-l", str(sockets / "log"), *words]
        subprocess.run(argv, user="postgres", check=True, capture_output=True, cwd="/", timeout=60)

    ctl("start", "-o", options)
    try:
        argv = [f"{node.settings.pg_bin}/psql", "-h", str(sockets), "-p", "5599", "-Atc", "select count(*) from t"]
        until = time.monotonic() + 60
        while (asked := subprocess.run(argv, user="postgres", capture_output=True, cwd="/")).returncode:
            assert time.monotonic() < until, (sockets / "log").read_text()  # it replays its log
            time.sleep(0.2)
        return int(asked.stdout)
    finally:
        ctl("stop", "-m", "fast")


def test_a_bare_archive_has_no_secret_and_says_what_to_do_about_search(pair: tuple[Node, Node], store: Path) -> None:
    path = Path(str(taken(pair[1], store)["archive"]))
    plain = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout
    (store.parent / "plain.tar").write_bytes(plain)
    with tarfile.open(store.parent / "plain.tar") as tar:
        names = tar.getnames()
        texts = [tar.extractfile(n).read() for n in names if n.startswith(("configuration/", "search/"))]  # type: ignore[union-attr]
    assert names[0] == "chefha/about.json" and names[-1] == "chefha/manifest.json"
    assert "configuration/settings.json" in names and "configuration/postgresql/pg_hba.conf" in names
    assert any(b"chef-server-ctl reindex" in text for text in texts)
    for secret in (pg_cluster.PASSWORD, "t" * 32, "a:b\\\\c'd"):
        assert not any(secret.encode() in text for text in texts)


def test_on_the_leader_it_is_refused_without_force(pair: tuple[Node, Node], store: Path) -> None:
    leader, _ = pair
    assert "this node leads" in refused(leader, store) and left(store) == []
    assert taken(leader, store, force=True)["verified"]


@pytest.mark.parametrize("damage", ["flip", "short", "missing", "surplus", "no log", "manifest"])
def test_what_pg_verifybackup_refuses_is_refused_here(pair: tuple[Node, Node], store: Path, damage: str) -> None:
    _, follower = pair
    folder = store.parent / "data"
    about = extracted(Path(str(taken(follower, store)["archive"])), folder)
    assert repacked(folder, about) == ""
    victim = max((folder / "base").rglob("*"), key=lambda path: path.stat().st_size)
    if damage == "flip":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "short":
        os.truncate(victim, victim.stat().st_size - 8192)
    elif damage == "missing":
        victim.unlink()
    elif damage == "surplus":
        victim.with_name("99999").write_bytes(b"x")
    elif damage == "no log":
        for segment in (folder / "pg_wal").glob("0*"):
            segment.unlink()
    else:
        text = (folder / "backup_manifest").read_text()
        (folder / "backup_manifest").write_text(text.replace('"Size": 8192', '"Size": 8193', 1))
    assert not verifies(follower, folder)
    assert repacked(folder, about)


def repacked(folder: Path, about: About) -> str:
    """Why a data directory does not become an archive, "" if it does: by the check of the reader and the writer."""
    writer = archive_writer.ArchiveWriter(lambda chunk: None, about)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            info = tarfile.TarInfo(str(path.relative_to(folder)))
            info.size = path.stat().st_size
            with path.open("rb") as file:
                writer.file(info, file, lambda done: None)
    try:
        writer.finish()
    except ArchiveError as error:
        return str(error)
    return ""


def test_log_that_is_damaged_is_found_by_pg_waldump(
    pair: tuple[Node, Node], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged before it was read, so that all checksums fit: only reading the log can tell."""
    real = TarStream.content

    def damaging(self: TarStream, entry: tarfile.TarInfo) -> Iterator[memoryview]:
        content = bytearray(self.text(entry)) if "pg_wal/0" in entry.name else None
        for at in range(0x28, len(content or b""), 4096):
            content[at] ^= 0xFF  # type: ignore[index]
        yield from [memoryview(content)] if content else real(self, entry)

    monkeypatch.setattr(TarStream, "content", damaging)
    monkeypatch.setattr(TarStream, "text", lambda self, entry: b"".join(bytes(piece) for piece in real(self, entry)))
    assert "does not verify: pg_waldump failed" in refused(pair[1], store)
    assert left(store) == []


def test_a_backup_that_does_not_verify_is_removed(
    pair: tuple[Node, Node], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rotten(Directory):
        @contextlib.contextmanager
        def read(self, name: str) -> Iterator[BinaryIO]:
            path = self.folder / name
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 4]))
            with super().read(name) as stream:
                yield stream

    monkeypatch.setattr(backup, "open_store", lambda wanted: Rotten(store))
    assert "does not verify" in refused(pair[1], store)
    assert left(store) == []


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_without_room_nothing_is_begun(pair: tuple[Node, Node], store: Path) -> None:
    with small_disk(store, 30):
        said = refused(pair[1], store)
        assert (
            "not enough room" in said and "MiB may be needed" in said and "29 MiB are free" in said
        ) or "30 MiB" in said
        assert left(store) == []


def test_a_disk_that_fills_up_on_the_way_is_told_and_left_empty(
    pair: tuple[Node, Node], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take, "SPARE", -(1 << 40))
    with small_disk(store, 2):
        assert "No space left on device" in refused(pair[1], store)
        assert left(store) == []


def test_at_its_deadline_it_ends_and_leaves_nothing(pair: tuple[Node, Node], store: Path) -> None:
    began = time.monotonic()
    said = refused(pair[1], store, timeout=2.5, max_rate=1)
    assert "not done within 2.5 s" in said and time.monotonic() - began < 10
    assert left(store) == []
    assert not pair[1].sql("select 1 from pg_replication_slots where slot_name like 'backup%'")


def test_it_reads_no_faster_than_it_may_and_says_how_far_it_is(
    pair: tuple[Node, Node], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    done = taken(pair[1], store, max_rate=10, on_progress=Progress())
    seconds = time.monotonic() - began
    assert seconds > int(str(done["read"])) / 10e6 * 0.8
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("taking")]
    assert len(lines) >= seconds / 2 and "MB/s" in lines[0] and "s left" in lines[0]


def test_a_backup_whose_source_dies_leaves_nothing(pair: tuple[Node, Node], store: Path) -> None:
    """PostgreSQL ends the session in the middle, as a promotion or a restart would."""
    _, follower = pair
    end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'backup'"
    threading.Timer(1.5, follower.sql, [end]).start()
    assert "pg_basebackup failed" in refused(follower, store, max_rate=5)
    assert left(store) == []


def program(node: Node, store: Path, more: str) -> list[str]:
    """A backup in a process of its own."""
    text = f"""
import dataclasses, resource, sys
from pathlib import Path
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import Backup, from_pillar
from chefha_core.verbs import backup
import json
tree = json.loads(sys.stdin.read())
settings = from_pillar(tree)
settings = dataclasses.replace(settings, backup=Backup(directory={str(store)!r}))
places = Places(Path({str(node.places.data)!r}), Path(settings.pg_bin), {node.places.port},
                config=Path({str(node.places.config)!r}), sockets=Path({str(node.places.sockets)!r}))
backup.backup(settings, {node.name!r}, places=places, {more})
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    return [sys.executable, "-c", text]


def started(node: Node, store: Path, more: str = "", **options: object) -> subprocess.Popen[str]:

    made = subprocess.Popen(
        program(node, store, more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload]
    made.stdin.write(json.dumps(node.settings.to_dict()))
    made.stdin.close()
    made.stdin = None
    return made  # type: ignore[no-any-return]


def test_killed_it_leaves_a_partial_that_the_next_one_removes(pair: tuple[Node, Node], store: Path) -> None:
    _, follower = pair
    running = started(follower, store, "max_rate=1")
    until = time.monotonic() + 60
    while not left(store) or not follower.sql("select 1 from pg_stat_replication where application_name = 'backup'"):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "another backup is being taken" in refused(follower, store)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (name,) = left(store)
    assert name.endswith(".partial")
    done = taken(follower, store)
    assert left(store) == [Path(str(done["archive"])).name]


def test_memory_is_constant_and_tmp_is_not_touched(pair: tuple[Node, Node], store: Path) -> None:
    leader, follower = pair
    environment = {**os.environ, "TMPDIR": "/nonexistent"}
    small = [int(n) for n in started(follower, store, env=environment).communicate()[0].split()]
    leader.sql("create table large as select * from t, generate_series(1, 20)")
    leader.sql("checkpoint")
    end = leader.postgres.observe().position
    follower.wait(lambda facts: facts.position is not None and facts.position >= end, 60)
    try:
        large = [int(n) for n in started(follower, store, env=environment).communicate()[0].split()]
    finally:
        leader.sql("drop table large")
    for before, after in zip(small, large, strict=True):
        assert after < before + 20_000 and after < 100_000, (small, large)  # kB


def kept(node: Node, store: Path, cluster: str = "chef") -> dict[str, object]:
    """A backup where two of the newest are kept."""
    settings = dataclasses.replace(node.settings, cluster=cluster, backup=Backup(directory=str(store), keep=2))
    return backup.backup(settings, node.name, places=node.places)


def test_only_so_many_archives_are_kept_of_each_cluster(pair: tuple[Node, Node], store: Path) -> None:
    other = Path(str(kept(pair[1], store, "other")["archive"])).name
    names = [Path(str(kept(pair[1], store)["archive"])).name for _ in range(3)]
    assert left(store) == [other, *names[1:]]


def test_nothing_is_deleted_while_an_archive_cannot_be_read(pair: tuple[Node, Node], store: Path) -> None:
    """Another one may build upon it; the backup itself is taken all the same."""
    names = [Path(str(kept(pair[1], store)["archive"])).name for _ in range(2)]
    whole = (store / names[1]).read_bytes()
    (store / names[1]).write_bytes(b"")
    done = kept(pair[1], store)
    assert names[1] in str(done["retention"]) and "stay as long as this lasts" in str(done["retention"])
    assert left(store) == [*names, Path(str(done["archive"])).name]
    (store / names[1]).write_bytes(whole)
    assert kept(pair[1], store)["retention"] is None and len(left(store)) == 2


def test_two_nodes_back_up_into_one_store_at_once(pair: tuple[Node, Node], store: Path) -> None:
    """Begun in the same second, both get a name, and neither removes what the other one has not finished."""
    half = store / take.owner(pair[0].settings, pair[0].name).partial("chef-backup-2026-01-01-00-00-00.tgz")
    store.mkdir()
    half.touch()
    done = [started(node, store, more) for node, more in zip(pair, ("force=True", ""), strict=True)]
    assert [one.wait(120) for one in done] == [0, 0]
    assert len(left(store)) == 2 and not half.exists()
    half.touch()
    taken(pair[1], store)
    assert half.exists()


def test_a_name_that_is_there_is_never_given_again(store: Path) -> None:
    store.mkdir()
    for name in ("a", "b"):
        (store / name).write_text(name)
    with pytest.raises(ArchiveError, match="b is there already"):
        Directory(store).rename("a", "b")
    assert (store / "b").read_text() == "b"


def test_what_is_asked_wrongly_is_told(pair: tuple[Node, Node], store: Path) -> None:
    _, follower = pair
    assert "expected zstd or gzip" in refused(follower, store, compression="lz4")
    assert "expected MB/s" in refused(follower, store, max_rate=5000)
    assert "no archive in" in refused(follower, store, incremental="newest")
    taken(follower, store)
    assert "there is no archive other.tgz" in refused(follower, store, incremental="other.tgz")
    assert "needs PostgreSQL 17" in refused(follower, store, incremental="newest")
