"""restore: an archive in the place of the cluster's data, refused without a trace, and killed on its way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab.api import Lab
from lab.deploy import PYTHON
from lab.stack import CLUSTER
from lab.topology import BY_NAME
from lab.witness import Witness, others
from tests.lab.bring_up import APPLY_TIMEOUT, failed
from tests.lab.postgresql import SOCKETS, sql
from tests.lab.story import poll

CTL = "chef-backend-ctl"
HOME = "/var/lib/chefha/postgresql"
ACKED = "/root/acknowledged"
#: one row after the other; each number goes to a file once its commit is acknowledged
WRITER = f"""
rm -f {ACKED}
( n=0; while n=$((n + 1)); do
    psql -X -q -h {SOCKETS} -U postgres -d postgres -c "insert into kept values ($n)" || exit; echo $n >> {ACKED}
  done ) >/dev/null 2>&1 &
sleep 2
"""


def ctl(lab: Lab, node: str, *words: str, timeout: float = 180) -> tuple[int, str]:
    """A shell verb on a node; its exit code and what it printed, both ways."""
    return lab.exec(node, f"{CTL} {' '.join(words)} 2>&1", timeout)


def assert_whole(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer to a restore, all of whose steps were done."""
    assert {step["outcome"] for step in answer["steps"]} == {"done"}, answer
    return answer


def restored(lab: Lab, node: str, archive: str, *words: str) -> dict[str, Any]:
    """The answer to a restore that works."""
    code, text = lab.exec(node, f"{CTL} restore {archive} -y --json {' '.join(words)} 2>/root/restore.log", 240)
    assert code == 0, text + lab.exec(node, "cat /root/restore.log")[1]
    return assert_whole(json.loads(text))


def by_runner(lab: Lab, node: str, archive: str) -> dict[str, Any]:
    """The same on the master, which finds out who leads."""
    answer = lab.salt_run("chefha.restore", CLUSTER, archive, timeout=240)
    assert answer.get("asked_on") == node, answer
    return assert_whole(answer)


def system_id(lab: Lab, node: str) -> str:
    return sql(lab, node, "select system_identifier from pg_control_system()")


def state(lab: Lab, witness: Witness) -> tuple[str, int, str, str]:
    """What must not change when a restore is refused."""
    leader = witness.leader()
    count = sql(lab, leader, "select count(*) from since")
    return leader, max(row.epoch for row in witness.look()), count, system_id(lab, leader)


@pytest.fixture(name="archive", scope="module")
def _archive(brought_up: Any) -> tuple[str, str, int]:
    """An archive of a follower under write load, which then leads; and how many rows were acknowledged before it."""
    lab = brought_up[0]
    witness = Witness(lab.machines)
    witness.await_converged(45)
    leader = witness.leader()
    node = others(leader)[0]
    sql(lab, leader, "drop table if exists kept, since; create table kept (n int)")
    lab.exec(leader, WRITER, 20)
    before = int(lab.exec(leader, f"tail -n 1 {ACKED}")[1])
    code, text = lab.exec(node, f"{CTL} backup --json 2>/dev/null", 120)
    assert code == 0, text
    path = json.loads(text)["archive"]
    code, text = ctl(lab, leader, "promote", node)
    assert code == 0, text
    witness.await_converged(60)
    sql(lab, node, "drop table kept; create table since as select generate_series(1, 500) n")
    return node, path, before


def assert_as_archived(lab: Lab, node: str, acknowledged: int) -> None:
    """Every row that was acknowledged before the backup began, no gap after them, and nothing of later."""
    count, last = map(int, sql(lab, node, "select count(*), max(n) from kept").split("|"))
    assert count == last >= acknowledged > 5
    assert sql(lab, node, "select to_regclass('since') is null") == "t"


