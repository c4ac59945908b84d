"""Three real leaderl loops over real PostgreSQL and etcd, in one process: only the VIP is a stand-in, as loopback has
no neighbours that could be asked for it. What a restore comes to, and what a leaderl that is killed leaves.
"""

from __future__ import annotations

import dataclasses
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
from chefha_core.leaderl import loop
from chefha_core.model import EtcdView, PgState
from chefha_core.parts import arp
from chefha_core.parts.etcd import EtcdClient
from chefha_core.plan.commands import Command
from chefha_core.settings import Backup, Settings
from chefha_core.verbs import backup, restore
from chefha_core.verbs.reach import VerbError

pytestmark = [
    pytest.mark.skipif(bool(pg_cluster.usable()), reason=pg_cluster.usable()),
    pytest.mark.skipif(not ETCD, reason="etcd is not installed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


class Vip:
    """An address of nobody."""

    def __init__(self, *where: object) -> None:
        self.there = False

    def present(self) -> bool:
        return self.there

    def hold(self, seconds: int) -> None:
        self.there = True

    def drop(self) -> None:
        self.there = False


class Trapped(loop.Leaderl):
    """leaderl that dies before it carries out a command of the kind ``trap``: SystemExit ends a thread in silence."""

    trap = ""

    def start(self) -> Trapped:
        carry_out = self.actor.carry_out

        def carried(commands: tuple[Command, ...], seen: Any) -> None:
            for command in commands:
                if type(command).__name__ == self.trap:
                    self._end()
                    raise SystemExit
                carry_out((command,), seen)

        self.actor.carry_out = carried  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def kill(self) -> None:
        """At once, wherever it is."""
        self._end()
        self.memory.bell.set()
        self.thread.join(10)

    def _end(self) -> None:
        def die(*words: object) -> Any:
            raise SystemExit

        self._observe = die  # type: ignore[method-assign]
        self.reporter.report = die
        self.reporter.bell.set()
        self.disks.look = lambda: None  # type: ignore[method-assign]
        self.doorbell.stop()


@dataclasses.dataclass
class Whole:
    """The cluster and its three leaderl."""

    made: Cluster
    settings: Settings
    etcd: EtcdClient
    archive: Path = Path()
    leaderls: dict[str, Trapped] = dataclasses.field(default_factory=dict)

    def node(self, name: str) -> Node:
        return next(node for node in self.made.nodes if node.name == name)

    def start(self, name: str, trap: str = "") -> None:
        node = self.node(name)
        # each probes the disks of its own data directory
        settings = dataclasses.replace(self.settings, postgresql=node.settings.postgresql)
        leaderl = Trapped(settings, name, node.postgres)
        leaderl.trap = trap
        self.leaderls[name] = leaderl.start()

    def restart(self, name: str, trap: str = "") -> None:
        self.leaderls[name].kill()
        self.start(name, trap)

    def view(self) -> EtcdView:
        return codec.view(self.etcd.range(), 0.0)

    def await_whole(self, timeout: float = 90.0) -> str:
        """One leader with the VIP and two that stream from it; its name."""

        def whole() -> bool:
            view = self.view()
            key, config = view.leader, view.config
            if key is None or config is None or len(view.members) < 3:
                return False
            mine = view.members[key.name]
            others = [report for name, report in view.members.items() if name != key.name]
            follow = all(r.streaming and r.system_id == config.system_id and r.role == "follower" for r in others)
            return mine.vip and mine.pg is PgState.PRIMARY and mine.system_id == config.system_id and follow

        await_true(whole, timeout, lambda: str(self.view()))
        key = self.view().leader
        assert key is not None
        return key.name

    def restore(self, name: str, **wish: Any) -> dict[str, Any]:
        return restore.restore(
            self.settings, name, str(self.archive), places=self.node(name).places, **{"timeout": 120.0, **wish}
        )

    def rows(self, name: str) -> object:
        return self.node(name).sql("select count(*) from kept")[0][0]


def await_true(question: Callable[[], bool], timeout: float, else_say: Callable[[], str]) -> None:
    until = time.monotonic() + timeout
    while not question():
        assert time.monotonic() < until, else_say()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    with (
        pytest.MonkeyPatch.context() as patch,
        EtcdServers(folder, count=1) as servers,
        pg_cluster.cluster("quorum") as made,
    ):
        patch.setattr(loop, "Address", Vip)
        patch.setattr(arp, "announce", lambda *words, **more: None)
        patch.setattr(arp, "who_has", lambda *words: None)
        settings = dataclasses.replace(
            made.nodes[0].settings,
            etcd_endpoints=tuple(servers.endpoints),
            backup=Backup(directory=str(folder / "store")),
            profile="balanced",
        )
        found = Whole(made, settings, servers.client(prefix=f"/chefha/{settings.cluster}/"))
        for name in pg_cluster.MEMBERS:
            found.start(name)
        leader = found.await_whole()
        found.node(leader).sql("create table kept as select generate_series(1, 100) n")
        done = backup.backup(settings, leader, force=True, places=found.node(leader).places)
        found.archive = Path(done["archive"])
        yield found
        for leaderl in found.leaderls.values():
            leaderl.kill()


def grown(whole: Whole) -> str:
    """The leader of a whole cluster, with rows that the archive has not."""
    leader = whole.await_whole()
    whole.node(leader).sql("insert into kept select generate_series(1, 50)")
    return leader


def test_the_others_clone_what_was_restored_and_the_previous_data_goes(whole: Whole) -> None:
    leader = grown(whole)
    answer = whole.restore(leader)
    assert whole.await_whole() == leader == answer["leader"]
    assert [whole.rows(name) for name in pg_cluster.MEMBERS] == [100] * 3
    assert not list(whole.node(leader).places.home.glob("data.before-*"))
    whole.node(leader).sql("insert into kept values (1)")  # acknowledged by a second node


@pytest.mark.parametrize("trap", ["StopPostgres", "PublishRestore", "SwapIn", "StartPrimary", "HoldAddress"])
def test_leaderl_killed_before_each_step_leaves_the_old_data_or_finishes(whole: Whole, trap: str) -> None:
    leader = grown(whole)
    had = whole.rows(leader)
    whole.leaderls[leader].trap = trap if trap != "HoldAddress" else ""
    told: list[str] = []

    def on_step(step: dict[str, Any]) -> None:
        told.append(step["step"])
        if trap == "HoldAddress" and step["step"].startswith("asked"):
            whole.leaderls[leader].trap = trap

    verb = threading.Thread(target=lambda: _quietly(lambda: whole.restore(leader, on_step=on_step)))
    verb.start()
    await_true(lambda: not whole.leaderls[leader].thread.is_alive(), 90, lambda: f"{trap} was never reached: {told}")
    whole.start(leader)
    verb.join(150)
    assert not verb.is_alive()
    now = whole.await_whole()
    assert whole.rows(now) in (had, 100)
    whole.restore(now)
    assert whole.rows(whole.await_whole()) == 100


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except VerbError:
        return


def test_where_all_three_lost_their_data_the_archive_brings_it_back(whole: Whole) -> None:
    leader = grown(whole)
    for leaderl in whole.leaderls.values():
        leaderl.kill()
    for node in whole.made.nodes:
        node.postgres.stop("immediate", 10)
        for path in node.places.home.glob("data*"):
            shutil.rmtree(path)
    for name in pg_cluster.MEMBERS:
        whole.start(name)

    def possible() -> bool:
        try:
            whole.restore(leader, agree=_stop_here)
        except VerbError as refusal:
            return "here it would begin" in str(refusal)
        return False

    await_true(possible, 60, lambda: str(whole.view()))
    whole.restore(leader)
    assert whole.rows(whole.await_whole()) == 100


def _stop_here(what: str) -> None:
    raise VerbError("here it would begin")
