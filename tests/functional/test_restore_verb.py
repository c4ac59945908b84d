"""restore against real archives, a real etcd and a real PostgreSQL; what leaderl does is done by its own functions."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional import pg_cluster
from tests.functional.etcd_server import ETCD, EtcdServers
from tests.functional.pg_cluster import Cluster, Node

from chefha_core import codec
from chefha_core.act import Actor
from chefha_core.backup.archive import About, read_about
from chefha_core.leaderl.memory import Memory
from chefha_core.model import ClusterConfig, LeaderKey, LeaderState, MemberReport, PgState, SyncRule
from chefha_core.parts.etcd import EtcdClient
from chefha_core.plan.commands import PublishRestore
from chefha_core.settings import Backup, Settings
from chefha_core.verbs import backup, restore
from chefha_core.verbs.reach import VerbError

pytestmark = [
    pytest.mark.skipif(bool(pg_cluster.usable()), reason=pg_cluster.usable()),
    pytest.mark.skipif(not ETCD, reason="etcd is not installed"),
]
RULE = SyncRule(("be-1", "be-2", "be-3"), 1, 2)
Change = Callable[[Path], None]


@dataclasses.dataclass
class Scene:
    """A leader with a table of 100 rows, an archive of it, and 50 rows more."""

    cluster: Cluster
    leader: Node
    settings: Settings
    etcd: EtcdClient
    archive: Path

    @property
    def about(self) -> About:
        with self.archive.open("rb") as stream:
            return read_about(stream)

    def put(self, key: str, fact: Any) -> None:
        self.etcd.put(key, codec.dump(fact))

    def restore(self, path: Path | None = None, **wish: Any) -> dict[str, Any]:
        return restore.restore(
            self.settings, "be-1", str(path or self.archive), places=self.leader.places, **{"timeout": 60.0, **wish}
        )

    def refused(self, path: Path | None = None, **wish: Any) -> str:
        """The message; nothing has changed."""
        before = self.everything()
        with pytest.raises(VerbError) as caught:
            self.restore(path, **wish)
        assert self.everything() == before
        return str(caught.value)

    def everything(self) -> object:
        names = sorted(p.name for p in self.leader.places.home.iterdir() if not p.name.startswith("."))
        kvs = {key: kv.value for key, kv in self.etcd.range().kvs.items()}
        return names, kvs, self.leader.sql("select count(*) from kept"), self.leader.postgres.observe().system_id

    def report(self, name: str, **fields: Any) -> None:
        base = MemberReport(name, pg_cluster.MEMBERS[name], PgState.STANDBY, "follower", streaming=True)
        self.put(f"members/{name}", dataclasses.replace(base, **fields))


@pytest.fixture(scope="module", name="stage")
def _stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("restore")
    with EtcdServers(folder, count=1) as servers, pg_cluster.cluster() as made:
        leader = made.first()
        store = Backup(directory=str(folder / "store"))
        settings = dataclasses.replace(leader.settings, etcd_endpoints=tuple(servers.endpoints), backup=store)
        leader.sql("create table kept as select generate_series(1, 100) n")
        done = backup.backup(settings, "be-1", force=True, places=leader.places)
        client = servers.client(prefix=f"/chefha/{settings.cluster}/")
        yield Scene(made, leader, settings, client, Path(done["archive"]))


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """As it is before each test: 150 rows, epoch 1, nobody has asked for anything."""
    for key in stage.etcd.range().kvs:
        stage.etcd.delete(key)
    stage.leader.sql("drop table if exists kept; create table kept as select generate_series(1, 150) n")
    facts = stage.leader.postgres.observe()
    assert facts.position is not None
    former = () if facts.system_id == stage.about.system_identifier else (stage.about.system_identifier,)
    stage.put("config", ClusterConfig(facts.system_id, former=former))
    stage.put("leader", LeaderKey("be-1", 1, LeaderState.LEADING, facts.position.timeline))
    stage.put("sync", RULE)
    stage.report("be-1", pg=PgState.PRIMARY, vip=True)
    return dataclasses.replace(stage)


@pytest.fixture
def leaderl(scene: Scene) -> Iterator[Scene]:
    """Carries the request out, as leaderl would; the others clone in no time."""
    ending = threading.Event()
    part: Any = object()
    actor = Actor(scene.settings, "be-1", scene.etcd, scene.leader.postgres, part, part, Memory(), part)

    def exchange() -> None:
        while not ending.wait(0.05):
            view = codec.view(scene.etcd.range(), time.monotonic())
            if (request := view.restore) is None or view.leader is None:
                continue
            scene.leader.postgres.stop("fast", 20)
            command = PublishRestore("asked", view.leader_revision, view.leader.epoch + 1, request, RULE)
            actor.carry_out((command,), part)
            scene.leader.postgres.swap_in(request.system_id)
            scene.leader.postgres.start(primary=True, timeout=20)
            scene.report("be-1", pg=PgState.PRIMARY, vip=True, streaming=False, system_id=request.system_id)
            for name in ("be-2", "be-3"):
                scene.report(name, system_id=request.system_id)
            scene.leader.postgres.forget_old_data()

    thread = threading.Thread(target=exchange)
    thread.start()
    yield scene
    ending.set()
    thread.join(30)


def rows(scene: Scene) -> object:
    return scene.leader.sql("select count(*) from kept")[0][0]


def test_an_archive_becomes_the_clusters_data(leaderl: Scene) -> None:
    told: list[dict[str, Any]] = []
    before = codec.view(leaderl.etcd.range(), 0.0).config
    assert before is not None
    former = (*before.former, before.system_id)
    answer = leaderl.restore(on_step=told.append)
    assert rows(leaderl) == 100
    facts = leaderl.leader.postgres.observe()
    assert (answer["epoch"], answer["system_id"]) == (2, facts.system_id)
    assert [step["outcome"] for step in answer["steps"]] == ["done"] * 8
    assert [step for step in told if step["outcome"] == "done"] == answer["steps"]
    view = codec.view(leaderl.etcd.range(), 0.0)
    assert view.config == ClusterConfig(facts.system_id, former=former)
    assert (view.restore, view.leader and view.leader.timeline) == (None, facts.position and facts.position.timeline)
    assert sorted(p.name for p in leaderl.leader.places.home.iterdir() if p.name[0] != ".") == [
        "data",
        "pgpass",
        "role.conf",
    ]


def test_by_its_name_in_the_store_and_with_a_staging_directory(leaderl: Scene) -> None:
    folder = leaderl.leader.places.home / "mine"
    folder.mkdir()
    leaderl.restore(Path(leaderl.archive.name), staging_dir=str(folder))
    assert (rows(leaderl), list(folder.iterdir())) == (100, [])


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


DAMAGED: dict[str, tuple[Change, str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-20000]) and None, "truncated"),
    "a bit flipped": (flipped, "damaged"),
    "something else": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(100)) and None, "not an archive of chefha"),
    "empty": (lambda path: path.write_bytes(b"") and None, "empty"),
    "gone": (lambda path: path.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_archive_is_refused(scene: Scene, how: str, tmp_path: Path) -> None:
    change, words = DAMAGED[how]
    path = Path(shutil.copy(scene.archive, tmp_path / "damaged.tar.zst"))
    change(path)
    message = scene.refused(path)
    assert words in message and message.endswith("nothing was changed"), message


def test_refused_where_this_node_must_not_restore(scene: Scene) -> None:
    key = LeaderKey("be-2", 1, LeaderState.LEADING, 1)
    cases: list[tuple[str, Any, str]] = [
        ("leader", key, "be-2 is; run it there"),
        ("leader", dataclasses.replace(key, name="be-1", state=LeaderState.PROMOTING), "promoting at the moment"),
        ("intent", {"to": "be-2", "by": "be-1", "epoch": 1}, "a hand-over to be-2 is under way"),
        ("restore", {"by": "be-1", "epoch": 1, "system_id": "5", "timeline": 9, "source": "x"}, "is under way"),
    ]
    for name, fact, words in cases:
        was = scene.etcd.get(name)
        scene.put(name, fact)
        assert words in scene.refused()
        scene.etcd.put(name, was.value) if was else scene.etcd.delete(name)
    scene.etcd.delete("leader")
    assert "no leader now" in scene.refused()


def test_refused_for_its_staging_directory_or_for_room(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    full = scene.leader.places.home / "full"
    full.mkdir()
    (full / "somebody's").touch()
    closed = scene.leader.places.home / "closed"
    closed.mkdir(mode=0o700)
    assert "is not empty" in scene.refused(staging_dir=str(full))
    assert "another file system" in scene.refused(staging_dir="/proc/here")
    assert "cannot get through" in scene.refused(staging_dir=str(closed / "below"))
    assert "is not a directory" in scene.refused(staging_dir=str(full / "somebody's"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 5 << 20))
    assert "MiB needed beside the present data, 5 MiB free" in scene.refused()


def test_refused_as_somebody_elses_without_foreign(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(scene.settings, cluster="other")
    scene.put("config", ClusterConfig("4711"))  # formed anew, and rows are in it
    assert "never had that identifier" in scene.refused()
    theirs = scene.etcd.range().kvs
    client = EtcdClient(other.etcd_endpoints, prefix="/chefha/other/", timeout=2.0)
    for key, kv in theirs.items():
        client.put(key, kv.value)
    mine, scene.settings = scene.settings, other
    assert "is of the cluster chefha" in scene.refused()
    scene.settings = mine
    monkeypatch.setattr("chefha_core.verbs.restore_checks.server_version", lambda places: 13)
    assert "this cluster has 13" in scene.refused(foreign=True)


def test_a_cluster_that_was_formed_anew_and_is_empty_takes_its_own_archive_back(leaderl: Scene) -> None:
    leaderl.put("config", ClusterConfig("4711"))
    leaderl.leader.sql("drop table kept")
    assert leaderl.restore()["epoch"] == 2
    assert rows(leaderl) == 100


def test_refused_by_leaderl_the_old_data_is_served_on_and_nothing_is_left(scene: Scene) -> None:
    def clear() -> None:
        while (kv := scene.etcd.get("restore")) is None:
            time.sleep(0.05)
        asked = json.loads(kv.value)
        scene.put("restore_result", {"system_id": asked["system_id"], "outcome": "refused", "reason": "a storm"})
        scene.etcd.delete("restore")

    thread = threading.Thread(target=clear)
    thread.start()
    with pytest.raises(VerbError, match="a storm; the old data is served on"):
        scene.restore()
    thread.join()
    scene.etcd.delete("restore_result")
    assert not scene.leader.places.restored.exists()
    assert rows(scene) == 150


def test_what_a_killed_one_left_is_cleared_by_the_next(leaderl: Scene) -> None:
    home = leaderl.leader.places.home
    shutil.copytree(leaderl.leader.places.data / "global", home / "restore/data/global")
    (home / "restore/chefha-restore").touch()
    (home / "data.unwanted").mkdir()
    shutil.copytree(leaderl.leader.places.data / "global", home / "data.restored/global")
    (home / "data.restored/global/pg_control").write_bytes(bytes(100))
    leaderl.restore()
    assert rows(leaderl) == 100
    assert not (home / "data.unwanted").exists()


def test_not_confirmed_nothing_has_been_done(scene: Scene) -> None:
    def no(what: str) -> None:
        assert "All data of the cluster chefha is replaced" in what
        raise VerbError("restore: not confirmed, so nothing was changed")

    assert "not confirmed" in scene.refused(agree=no)


def test_two_at_once_on_one_node(scene: Scene) -> None:
    def second(what: str) -> None:
        raise VerbError(scene.refused())

    assert "another one is under way on this node" in scene.refused(agree=second)


@pytest.mark.parametrize("text", ["soon", "2999-01-01T00:00:00"])
def test_a_time_that_is_none(scene: Scene, text: str) -> None:
    message = scene.refused(target_time=text)
    assert "is no time" in message or "is in the future" in message
