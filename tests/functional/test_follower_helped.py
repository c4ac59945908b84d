"""A follower for which everything is there gets to stream, whatever its data directory or its processes are like."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from tests.functional import pg_cluster
from tests.functional.pg_cluster import Node
from tests.functional.whole_cluster import MARKS, Whole, await_true, whole_cluster

from chefha_core.model import PgState
from chefha_core.parts import postmaster
from chefha_core.parts.postgres import PostgresError
from chefha_core.plan import follow

pytestmark = MARKS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole_cluster(tmp_path_factory.mktemp("whole"), Whole) as found:
        found.node(found.await_whole()).sql("create table kept (n int)")
        yield found


def pair(whole: Whole) -> tuple[Node, Node]:
    """The leader of a whole cluster, and one of its followers."""
    leader = whole.await_whole()
    follower = next(name for name in pg_cluster.MEMBERS if name != leader)
    return whole.node(leader), whole.node(follower)


def steps(whole: Whole, node: Node) -> list[str]:
    return [step.step for step in whole.leaderls[node.name].memory.steps]


def await_step(whole: Whole, node: Node, step: str) -> None:
    await_true(lambda: step in steps(whole, node), 60, lambda: str(whole.leaderls[node.name].status()))


def kept_everywhere(whole: Whole, n: int) -> None:
    """A row that the leader commits now gets to all members."""
    whole.node(whole.await_whole()).sql(f"insert into kept values ({n})")
    for node in whole.made.nodes:
        await_row(node, n)


def await_row(node: Node, n: int) -> None:
    await_true(lambda: has(node, n), 30, lambda: node.log()[-2000:])


def has(node: Node, n: int) -> bool:
    try:
        return (n,) in node.sql("select n from kept")
    except psycopg2.Error:  # it does not run yet
        return False


def process(node: Node, title: str) -> int:
    """The id of the server process whose title has this in it."""
    for pid in postmaster.processes(node.places.data):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if title in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"):
                return pid
    raise AssertionError(f"no {title} on {node.name}")


def test_a_base_backup_whose_first_start_failed_is_started_and_not_rewound(whole: Whole) -> None:
    """Its pg_control is a primary's. pg_rewind would recover it alone, onto a log that nobody else has, and find both
    on one timeline.
    """
    leader, follower = pair(whole)
    whole.leaderls[follower.name].kill()
    follower.postgres.stop("immediate", 10)
    follower.postgres.clone(leader.address, timeout=60)
    seen = follower.postgres.observe(leader.address)
    assert (seen.state, seen.was_primary, seen.damaged) == (PgState.STOPPED, False, False)
    with pytest.raises(PostgresError, match="a base backup that never ran: start it as a standby, or clone it"):
        follower.postgres.rewind(leader.address, 60)
    follower.postgres.problem = ""
    whole.start(follower.name)
    await_step(whole, follower, "StartStandby")
    kept_everywhere(whole, 1)
    assert steps(whole, follower) == ["StartStandby"]


def test_a_follower_without_a_stream_although_its_leader_answers_is_started_anew(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "STALLED", 2.0)
    _, follower = pair(whole)
    startup, receiver = process(follower, "startup"), process(follower, "walreceiver")
    os.kill(startup, signal.SIGSTOP)  # it never asks for a new receiver, and the server answers all the same
    os.kill(receiver, signal.SIGTERM)
    await_step(whole, follower, "Restart")
    kept_everywhere(whole, 2)
    assert startup not in postmaster.processes(follower.places.data)
    assert "Clone" not in steps(whole, follower)


def recover_alone(whole: Whole, node: Node) -> None:
    """Its leaderl is gone, and its data are as pg_rewind and people recover them: with one record that nobody else
    has, on its timeline.
    """
    whole.leaderls[node.name].kill()
    node.postgres.stop("fast", 10)
    node.places.standby_signal.unlink()
    single = [str(node.places.bin / "postgres"), "--single", "-D", str(node.places.data)]
    single += ["-c", f"config_file={node.places.config}", "postgres"]
    subprocess.run(single, input=b"", user="postgres", cwd="/", check=True, timeout=60, capture_output=True)
    node.places.write(node.places.standby_signal, "")


def test_a_follower_that_was_recovered_alone_is_cloned_for_there_is_nothing_to_rewind(whole: Whole) -> None:
    _, follower = pair(whole)
    recover_alone(whole, follower)
    whole.start(follower.name)
    await_step(whole, follower, "Clone")
    kept_everywhere(whole, 3)
    assert steps(whole, follower) == ["Clone"]


def test_a_follower_whose_log_leads_nowhere_is_cloned_where_a_new_start_was_in_vain(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers and asks for log again and again; started anew it does not even answer."""
    monkeypatch.setattr(follow, "STALLED", 1.0)
    leader, follower = pair(whole)
    recover_alone(whole, follower)
    for _ in range(10):  # the leader's log gets past where the other one ends
        leader.sql("insert into kept values (0)")
    follower.postgres.start(primary=False, timeout=20)
    impatient = dataclasses.replace(whole.settings.leaderl, start_timeout_seconds=3.0)
    monkeypatch.setattr(whole, "settings", dataclasses.replace(whole.settings, leaderl=impatient))
    whole.start(follower.name)
    await_step(whole, follower, "Clone")
    kept_everywhere(whole, 4)
    assert steps(whole, follower)[0] == "Restart"
