"""Front ends: laid out once, alike, reached through the VIP only, and served through a failover."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from lab import shop
from lab.api import Lab
from lab.topology import BACKENDS, FRONTENDS, VIP
from lab.witness import Witness
from tests.lab.bring_up import APPLY_TIMEOUT, failed
from tests.lab.postgresql import sql
from tests.lab.story import under_load

CARRIED = ("/etc/opscode/private-chef-secrets.json", "/var/opt/opscode/upgrades/migration-level")
CALLS = "/var/log/opscode/calls.log"
CHEF_SERVER_RB = "/etc/opscode/chef-server.rb"
#: roles that the front ends make themselves
CHEFS = ("opscode_chef", "bifrost", "oc_id", "bookshelf")
#: seconds a load on the small service lasts, a failover within
LOAD = 40.0


@pytest.fixture(autouse=True)
def _needs_front_ends(lab: Lab) -> None:
    if not lab.stack.frontends:
        pytest.skip("this stack has no front ends")


def read(lab: Lab, node: str, path: str) -> str:
    """A file of a machine."""
    code, text = lab.exec(node, ["cat", path])
    assert code == 0, text
    return text


def test_secrets_and_migration_level_are_the_first_front_ends(lab: Lab) -> None:
    """Both have the same files, each was reconfigured by the highstate, and nobody failed on a duplicate pivotal."""
    for path in CARRIED:
        assert read(lab, "fe1", path) == read(lab, "fe2", path)
    for node in FRONTENDS:
        assert "reconfigure" in read(lab, node.name, CALLS)
        code, mode = lab.exec(node.name, ["stat", "-c", "%a", CHEF_SERVER_RB])
        assert (code, mode.strip()) == (0, "600")


def test_chef_server_rb_is_what_gen_server_config_prints(lab: Lab) -> None:
    """One renderer for both."""
    code, printed = lab.exec(BACKENDS[0].name, ["chef-backend-ctl", "gen-server-config", "fe1"])
    written = read(lab, "fe1", CHEF_SERVER_RB).partition("\n")[2]  # behind the line that says who wrote it
    assert (code, printed.strip()) == (0, written.strip())


def test_requests_through_the_front_ends_survive_the_loss_of_the_leaders_host(lab: Lab, witness: Witness) -> None:
    """Objects put, got and searched through both front ends: late while the leader changes, never wrong or lost."""
    result: dict[str, Any] = {}
    load = threading.Thread(target=lambda: result.update(shop.load(lab.machines, LOAD)))
    with under_load(lab) as story:
        load.start()
        story.inject("kill-host", story.leader)
        story.await_new_leader()
        load.join(4 * LOAD)
    assert result, "the load did not end"
    failures = sum(row["failed"] for row in result["rows"])
    assert failures == 0, shop.table(result)
    assert {row["front_end"] for row in result["rows"]} == {node.name for node in FRONTENDS}


def test_a_client_that_knows_md5_only_logs_in_through_the_vip_over_tls(lab: Lab, witness: Witness) -> None:
    """A role that Chef made has an md5 password; every role of chefha's own is SCRAM, stored and on the line."""
    leader = witness.leader()
    stored = "select rolname, left(rolpassword, 3) from pg_authid where rolcanlogin and rolpassword is not null"
    kinds = dict(row.split("|") for row in sql(lab, leader, stored).splitlines())
    assert kinds["opscode_chef"] == "md5", kinds
    assert {kind for name, kind in kinds.items() if not name.startswith(CHEFS)} == {"SCR"}, kinds
    sql(lab, leader, "set password_encryption = 'md5'; create role old_client login password 'for-old-clients'")
    try:
        answer = md5_login(lab, "old_client", "for-old-clients")
    finally:
        sql(lab, leader, "drop role old_client")
    assert answer == "old_client t", answer
    refused = md5_login(lab, "chef_pgsql", "whatever")
    assert "authentication method 10" in refused, refused


def md5_login(lab: Lab, user: str, password: str) -> str:
    """What a client that knows no SCRAM gets to see through the VIP."""
    program = (
        "import asyncio, os, sys; from inside import pgwire\n"
        "server = pgwire.Server(sys.argv[1], sys.argv[2], os.environ['PGPASSWORD'], scram=False)\n"
        "ask = 'select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()'\n"
        "try: print(*asyncio.run(server.query(ask))[0])\n"
        "except Exception as error: print(error)\n"
    )
    env = {"PGPASSWORD": password, "PYTHONPATH": "/var/lib/lab-probe"}
    return lab.exec("client", ["python3", "-c", program, VIP, user], 30, env=env)[1].strip()


def test_cluster_status_answers_on_a_front_end(lab: Lab, witness: Witness) -> None:
    """Who leads, who follows, how search is: all that can be known through the two ports."""
    witness.await_converged(60)
    answer = lab.salt("fe1", "chefha.cluster_status", timeout=30)["fe1"]
    assert answer["leader"] == witness.leader()
    assert {row["name"]: row["pg"] for row in answer["members"]} == {
        node.name: "leader" if node.name == answer["leader"] else "follower" for node in BACKENDS
    }
    assert answer["search"]["status"] == "green"
    code, text = lab.exec("fe1", ["chef-backend-ctl", "cluster-status"])
    assert code == 0 and text.startswith("Name"), text


def test_the_second_way_in_follows_the_leader_without_the_vip(lab: Lab, witness: Witness) -> None:
    """frontend:way members: the front end's own HAProxy asks the members who leads, and finds the next leader too."""
    changed = json.dumps({"chefha": {"frontend": {"way": "members"}}})
    try:
        for target in (*[node.name for node in BACKENDS], "fe1"):
            answer = lab.salt(target, "state.apply", f"pillar={changed}", timeout=APPLY_TIMEOUT)[target]
            assert not failed(answer)
        assert "use_chef_backend true" in read(lab, "fe1", CHEF_SERVER_RB)
        with under_load(lab) as story:
            assert who_answers(lab, witness) == story.leader
            story.inject("kill-host", story.leader)
            story.await_new_leader()
            witness.await_true(
                lambda: [] if who_answers(lab, witness) == story.new_leader else ["another answers"], 30, "HAProxy"
            )
    finally:
        answers = lab.salt("*", "state.apply", timeout=APPLY_TIMEOUT)
    assert not any(failed(answer) for answer in answers.values())


def who_answers(lab: Lab, witness: Witness) -> str:
    """The member behind the front end's own port 5432; search must answer behind 9200."""
    command = (
        'export PGPASSWORD="$(python3 -c \'import json; print(json.load(open("/etc/chefha/settings.json"))["secrets"]'
        '["superuser_password"])\')"; psql -X -h 127.0.0.1 -U chef_pgsql -d postgres -Atc "show cluster_name"; '
        "curl -sf -m 5 http://127.0.0.1:9200/ >/dev/null || echo search is away"
    )
    return lab.exec("fe1", command, 20)[1].strip()
