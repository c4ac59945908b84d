"""A wrong pillar is refused with exactly one sentence that names the path; a right one fills in every default."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chefha_core.checked import SettingsError
from chefha_core.layout.catalogue import checked
from chefha_core.masters import masters
from chefha_core.settings import PROFILES, SECRETS_OF, from_pillar, load

GOOD: dict[str, Any] = {
    "members": {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"},
    "vip": "192.0.2.100",
    "secrets": dict.fromkeys(SECRETS_OF["backend"], "a"),
    "tls": {"enabled": False},
}
Change = Callable[[dict[str, Any]], Any]


def set_to(path: str, value: Any) -> Change:
    """A change of the pillar: the value at a path with colons."""

    def change(pillar: dict[str, Any]) -> None:
        *above, last = path.split(":")
        for name in above:
            pillar = pillar.setdefault(name, {})
        pillar[last] = value

    return change


def without(name: str) -> Change:
    """A change of the pillar: one setting is missing."""
    return lambda pillar: pillar.pop(name)


def without_password(pillar: dict[str, Any]) -> None:
    """A change of the pillar: one secret is missing."""
    del pillar["secrets"]["superuser_password"]


BAD = {
    "no members": (without("members"), "chefha:members"),
    "members is null": (set_to("members", None), "chefha:members"),
    "two members": (set_to("members", {"be1": "192.0.2.11", "be2": "192.0.2.12"}), "chefha:members"),
    "four members": (set_to("members:be4", "192.0.2.14"), "chefha:members"),
    "one address twice": (set_to("members:be3", "192.0.2.11"), "chefha:members"),
    "a name in capitals": (set_to("members", {"BE1": "192.0.2.11", "b": "192.0.2.12", "c": "192.0.2.13"}), "members"),
    "a member without an address": (set_to("members:be2", "be2.example"), "chefha:members:be2"),
    "no vip": (without("vip"), "chefha:vip"),
    "the vip is a member's address": (set_to("vip", "192.0.2.12"), "chefha:vip"),
    "the vip is no address": (set_to("vip", "192.0.2.1000"), "chefha:vip"),
    "no secrets": (without("secrets"), "chefha:secrets"),
    "a secret is missing": (without_password, "chefha:secrets:superuser_password"),
    "an unknown profile": (set_to("profile", "quick"), "chefha:profile"),
    "an unknown durability": (set_to("durability", "none"), "chefha:durability"),
    "a setting nobody knows": (set_to("postgresql:shared_bufers", 1), "chefha:postgresql:shared_bufers"),
    "a port that is none": (set_to("postgresql:port", 70000), "chefha:postgresql:port"),
    "a text for a number": (set_to("postgresql:port", "5432"), "chefha:postgresql:port"),
    "true for a number": (set_to("etcd:client_port", True), "chefha:etcd:client_port"),
    "a key that outlives nothing": (set_to("leaderl:leader_ttl_seconds", 5), "chefha:leaderl"),
    "renewals too rare": (set_to("leaderl:interval_seconds", 9.0), "chefha:leaderl"),
    "requests too slow": (set_to("leaderl:request_timeout_seconds", 4.5), "chefha:leaderl"),
    "a slow disk that counts as broken": (set_to("leaderl:health_check:max_disk_failures", 0), "max_disk_failures"),
    "a disk that must be faster than disks are": (
        set_to("leaderl:health_check", {"disk_deadline_seconds": 1, "max_disk_failures": 2}),
        "chefha:leaderl:health_check",
    ),
    "room for less than two segments": (set_to("leaderl:health_check:least_free_mb", 16), "least_free_mb is 16"),
    "etcd's election outlives the key": (set_to("etcd:election_timeout", 10000), "chefha:etcd:election_timeout"),
    "etcd's heartbeat too slow": (set_to("etcd:heartbeat_interval", 500), "chefha:etcd:election_timeout"),
    "a parameter that failover rests on": (set_to("postgresql:parameters", {"fsync": "off"}), "sets fsync"),
    "a network that is none": (set_to("postgresql:client_networks", ["x y"]), "chefha:postgresql:client_networks"),
    "an empty secret": (set_to("secrets:token", ""), "chefha:secrets:token"),
    "a password that YAML takes for a number": (set_to("secrets:superuser_password", 12345678), "superuser_password"),
    "members with one slot": (
        set_to("members", {"be-1": "192.0.2.11", "be_1": "192.0.2.12", "c": "192.0.2.13"}),
        "chefha:members",
    ),
    "one role for two": (set_to("postgresql:db_superuser", "replicator"), "chefha:postgresql"),
    "one port for two": (set_to("postgresql:port", 2379), "chefha:postgresql:port"),
    "a role without a name": (set_to("postgresql:monitoring_user", ""), "chefha:postgresql:monitoring_user is ''"),
    "a role that is two lines": (
        set_to("postgresql:db_superuser", "a\nb"),
        "chefha:postgresql:db_superuser is 'a\\nb'",
    ),
    "a role with a quote": (set_to("postgresql:rewind_user", 'a"b'), "chefha:postgresql:rewind_user is 'a\"b'"),
    "a role that PostgreSQL keeps": (set_to("postgresql:replication_user", "pg_x"), "postgresql:replication_user"),
    "everybody as a role": (set_to("postgresql:db_superuser", "public"), "chefha:postgresql:db_superuser is 'public'"),
    "a password of two lines": (
        set_to("secrets:superuser_password", "a\nb"),
        "superuser_password is a str (not shown)",
    ),
    "a password with a line's end": (set_to("secrets:rewind_password", "a\n"), "chefha:secrets:rewind_password"),
    "a NUL in a text": (set_to("backup:s3:prefix", "a\0b"), "chefha:backup:s3:prefix is 'a\\x00b'"),
    "a NUL in a certificate": (set_to("tls:ca", "a\nb\0"), "chefha:tls:ca is 'a\\nb\\x00'"),
    "two lines in a list": (set_to("firewall:clients", ["192.0.2.1\naccept"]), "chefha:firewall:clients is"),
    "two lines in a parameter": (
        set_to("postgresql:parameters", {"work_mem": "1MB\nfsync=off"}),
        "parameters:work_mem",
    ),
    "an interface with shell in it": (set_to("vip_interface", "eth0;rm"), "chefha:vip_interface is 'eth0;rm'"),
    "an interface too long": (set_to("vip_interface", "abcdefghijklmnop"), "chefha:vip_interface"),
    "a wheel elsewhere": (set_to("wheel", "../x.whl"), "chefha:wheel is '../x.whl'"),
    "programs without a root": (set_to("postgresql:bin_dir", "bin"), "chefha:postgresql:bin_dir is 'bin'"),
    "a folder with shell in it": (set_to("etcd:data_dir", "/srv/$(id)"), "chefha:etcd:data_dir"),
    "a folder that goes up again": (set_to("postgresql:data_dir", "/srv/pg/../data"), "chefha:postgresql:data_dir"),
    "a folder without a root": (set_to("postgresql:data_dir", "data"), "chefha:postgresql:data_dir"),
    "no interface": (set_to("vip_interface", ""), "chefha:vip_interface"),
    "an endpoint that is none": (set_to("etcd_endpoints", ["nonsense"]), "chefha:etcd_endpoints"),
    "an address nobody can ask": (set_to("leaderl:http_address", "127.0.0.1"), "chefha:leaderl:http_address"),
    "a time that is none": (set_to("leaderl:reaction_grace_seconds", float("nan")), "reaction_grace_seconds"),
    "a text for a list": (set_to("postgresql:client_networks", "samenet"), "expected a list"),
    "a mapping in a list": (set_to("firewall:clients", [{"a": "b"}]), "chefha:firewall:clients has {'a': 'b'}"),
    "true in a list": (set_to("firewall:open_ports", [True]), "chefha:firewall:open_ports has True"),
    "a list for a mapping": (set_to("frontends", ["fe1"]), "expected a mapping"),
    "a list for settings": (set_to("etcd", ["client_port"]), "chefha:etcd"),
    "a name that YAML takes for a number": (set_to("frontends", {1: "192.0.2.31"}), "chefha:frontends has the name 1"),
    "an address that YAML takes for a number": (set_to("members:be1", 1921680211), "chefha:members:be1 is 1921680211"),
    "nothing for a text": (set_to("vip_interface", None), "chefha:vip_interface"),
    "a client that is no network": (set_to("firewall:clients", ["192.0.2.1/24"]), "chefha:firewall:clients"),
    "a reader that is no network": (set_to("leaderl:http_networks", ["samenet"]), "chefha:leaderl:http_networks"),
    "a port by name": (set_to("firewall:open_ports", ["ssh"]), "chefha:firewall:open_ports"),
    "a front end's port out of range": (set_to("firewall:frontend_ports", [65536]), "chefha:firewall:frontend_ports"),
    "a salt port out of range": (set_to("firewall:salt_ports", [0]), "chefha:firewall:salt_ports"),
    "a switch that is a text": (set_to("firewall:enabled", "off"), "expected true or false"),
    "certificates that are none": (set_to("tls", {"enabled": True, "ca": "x"}), "chefha:tls:ca"),
}


@pytest.mark.parametrize("name", BAD)
def test_f66_wrong_pillar_is_one_sentence_with_the_path(name: str) -> None:
    change, path = BAD[name]
    pillar = copy.deepcopy(GOOD)
    change(pillar)
    with pytest.raises(SettingsError) as refusal:
        from_pillar(pillar)
    text = str(refusal.value)
    assert text.startswith("pillar chefha:") and path in text
    assert re.search("expected|must be|known here|has no default|remove|makes", text), "what to do"
    assert "\n" not in text and ". " not in text and not text.endswith(".")


@pytest.mark.parametrize("folder", ["/pgdata", "/var/lib/pgdata", "/srv/postgresql/", "/var/lib/chefha/data", "/"])
def test_no_folder_of_the_system_becomes_postgresqls(folder: str) -> None:
    with pytest.raises(SettingsError, match=r"pillar chefha:postgresql:data_dir is .* expected a folder of its own"):
        from_pillar({**GOOD, "postgresql": {"data_dir": folder}})


@pytest.mark.parametrize("path", ["etcd:data_dir", "search:data_dir", "search:log_dir", "tls:directory"])
def test_no_folder_of_the_system_becomes_anybodys(path: str) -> None:
    pillar = copy.deepcopy(GOOD)
    set_to(path, "/var/lib")(pillar)
    with pytest.raises(SettingsError, match=f"pillar chefha:{path} is /var/lib, which is not chefha's alone"):
        from_pillar(pillar)


@pytest.mark.parametrize("folder", ["/pgdata/data", "/var/lib/pgdata/data", "/srv/pg/main/", "/mnt/disk-1/pg/13.main"])
def test_a_folder_of_its_own_may_be_postgresqls(folder: str) -> None:
    assert from_pillar({**GOOD, "postgresql": {"data_dir": folder}}).postgresql.data_dir == folder


NESTED = {
    "one folder for two": {"etcd:data_dir": "/srv/x", "search:data_dir": "/srv/x/"},
    "etcd in the data of search": {"search:data_dir": "/srv/x", "etcd:data_dir": "/srv/x/etcd"},
    "search in the data of PostgreSQL": {"postgresql:data_dir": "/srv/x/pg", "search:data_dir": "/srv/x/pg/search"},
    "logs in the data of search": {"search:data_dir": "/srv/x", "search:log_dir": "/srv/x/logs"},
    "backups in the data of etcd": {"etcd:data_dir": "/srv/x", "backup:directory": "/srv/x/backups"},
    "backups where the data are": {"postgresql:data_dir": "/srv/x/pg", "backup:directory": "/srv/x/pg"},
    "etcd where PostgreSQL alone gets in": {"postgresql:data_dir": "/x/pg", "etcd:data_dir": "/x/etcd"},
    "certificates in the logs": {"search:log_dir": "/srv/x", "tls:directory": "/srv/x/tls"},
}


@pytest.mark.parametrize("case", NESTED)
def test_no_folder_is_or_lies_within_that_of_another(case: str) -> None:
    pillar = copy.deepcopy(GOOD)
    for path, folder in NESTED[case].items():
        set_to(path, folder)(pillar)
    with pytest.raises(SettingsError, match="expected one elsewhere") as refusal:
        from_pillar(pillar)
    assert all(f"chefha:{path}" in str(refusal.value) for path in NESTED[case])


def test_folders_may_stand_side_by_side() -> None:
    pillar = copy.deepcopy(GOOD)
    for path, folder in (("postgresql:data_dir", "/data/pg/13"), ("etcd:data_dir", "/data/pg-etcd")):
        set_to(path, folder)(pillar)
    set_to("backup:directory", "/data/pg.backup")(pillar)
    assert from_pillar(pillar).backup.directory == "/data/pg.backup"


@pytest.mark.parametrize("pillar", [None, {}, []])
def test_f66_missing_pillar(pillar: Any) -> None:
    with pytest.raises(SettingsError, match="pillar chefha is missing"):
        from_pillar(pillar)


@pytest.mark.parametrize(("pillar", "kind"), [("hunter2", "a text"), ([{"token": "hunter2"}], "a list"), (5, "a int")])
def test_f66_a_pillar_of_another_kind_is_not_shown(pillar: Any, kind: str) -> None:
    with pytest.raises(SettingsError, match=f"^pillar chefha is {kind}; expected a mapping") as refusal:
        from_pillar(pillar)
    assert "hunter2" not in str(refusal.value)


def test_names_and_texts_that_are_in_use_are_accepted() -> None:
    pillar = copy.deepcopy(GOOD)
    for path, value in {
        "vip_interface": "bond0.100",
        "postgresql:db_superuser": "Chef-Admin_1",
        "postgresql:bin_dir": "/usr/lib/postgresql/17/bin",
        "secrets:superuser_password": 'ü it\'s #{`id`} \\ "so" : €',
        "tls:ca": "-----BEGIN CERTIFICATE-----\r\nMII\r\n",
        "wheel": "chefha-0.1.0+local.1-py3-none-any.whl",
    }.items():
        set_to(path, value)(pillar)
    assert from_pillar(pillar).vip_interface == "bond0.100"


@pytest.mark.parametrize(("named", "ids"), [(["a", "b"], ["a", "b"]), ("saltmaster", ["saltmaster"]), (None, [])])
def test_masters_are_a_list_or_one_name(named: Any, ids: list[str]) -> None:
    assert masters(named) == ids


@pytest.mark.parametrize("named", [5, True, {"a": "b"}, [1], [""]])
def test_f66_other_masters_are_refused(named: Any) -> None:
    with pytest.raises(SettingsError, match=r"^pillar chefha_masters is .*; expected a list of minion ids"):
        masters(named)


def test_refusals_never_show_a_secret() -> None:
    pillar = {**GOOD, "secrets": {**GOOD["secrets"], "superuser_password": "hunter2", "more": 1}}
    with pytest.raises(SettingsError) as refusal:
        from_pillar(pillar)
    assert "hunter2" not in str(refusal.value)
    for wrong in ({**GOOD, "secrets": "hunter2"}, {**GOOD, "secrets": {**GOOD["secrets"], "token": ["hunter2"]}}):
        with pytest.raises(SettingsError, match="not shown") as refusal:
            from_pillar(wrong)
        assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(from_pillar({**GOOD, "secrets": {**GOOD["secrets"], "token": "hunter2"}}))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_keeps_the_timing_rule(profile: str) -> None:
    settings = from_pillar({**GOOD, "profile": profile})
    assert settings.ttl > settings.interval + 2 * settings.request_timeout


def test_what_the_states_write_reads_back_the_same(tmp_path: Path) -> None:
    import json

    settings = from_pillar(GOOD)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings.to_dict()))
    assert load(path) == settings


def test_a_node_without_states_is_in_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="in no cluster yet"):
        load(tmp_path / "none.json")


def test_f66_a_minion_that_is_no_member_is_refused() -> None:
    with pytest.raises(SettingsError, match="do not name this minion, be9"):
        checked(GOOD, "be9")


def test_endpoints_begin_with_the_own_member() -> None:
    assert from_pillar(GOOD).endpoints("be2")[0] == "http://192.0.2.12:2379"
