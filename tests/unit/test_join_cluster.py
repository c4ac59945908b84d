"""join-cluster: each of its refusals has a message of its own, and changes nothing."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.unit.played_clock import Clock

from chefha_core import node_file
from chefha_core.parts.etcd import EtcdMember
from chefha_core.secrets import generate
from chefha_core.settings import from_pillar
from chefha_core.verbs import join_cluster as joining
from chefha_core.verbs import rejoin
from chefha_core.verbs.join_cluster import Places, Wish, join_cluster
from chefha_core.verbs.reach import VerbError

MEMBERS = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}
SECRETS = {"secrets": {"token": "t"}, "tls": {"ca": "c"}}


@pytest.fixture
def peer() -> Iterator[int]:
    """A port of be1 that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: int) -> Places:
    """A bare machine, be3, whose pillar names three members; its states cannot be applied."""
    shown = {"members": MEMBERS, "leaderl": {"http_port": peer}}
    answers = {"chefha.validate_pillar": shown, "grains.get": "be3"}
    monkeypatch.setattr(joining.salt_call, "salt_call", lambda function, *words, **how: answers[function])
    monkeypatch.setattr(joining, "leaderl_status", lambda: {"role": "follower"})
    monkeypatch.setattr(joining.salt_call, "apply", lambda **how: pytest.fail("it was not refused"))
    return Places(tmp_path / "settings.json", tmp_path / "node.json")


def secrets_file(folder: Path, content: Any = SECRETS, mode: int = 0o600) -> str:
    path = folder / "secrets"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return str(path)


def refusal(places: Places, **wish: Any) -> str:
    """The sentence; nothing may have changed."""
    before = {path: path.read_bytes() for path in places.node_file.parent.iterdir() if path.is_file()}
    with pytest.raises(VerbError) as error:
        join_cluster(Wish(**{"peer": "127.0.0.1", **wish}), places=places)
    after = {path: path.read_bytes() for path in places.node_file.parent.iterdir() if path.is_file()}
    assert after == before
    assert str(error.value).startswith("join-cluster ")
    return str(error.value)


def test_secrets_that_are_missing(places: Places, tmp_path: Path) -> None:
    assert "secrets is missing; make it on a peer" in refusal(places, secrets_file=str(tmp_path / "secrets"))


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read"), ("[1", "cannot be read"), ({"tls": {}}, "has no branch `secrets`")],
)
def test_secrets_that_are_unreadable(places: Places, tmp_path: Path, content: Any, words: str) -> None:
    assert words in refusal(places, secrets_file=secrets_file(tmp_path, content))


def test_a_damaged_file_of_secrets_is_not_quoted(places: Places, tmp_path: Path) -> None:
    damaged = secrets_file(tmp_path, "secrets:\n  token: 'very-secret\n  other: [\n")
    said = refusal(places, secrets_file=damaged)
    assert "it is neither JSON nor YAML, see line" in said
    assert "very-secret" not in said


def test_secrets_that_others_can_read(places: Places, tmp_path: Path) -> None:
    assert "chmod 600" in refusal(places, secrets_file=secrets_file(tmp_path, mode=0o644))


def test_secrets_that_are_there_already(places: Places, tmp_path: Path) -> None:
    node_file.write({**SECRETS, "secrets": {"token": "another"}}, places.node_file)
    assert "which are not overwritten" in refusal(places, secrets_file=secrets_file(tmp_path))


def test_a_damaged_file_of_secrets_that_are_there_already_is_told(places: Places, tmp_path: Path) -> None:
    places.node_file.write_text("{")
    assert f"{places.node_file} cannot be read" in refusal(places, secrets_file=secrets_file(tmp_path))


@pytest.mark.parametrize("there", [{"vip_interface": "lo"}, {**SECRETS, "vip_interface": "lo"}, {"tls": {}}])
def test_secrets_join_what_an_earlier_call_brought(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: dict[str, Any]
) -> None:
    node_file.write(there, places.node_file)
    monkeypatch.setattr(joining, "_follow", lambda *how: None)
    monkeypatch.setattr(joining.salt_call, "apply", lambda **how: None)
    monkeypatch.setattr(joining, "_node", lambda wish, places: (from_pillar(pillar()), "be3"))
    join_cluster(Wish("be1", secrets_file=secrets_file(tmp_path)), places=places)
    assert node_file.read(places.node_file) == {**there, **SECRETS}


def test_an_address_that_is_not_on_this_node(places: Places) -> None:
    assert "192.0.2.7 (-p) is on no interface" in refusal(places, publish_address="192.0.2.7")


def test_an_interface_that_is_not_on_this_node(places: Places) -> None:
    assert "no interface nic7 (-i) on this node; there are" in refusal(places, vip_interface="nic7")


def test_an_address_that_is_registered_already(places: Places) -> None:
    assert "127.0.0.2 is registered already, for be2" in refusal(places, publish_address="127.0.0.2")


def test_an_address_that_the_pillar_does_not_have(places: Places) -> None:
    assert "not the one that pillar chefha:members has for be3" in refusal(places, publish_address="127.0.0.9")


