"""What users of the old product complained about: one test for each, named after the complaint.

Others of the same list, where they are at home: test_handover.py (a demoted leader can lead again),
test_dead_search_node.py (search trouble), test_members.py (removing a node), test_restore.py (a restore that crashed),
tests/unit/test_chef_server.py (front ends on another subnet), tests/unit/test_join_cluster.py (a relative path).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab.api import Lab
from lab.topology import BACKENDS, BY_NAME, VIP
from lab.witness import Witness, others
from tests.lab.postgresql import sql
from tests.lab.small_disk import fill, make_room, small_disk
from tests.lab.story import HICCUP, poll, under_load

MEMBERS = [node.name for node in BACKENDS]
SERVICES = "chefha-leaderl.service chefha-postgresql.service chefha-etcd.service"
#: seconds for all services of three machines to come up on two cores and agree on a leader
BLACKOUT = 75.0
#: what an operator of etcd types, as root with the cluster's certificates
AS_ROOT = (
    "export ETCDCTL_API=3 ETCDCTL_USER=root ETCDCTL_PASSWORD=$(python3 -c 'import json; "
    'print(json.load(open("/etc/chefha/settings.json"))["secrets"]["etcd_root_password"])\'); '
    "etcd() { etcdctl --endpoints https://$1:2379 --cacert /etc/chefha/tls/ca.crt --cert /etc/chefha/tls/server.crt "
    '--key /etc/chefha/tls/server.key "${@:2}"; }'
)


def shell(lab: Lab, node: str, script: str, timeout: float = 60) -> str:
    """What a script printed on a machine; it must succeed."""
    code, said = lab.exec(node, ["bash", "-c", script], timeout)
    assert code == 0, f"{node}: {script}: {said}"
    return said


def everywhere(lab: Lab, script: str) -> None:
    """The same on all members at once."""
    with ThreadPoolExecutor(len(MEMBERS)) as pool:
        list(pool.map(lambda name: shell(lab, name, script), MEMBERS))


def rows(lab: Lab, asked_on: str) -> dict[str, Any]:
    """cluster-status of one member, its rows by name."""
    code, said = lab.exec(asked_on, "chef-backend-ctl cluster-status --json 2>/dev/null")
    assert code == 0, said
    return {row["name"]: row for row in json.loads(said)["members"]}


def test_all_three_nodes_stopped_and_started_again_elect_on_their_own(lab: Lab) -> None:
    """Stopped in good order, and all of them at once, so that nobody is left to take over."""
    with under_load(lab, outage=BLACKOUT):
        everywhere(lab, f"systemctl stop {SERVICES}")
        everywhere(lab, f"systemctl start --no-block {SERVICES.replace(' chefha-postgresql.service', '')}")


def test_a_cluster_that_is_weeks_old_elects_and_says_what_it_waits_for(lab: Lab, witness: Witness) -> None:
    """What time does to a cluster: etcd's history is compacted away, leases and logins are of a former process, every
    service was restarted now and then. A node that is alone says what it waits for; with a second one it leads.
    """
    witness.await_converged(60)
    for name in MEMBERS:
        address = BY_NAME[name].address
        now = f"$(etcd {address} get --prefix /chefha -w json | grep -o '\"revision\":[0-9]*' | cut -d : -f 2)"
        compact = f'etcd {address} compact "{now}" || true; ' if name == MEMBERS[0] else ""
        shell(lab, name, f"{AS_ROOT}; {compact} etcd {address} defrag")
    for service in ("etcd", "leaderl"):
        for name in MEMBERS:
            shell(lab, name, f"systemctl restart chefha-{service}.service")
        witness.await_converged(60)
    with under_load(lab, outage=90.0) as story:
        left = story.followers[0]
        story.inject("kill-host", story.followers[1])
        story.inject("kill-host", story.leader)
        waits = poll(lambda: "etcd does not answer with a quorum" in rows(lab, left)[left]["reason"], 40)
        assert waits, rows(lab, left)
        lab.heal(story.followers[1])
        story.await_new_leader(60)


def test_slow_disks_and_slow_etcd_cost_no_failover(lab: Lab) -> None:
    """etcd stands still on all members for 0.7 s, again and again; a test write to the leader's disk takes 5 s."""
    with under_load(lab, outage=HICCUP) as story:
        probe = "pgrep -of 'disk_probe.py'"
        shell(lab, story.leader, f"pid=$({probe}); kill -STOP $pid; (sleep 5; kill -CONT $pid) >/dev/null 2>&1 &")
        for _ in range(4):
            everywhere(lab, "pkill -STOP -x etcd; sleep 0.7; pkill -CONT -x etcd")
            story.stays(1)


def test_a_slow_promotion_keeps_the_key(lab: Lab, witness: Witness) -> None:
    """The elected node's PostgreSQL takes longer to promote than the leader key lives: nobody else takes it."""
    witness.await_converged(60)
    leader = witness.leader()
    elected, other = others(leader)
    epoch = max(row.epoch for row in witness.look())
    lab.salt(other, "chefha.set_node_failover", "off")
    catch = 'curl -s --unix-socket /run/chefha/leaderl.sock http://local/status | grep -q \'"role": *"promoting"\''
    startup = "'^postgres: .*startup'"
    hold = f"until {catch}; do :; done; pkill -STOP -f {startup}"
    seen: set[tuple[int, str]] = set()
    try:
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(shell, lab, elected, f"timeout 40 bash -c {json.dumps(hold)}", 45)
            lab.fault("kill-host", leader)
            held.result()
        poll(lambda: seen.update((row.epoch, row.role) for row in witness.look() if row.role) is not None, 15)
    finally:
        shell(lab, elected, f"pkill -CONT -f {startup}; true")
        lab.heal(leader)
        lab.salt(other, "chefha.set_node_failover", "on")
    assert (epoch + 1, "promoting") in seen and max(seen)[0] == epoch + 1, seen
    assert witness.await_new_leader(leader, 60) == elected
    witness.await_converged(120)
    assert max(row.epoch for row in witness.look()) == epoch + 1


