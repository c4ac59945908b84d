"""upgrade of one member, on a machine that is played: what is asked of it, in which order, and what stops it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chefha_core.data_version import other_major
from chefha_core.parts.salt_call import SaltFailed, answer, applied, well
from chefha_core.settings import SECRETS_OF, from_pillar
from chefha_core.verbs import upgrade
from chefha_core.verbs.reach import VerbError

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}
PILLAR: dict[str, Any] = {
    "members": MEMBERS,
    "vip": "192.0.2.100",
    "secrets": dict.fromkeys(SECRETS_OF["backend"], "a"),
    "tls": {"enabled": False},
}
SETTINGS = from_pillar(PILLAR)


def report(leader: str = "be1", **more: Any) -> dict[str, Any]:
    rows = [
        {"name": n, "role": w, "pg": w, "search": None, "reason": w}
        for n in MEMBERS
        for w in ["leader" if n == leader else "follower"]
    ]
    found = {"leader": leader, "leader_state": "leading", "failover": True, "search": None, "members": rows}
    return {**found, "problems": {}, "etcd_problem": "", **more}


@dataclass
class Played:
    """A member, with a note of what was done to it."""

    leader: str = "be1"
    pending: list[str] = field(default_factory=lambda: ["chefha_library"])
    newer: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    after: dict[str, Any] = field(default_factory=dict)
    failing: str = ""
    did: list[str] = field(default_factory=list)

    def look(self) -> Mapping[str, Any]:
        return report(self.leader, **(self.after if "apply" in self.did else {}))

    def hand_over(self) -> str:
        self.did.append("hand over")
        self.leader = "be2"
        return self.leader

    def packages(self, test: bool, timeout: float) -> list[str]:
        if not test:
            self.did.append("packages")
            self.replaced = self.replaced or ["chefha-etcd.service", "chefha-postgresql.service"]
        return self.newer

    def apply(self, test: bool, timeout: float) -> list[str]:
        self.did.append("look" if test else "apply")
        if self.failing:
            raise SaltFailed(self.failing)
        changed, self.pending = self.pending, self.pending if test else []
        return list(changed)

    def outdated(self) -> list[str]:
        return self.replaced

    def restart(self, unit: str, timeout: float) -> None:
        self.did.append(unit)
        self.replaced = [one for one in self.replaced if one != unit]


@dataclass
class Unlucky(Played):
    """A member whose disk is full; or one that is ``lucky`` with that, and no service of which starts again."""

    lucky: bool = False

    def apply(self, test: bool, timeout: float) -> list[str]:
        if not test and not self.lucky:
            raise SaltFailed("no room")
        return super().apply(test, timeout)

    def restart(self, unit: str, timeout: float) -> None:
        raise VerbError("etcd is down")


def run(name: str, machine: Played, **how: Any) -> dict[str, Any]:
    return upgrade.upgrade(SETTINGS, name, machine=machine, timeout=1, **how)


def test_a_follower_is_brought_up_to_date_where_it_is() -> None:
    machine = Played()
    assert run("be2", machine)["changed"] == ["chefha_library"]
    assert machine.did == ["apply"]
    assert run("be2", machine)["changed"] == []


def test_the_leader_hands_over_first_and_only_if_it_was_told_to() -> None:
    machine = Played()
    with pytest.raises(VerbError, match="be1 leads; upgrade the followers first, then this one with --failover"):
        run("be1", machine)
    assert machine.did == []
    run("be1", machine, failover=True)
    assert machine.did == ["look", "hand over", "apply"]


def test_an_upgrade_that_fails_says_which_steps_are_not_reached() -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError, match='upgrade of be1, after "be2 leads": no room'):
        run("be1", Unlucky(), failover=True, on_step=told.append)
    assert [(row["step"], row["outcome"]) for row in told] == [
        ("the cluster is well", "done"),
        ("be2 leads", "done"),
        ("states applied", "failed"),
        ("the cluster is well", "not reached"),
    ]


def test_a_service_that_does_not_come_back_is_a_step_that_failed() -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError, match="etcd is down"):
        run("be2", Unlucky(replaced=["chefha-etcd.service"], lucky=True), on_step=told.append)
    assert [(row["step"], row["outcome"]) for row in told[2:]] == [
        ("chefha-etcd.service restarted with its new program", "failed"),
        ("the cluster is well", "not reached"),
    ]


def test_a_front_end_is_sent_to_its_states() -> None:
    with pytest.raises(VerbError, match="fe1 is a front end"):
        upgrade.upgrade(SETTINGS, "fe1")
    with pytest.raises(VerbError, match="fe1 is a front end"):
        upgrade.check(SETTINGS, "fe1")


def test_a_leader_with_nothing_to_change_goes_on_leading() -> None:
    machine = Played(pending=[])
    assert run("be1", machine, failover=True, packages=True)["changed"] == []
    assert machine.did == ["look"] and machine.leader == "be1"


@pytest.mark.parametrize("what", ["newer", "replaced", "pending"])
def test_a_leader_hands_over_whatever_it_is_that_would_change(what: str) -> None:
    machine = Played(**{"pending": [], what: ["chefha-etcd.service"]})
    assert "chefha-etcd.service" in run("be1", machine, failover=True, packages=True)["changed"]
    assert machine.did[:2] == ["look", "hand over"] and machine.leader == "be2"


def test_services_whose_program_was_replaced_are_restarted() -> None:
    machine = Played(newer=["postgresql-17"])
    data = run("be3", machine, packages=True)
    assert machine.did == ["packages", "apply", "chefha-etcd.service", "chefha-postgresql.service"]
    assert data["changed"][:2] == ["postgresql-17", "chefha_library"]


@pytest.mark.parametrize(
    ("sick", "words"),
    [
        ({"problems": {"be3": "timed out"}}, "be3: timed out"),
        ({"etcd_problem": "etcd at x: down"}, "etcd at x: down"),
        ({"leader_state": "promoting"}, "be1 is promoting"),
        ({"leader": None, "leader_state": None}, "there is no leader"),
        ({"failover": False}, "failover is off for the cluster"),
    ],
)
def test_a_cluster_that_is_not_well_is_not_touched(sick: dict[str, Any], words: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(upgrade, "PATIENCE", 0)
    machine = Played()
    machine.look = lambda: report(**sick)  # type: ignore[method-assign]
    with pytest.raises(VerbError, match="upgrade is refused: the cluster is not well: .*" + words):
        run("be2", machine)
    assert machine.did == []


def test_a_follower_that_does_not_stream_or_search_that_is_offline_is_not_well() -> None:
    sick = report()
    sick["members"][2] |= {"pg": "syncing", "reason": "not streaming yet"}
    assert upgrade.unwell(sick) == ["be3 is follower, its PostgreSQL syncing: not streaming yet"]
    searching = report(search={"flavor": "opensearch"})
    searching["members"][0]["search"] = "offline"
    assert upgrade.unwell(searching) == ["search on be1 is offline"]


def test_it_ends_where_it_failed_with_the_reason() -> None:
    with pytest.raises(
        VerbError, match='upgrade of be2, after "the cluster is well": state chefha_library failed: no room'
    ):
        run("be2", Played(failing="state chefha_library failed: no room"))
    with pytest.raises(VerbError, match="the states are applied, but: the cluster is not well: be3: gone"):
        run("be2", Played(after={"problems": {"be3": "gone"}}))


def test_what_salt_call_says_is_read_whatever_is_printed_around_it() -> None:
    states = {
        "b": {"__id__": "chefha_two", "result": True, "changes": {"x": 1}, "__run_num__": 1},
        "a": {"__id__": "chefha_one", "result": True, "changes": {}, "__run_num__": 0},
    }
    said = answer("salt-call state.apply", f"[WARNING ] old\n{json.dumps({'local': states})}", 0, "")
    assert list(applied(said).changed) == ["chefha_two"]
    states["a"] |= {"result": False, "comment": "no\n room"}
    with pytest.raises(SaltFailed, match="1 of 2 states failed: chefha_one: no room"):
        well(applied(states))
    with pytest.raises(SaltFailed, match="failed: The function is running; as PID 7"):
        answer("salt-call state.apply", json.dumps({"local": ["The function is running", "as PID 7"]}), 1, "")
    with pytest.raises(SaltFailed, match="ended with 1 and said: no master"):
        answer("salt-call x", "", 1, "[ERROR]\nno master\n")


def test_a_replaced_program_is_told_from_one_that_is_not(tmp_path: Path) -> None:
    for target, expected in (("/usr/bin/etcd", False), ("/usr/bin/etcd (deleted)", True)):
        link = tmp_path / str(expected)
        link.symlink_to(target)
        assert upgrade.replaced(link) is expected
    assert upgrade.replaced(tmp_path / "nobody") is False


def test_another_major_version_is_refused_in_words(tmp_path: Path) -> None:
    settings = from_pillar({**PILLAR, "postgresql": {"version": 17, "data_dir": str(tmp_path)}})
    assert other_major(settings) == ""
    (tmp_path / "PG_VERSION").write_text("13\n")
    assert "the data in" in other_major(settings) and "within a major version only" in other_major(settings)
    (tmp_path / "PG_VERSION").write_text("17\n")
    assert other_major(settings) == ""
