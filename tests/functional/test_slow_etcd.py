"""Verbs on an etcd that takes longer to answer than leaderl could wait for it."""

from __future__ import annotations

import dataclasses
import signal
import threading
from pathlib import Path

import pytest
from tests.functional.etcd_machines import MEMBERS, Machines
from tests.functional.etcd_server import ETCD

from chefha_core.verbs import handover, switches
from chefha_core.verbs.etcd_access import establish
from chefha_core.verbs.reach import VerbError

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")


def test_a_verb_waits_for_an_etcd_that_leaderl_would_give_up(tmp_path: Path) -> None:
    with Machines(tmp_path) as machines:
        for name in MEMBERS:
            machines.start(name)
        machines.wait_healthy()
        establish(machines.settings, "be1", tmp_path / "kept")
        settings = dataclasses.replace(machines.settings, profile="fast")
        pause = 2 * settings.request_timeout
        for ask, answer in (
            (lambda: handover.promote(settings, "be1", "be9", 10.0), "no such member"),
            (lambda: switches.set_cluster_failover(settings, "be1", "off"), "the cluster has no data yet"),
        ):
            for process in machines.processes.values():
                process.send_signal(signal.SIGSTOP)
            going_on = threading.Timer(pause, _go_on, [machines])
            going_on.start()
            with pytest.raises(VerbError, match=answer):
                ask()
            going_on.join()


def _go_on(machines: Machines) -> None:
    for process in machines.processes.values():
        process.send_signal(signal.SIGCONT)
