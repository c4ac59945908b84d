"""restore --target-time: a backup and the log that the leader archived since, up to a moment before a mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from lab.api import Lab
from lab.witness import Witness, others
from tests.lab.bring_up import APPLY_TIMEOUT, failed
from tests.lab.postgresql import sql
from tests.lab.story import poll
from tests.lab.test_restore import ctl, restored

STORE = "/var/opt/chef-backup"
CONVERGED = 60.0
NOW = """select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US')"""


def lead(lab: Lab, witness: Witness, node: str) -> None:
    """A planned hand-over to this node."""
    code, text = ctl(lab, node, "promote", node)
    assert code == 0, text
    witness.await_converged(CONVERGED)


@contextmanager
def archiving(lab: Lab, witness: Witness, node: str) -> Iterator[None]:
    """This node leads meanwhile and archives its log, into a folder of its own: nobody else leads."""

    def apply(*pillar: str) -> None:
        answer = lab.salt(node, "state.apply", *pillar, timeout=APPLY_TIMEOUT)[node]
        assert not failed(answer), failed(answer)

    before = witness.leader()
    try:
        apply(f"pillar={json.dumps({'chefha': {'backup': {'wal_archive': True}}})}")
        code, text = ctl(lab, node, "restart postgresql")
        assert code == 0, text
        witness.await_converged(CONVERGED)
        lead(lab, witness, node)
        yield
    finally:
        apply()
        lead(lab, witness, before)  # so that PostgreSQL starts anew on the other one, without the archive
        lab.exec(node, f"rm -rf {STORE}/wal {STORE}/chef-backup-*")


def test_a_restore_to_a_moment_has_what_was_committed_until_then(lab: Lab, witness: Witness) -> None:
    """What came after the backup is there, and the mistake after the moment is not; a moment that the log does not
    reach is refused, and nothing changes."""
    witness.await_converged(CONVERGED)
    node = others(witness.leader())[0]
    with archiving(lab, witness, node):
        sql(lab, node, "drop table if exists kept; create table kept (n int)")
        code, text = lab.exec(node, "chef-backend-ctl backup --force --yes --json 2>/dev/null", 120)
        assert code == 0, text
        archive = json.loads(text)["archive"]
        sql(lab, node, "insert into kept select generate_series(1, 500)")
        moment = sql(lab, node, NOW)
        sql(lab, node, "delete from kept")
        segment = sql(lab, node, "select pg_walfile_name(pg_switch_wal())")
        assert poll(lambda: lab.exec(node, f"ls {STORE}/wal/*/*/{segment}.z")[0] == 0, 60), "it is not archived"
        code, text = ctl(lab, node, f"restore {archive} -y --target-time {sql(lab, node, NOW)}")
        assert code == 1 and "after the archived log ends" in text and "nothing was changed" in text, text
        assert sql(lab, node, "select count(*) from kept") == "0"
        restored(lab, node, archive, f"--target-time {moment}")
        witness.await_converged(CONVERGED)
        assert witness.leader() == node
        assert sql(lab, node, "select count(*) from kept") == "500"
        sql(lab, node, "drop table kept")