@pytest.mark.parametrize(
    ("role", "pg"),
    [
        *[("leader", "primary"), ("follower", "standby"), ("promoting", "standby"), ("deposed_leader", "primary")],
        ("waiting_for_leader", "standby"),
    ],
)
def test_a_member_already(places: Places, monkeypatch: pytest.MonkeyPatch, role: str, pg: str) -> None:
    monkeypatch.setattr(joining, "leaderl_status", lambda: {"role": role, "pg": pg})
    places.settings.write_text("{}")
    assert "is a member already; to let it in again" in refusal(places)


@pytest.mark.parametrize("pg", ["empty", "stopped", "starting"])
def test_a_new_machine_that_waits_for_its_base_backup_may_ask_again(
    places: Places, monkeypatch: pytest.MonkeyPatch, pg: str
) -> None:
    monkeypatch.setattr(joining, "leaderl_status", lambda: {"role": "waiting_for_leader", "pg": pg})
    assert joining.why_not(Wish("be1"), True, places) == ""


def test_recovery_where_nothing_is_installed(places: Places) -> None:
    assert "nothing is installed here" in refusal(places, recovery=True)


@pytest.mark.parametrize("given", [{"publish_address": "127.0.0.3"}, {"vip_interface": "lo"}])
def test_address_or_interface_given_although_configured(places: Places, given: dict[str, str]) -> None:
    places.settings.write_text("{}")
    assert "-p and -i are for a machine that is not configured" in refusal(places, **given)


def test_a_peer_that_is_nobody_or_does_not_answer(places: Places, tmp_path: Path) -> None:
    secrets = secrets_file(tmp_path)
    assert "192.0.2.7 is no other member" in refusal(places, peer="192.0.2.7", secrets_file=secrets)
    assert "does not answer at 127.0.0.2" in refusal(places, peer="be2", vip_interface="lo")


def test_all_refusals_have_messages_of_their_own(places: Places, tmp_path: Path) -> None:
    wishes: list[dict[str, Any]] = [
        {"secrets_file": str(tmp_path / "none")},
        {"secrets_file": secrets_file(tmp_path, "{")},
        {"publish_address": "192.0.2.7"},
        {"publish_address": "127.0.0.2"},
        {"recovery": True},
    ]
    found = [refusal(places, **wish) for wish in wishes]
    node_file.write({"secrets": {"token": "another"}}, places.node_file)
    found.append(refusal(places, secrets_file=secrets_file(tmp_path)))
    places.settings.write_text("{}")
    found += [refusal(places), refusal(places, vip_interface="lo")]
    assert len({text.replace(str(tmp_path), "") for text in found}) == 8


