"""A restore that is killed (SIGKILL) while it makes the data ready: the old is served on, and the next call finishes.

What a leaderl that is killed leaves: test_restore_cluster.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional import test_restore_verb as neighbour
from tests.functional.test_restore_verb import Scene, rows

from chefha_core.backup import wal
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import Settings
from chefha_core.verbs import backup, restore
from chefha_core.verbs.steps import Steps

pytestmark = neighbour.pytestmark
_stage, scene, leaderl = neighbour._stage, neighbour.scene, neighbour.leaderl


class Trap:
    """A folder of PostgreSQL's user, where a restore that was stopped on its way says so in the file ``reached``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reached = folder, folder / "reached"
        #: what a program or a restore_command does in order to stop: its process id is in the file
        self.stop = f"echo $$ > {self.reached}; exec sleep 600"

    def kill_within(self, scene: Scene, archive: Path, *wish: object) -> None:
        """A restore in a process of its own, killed as soon as it is stopped; the old data does not notice."""
        before = served(scene)
        words = (self.folder, scene.settings, scene.leader.places, archive, *wish)
        verb = multiprocessing.get_context("spawn").Process(target=_verb, args=words)  # no copy of this one's threads
        verb.start()
        try:
            until = time.monotonic() + 60
            while not self.reached.exists():
                assert verb.is_alive() and time.monotonic() < until, f"never reached; exit code {verb.exitcode}"
                time.sleep(0.02)
        finally:
            verb.kill()
            verb.join()
        assert verb.exitcode == -signal.SIGKILL
        assert served(scene) == before


def _verb(folder: Path, settings: Settings, places: Places, archive: Path, at: str = "", command: str = "") -> None:
    """The process to be killed. It stops while it unpacks, unless it is stopped by a program or by ``command``."""

    def look(step: dict[str, Any]) -> None:
        if not command and places.bin != folder and step["outcome"] == "1 MiB":  # of which the program is fed no more
            while not any((places.home / "restore/data").iterdir()):
                time.sleep(0.01)
            (folder / "reached").touch()
            threading.Event().wait()

    Steps.NEWS = -1.0  # each piece of the archive is told
    wal.restore_command = lambda python="": command
    tempfile.tempdir = str(folder)
    restore.restore(settings, "be-1", str(archive), timeout=60.0, target_time=at, on_step=look, places=places)


@pytest.fixture
def trap(scene: Scene) -> Iterator[Trap]:
    made = Trap(scene.leader.places.home.parent / "trap")
    made.folder.mkdir()
    shutil.chown(made.folder, "postgres", "postgres")
    yield made
    if made.reached.exists() and (pid := made.reached.read_text()):
        os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(made.folder)


def served(scene: Scene) -> object:
    """By which server, which data, and what etcd says of it."""
    keys = {key: kv.value for key, kv in scene.etcd.range().kvs.items()}
    return scene.leader.pid(), scene.leader.postgres.observe().system_id, rows(scene), keys


def test_killed_while_its_server_replays_the_next_one_ends_that_server_and_finishes(
    leaderl: Scene, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, data = leaderl.leader, leaderl.leader.places.home / "restore/data"
    archive = Path(backup.backup(leaderl.settings, "be-1", force=True, places=leader.places)["archive"])
    ends = []  # of the log: the segments that the archive lacks, and moments within it
    for _ in range(2):
        leader.sql("insert into kept select generate_series(1, 50)")
        ends += leader.sql("select pg_walfile_name(pg_switch_wal()), clock_timestamp()::text")
    (first, moment), (second, _) = ends
    fetch = f"cp {leader.places.data}/pg_wal/%f %p"  # the leader's log stands in for the archived one
    trap.kill_within(leaderl, archive, moment, f"test %f != {second} || {{ {trap.stop}; }}; {fetch}")
    with contextlib.ExitStack() as stack:
        orphans = [os.pidfd_open(pid) for pid in postmaster.processes(data)]
        for fd in orphans:
            stack.callback(_end, fd)
        assert orphans and not any(postmaster.wait_end(fd, 0.0) for fd in orphans)
        assert f'restored log file "{first}" from archive' in (data.parent / "postgresql.log").read_text()

        def ended(what: str) -> None:
            assert all(postmaster.wait_end(fd, 0.0) for fd in orphans), "not before the next one begins to unpack"

        monkeypatch.setattr(wal, "restore_command", lambda: fetch)
        leaderl.restore(archive, target_time=moment, agree=ended)
    assert rows(leaderl) == 200


def _end(fd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)


def test_killed_while_it_unpacks_the_next_one_finishes(leaderl: Scene, trap: Trap) -> None:
    trap.kill_within(leaderl, leaderl.archive)
    left = leaderl.leader.places.home / "restore/data"
    assert list(left.iterdir()) and not (left / "backup_manifest").exists()
    leaderl.restore()
    assert rows(leaderl) == 100


def test_killed_while_the_data_is_verified_the_next_one_finishes(leaderl: Scene, trap: Trap) -> None:
    leader = leaderl.leader
    for program in leader.places.bin.iterdir():
        (trap.folder / program.name).symlink_to(program)
    (trap.folder / "pg_verifybackup").unlink()
    (trap.folder / "pg_verifybackup").write_text(f"#!/bin/sh\n{trap.stop}\n")
    (trap.folder / "pg_verifybackup").chmod(0o755)
    places = dataclasses.replace(leader.places, bin=trap.folder)
    trap.kill_within(dataclasses.replace(leaderl, leader=dataclasses.replace(leader, places=places)), leaderl.archive)
    leaderl.restore()
    assert rows(leaderl) == 100
