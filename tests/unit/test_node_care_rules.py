"""Verbs of a node: what is refused and in which words, the order of services, what a highstate came to."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import socket
import tarfile
import types
from pathlib import Path
from typing import Any

import pytest

from chefha_core import cli
from chefha_core.parts import systemd
from chefha_core.parts.systemd import UnitState
from chefha_core.settings import SECRETS_OF, Settings, from_pillar
from chefha_core.verbs import care, care_logs, care_reconfigure, services
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.service_rules import Situation, refusal
from chefha_core.verbs.services import services_of

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}
SECRETS = {name: f"s3cret-{name}" for name in SECRETS_OF["backend"]}
PILLAR: dict[str, Any] = {"members": MEMBERS, "vip": "192.0.2.100", "secrets": SECRETS, "tls": {"enabled": False}}
SETTINGS = from_pillar(PILLAR)
ALL = ("etcd", "leaderl", "postgresql", "salt-minion")
FOLLOWER = Situation("stop", "", ALL, frozenset(ALL), standby=True, eligible=("be2",))
LEADER = dataclasses.replace(FOLLOWER, leads=True, standby=False)


@pytest.mark.parametrize("verb", ["stop", "restart", "term", "kill"])
def test_the_leaders_postgresql_is_not_ended_behind_leaderls_back(verb: str) -> None:
    said = refusal(dataclasses.replace(LEADER, verb=verb, service="postgresql"))
    assert said.startswith(f"{verb} postgresql: this node leads") and "demote" in said and "promote" in said
    if verb != "stop":
        assert not refusal(dataclasses.replace(FOLLOWER, verb=verb, service="postgresql"))


@pytest.mark.parametrize("service", ["", "leaderl"])
def test_a_stop_that_would_cost_the_leadership_says_hand_over_first(service: str) -> None:
    said = refusal(dataclasses.replace(LEADER, service=service))
    assert "this node leads" in said and "hand over first: chef-backend-ctl demote" in said
    assert not refusal(dataclasses.replace(FOLLOWER, service=service))


def test_the_last_node_of_a_cluster_that_is_being_stopped_may_stop() -> None:
    assert not refusal(dataclasses.replace(LEADER, eligible=()))
    assert "nobody knows who could take over" in refusal(dataclasses.replace(LEADER, eligible=None))


def test_what_is_stopped_already_is_not_refused() -> None:
    assert not refusal(dataclasses.replace(LEADER, running=frozenset({"etcd"})))
    assert not refusal(dataclasses.replace(LEADER, service="postgresql", running=frozenset()))


def test_a_followers_postgresql_is_not_stopped_while_leaderl_would_start_it_again() -> None:
    said = refusal(dataclasses.replace(FOLLOWER, service="postgresql"))
    assert "leaderl runs and would start it again; stop leaderl first" in said
    assert not refusal(dataclasses.replace(FOLLOWER, service="postgresql", running=frozenset({"postgresql"})))


def test_postgresql_starts_without_leaderl_only_as_a_follower() -> None:
    alone = dataclasses.replace(FOLLOWER, verb="start", service="postgresql", running=frozenset({"etcd"}))
    assert not refusal(alone)
    said = refusal(dataclasses.replace(alone, standby=False))
    assert "only leaderl may permit" in said and "chef-backend-ctl start leaderl" in said
    assert not refusal(dataclasses.replace(alone, standby=False, running=frozenset({"leaderl"})))
    assert "use start" in refusal(dataclasses.replace(alone, verb="once"))


def test_an_unknown_service_is_told_with_those_there_are() -> None:
    said = refusal(dataclasses.replace(FOLLOWER, service="nginx"))
    assert said == "stop nginx: no such service on this node; there are etcd, leaderl, postgresql, salt-minion"


def test_salt_does_not_stop_the_minion_that_answers() -> None:
    wanted = dataclasses.replace(FOLLOWER, verb="restart", service="salt-minion")
    assert not refusal(wanted)
    assert "chef-backend-ctl restart salt-minion" in refusal(dataclasses.replace(wanted, through_salt=True))


def test_a_hang_up_is_for_who_knows_it() -> None:
    wanted = dataclasses.replace(LEADER, verb="hup")
    assert not refusal(wanted) and not refusal(dataclasses.replace(wanted, service="postgresql"))
    assert "etcd would end at a hang-up" in refusal(dataclasses.replace(wanted, service="etcd"))
    assert "does not run" in refusal(dataclasses.replace(wanted, service="postgresql", running=frozenset()))


def test_services_in_their_order() -> None:
    """Up from etcd; down from leaderl, which would start PostgreSQL again; the minion only by name."""
    source = {"package": "opensearch"}
    settings = from_pillar({**PILLAR, "search": {"flavor": "opensearch", "source": source}})
    known = services_of(settings, "be1")
    assert list(known) == ["etcd", "opensearch", "leaderl", "postgresql", "salt-minion"]
    assert services._in_order("start", known) == ["etcd", "opensearch", "leaderl"]
    assert services._in_order("stop", known) == ["leaderl", "postgresql", "opensearch", "etcd"]
    assert services._in_order("hup", known) == ["postgresql"]


def test_a_front_end_has_the_minion_only() -> None:
    pillar = {**PILLAR, "frontends": {"fe1": "192.0.2.31"}, "search": {"source": {"package": "opensearch"}}}
    assert list(services_of(from_pillar(pillar), "fe1")) == ["salt-minion"]


class Systemd:
    """A unit that does as it is told, or not at all."""

    def __init__(self, obeys: bool = True) -> None:
        self.obeys, self.asked = obeys, []  # type: tuple[bool, list[str]]
        self.state = UnitState("inactive", 0, "enabled")

    def ask(self, word: str, unit: str) -> None:
        self.asked.append(f"{word} {unit}")
        if self.obeys:
            up = word != "stop"
            pid = self.state.pid + 7 if up else 0
            self.state = UnitState("active" if up else "inactive", pid, "enabled")


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd()
    monkeypatch.setattr(systemd, "look", lambda unit: made.state)
    monkeypatch.setattr(systemd, "ask", made.ask)
    monkeypatch.setattr(systemd, "systemctl", lambda *words: "")
    monkeypatch.setattr(systemd, "journal", lambda units, lines: ["no room on the disk"])
    monkeypatch.setattr(services, "local", lambda units: {key: {"state": made.state.active} for key in units})
    monkeypatch.setattr(services, "leadership", lambda *words: (False, ()))
    return made


def test_a_service_is_waited_for_until_it_is_so(unit: Systemd) -> None:
    done = services.control(SETTINGS, "be1", "start", "etcd", 5)
    assert [step["step"] for step in done["steps"]] == ["etcd started"]
    done = services.control(SETTINGS, "be1", "start", "etcd", 5)
    assert done["steps"][0]["step"] == "etcd runs already (pid 7)"
    services.control(SETTINGS, "be1", "restart", "etcd", 5)
    services.control(SETTINGS, "be1", "stop", "etcd", 5)
    words = [line.split()[0] for line in unit.asked]
    assert words == ["start", "restart", "stop"]


def test_what_does_not_happen_is_told_with_the_services_last_words(unit: Systemd) -> None:
    unit.obeys = False
    with pytest.raises(
        VerbError, match=r"start etcd: it was asked to start, and after .* it is inactive; its last words: no room"
    ):
        services.control(SETTINGS, "be1", "start", "etcd", 0.2)


def test_postgresql_is_told_to_end_fast(unit: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM would wait for leaderl's own session for ever."""
    unit.state, sent = UnitState("active", 70, ""), []

    def kill(pid: int, number: int) -> None:
        sent.append((pid, int(number)))
        unit.state = UnitState("active", 77, "")

    monkeypatch.setattr("chefha_core.verbs.services.os.kill", kill)
    done = services.control(SETTINGS, "be1", "term", "postgresql", 5)
    assert sent == [(70, 2)] and done["steps"][0]["step"] == "postgresql (pid 70) got SIGINT"


