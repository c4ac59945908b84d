"""Former users of etcd are deleted by the leader alone, and only once no member reports them; watchers change over."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.test_settings import GOOD

from chefha_core import leader_watch
from chefha_core.leaderl.loop import Leaderl
from chefha_core.model import EtcdView, LeaderKey, LeaderState, MemberReport, PgState
from chefha_core.parts.etcd_access import member_user
from chefha_core.settings import from_pillar

SETTINGS = from_pillar(GOOD)
OWN = member_user(SETTINGS)


def round_of(leader: str, users: dict[str, str]) -> Any:
    """What be1 sees: who leads, and by which user each member is in etcd."""
    members = {
        name: MemberReport(name, "", PgState.STANDBY, "follower", etcd_user=user) for name, user in users.items()
    }
    return SimpleNamespace(etcd=EtcdView(1, leader=LeaderKey(leader, 1, LeaderState.LEADING, 1), members=members))


def tidied(*rounds: Any, **settings: Any) -> int:
    """How often be1 set about deleting."""
    begun: list[object] = []
    be1: Any = SimpleNamespace(
        name="be1", settings=dataclasses.replace(SETTINGS, **settings), _users_tidied=False, _forget_users=None,
        worker=SimpleNamespace(aside=begun.append),
    )  # fmt: skip
    for seen in rounds:
        Leaderl._tidy_users(be1, seen)
    return len(begun)


ALL_NEW = dict.fromkeys(SETTINGS.members, OWN)


@pytest.mark.parametrize(
    ("rounds", "times"),
    [
        ([round_of("be1", ALL_NEW)] * 3, 1),
        ([round_of("be2", ALL_NEW)] * 3, 0),
        ([round_of("be1", {**ALL_NEW, "be3": "chefha-old"})], 0),
        ([round_of("be1", {"be1": OWN, "be2": OWN})], 0),
        ([SimpleNamespace(etcd=None)], 0),
        ([round_of("be1", ALL_NEW), round_of("be1", {**ALL_NEW, "be2": ""}), round_of("be1", ALL_NEW)], 2),
        ([round_of("be2", ALL_NEW), round_of("be1", ALL_NEW)], 1),
    ],
    ids=["once", "another leads", "one has the old user", "one says nothing", "no etcd", "again later", "took over"],
)
def test_the_leader_deletes_former_users_when_nobody_reports_them(rounds: list[Any], times: int) -> None:
    assert tidied(*rounds) == times


def test_an_etcd_of_the_users_own_is_left_alone() -> None:
    assert tidied(round_of("be1", ALL_NEW), etcd_endpoints=("http://192.0.2.50:2379",)) == 0


def test_the_watcher_begins_again_when_the_settings_were_written_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else it would go on as a user who is about to be deleted; events that it has not sent are not lost."""
    path, made = tmp_path / "settings.json", []

    class Watcher:
        def __init__(self, *arguments: object) -> None:
            self.unsent: deque[Any] = deque()
            self.ended, self.ticked = False, 0.0
            made.append(self)

        def start(self) -> None:
            pass

        def stop(self) -> None:
            self.ended = True

        def alive(self) -> bool:
            return True

    monkeypatch.setattr(leader_watch, "Watcher", Watcher)
    monkeypatch.setattr(leader_watch, "load", lambda path: SETTINGS)
    path.write_text("{}")
    fire: Any = None
    for seconds in (1000, 1000, 2000):
        os.utime(path, (seconds, seconds))
        leader_watch.tick("be1", fire, path)
    assert [watcher.ended for watcher in made] == [True, False]
    made[1].unsent.append({"epoch": 1})
    os.utime(path, (3000, 3000))
    made_before = len(made)
    told = leader_watch.tick("be1", fire, path)
    assert len(made) == made_before + 1
    assert told == [{"epoch": 1}]
    leader_watch.stop()