def test_a_follower_too_far_behind_is_cloned_again_on_its_own(lab: Lab, witness: Witness) -> None:
    """The leader has thrown the log away that it needs, its slot too: a fresh base backup, and nobody had to ask."""
    witness.await_converged(60)
    leader = witness.leader()
    late = others(leader)[0]
    shell(lab, late, "systemctl stop chefha-leaderl.service chefha-postgresql.service")
    needed = sql(lab, leader, "SELECT pg_walfile_name(pg_current_wal_lsn())")
    try:
        for parameter in ("wal_keep_size = 0", "max_slot_wal_keep_size = '16MB'"):
            sql(lab, leader, f"ALTER SYSTEM SET {parameter}")
        sql(lab, leader, "SELECT pg_reload_conf()")
        for _ in range(4):
            sql(lab, leader, "SELECT pg_logical_emit_message(true, 'lab', 'x'), pg_switch_wal()")
        sql(lab, leader, "CHECKPOINT")
        assert sql(lab, leader, f"SELECT count(*) FROM pg_ls_waldir() WHERE name = '{needed}'") == "0"
    finally:
        for parameter in ("wal_keep_size", "max_slot_wal_keep_size"):
            sql(lab, leader, f"ALTER SYSTEM RESET {parameter}")
        sql(lab, leader, "SELECT pg_reload_conf()")
        shell(lab, late, "systemctl start chefha-leaderl.service")
    cloned = "journalctl -u chefha-leaderl --since -3min -o cat | grep -c 'Clone: done' || true"
    assert poll(lambda: int(shell(lab, late, cloned)) > 0, 120), rows(lab, leader)
    witness.await_converged(60)
    assert witness.leader() == leader


def test_stale_sessions_to_the_old_leader_are_cut(lab: Lab, witness: Witness) -> None:
    """A client that waits for an answer when the leader changes: its session ends, and it hears of that from the new
    leader as soon as it sends anything, be it TCP's own question whether the other side is still there.
    """
    witness.await_converged(60)
    leader = witness.leader()
    secrets = json.loads(shell(lab, leader, "cat /etc/chefha/settings.json"))["secrets"]
    asks = "keepalives_idle=1 keepalives_interval=1 keepalives_count=5"
    account = f"host={VIP} user=chef_pgsql dbname=postgres connect_timeout=10 {asks}"
    sleeper = ["timeout", "100", "psql", "-X", account, "-c", "SELECT pg_sleep(90)"]
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(lab.exec, "client", sleeper, 110, {"PGPASSWORD": secrets["superuser_password"]})
        sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.90' AND pid <> pg_backend_pid()"
        assert poll(lambda: sql(lab, leader, sleeps) == "1", 20)
        answer = lab.salt(leader, "chefha.demote", timeout=60)[leader]
        assert isinstance(answer, dict), answer
        code, said = waits.result(timeout=20)
    assert code not in (0, 124), said
    assert any(words in said for words in ("terminating connection", "closed the connection", "reset by peer")), said
    witness.await_converged(60)
    assert sql(lab, leader, sleeps) == "0"


def test_a_full_disk_of_the_leader_hands_over_and_heals(lab: Lab, witness: Witness) -> None:
    """The leader hands over by plan while PostgreSQL still runs, is not eligible as long as there is no room, says so,
    and is eligible again once there is room.
    """
    witness.await_converged(60)
    full = others(witness.leader())[0]
    with small_disk(lab, full):
        witness.await_converged(90)
        assert isinstance(lab.salt(full, "chefha.promote", full, timeout=45)[full], dict)
        with under_load(lab, outage=HICCUP) as story:
            fill(lab, full, leave=40)
            heir = story.await_new_leader(60)
            trouble = rows(lab, heir)[full]["storage"]
            assert "MiB are free" in trouble
            code, said = lab.exec(heir, ["chef-backend-ctl", "promote", full])
            assert code == 1 and f"the storage of {full} is in trouble: {trouble}" in said
            assert "IN TROUBLE" in shell(lab, full, "chef-backend-ctl status")
            metrics = shell(lab, full, "curl -sk https://127.0.0.1:7331/metrics")
            assert "chefha_storage_well 0" in metrics
            make_room(lab, full)
            assert poll(lambda: not rows(lab, heir)[full]["storage"], 60), "it does not heal"
    witness.await_converged(90)


def test_a_backup_does_not_fill_tmp(lab: Lab, witness: Witness) -> None:
    """/tmp has room for nothing at all, and a backup succeeds."""
    witness.await_converged(60)
    follower = others(witness.leader())[0]
    shell(lab, follower, "mount -t tmpfs -o nr_inodes=1,mode=1777 tmpfs /tmp")
    try:
        taken = json.loads(shell(lab, follower, "chef-backend-ctl backup --json 2>/dev/null", 90))
    finally:
        shell(lab, follower, "umount /tmp; rm -f /var/opt/chef-backup/chef-backup-*")
    assert taken["verified"], taken