# ---- reconfigure


@pytest.mark.parametrize(("result", "outcome"), [(True, "done"), (False, "failed")])
def test_reconfigure_tells_how_its_step_ended(monkeypatch: pytest.MonkeyPatch, result: bool, outcome: str) -> None:
    answer = {"a": {"__id__": "chefha_x", "result": result, "comment": "no room", "changes": {}}}
    monkeypatch.setattr(care_reconfigure, "_minion_options", lambda: {"file_client": "local"})
    monkeypatch.setattr(care_reconfigure, "salt_call", lambda function, **how: answer)
    told: list[dict[str, Any]] = []
    with contextlib.nullcontext() if result else pytest.raises(VerbError, match=r"reconfigure: .* chefha_x: no room"):
        care_reconfigure.reconfigure(told.append)
    assert [(row["step"], row["outcome"]) for row in told] == [(care_reconfigure.STEP, outcome)]


def row(name: str, result: bool, changes: Any = None, comment: str = "") -> dict[str, Any]:
    return {"__id__": name, "result": result, "changes": changes or {}, "comment": comment}


def test_a_highstate_in_short() -> None:
    answer = {"a": row("chefha_etcd", True), "b": row("chefha_search", True, {"x": 1}, "changed: x")}
    done = care_reconfigure.of_salt(answer)
    assert done == {"states": 2, "changed": {"chefha_search": "changed: x"}, "failed": {}}
    assert care_reconfigure.text(done).endswith("2 states are as wanted, 1 of them changed something")


