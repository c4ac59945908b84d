"""A real etcd that lost two of three members goes on with one; whoever comes back with its old data ends by itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.functional.etcd_machines import MEMBERS, Machines
from tests.functional.etcd_server import ETCD
from tests.functional.etcd_tools import until

from chefha_core import etcd_formation
from chefha_core.etcd_formation import NotYet
from chefha_core.leaderl.learners import Learners
from chefha_core.parts.etcd import EtcdError
from chefha_core.parts.etcd_members import confirmed_members
from chefha_core.verbs import bootstrap, etcd_access, quorum_loss
from chefha_core.verbs.etcd_access import establish
from chefha_core.verbs.reach import VerbError

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """Three members with authentication on and a key; systemctl reaches the processes of be1."""
    monkeypatch.setattr(etcd_formation, "FORMATION", tmp_path / "run" / "etcd-formation")
    for module in (etcd_formation, quorum_loss):
        monkeypatch.setattr(module, "ALONE", tmp_path / "run" / "etcd-alone")
    monkeypatch.setattr(etcd_access, "KEPT", tmp_path / "kept")
    with Machines(tmp_path) as made:

        def systemctl(action: str, unit: str) -> None:
            if action in ("stop", "restart") and "be1" in made.processes:
                made.stop("be1")
            if action in ("start", "restart"):
                made.start("be1")
                etcd_formation.ALONE.unlink(missing_ok=True)  # as the unit's program does

        monkeypatch.setattr(quorum_loss, "systemctl", systemctl)
        for name in MEMBERS:
            made.start(name)
        made.wait_healthy()
        establish(made.settings, "be1", tmp_path / "kept")
        made.client().put("leader", "be2")
        yield made


def votes(machines: Machines, name: str) -> bool:
    """Whether the member has its vote, which the leader's leaderl gives it as soon as it can."""
    Learners(machines.of("be1"), "be1", lambda look: look()).leading()
    return any(member.name == name and not member.learner for member in machines.client().members())


def reset(machines: Machines) -> None:
    quorum_loss.systemctl("stop", "")
    quorum_loss.start_alone(machines.of("be1"), "be1", 20.0)


def test_one_of_three_goes_on_alone_and_the_others_join_it(machines: Machines) -> None:
    for name in ("be2", "be3"):
        machines.stop(name)
    with pytest.raises(EtcdError):
        machines.client().get("leader", timeout=1.0)
    reset(machines)
    found = machines.client().get("leader")
    assert found is not None and found.value == "be2", "keys and users are kept"
    machines.stop("be1")
    machines.start("be1")
    machines.wait_healthy(("be1",))  # also when it starts the usual way again
    for name in ("be2", "be3"):
        machines.wipe(name)
    for name in ("be2", "be3"):
        assert machines.start(name).state == "existing"
        machines.wait_healthy(("be1",))  # until the newcomer has caught up, the only one decides alone
        if name == "be2":  # nor does a third one cost the quorum, which comes meanwhile
            with pytest.raises(NotYet, match="too many learner"):
                etcd_formation.beginning(machines.of("be3"), "be3")
        until(partial(votes, machines, name), 30)
        machines.wait_healthy(("be1", name))
    client = machines.client()
    assert {member.name for member in confirmed_members(client)} == set(MEMBERS)
    client.put("leader", "be1")


def test_two_old_members_that_come_back_make_no_second_cluster(machines: Machines) -> None:
    """They hear from the one that went on that they were struck off, and end, although they are two of three."""
    for name in ("be2", "be3"):
        machines.stop(name)
    reset(machines)
    for name in ("be2", "be3"):
        machines.start(name)
    processes, end = [machines.processes[name] for name in ("be2", "be3")], time.monotonic() + 30
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < end, "an old member goes on"
        time.sleep(0.1)
    machines.client().put("leader", "be1")


def test_recovery_is_refused_while_there_is_a_quorum(machines: Machines) -> None:
    data = machines.folder / "pg"
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n")
    settings = machines.of("be1")
    object.__setattr__(settings.postgresql, "data_dir", str(data))
    assert "etcd has a quorum (members: be1, be2, be3)" in quorum_loss.why_not(settings, "be1")
    machines.stop("be2")
    machines.wait_healthy(("be1", "be3"))
    assert "etcd has a quorum" in quorum_loss.why_not(settings, "be1")
    machines.stop("be1")
    assert "etcd of be3 answers" in quorum_loss.why_not(settings, "be1")
    machines.stop("be3")
    assert quorum_loss.why_not(settings, "be1") == ""


def test_no_cluster_is_begun_over_the_etcd_of_one_that_lost_its_quorum(machines: Machines) -> None:
    """Although PostgreSQL's folder is empty here and nobody else answers: the log of etcd tells of a cluster."""
    settings = machines.of("be1")
    for name in ("be2", "be3"):
        machines.stop(name)
    assert "etcd has data of a cluster in" in bootstrap.why_not(settings, "be1")
    machines.stop("be1")
    assert "does not say whose: it does not run; start it" in bootstrap.why_not(settings, "be1")


def test_an_etcd_that_waits_for_its_first_formation_may_begin_alone(tmp_path: Path) -> None:
    """It has written a log, but been in no cluster."""
    with Machines(tmp_path) as machines:
        machines.start("be1")
        settings = machines.of("be1")
        until(lambda: quorum_loss.has_etcd_data(settings), 20)
        until(lambda: bootstrap.why_not(settings, "be1") == "", 20)


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "etcd"
    data.mkdir()
    (data / "wal").write_text("x")
    assert (Path(quorum_loss.keep_aside(data)) / "wal").read_text() == "x"
    with pytest.raises(VerbError, match="nothing was changed"):
        quorum_loss.keep_aside(tmp_path / "nothing")
    assert subprocess.run(["ls", str(tmp_path)], capture_output=True, text=True).stdout.count("nothing") == 0
