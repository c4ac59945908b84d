"""Three real leaderl loops over real PostgreSQL and etcd, in one process: only the VIP is a stand-in, as loopback has
no neighbours that could be asked for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

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

#: for a module of tests
MARKS = [
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


def await_true(question: Callable[[], bool], timeout: float, else_say: Callable[[], str]) -> None:
    until = time.monotonic() + timeout
    while not question():
        assert time.monotonic() < until, else_say()
        time.sleep(0.2)


W = TypeVar("W", bound=Whole)


@contextlib.contextmanager
def whole_cluster(folder: Path, kind: type[W]) -> Iterator[W]:
    """A new cluster, whole, whose backups go to ``folder``; ended and removed afterwards."""
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
        found = kind(made, settings, servers.client(prefix=f"/chefha/{settings.cluster}/"))
        for name in pg_cluster.MEMBERS:
            found.start(name)
        found.await_whole()
        yield found
        for leaderl in found.leaderls.values():
            leaderl.kill()