#: another cluster of the same name and PostgreSQL, and a backup of it
FOREIGN = """
import dataclasses, shutil, subprocess, sys
from pathlib import Path
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import Backup, load
from chefha_core.verbs import backup
settings, place = load(), Path("/var/lib/chefha/foreign")
def run(program, *words):
    command = [settings.pg_bin + "/" + program, "-D", place / "data", *words]
    subprocess.run(command, user="postgres", group="postgres", cwd="/", check=True, stdout=subprocess.DEVNULL)
place.mkdir()
shutil.chown(place, "postgres", "postgres")
try:
    run("initdb", "--no-sync", "--auth=trust")
    run("pg_ctl", "-w", "-l", place / "log", "-o", f"-p 5598 -c listen_addresses= -k {place}", "start")
    places = Places(place / "data", Path(settings.pg_bin), 5598, config=place / "data/postgresql.conf", sockets=place)
    wanted = dataclasses.replace(settings, backup=Backup(directory=str(place / "store")))
    try:
        taken = backup.backup(wanted, "elsewhere", force=True, places=places)
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
    shutil.move(taken["archive"], sys.argv[1])
finally:
    shutil.rmtree(place)
"""
REFUSED = {
    "truncated": ("head -c $(($(stat -c %s {a}) / 2)) {a} > {b}", "truncated"),
    "a bit is flipped": (
        "cp {a} {b} && at=$(($(stat -c %s {a}) / 2)) && byte=$(od -An -tu1 -j $at -N 1 {a}) && "
        'printf "\\\\$(printf %o $((byte ^ 4)))" | dd of={b} bs=1 seek=$at conv=notrunc 2>/dev/null',
        "damaged",
    ),
    "something else": ("tar -C /etc -cz -f {b} hostname", "not an archive of chefha"),
    "foreign": (f'{PYTHON} -c "$FOREIGN" {{b}}', "never had that identifier"),
}


def test_a_restore_is_refused_with_its_own_words_and_nothing_changes(
    lab: Lab, witness: Witness, archive: tuple[str, str, int]
) -> None:
    node, path, _ = archive
    before = state(lab, witness)
    for name, (make, words) in REFUSED.items():
        code, text = lab.exec(node, make.format(a=path, b="/root/bad.tar.zst"), env={"FOREIGN": FOREIGN})
        assert code == 0, text
        code, text = ctl(lab, node, "restore /root/bad.tar.zst -y")
        assert code == 1 and words in text and "nothing was changed" in text, f"{name}: {text}"
    for words, message in (
        (f"restore {path}", "no terminal"),
        ("restore /root/none.tar.zst -y", "cannot be read"),
        (f"restore {path} -y -d /etc", "is not empty"),
        (f"restore {path} -y -d /dev/shm/new", "another file system"),
        (f"restore {path} -y --target-time soon", "is no time"),
    ):
        code, text = ctl(lab, node, words)
        assert code == 1 and message in text and "Traceback" not in text, text
    code, text = ctl(lab, others(node)[0], f"restore {path} -y")
    assert code == 1 and f"is not the leader, {node} is; run it there; nothing was changed" in text, text
    assert state(lab, witness) == before
    assert lab.exec(node, f"ls {HOME}; rm -f /root/bad.tar.zst")[1].split() == ["data", "pgpass", "role.conf"]


def test_a_restore_brings_back_what_was_acknowledged_and_the_others_clone_it(
    lab: Lab, witness: Witness, archive: tuple[str, str, int]
) -> None:
    node, path, acknowledged = archive
    for restore in (
        lambda: by_runner(lab, node, path),
        lambda: restored(lab, node, path, f"-d {HOME}/mine"),
    ):
        was = system_id(lab, node)
        answer = restore()
        assert answer["system_id"] == system_id(lab, node) != was
        witness.await_converged(60)
        assert witness.leader() == node
        assert_as_archived(lab, node, acknowledged)
        assert {system_id(lab, name) for name in others(node)} == {answer["system_id"]}
        assert "before" not in lab.exec(node, f"ls {HOME}")[1]
        sql(lab, node, "create table since as select generate_series(1, 500) n")


#: by what is killed: what is waited for, and how
KILL = {
    "the verb, while it extracts": ("[ -e {home}/restore/data/PG_VERSION ]", "kill -9 $verb"),
    "verb and leaderl, when it is asked for": (
        "[ -e {home}/data.restored ]",
        "kill -9 $verb; systemctl kill -s KILL chefha-leaderl",
    ),
    "verb, leaderl and PostgreSQL, when the data is exchanged": (
        "ls {home}/data.before-* 2>/dev/null",
        "kill -9 $verb; systemctl kill -s KILL chefha-leaderl; systemctl kill -s KILL chefha-postgresql",
    ),
}
MACHINE = "the machine, when the data is exchanged"
KILL[MACHINE] = ("ls {home}/data.before-* 2>/dev/null", "true")


