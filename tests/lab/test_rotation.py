"""Passwords, token and certificates are changed while everything runs, by the runner and highstate alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab.api import Lab
from lab.topology import BACKENDS, MASTER, VIP
from lab.witness import Witness
from tests.lab.bring_up import APPLY_TIMEOUT, failed
from tests.lab.postgresql import sql
from tests.lab.secrecy import Secrets
from tests.lab.story import HICCUP, under_load

SECRETS_TIMEOUT = 60.0
SETTINGS = "/etc/chefha/settings.json"
SERIAL = "openssl x509 -noout -serial -in /etc/chefha/tls/server.crt"
#: what PostgreSQL, etcd and leaderl show to whoever connects
SHOWN = (
    "for p in {ports}; do openssl s_client {start} -connect {address}:$p </dev/null 2>/dev/null "
    "| openssl x509 -noout -serial; done"
)


@pytest.fixture(autouse=True)
def _no_secret_is_forgotten(lab: Lab, secrets: Secrets) -> Iterator[None]:
    """The former ones are still looked for where they must not stand."""
    secrets.note(lab)
    yield
    secrets.note(lab)


def rotate(lab: Lab, what: str) -> None:
    """One step of the runner, and the highstate that carries it to everybody."""
    code, text = lab.exec(MASTER.name, ["salt-run", "chefha.secrets", "cluster=lab", f"rotate={what}"], SECRETS_TIMEOUT)
    assert code == 0, text
    answers = lab.salt("*", "state.apply", timeout=APPLY_TIMEOUT)
    for answer in answers.values():
        assert not failed(answer)


def settings(lab: Lab, node: str) -> dict[str, dict[str, str]]:
    """A node's own settings."""
    code, text = lab.exec(node, ["cat", SETTINGS])
    assert code == 0, text
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


def test_passwords_are_changed_under_load(lab: Lab, witness: Witness) -> None:
    """A role of the client's own writes on; the old passwords are refused afterwards, the new ones work."""
    old = settings(lab, BACKENDS[0].name)["secrets"]
    leader = witness.leader()
    sql(lab, leader, "drop table if exists chefha_probe; create role writer login password 'of-its-own'")
    sql(lab, leader, "grant create, usage on schema public to writer")
    with under_load(lab, outage=HICCUP, account=("writer", "of-its-own")) as story:
        rotate(lab, "passwords")
        story.stays(1)
        witness.await_converged(60)
    sql(lab, leader, "drop owned by writer cascade; drop role writer")
    new = settings(lab, BACKENDS[0].name)["secrets"]
    assert all(new[name] != old[name] for name in old if name.endswith("_password"))
    login = 'PGPASSWORD="$PASSWORD" psql -X -h {vip} -U chef_pgsql -d postgres -Atc "select 1"'
    for password, works in ((old["superuser_password"], False), (new["superuser_password"], True)):
        code, text = lab.exec("client", login.format(vip=VIP), 20, env={"PASSWORD": password})
        assert (code == 0) is works, text


def test_the_token_is_changed_under_load_and_failover_works_afterwards(lab: Lab, witness: Witness) -> None:
    """Members with the old and the new token understand each other meanwhile."""
    with under_load(lab, outage=HICCUP) as story:
        for step in ("token", "token_done"):
            rotate(lab, step)
            story.stays(1)
    with under_load(lab) as story:
        story.inject("kill-host", story.leader)
        story.await_new_leader()


def test_authority_and_certificates_are_changed_under_load(lab: Lab, witness: Witness) -> None:
    """In three steps, the second of which is all there is to do for certificates alone: nobody takes over."""
    before = {node.name: lab.exec(node.name, SERIAL)[1] for node in BACKENDS}
    with under_load(lab, outage=HICCUP) as story:
        for step in ("authority", "certificates", "authority_done"):
            rotate(lab, step)
            story.stays(1)
            witness.await_converged(60)
    for node in BACKENDS:
        now = lab.exec(node.name, SERIAL)[1]
        assert now != before[node.name], f"{node.name} still has {now}"
        assert shown(lab, node.name, node.address) == {now.strip()}


def shown(lab: Lab, node: str, address: str) -> set[str]:
    """The serial numbers of the certificates that a node's services show."""
    files = "-cert /etc/chefha/tls/server.crt -key /etc/chefha/tls/server.key"
    plain = SHOWN.format(ports="2379 7331", start=files, address=address)
    postgres = SHOWN.format(ports="5432", start="-starttls postgres", address=address)
    return set(lab.exec(node, f"{plain}; {postgres}", 30)[1].split("\n")) - {""}