def test_a_relative_path_of_secrets_does_not_crash_join_cluster(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    applied: list[int] = []
    monkeypatch.setattr(joining.salt_call, "apply", lambda **how: applied.append(1))
    monkeypatch.setattr(joining, "wait_until_well", lambda problem, timeout: 0.1)
    monkeypatch.setattr(joining, "_node", lambda wish, places: (from_pillar(pillar()), "be3"))
    done = join_cluster(Wish("be1", secrets_file="secrets", vip_interface="lo"), places=places)
    assert (done["node"], done["role"], applied) == ("be3", "follower", [1])
    assert node_file.read(places.node_file) == {**SECRETS, "vip_interface": "lo"}
    assert places.node_file.stat().st_mode & 0o777 == 0o600


def test_the_time_that_is_left_is_for_the_states_and_the_wait(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(joining.salt_call, "apply", lambda timeout: given.append(timeout))
    monkeypatch.setattr(joining, "member_problem", lambda: "this node is waiting_for_leader: base backup")
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError, match=r"^join-cluster be1: after 1 s: .* base backup; it goes on by itself"):
        join_cluster(Wish("be1", timeout=0.5), told.append, places)
    assert given == [1.0]
    assert [row["outcome"] for row in told] == ["done", "done", "failed"]


def pillar(**more: Any) -> dict[str, Any]:
    made = generate(MEMBERS, "127.0.0.9")
    return {"members": MEMBERS, "vip": "127.0.0.9", "secrets": made["secrets"], "tls": made["tls"], **more}


def test_what_a_peer_writes_is_what_a_machine_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = from_pillar(pillar())
    monkeypatch.chdir(tmp_path)
    # as the states lay it out: the texts are in files of their own, and not in the settings
    files = {"ca.crt": wanted.tls.ca, "server.crt": wanted.tls.certificate, "server.key": wanted.tls.key}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    settings = replace(wanted, tls=replace(wanted.tls, ca="", certificate="", key="", directory=str(tmp_path)))
    file = Path(joining.write_secrets(settings, "secrets.json"))
    assert file == tmp_path / "secrets.json" and file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(VerbError, match="is not overwritten"):
        joining.write_secrets(settings, "secrets.json")
    data = joining._read(file, "x")
    bare = {name: value for name, value in pillar().items() if name not in ("secrets", "tls")}
    node_file.write({**data, "vip_interface": "eth7"}, tmp_path / "node.json")
    completed = from_pillar(node_file.completed(bare, tmp_path / "node.json"))
    assert completed.secrets == wanted.secrets and completed.tls == wanted.tls
    assert completed.vip_interface == "eth7"


def test_the_pillar_wins_over_what_a_machine_brought(tmp_path: Path) -> None:
    node_file.write({"secrets": {"token": "old", "etcd_password": "kept"}}, tmp_path / "node.json")
    tree = node_file.completed({"secrets": {"token": "new"}}, tmp_path / "node.json")
    assert tree["secrets"] == {"token": "new", "etcd_password": "kept"}
    assert node_file.completed({"a": 1}, tmp_path / "none") == {"a": 1}


class Machine:
    """One that is let in again: what systemd is told, where the data are at that moment, and what leaderl says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pg, self.etcd = folder / "pg", folder / "etcd"
        self.told: list[tuple[str, ...]] = []
        self.roles, self.etcd_problem, self.listed = ["follower"], "", ("be3",)
        for data in (self.pg, self.etcd):
            data.mkdir()
            (data / "kept").write_text("x")
        made = from_pillar(pillar(tls={"enabled": False}))
        postgresql, etcd = replace(made.postgresql, data_dir=str(self.pg)), replace(made.etcd, data_dir=str(self.etcd))
        self.settings = replace(made, postgresql=postgresql, etcd=etcd)
        played = {
            "systemctl": self.systemctl,
            "root_client": lambda *how: mock.MagicMock(),
            "confirmed_members": lambda client: [EtcdMember("1", name, (), ()) for name in self.listed],
            "own_etcd": lambda *how: self.etcd_problem,
            "leaderl_status": lambda: {"role": self.roles.pop(0) if len(self.roles) > 1 else self.roles[0]},
            "member_problem": lambda: "",
            "wait_until_well": lambda *how: 0.0,
        }
        for name, fake in played.items():
            monkeypatch.setattr(rejoin, name, fake)
        monkeypatch.setattr(rejoin.shutil, "chown", lambda path, *whom: self.told.append(("chown", path.name, *whom)))
        monkeypatch.setattr(rejoin, "time", Clock())

    def systemctl(self, action: str, unit: str) -> None:
        there = "data" if (self.pg / "kept").exists() else "no data"
        self.told.append((action, unit.removeprefix("chefha-").removesuffix(".service"), there))

    def again(self) -> list[str]:
        """Let in; what was kept aside."""
        kept: list[str] = rejoin.rejoin(self.settings, "be3")["kept_aside"]
        assert [(Path(path) / "kept").read_text() for path in kept] == ["x"] * len(kept), "nothing is deleted"
        return kept


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_f39_what_blocks_a_member_is_put_aside_while_leaderl_is_stopped(machine: Machine) -> None:
    machine.roles = ["waiting_for_leader", "blocked", "follower"]
    (kept,) = machine.again()
    assert kept.startswith(f"{machine.pg}.before-") and not machine.pg.exists()
    assert machine.told == [
        ("restart", "leaderl", "data"),
        ("stop", "leaderl", "data"),
        ("stop", "postgresql", "data"),
        ("start", "leaderl", "no data"),
    ]
    assert (machine.etcd / "kept").exists()


@pytest.mark.parametrize("role", ["follower", "leader", "waiting_for_leader"])
def test_who_is_not_blocked_keeps_its_data_where_they_are(machine: Machine, role: str) -> None:
    machine.roles = [role]
    assert machine.again() == []
    assert machine.told == [("restart", "leaderl", "data")]


def test_leaderl_runs_again_where_the_data_cannot_be_put_aside(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point cannot be renamed; and the others ask this leaderl before one of them leads on without etcd."""
    machine.roles = ["blocked"]
    monkeypatch.setattr(Path, "rename", mock.Mock(side_effect=OSError(errno.EBUSY, "Device or resource busy")))
    with pytest.raises(VerbError, match=r"pg cannot be renamed to .*: Device or resource busy$"):
        machine.again()
    assert machine.told[-1] == ("start", "leaderl", "data")


@pytest.mark.parametrize("listed", [True, False])
def test_f59_etcd_forgets_only_where_the_others_have_struck_it_off(machine: Machine, listed: bool) -> None:
    machine.etcd_problem, machine.listed = "etcd does not answer", ("be1", "be2", *(["be3"] if listed else []))
    kept = machine.again()
    assert [path.startswith(f"{machine.etcd}.before-") for path in kept] == [True] * (not listed)
    assert [path.name for path in machine.etcd.iterdir()] == ["kept"] * listed
    forgets = [("stop", "etcd", "data"), ("chown", "etcd", "etcd", "etcd")]
    assert machine.told == [*([] if listed else forgets), ("restart", "etcd", "data"), ("restart", "leaderl", "data")]


def test_an_etcd_that_serves_is_left_alone(machine: Machine) -> None:
    machine.listed = ()
    assert machine.again() == [] and machine.told == [("restart", "leaderl", "data")]