def test_failed_states_are_told_with_their_reasons() -> None:
    answer = {
        "a": row("chefha_etcd", False, comment="etcd does not start:\n no room"),
        "b": row("chefha_leaderl", False, comment="One or more requisite failed: chefha_etcd"),
    }
    with pytest.raises(
        VerbError, match=r"1 of 2 states failed: chefha_etcd: etcd does not start: no room; 1 more were not"
    ):
        care_reconfigure.of_salt(answer)
    with pytest.raises(VerbError, match="no state was applied: Rendering SLS 'base:chefha' failed"):
        care_reconfigure.of_salt(["Rendering SLS 'base:chefha' failed"])


def test_without_a_master_nothing_is_begun() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not care_reconfigure.master_problem({"master": "127.0.0.1", "master_port": port})
        assert not care_reconfigure.master_problem({"master": ["127.0.0.1:1", f"127.0.0.1:{port}"]})
    said = care_reconfigure.master_problem({"master": "127.0.0.1", "master_port": port})
    assert "no master answers" in said and "nothing was changed" in said
    assert not care_reconfigure.master_problem({"file_client": "local", "master": "127.0.0.1", "master_port": port})


# ---- gather-logs


def test_logs_are_bounded_and_no_secret_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    secret = SECRETS["token"]
    log.write_text("".join(f"{number} the token is {secret}!\n" for number in range(1000)), encoding="ascii")
    monkeypatch.setattr(care_logs, "MOST", 2000)

    def parts(settings: Settings, name: str) -> Any:
        yield care_logs.Part("a.log", care_logs._end_of(log))
        yield care_logs.Part("b.txt", care_logs._command(["sh", "-c", f"echo half of it; echo {secret} >&2; exit 3"]))
        yield care_logs.Part("c.txt", care_logs._end_of(tmp_path / "away"))
        yield care_logs.Part("config.yaml", care_logs._text(lambda: json.dumps(settings.to_dict())))

    monkeypatch.setattr(care_logs, "parts", parts)
    done = care_logs.gather_logs(SETTINGS, "be1", str(tmp_path))
    path = Path(done["path"])
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size == done["bytes"]
    with tarfile.open(path) as archive:
        found = {Path(one.name).name: archive.extractfile(one) or io.BytesIO() for one in archive}
        texts = {name: file.read().decode() for name, file in found.items()}
    assert len(texts["a.log"]) <= 2000 and "999 the token is ********!" in texts["a.log"]
    assert texts["b.txt"] == "half of it\n"
    assert set(done["missing"]) == {"b.txt", "c.txt"}
    assert "c.txt: " in texts["missing.txt"] and "No such file" in texts["missing.txt"]
    everything = json.dumps(done) + "".join(texts.values())
    assert not [name for name, value in SECRETS.items() if value in everything]


