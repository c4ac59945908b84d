"""chef-server.rb in each of its forms, and what a Chef Infra Server would refuse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from chefha_core import cli
from chefha_core.checked import SettingsError
from chefha_core.chef_accepts import FREE, OWNED, VALUES
from chefha_core.chef_server import chef_server_rb, ruby
from chefha_core.client_access import shut_out
from chefha_core.layout.base import settings_files
from chefha_core.layout.frontend import CHEF_SERVER_RB, frontend_config, frontend_package
from chefha_core.layout.postgres_files import pg_hba_conf
from chefha_core.parts.postgres_roles import role_statements
from chefha_core.settings import SECRETS_OF, Settings, from_pillar
from chefha_core.verbs.gen_server_config import gen_server_config
from chefha_core.verbs.reach import VerbError

GOLDEN = Path(__file__).parent / "chef_server"
PASSWORD = 'it\'s #{`id`} \\ "so"'
PILLAR: dict[str, Any] = {
    "members": {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"},
    "vip": "192.0.2.100",
    "frontends": {"fe1": "192.0.2.31", "fe2": "192.0.2.32"},
    "search": {"source": {"package": "search-engine"}},
    "secrets": {**dict.fromkeys(SECRETS_OF["backend"], "f0f0f0f0"), "superuser_password": PASSWORD},
    "tls": {name: "-----BEGIN x" for name in ("ca", "certificate", "key")},
}
CLASSIC = {"search": {"flavor": "elasticsearch"}, "frontend": {"chef_server_version": "12.19.31"}}
FORMS: dict[str, dict[str, Any]] = {
    "classic": CLASSIC,
    "elasticsearch": {"search": {"flavor": "elasticsearch"}},
    "opensearch": {"frontend": {"settings": {"nginx['ssl_port']": 8443, "fips": False}}},
    "members": {"frontend": {"way": "members"}},
}


def settings(**changes: Any) -> Settings:
    search = {**PILLAR["search"], **changes.pop("search", {})}
    return from_pillar({**copy.deepcopy(PILLAR), **changes, "search": search})


@pytest.mark.parametrize("form", FORMS)
def test_chef_server_rb_is_as_written_down(form: str) -> None:
    assert chef_server_rb(settings(**FORMS[form]), "chef.example.com") == (GOLDEN / f"{form}.rb").read_text()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "true"),
        (None, "nil"),
        (7, "7"),
        ("a'b\\c", r"'a\'b\\c'"),
        ("#{x}", "'#{x}'"),
        ('zwei\nZeilen ü "#', r'"zwei\u{a}Zeilen \u{fc} \u{22}\u{23}"'),
        (["a", {"b": 1.5}], "['a', {'b' => 1.5}]"),
    ],
)
def test_no_value_ends_its_quotes(value: object, written: str) -> None:
    assert ruby(value) == written


REFUSED = {
    "PostgreSQL too new": ({"postgresql": {"version": 17}}, "chefha:postgresql:version is 17", "up to 14"),
    "PostgreSQL 14 too early": (
        {"postgresql": {"version": 14}, "frontend": {"chef_server_version": "15.9.38"}},
        "Chef Infra Server 15.9.38",
        "up to 13 (14 from 15.10.117)",
    ),
    "OpenSearch too new": ({"search": {"version": "2.19.1"}}, "chefha:search:version is 2.19.1", "opensearch 1"),
    "Elasticsearch too new": (
        {"search": {"flavor": "elasticsearch", "version": "8.5.0"}},
        "chefha:search:version is 8.5.0",
        "2, 5, 6, 7",
    ),
    "OpenSearch too early": ({"frontend": {"chef_server_version": "14.13.1"}}, "chefha:search:flavor", "from 14.14 on"),
    "no search": ({"search": {"flavor": "none"}}, "chefha:search:flavor is none", "needs a search"),
    "no name for the search": ({"frontend": {"search_username": ""}}, "frontend:search_username", "any name"),
    "a release too old": ({"frontend": {"chef_server_version": "11.1"}}, "frontend:chef_server_version", "12.4"),
    "a release in words": ({"frontend": {"chef_server_version": "latest"}}, "frontend:chef_server_version", "12.4"),
    "no TLS under TLS": (
        {"frontend": {"settings": {"postgresql['sslmode']": "disable"}}},
        "chefha writes postgresql['sslmode'] itself",
        "set chefha:tls:enabled instead",
    ),
    "a search without a user": (
        {"frontend": {"settings": {"opscode_erchef['search_auth_username']": ""}}},
        "chefha:frontend:settings has \"opscode_erchef['search_auth_username']\"",
        "set chefha:frontend:search_username instead",
    ),
    "a search of its own": (
        {"frontend": {"settings": {"opensearch['external']": False}}},
        "chefha writes opensearch['external'] itself",
        "remove it",
    ),
    "a database elsewhere": (
        {"frontend": {"settings": {"postgresql['vip']": "192.0.2.7"}}},
        "chefha writes postgresql['vip'] itself",
        "set chefha:vip instead",
    ),
    "everything about the database": (
        {"frontend": {"settings": {"postgresql": {"external": False}}}},
        "frontend:settings has 'postgresql'; chefha writes postgresql['external'] itself",
        "remove it",
    ),
    "a part of a line of ours": (
        {"frontend": {"settings": {"postgresql['vip']['x']": 1}}},
        "chefha writes postgresql['vip'] itself",
        "set chefha:vip instead",
    ),
    "a queue that Chef doesn't know": (
        {"frontend": {"settings": {"opscode_erchef['search_queue_mode']": "rabbitmq"}}},
        "opscode_erchef['search_queue_mode']",
        "accepts batch or inline",
    ),
    "a line that is code": ({"frontend": {"settings": {"`id`": 1}}}, "frontend:settings has '`id`'", "left side"),
    "a host name in capitals": ({"frontend": {"fqdns": {"fe1": "Chef.example"}}}, "fqdns:fe1", "not in lower case"),
    "a host name of nobody": ({"frontend": {"fqdns": {"fe9": "chef.example"}}}, "fqdns has fe9", "chefha:frontends"),
    "a download without a checksum": (
        {"frontend": {"source": "https://example.com/chef.deb"}},
        "chefha:frontend:checksum is missing",
        "sha256=",
    ),
    "a checksum that is none": (
        {"frontend": {"source": "/srv/chef.deb", "checksum": "sha256=12"}},
        "chefha:frontend:checksum is 'sha256=12'",
        "64 hexadecimal digits",
    ),
    "a file from nowhere": ({"frontend": {"source": "chef.deb"}}, "chefha:frontend:source is 'chef.deb'", "salt://…"),
    "a file and a repository": (
        {"frontend": {"source": "/srv/chef.deb", "repository": "deb https://example.com/apt stable main"}},
        "chefha:frontend has both source and repository",
        "expected one of them",
    ),
    "a repository that is none": (
        {"frontend": {"repository": "https://example.com"}},
        "chefha:frontend:repository is 'https://example.com'",
        "a line such as deb",
    ),
    "a key that is none": (
        {"frontend": {"repository": "deb https://example.com x y", "repository_key": "x"}},
        "chefha:frontend:repository_key is no armoured OpenPGP key",
        "-----BEGIN PGP",
    ),
    "a package that is a path": (
        {"frontend": {"package": "../chef"}},
        "chefha:frontend:package is '../chef'",
        "name of",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_chef_infra_server_refuses_is_refused_here(case: str) -> None:
    changes, *words = REFUSED[case]
    with pytest.raises(SettingsError) as caught:
        settings(**changes)
    assert all(word in str(caught.value) for word in words), caught.value


def test_every_line_that_chefha_writes_is_its_own_or_free() -> None:
    ports = {"postgresql": {"port": 5433}, "search": {"port": 9201}}
    written = {
        line.split(" ")[0]
        for form in (*FORMS.values(), {**FORMS["members"], **ports}, ports, {"tls": {"enabled": False}})
        for line in chef_server_rb(
            settings(**{**form, "frontend": {**form.get("frontend", {}), "settings": {}}}), "a.b"
        ).splitlines()
    }
    assert written == {*OWNED, *FREE}
    assert not {*OWNED} & {*FREE, *VALUES}


def test_lines_beside_those_of_chefha_and_the_free_ones_are_the_users() -> None:
    further = {"api_fqdn": "chef.example.com", "postgresql['max_connections']": 9, "opscode_erchef['db_pool_size']": 40}
    further |= {"opscode_erchef['search_queue_mode']": "inline", "nginx": {"ssl_port": 8443}}
    text = chef_server_rb(settings(frontend={"settings": further}), "fe1.example.com")
    assert 'api_fqdn "chef.example.com"\n' in text and "opscode_erchef['search_queue_mode'] = 'inline'\n" in text


def test_versions_count_only_for_front_ends_that_want_it() -> None:
    changes = {"postgresql": {"version": 17}, "search": {"version": "3.7.0"}}
    settings(frontends={}, **changes)
    settings(frontend={"check_versions": False}, **changes)
    assert settings(postgresql={"version": 14}).postgresql.version == 14


def test_gen_server_config_prints_what_the_states_write(tmp_path: Path) -> None:
    made = settings()
    text = gen_server_config(made, "fe1")
    [config] = [wish for wish in frontend_config(made, "fe1") if wish.arguments["name"] == CHEF_SERVER_RB]
    assert config.arguments["contents"].endswith(text.rstrip("\n"))
    assert (config.arguments["mode"], config.arguments["show_changes"]) == ("0600", False)
    file = tmp_path / "chef-server.rb"
    assert gen_server_config(made, "fe1", str(file)) == str(file)
    assert (file.read_text(), oct(file.stat().st_mode)) == (text, "0o100600")
    assert "f0f0" not in text and "********" in gen_server_config(made, "fe1", mask=True)


def test_gen_server_config_masks_the_secrets_among_further_lines(tmp_path: Path) -> None:
    further = {"ldap['bind_password']": "l'dap-pw", "ldap['host']": "ldap.example", "profiles": {"secret": ["deep-pw"]}}
    made = settings(frontend={"settings": further})
    masked = gen_server_config(made, "fe1", mask=True)
    assert "ldap['bind_password'] = '********'\n" in masked and "ldap['host'] = 'ldap.example'\n" in masked
    assert "dap-pw" not in masked and "deep-pw" not in masked
    assert "dap-pw" in gen_server_config(made, "fe1") and "deep-pw" in gen_server_config(made, "fe1")
    written = Path(gen_server_config(made, "fe1", str(tmp_path / "chef-server.rb"), mask=True))
    assert written.read_text() == gen_server_config(made, "fe1")


@pytest.mark.parametrize("fqdn", ["", "Chef.example.com", "chef_server", "chef..example", "-chef.example", "a b"])
def test_gen_server_config_refuses_what_is_no_host_name(fqdn: str) -> None:
    with pytest.raises(VerbError, match="gen-server-config"):
        gen_server_config(settings(), fqdn)


def test_gen_server_config_needs_a_place_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(VerbError, match="cannot be written: No such file"):
        gen_server_config(settings(), "chef.example", str(tmp_path / "nowhere/chef-server.rb"))
    assert list(tmp_path.iterdir()) == []


def test_gen_server_config_outside_of_a_cluster_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gen-server-config", "chef.example.com"]) == 1
    assert "in no cluster yet" in capsys.readouterr().err


def test_a_front_end_keeps_only_its_own_secrets() -> None:
    texts = {name: str(settings_files(settings(), name)[1].arguments["contents"]) for name in ("be1", "fe1")}
    kept = json.loads(texts["fe1"])
    assert {name for name, value in kept["secrets"].items() if value} == {"superuser_password", "monitoring_password"}
    assert not {"key", "certificate", "ca"} & set(kept["tls"])
    assert json.loads(texts["be1"])["secrets"]["replication_password"]


def test_package_from_a_file_or_a_repository() -> None:
    source = {"source": "https://example.com/c.deb", "checksum": f"sha256={'0' * 64}"}
    _, file, package = frontend_package(settings(frontend=source), "fe1")
    assert (file.arguments["source"], file.arguments["source_hash"]) == (source["source"], source["checksum"])
    assert package.arguments["sources"] == [{"chef-server-core": file.arguments["name"]}]
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx"
    repository = {"repository": "deb [arch=amd64] https://example.com/apt stable main", "repository_key": key}
    wishes = frontend_package(settings(frontend=repository), "fe1")
    line = next(wish.arguments["contents"] for wish in wishes if wish.arguments["name"].endswith(".list"))
    assert (
        line == "deb [arch=amd64 signed-by=/etc/apt/keyrings/chefha-frontend.asc] https://example.com/apt stable main"
    )
    assert wishes[-1].arguments["pkgs"] == [{"chef-server-core": "15.10.117*"}], "the version that the pillar says"


def test_md5_is_for_chefs_own_roles_and_only_where_there_are_front_ends() -> None:
    clients = [row for row in pg_hba_conf(settings()).splitlines() if "same" in row]
    assert clients == [
        'hostssl postgres "chefha_monitor" samenet scram-sha-256',
        'hostssl postgres "chefha_monitor" samehost scram-sha-256',
        'hostssl all "chef_pgsql" samenet scram-sha-256',
        "hostssl all all samenet md5",
        'hostssl all "chef_pgsql" samehost scram-sha-256',
        "hostssl all all samehost md5",
    ]
    assert "md5" not in pg_hba_conf(settings(frontends={}))
    assert "ALTER ROLE \"chef_pgsql\" SET password_encryption = 'md5'" in role_statements(settings())
    assert 'ALTER ROLE "chef_pgsql" RESET password_encryption' in role_statements(settings(frontends={}))


def test_front_ends_on_another_subnet_may_log_in_by_setting_and_one_that_may_not_is_named() -> None:
    home = ["127.0.0.1/255.0.0.0", "192.0.2.11/255.255.255.0", "192.0.2.100/32"]
    assert shut_out(settings(), home) == ""
    away = settings(frontends={"fe1": "198.51.100.7"})
    problem = shut_out(away, home)
    for words in ("front end fe1 (198.51.100.7)", "chefha:postgresql:client_networks", "192.0.2.0/24"):
        assert words in problem
    for networks in (["198.51.100.0/24", "samenet"], ["all"]):
        assert shut_out(settings(frontends=away.frontends, postgresql={"client_networks": networks}), home) == ""
    elsewhere = settings(postgresql={"client_networks": ["192.0.2.31/32", "192.0.2.32/32", "2001:db8::/32"]})
    assert "member be1 (192.0.2.11)" in shut_out(elsewhere, home)
    assert shut_out(settings(frontends={}), []) == ""