@pytest.mark.parametrize("what", KILL)
def test_a_restore_that_crashed_left_the_old_data_or_the_restored(
    lab: Lab, witness: Witness, archive: tuple[str, str, int], what: str
) -> None:
    node, path, acknowledged = archive
    witness.await_converged(60)
    when, kill = KILL[what]
    script = (
        f"{CTL} restore {path} -y >/root/killed.log 2>&1 & verb=$!; "
        f"for i in $(seq 6000); do {when.format(home=HOME)} >/dev/null && break; sleep 0.01; done; {kill}; "
        "[ $i -lt 6000 ] && echo in time"
    )
    said = lab.exec(node, script, 90)[1]
    if what == MACHINE:
        lab.fault("kill-host", node)
        poll(lambda: False, 5)
        lab.heal(node)
    log = lab.exec(node, "cat /root/killed.log")[1]
    assert "in time" in said and "is restored in epoch" not in log, f"it was killed too late: {said}\n{log}"
    witness.await_converged(120)
    leader = witness.leader()
    old = sql(lab, leader, "select to_regclass('since') is not null") == "t"
    if not old:
        assert_as_archived(lab, leader, acknowledged)
        sql(lab, leader, "create table since as select generate_series(1, 500) n")
    if leader != node:
        assert ctl(lab, leader, "promote", node)[0] == 0
        witness.await_converged(60)
    restored(lab, node, path)
    assert_as_archived(lab, node, acknowledged)
    sql(lab, node, "create table since as select generate_series(1, 500) n")
    assert poll(lambda: "restore" not in lab.exec(node, f"ls -a {HOME}")[1].replace(".restore.lock", ""), 10)


def test_all_three_data_directories_lost(lab: Lab, witness: Witness, archive: tuple[str, str, int]) -> None:
    """Nobody can be elected, and the archive brings the cluster back, on the one whose key it was last."""
    node, path, acknowledged = archive
    witness.await_converged(60)
    services = "chefha-leaderl chefha-postgresql"
    for name in (*others(node), node):
        lab.exec(name, f"systemctl stop {services}; rm -rf {HOME}/data {HOME}/data.*", 60)
    for name in (node, *others(node)):
        lab.exec(name, "systemctl start chefha-leaderl", 60)
    assert poll(lambda: "no terminal" in ctl(lab, node, f"restore {path}")[1], 60), ctl(lab, node, f"restore {path}")
    restored(lab, node, path)
    witness.await_converged(60)
    assert_as_archived(lab, node, acknowledged)


def test_all_three_machines_lost(lab: Lab, witness: Witness, archive: tuple[str, str, int]) -> None:
    """Nothing is left but an archive elsewhere: a first node by the verb, the archive in it, the others by states."""
    node, path, acknowledged = archive
    witness.await_converged(60)
    stream, _ = lab.machines.get(BY_NAME[node]).get_archive(path)
    elsewhere = b"".join(stream)
    lab.replace(node, *others(node))
    lab.salt(node, "saltutil.sync_all")
    answers = lab.salt(node, "state.apply", "chefha.common", timeout=APPLY_TIMEOUT)
    assert not failed(answers[node]), failed(answers[node])
    lab.machines.put_tar(BY_NAME[node], "/root", elsewhere)

    answer = lab.salt(node, "chefha.bootstrap", timeout=APPLY_TIMEOUT)[node]
    assert isinstance(answer, dict) and answer["leader"] == node, answer
    assert "etcd knows this cluster already" in ctl(lab, node, "bootstrap -y")[1]
    restored(lab, node, f"/root/{path.rpartition('/')[2]}")
    assert_as_archived(lab, node, acknowledged)

    answers = lab.salt("-L", ",".join(others(node)), "state.apply", timeout=APPLY_TIMEOUT)
    assert not any(map(failed, answers.values())), answers
    witness.await_converged(240)
    assert witness.leader() == node
    assert json.loads(ctl(lab, node, "cluster-status --json")[1])["alone"] is None
    assert_as_archived(lab, node, acknowledged)
