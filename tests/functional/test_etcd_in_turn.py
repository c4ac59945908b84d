"""Members of a real etcd restarted one after the other, and certificates exchanged while they run."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.functional.etcd_machines import MEMBERS, Machines
from tests.functional.etcd_server import ETCD
from tests.functional.etcd_tools import timed

from chefha_core.parts.etcd import EtcdError, TlsFiles
from chefha_core.secrets import generate
from chefha_core.verbs import in_turn
from chefha_core.verbs.etcd_access import establish
from chefha_core.verbs.reach import VerbError, etcd_client

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")
UNIT = "chefha-etcd.service"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path) as made:
        for name in MEMBERS:
            made.start(name)
        made.wait_healthy()
        establish(made.settings, "be1", tmp_path / "kept")
        yield made


class Writer(threading.Thread):
    """Writes all the time with a deadline of 2 s; what failed."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(daemon=True)
        self.client, self.ended, self.failed = machines.client(timeout=2.0), threading.Event(), list[str]()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            try:
                self.client.put("beat", "x")
            except EtcdError as error:
                self.failed.append(str(error))

    def end(self) -> None:
        self.ended.set()
        self.join(10)
        assert self.failed == []


def restarting(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Play systemd, whose unit is told apart by the thread's own name; what was restarted, and who was down then."""
    log: list[tuple[str, str]] = []

    def restart(unit: str) -> None:
        name = threading.current_thread().name
        machines.stop(name, signal.SIGTERM)
        log.append((name, " ".join(sorted(set(MEMBERS) - set(machines.processes)))))
        time.sleep(0.3)
        machines.start(name)

    monkeypatch.setattr(in_turn, "systemctl_restart", restart)
    return log


def ask(machines: Machines, name: str, timeout: float = 60.0) -> str:
    threading.current_thread().name = name
    try:
        return in_turn.restart_in_turn(machines.settings, name, UNIT, timeout)
    except VerbError as error:
        return str(error)


def test_three_at_once_restart_one_after_the_other(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    log, writer = restarting(machines, monkeypatch), Writer(machines)
    writer.start()
    with ThreadPoolExecutor(3) as pool, timed("three restarts in turn"):
        said = list(pool.map(lambda name: ask(machines, name), MEMBERS))
    writer.end()
    assert said == ["restarted in turn"] * 3
    assert sorted(name for name, _ in log) == sorted(MEMBERS)
    assert all(name == down for name, down in log), "two were down together"
    assert machines.client().get(in_turn.TURN) is None


def test_nobody_restarts_while_another_member_is_away(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    log = restarting(machines, monkeypatch)
    machines.stop("be3")
    said = ask(machines, "be1", timeout=2.0)
    assert "chefha-etcd.service on be1 is not restarted: etcd at https://127.0.0.3:" in said
    assert log == []
    assert machines.client().get(in_turn.TURN) is None


def test_a_turn_that_is_taken_is_waited_for(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    log = restarting(machines, monkeypatch)
    machines.client().put(in_turn.TURN, '{"what": "chefha-etcd.service on be2"}')
    said = ask(machines, "be1", timeout=1.5)
    assert said == "chefha-etcd.service on be1 is not restarted: it is the turn of chefha-etcd.service on be2"
    assert log == []


def test_without_a_quorum_there_is_nobody_to_wait_for(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    log = restarting(machines, monkeypatch)
    for name in ("be2", "be3"):
        machines.stop(name)
    assert ask(machines, "be1").startswith("restarted at once, for etcd does not serve anyway: ")
    assert [name for name, _ in log] == ["be1"]


def test_a_user_that_is_not_accepted_is_no_reason_to_restart_all_at_once(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = restarting(machines, monkeypatch)
    secrets = dataclasses.replace(machines.settings.secrets, etcd_root_password="x")
    machines.settings = dataclasses.replace(machines.settings, secrets=secrets)
    assert "etcd_root_password" in ask(machines, "be1")
    assert log == []


def test_certificates_are_exchanged_without_a_restart_and_the_authority_in_turn(machines: Machines) -> None:
    """Trust both authorities (restarts in turn), exchange the certificate (none), trust the new one only (in turn)."""
    old = {name: getattr(machines.settings.tls, name) for name in ("ca", "certificate", "key")}
    new = generate(MEMBERS, "127.0.0.9")["tls"]
    writer = Writer(machines)
    writer.start()

    def restart_all() -> None:
        for name in MEMBERS:
            machines.stop(name, signal.SIGTERM)
            machines.start(name)
            machines.wait_healthy()

    machines.write_tls({**old, "ca": old["ca"] + new["ca"]})
    restart_all()
    machines.write_tls({**new, "ca": old["ca"] + new["ca"]})
    only_new = machines.folder / "new.crt"
    only_new.write_text(new["ca"])
    tls = machines.folder / "tls"
    client = etcd_client(machines.settings, "be1", 2.0)
    files = TlsFiles(str(only_new), str(tls / "server.crt"), str(tls / "server.key"))
    for endpoint in client.endpoints:
        alone = type(client)([endpoint], prefix=client.prefix, timeout=2.0, tls=files)
        assert alone.status(endpoint).version, "a new connection sees the new certificate at once"
    # one that trusts the new authority only, among two that have not been restarted since: they show it the new
    # certificate as peers, too
    machines.write_tls(new)
    machines.stop("be1", signal.SIGTERM)
    machines.start("be1")
    machines.wait_healthy()
    restart_all()
    writer.end()
