"""What a restore of a whole cluster comes to, and what a leaderl that is killed meanwhile leaves."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional import pg_cluster
from tests.functional.whole_cluster import MARKS, Whole, await_true, whole_cluster

from chefha_core.verbs import backup, restore
from chefha_core.verbs.reach import VerbError

pytestmark = MARKS


@dataclasses.dataclass
class Archived(Whole):
    """With an archive of the time when its table had 100 rows."""

    archive: Path = Path()

    def restore(self, name: str, **wish: Any) -> dict[str, Any]:
        return restore.restore(
            self.settings, name, str(self.archive), places=self.node(name).places, **{"timeout": 120.0, **wish}
        )

    def rows(self, name: str) -> object:
        return self.node(name).sql("select count(*) from kept")[0][0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    with whole_cluster(tmp_path_factory.mktemp("whole"), Archived) as found:
        leader = found.await_whole()
        found.node(leader).sql("create table kept as select generate_series(1, 100) n")
        done = backup.backup(found.settings, leader, force=True, places=found.node(leader).places)
        found.archive = Path(done["archive"])
        yield found


def grown(whole: Archived) -> str:
    """The leader of a whole cluster, with rows that the archive has not."""
    leader = whole.await_whole()
    whole.node(leader).sql("insert into kept select generate_series(1, 50)")
    return leader


def test_the_others_clone_what_was_restored_and_the_previous_data_goes(whole: Archived) -> None:
    leader = grown(whole)
    answer = whole.restore(leader)
    assert whole.await_whole() == leader == answer["leader"]
    assert [whole.rows(name) for name in pg_cluster.MEMBERS] == [100] * 3
    assert not list(whole.node(leader).places.home.glob("data.before-*"))
    whole.node(leader).sql("insert into kept values (1)")  # acknowledged by a second node


@pytest.mark.parametrize("trap", ["StopPostgres", "PublishRestore", "SwapIn", "StartPrimary", "HoldAddress"])
def test_leaderl_killed_before_each_step_leaves_the_old_data_or_finishes(whole: Archived, trap: str) -> None:
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


def test_where_all_three_lost_their_data_the_archive_brings_it_back(whole: Archived) -> None:
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
