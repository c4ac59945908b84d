"""chefha's roles: passwords told apart by what PostgreSQL stores, and who may log in from where."""

from __future__ import annotations

import dataclasses

import pytest

from chefha_core.layout.postgres_files import pg_hba_conf
from chefha_core.parts.postgres_roles import (
    logins,
    outdated,
    quietly,
    role_statements,
    scram_verifier,
    verifier_matches,
)
from chefha_core.settings import SECRETS_OF, from_pillar

SETTINGS = from_pillar(
    {
        "members": {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"},
        "vip": "192.0.2.100",
        "secrets": {name: f"{name} 'of' mine" for name in SECRETS_OF["backend"]},
        "tls": {"enabled": False},
        "postgresql": {"client_networks": ["198.51.100.0/24"]},
    }
)
# the example of RFC 7677: the password "pencil"
PENCIL = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_a_verifier_belongs_to_one_password() -> None:
    verifier = scram_verifier("größer: 'x'")
    assert verifier_matches("größer: 'x'", verifier)
    assert not verifier_matches("größer: 'y'", verifier)
    assert verifier_matches("pencil", PENCIL) and not verifier_matches("Pencil", PENCIL)
    assert verifier_matches("x", scram_verifier("x", b"salt", 10000)), "whatever number of rounds it was made with"


@pytest.mark.parametrize("stored", [None, "", "md5" + "0" * 32, "SCRAM-SHA-256$", PENCIL[:-46], "plain"])
def test_no_other_kind_of_stored_password_is_one(stored: str | None) -> None:
    assert not verifier_matches("plain", stored)


def test_only_what_differs_is_renewed() -> None:
    stored: list[tuple[str, str | None, list[str]]] = [
        (login.name, scram_verifier(login.password), []) for login in logins(SETTINGS)
    ]
    assert outdated(SETTINGS, stored) == []
    assert [login.name for login in outdated(SETTINGS, stored[1:])] == ["replicator"]
    assert [login.name for login in outdated(SETTINGS, [*stored[:3], ("chef_pgsql", None, [])])] == ["chef_pgsql"]
    chef = dataclasses.replace(SETTINGS, frontends={"fe1": "192.0.2.21"})
    assert [login.name for login in outdated(chef, stored)] == ["chef_pgsql"], "its services know md5 only"
    assert outdated(chef, [*stored[:3], ("chef_pgsql", stored[3][1], ["password_encryption=md5"])]) == []
    assert quietly([]) == [] and quietly(["x"])[-1] == "x"


def test_no_password_stands_in_a_statement() -> None:
    text = "\n".join(role_statements(SETTINGS))
    assert not any(getattr(SETTINGS.secrets, name) in text for name in SECRETS_OF["backend"])
    assert text.count("SCRAM-SHA-256$") == 4 and all("\n" not in line for line in role_statements(SETTINGS))


def first_match(user: str, database: str, address: str) -> str:
    """The method of the first row of pg_hba.conf that fits; networks are compared as texts."""
    for row in pg_hba_conf(SETTINGS).splitlines()[1:]:
        kind, databases, users, *rest = row.split()
        if kind == "local":
            continue
        network, method = rest
        names = [name.strip('"') for name in users.split(",")]
        fits = database in databases.split(",") or ("all" in databases.split(",") and database != "replication")
        if fits and (user in names or "all" in names) and network in (address, "all"):
            return method
    return "none"


MEMBER, CLIENT, ELSEWHERE = "192.0.2.12/32", "198.51.100.0/24", "203.0.113.1/32"


@pytest.mark.parametrize(
    ("user", "database", "address", "method"),
    [
        ("replicator", "replication", MEMBER, "scram-sha-256"),
        ("replicator", "replication", CLIENT, "reject"),
        ("replicator", "postgres", MEMBER, "reject"),
        ("rewinder", "postgres", MEMBER, "scram-sha-256"),
        ("rewinder", "postgres", CLIENT, "reject"),
        ("rewinder", "opscode_chef", MEMBER, "reject"),
        ("rewinder", "replication", MEMBER, "reject"),
        ("chefha_monitor", "postgres", MEMBER, "scram-sha-256"),
        ("chefha_monitor", "postgres", CLIENT, "scram-sha-256"),
        ("chefha_monitor", "postgres", ELSEWHERE, "reject"),
        ("chefha_monitor", "opscode_chef", CLIENT, "reject"),
        ("postgres", "postgres", MEMBER, "reject"),
        ("chef_pgsql", "opscode_chef", CLIENT, "scram-sha-256"),
        ("chef_pgsql", "opscode_chef", ELSEWHERE, "none"),
        ("chef_pgsql", "replication", CLIENT, "none"),
    ],
)
def test_who_may_log_in_from_where(user: str, database: str, address: str, method: str) -> None:
    assert first_match(user, database, address) == method
