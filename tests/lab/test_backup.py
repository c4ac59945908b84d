"""backup in a real cluster under write load: refused on the leader, taken on a follower both ways, whole."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from lab.api import Lab
from tests.lab.postgresql import sql
from tests.lab.story import HICCUP, under_load

TIMEOUT = 120.0
#: extracts an archive as PostgreSQL's user would have it, has pg_verifybackup look at it, starts it and counts rows
TRY = r"""
set -eu
place=/var/lib/chefha/postgresql/tried
rm -rf $place; install -d -o postgres -g postgres -m 0700 $place $place/data $place/run
trap 'rm -rf '$place EXIT
/opt/saltstack/salt/bin/python3 - "$ARCHIVE" <<'END'
import sys
from pathlib import Path
from chefha_core.backup.chain import extract_chain
from chefha_core.backup.stores import open_store
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import load
settings, folder = load(), Path("/var/lib/chefha/postgresql/tried/data")
extract_chain(open_store(settings.backup), Path(sys.argv[1]).name, folder, Places.of(settings), 60)
END
bin=$(ls -d /usr/lib/postgresql/$(cat $place/data/PG_VERSION)/bin)
as() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
cd /
as $bin/pg_verifybackup -q $place/data
rm -f $place/data/standby.signal  # a follower's mark: it would wait for a leader
as $bin/pg_ctl -D $place/data -w -l $place/log start \
    -o "-c listen_addresses= -c unix_socket_directories=$place/run -c port=5599 -c hot_standby=off" >/dev/null
tries=0
until as $bin/psql -h $place/run -p 5599 -d postgres -Atc 'select count(*) from backed_up' 2>$place/said; do
    tries=$((tries + 1)); [ $tries -lt 60 ] || { cat $place/said $place/log; exit 1; }; sleep 0.5
done
as $bin/pg_ctl -D $place/data -w -m immediate stop >/dev/null
"""


def test_backup_of_a_follower_under_load_holds_every_row_and_the_leader_refuses(lab: Lab) -> None:
    """Through Salt and the shell, in full and (PostgreSQL 17) incremental; each archive extracted, accepted by
    pg_verifybackup, started, counted."""
    with under_load(lab, outage=HICCUP) as story:
        follower = story.followers[0]
        refusal = lab.salt(story.leader, "chefha.backup", timeout=TIMEOUT)[story.leader]
        assert isinstance(refusal, str) and "this node leads" in refusal and "Traceback" not in refusal, refusal
        code, text = lab.exec(story.leader, "chef-backend-ctl backup")
        assert code == 1 and "give --force" in text and "Traceback" not in text, text
        assert lab.exec(story.leader, "ls /var/opt/chef-backup/chef-backup-*")[0] != 0, (
            "a refused backup left something"
        )
        try:
            sql(lab, story.leader, "create table backed_up (n int)")
            steps = [through_salt, by_shell]
            if int(sql(lab, follower, "show server_version_num")) >= 170000:
                sql(lab, follower, "alter system set summarize_wal = on")
                sql(lab, follower, "select pg_reload_conf()")
                steps.append(incremental)
            for count, take in zip(range(1000, 4000, 1000), steps, strict=False):
                sql(lab, story.leader, "insert into backed_up select * from generate_series(1, 1000)")
                sql(lab, story.leader, "checkpoint")  # or too little has happened for an incremental one
                archive = take(lab, follower)
                code, text = lab.exec(follower, TRY, TIMEOUT, env={"ARCHIVE": archive})
                assert code == 0 and int(text.split()[-1]) == count, text
        finally:
            sql(lab, follower, "alter system reset all")
            sql(lab, follower, "select pg_reload_conf()")
            sql(lab, story.leader, "drop table backed_up")
            lab.exec(follower, "rm -rf /var/opt/chef-backup/chef-backup-*")


def through_salt(lab: Lab, node: str) -> str:
    """The archive's path; Salt has nothing but the answer."""
    answer = lab.salt(node, "chefha.backup", timeout=TIMEOUT)[node]
    assert isinstance(answer, dict) and answer["verified"] and answer["leader_asked"], answer
    assert PurePosixPath(answer["archive"]).name.endswith(".tar.zst")
    return str(answer["archive"])


def by_shell(lab: Lab, node: str) -> str:
    """The same on the node."""
    code, text = lab.exec(node, "chef-backend-ctl backup --compression gzip --json 2>/dev/null", TIMEOUT)
    assert code == 0, text
    assert PurePosixPath(json.loads(text)["archive"]).name.endswith(".tgz")
    return str(json.loads(text)["archive"])


def incremental(lab: Lab, node: str) -> str:
    """What changed since the last one, on top of which it is laid in a restore."""
    answer = lab.salt(node, "chefha.backup", "incremental=newest", timeout=TIMEOUT)[node]
    assert isinstance(answer, dict) and str(answer["incremental_of"]).endswith(".tgz"), answer
    return str(answer["archive"])
