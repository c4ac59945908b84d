"""The class Postgres and its monitor on servers that die, freeze, fill up, or must not start."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from tests.functional.pg_cluster import Cluster, await_state, cluster, dump, monitored, usable

from chefha_core.layout import postgres_files
from chefha_core.model import PgState, Position
from chefha_core.parts import postgres_control, postmaster
from chefha_core.parts.postgres import PostgresError
from chefha_core.parts.postgres_unit import refusal, write_permit

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "-")


@pytest.fixture
def made() -> Iterator[Cluster]:
    with cluster() as fresh:
        yield fresh


# ---- death and paralysis


def test_death_is_seen_at_once(made: Cluster) -> None:
    node = made.first()
    with monitored(node) as (monitor, changes):
        assert monitor.facts.state is PgState.PRIMARY
        time.sleep(0.3)
        pid = node.pid()
        begun = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await_state(monitor, PgState.STOPPED)
        took = time.monotonic() - begun
        print(f"death seen after {took * 1000:.1f} ms")
        assert took < 0.1
        assert (monitor.facts.was_primary, monitor.facts.clean, monitor.facts.position) == (True, False, None)
        assert changes[-1].state is PgState.STOPPED
    node.postgres.start(primary=True, timeout=20)  # with a stale pid file and perhaps a dying child


def test_a_frozen_postmaster_is_hung_and_can_be_ended(made: Cluster) -> None:
    node = made.first()
    with monitored(node, interval=0.2, timeout=0.3) as (monitor, _):
        time.sleep(0.3)
        os.kill(node.pid(), signal.SIGSTOP)
        took = await_state(monitor, PgState.HUNG)
        print(f"hung seen after {took:.3f} s")
        assert monitor.facts.was_primary and "does not answer" in monitor.facts.problem
        node.postgres.end_client_sessions()
        begun = time.monotonic()
        node.postgres.stop("immediate", 5)
        print(f"ended after {time.monotonic() - begun:.3f} s")
        await_state(monitor, PgState.STOPPED)
        assert postmaster.processes(node.places.data) == []
        node.postgres.start(primary=True, timeout=20)
        await_state(monitor, PgState.PRIMARY)
        assert monitor.facts.since < 5


def test_one_late_look_proves_nothing(made: Cluster) -> None:
    node = made.first()
    with monitored(node, interval=30, timeout=1.0) as (monitor, _):
        os.kill(node.pid(), signal.SIGSTOP)
        assert monitor.look().state is PgState.PRIMARY
        os.kill(node.pid(), signal.SIGCONT)
        node.wait(lambda f: f.problem == "")
        facts = monitor.look()
        assert (facts.state, facts.problem) == (PgState.PRIMARY, "")


def test_immediate_stop_ends_frozen_children_too(made: Cluster) -> None:
    node = made.first()
    with contextlib.closing(node.connect()) as connection:
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        node.postgres.stop("immediate", 5)
    assert postmaster.processes(node.places.data) == []
    node.postgres.stop("immediate", 5)  # nothing to do is success
    node.postgres.stop("fast", 5)
    node.postgres.start(primary=True, timeout=20)


def test_stale_pid_file_with_a_reused_id(made: Cluster) -> None:
    node = made.first()
    node.postgres.stop("immediate", 5)
    user = ["setpriv", "--reuid=postgres", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(user) as stranger:
        text = f"{stranger.pid}\n{node.places.data}\n1\n{node.places.port}\n{node.places.sockets}\n\n\nready\n"
        node.places.write(node.places.data / "postmaster.pid", text)
        assert node.postgres.observe().state is PgState.STOPPED
        node.postgres.stop("immediate", 5)
        assert stranger.poll() is None
        node.postgres.start(primary=True, timeout=20)
        stranger.terminate()


def test_clients_are_cut_but_followers_stay(made: Cluster) -> None:
    leader, follower = made.pair()
    receiver = [pid for pid in postmaster.processes(leader.places.data) if "walsender" in title(pid)]
    with contextlib.closing(leader.connect()) as one, contextlib.closing(leader.connect()) as two:
        begun = time.monotonic()
        leader.postgres.end_client_sessions()
        print(f"sessions ended after {time.monotonic() - begun:.3f} s")
        for connection in (one, two):
            with pytest.raises(psycopg2.Error), connection.cursor() as cursor:
                cursor.execute("select 1")
    assert follower.postgres.observe().streaming
    assert [pid for pid in postmaster.processes(leader.places.data) if "walsender" in title(pid)] == receiver


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def test_full_of_clients_is_no_outage(made: Cluster) -> None:
    node = made.nodes[0]
    conf = node.places.config
    text = conf.read_text().replace("max_connections = 350", "max_connections = 14")
    node.places.write(conf, text.replace("superuser_reserved_connections = 10", "superuser_reserved_connections = 0"))
    made.first()
    assert node.postgres.observe().state is PgState.PRIMARY
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                stack.enter_context(contextlib.closing(node.connect()))
        assert node.postgres.observe().state is PgState.PRIMARY
        assert node.postgres.observe().state is PgState.PRIMARY


# ---- permits


def test_nobody_else_starts_a_primary(made: Cluster) -> None:
    node = made.first()
    assert not node.places.permit.exists()
    node.postgres.stop("fast", 10)
    with pytest.raises(PostgresError, match="only when leaderl says so"):
        node.postgres.unit.start()
    node.places.permit.write_text("1\n")  # left behind, run out
    with pytest.raises(PostgresError, match="only when leaderl says so"):
        node.postgres.unit.start()
    node.postgres.set_role("")
    node.postgres.start(primary=False, timeout=20)  # a standby may
    assert node.postgres.observe().state is PgState.STANDBY


def test_the_unit_asks_the_same(tmp_path: Path) -> None:
    """The shell of ExecStartPre, as systemd would read it."""
    permit, data = tmp_path / "permit", tmp_path / "data"
    data.mkdir()
    shell = postgres_files.gate(str(data), str(permit)).replace("%%", "%").replace("$$", "$")

    def code() -> int:
        return subprocess.run(["/bin/sh", "-c", shell], capture_output=True).returncode

    assert code() == 1
    write_permit(permit)
    assert code() == 0 and not permit.exists() and code() == 1
    permit.write_text("1\n")
    assert code() == 1 and not permit.exists()
    permit.write_text("nonsense\n")
    assert code() == 1
    (data / "standby.signal").touch()
    assert code() == 0


def test_a_stop_calls_back_a_start_under_way(made: Cluster) -> None:
    node = made.first()
    node.postgres.stop("fast", 10)
    failures: list[str] = []

    def start() -> None:
        try:
            node.postgres.start(primary=True, timeout=20)
        except PostgresError as error:
            failures.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    while node.postgres.unit.failed() and not failures:  # until the new child is there
        time.sleep(0.0002)
    node.postgres.stop("immediate", 5)
    thread.join(20)
    assert postmaster.processes(node.places.data) == []
    assert failures and refusal(node.places) != ""


def test_a_start_that_fails_says_why(made: Cluster) -> None:
    node = made.first()
    node.postgres.stop("fast", 10)
    node.places.role_conf.unlink()
    with pytest.raises(PostgresError, match="does not start"):
        node.postgres.start(primary=True, timeout=10)
    assert "role.conf" in node.postgres.observe().problem


# ---- the end of a log


def test_record_ends_are_postgres_own(made: Cluster) -> None:
    """Every record's computed end is where pg_waldump says that the next begins, across pages and segments."""
    node = made.first()
    node.sql("create table t as select repeat(md5(n::text), 40) from generate_series(1, 20000) n")
    node.postgres.stop("fast", 10)
    control = node.postgres.observer.control(time.monotonic() + 2)
    lines = dump(node.places, "-s", "0/2000000", "-t", "1")
    starts = [Position(1, (int(h, 16) << 32) + int(low, 16)).lsn for h, low in re.findall(r"lsn: (\w+)/(\w+),", lines)]
    assert len(starts) > 1000
    assert postgres_control.refreshed(control, node.places.data) == postgres_control.read(node.places, 2.0)
    wal, checked = node.places.data / "pg_wal", 0
    for this, following in itertools.pairwise(starts):
        end = postgres_control.record_end(wal, 1, this, control)
        assert end is not None
        header = 40 if end % control.segment == 0 else 24 if end % control.page == 0 else 0
        if following % control.segment > 40:  # after a switch the rest of a segment is empty
            assert end + header == following
            checked += 1
    assert checked > 1000