def test_gather_logs_needs_a_folder() -> None:
    with pytest.raises(VerbError, match="/nowhere is no folder; name one that is there"):
        care_logs.gather_logs(SETTINGS, "be1", "/nowhere")


# ---- cleanse


def test_cleanse_removes_its_own_and_nothing_beside_it() -> None:
    pillar = {**PILLAR, "postgresql": {"data_dir": "/srv/pg/main"}, "etcd": {"data_dir": "/data"}}
    doomed = {str(path) for path in care.doomed(from_pillar(pillar), "be1")}
    assert {"/etc/chefha", "/srv/pg/main", "/srv/pg/main.old", "/srv/pg/pgpass", "/data"} <= doomed
    assert not {"/srv", "/srv/pg"} & doomed


def test_cleanse_leaves_nothing_that_a_restore_or_a_recovery_has_put_aside(tmp_path: Path) -> None:
    aside = [tmp_path / "pg/main.restored", tmp_path / "pg/main.before-7", tmp_path / "etcd.before-2026"]
    for folder in aside:
        folder.mkdir(parents=True)
    places = {"postgresql": {"data_dir": str(tmp_path / "pg/main")}, "etcd": {"data_dir": str(tmp_path / "etcd")}}
    assert set(aside) <= set(care.doomed(from_pillar(PILLAR | places), "be1"))


def test_cleanse_follows_links_and_leaves_what_is_mounted(tmp_path: Path) -> None:
    for folder in ("elsewhere/base", "data/inner"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("link", "data", "gone"):
        care._remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        (["config", "members/be2", "members/be3"], True),
        (["config", "leader"], True),
        (["members/be2"], True),
        (["config", "members/be2", "removed/be3"], True),
        (["config", "members/be2", "removed/be2"], False),
        ([], False),
    ],
)
def test_with_an_etcd_of_ones_own_a_silent_member_is_one_until_it_is_removed(
    monkeypatch: pytest.MonkeyPatch, keys: list[str], refused: bool
) -> None:
    """Its report is gone as soon as its leaderl is stopped, and the others still count on its data."""
    etcd = types.SimpleNamespace(range=lambda: types.SimpleNamespace(kvs=dict.fromkeys(keys)), close=lambda: None)
    monkeypatch.setattr(care, "etcd_client", lambda *node: etcd)
    monkeypatch.setattr(care, "leadership", lambda *node, **how: (False, ()))
    settings = from_pillar(PILLAR | {"etcd_endpoints": ["http://192.0.2.21:2379"]})
    said = care.membership_problem(settings, "be2")
    assert bool(said) is refused
    if refused:
        assert "remove-node be2; for the last one of all, delete what etcd has below /chefha/chefha/" in said
    assert not care.membership_problem(settings, "fe1")


def test_cleanse_and_uninstall_ask_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("chefha_core.cli.care.node", lambda: (SETTINGS, "be1"))
    monkeypatch.setattr(care, "membership_problem", lambda *node: "")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for verb in ("cleanse", "uninstall"):
        assert cli.main([verb]) == 1
        assert "there is no terminal to ask at: give --yes" in capsys.readouterr().err
