"""How members of a real etcd begin: the first three, one that was replaced, and those that must not start."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.etcd_machines import MEMBERS, Machines
from tests.functional.etcd_server import ETCD
from tests.functional.etcd_tools import timed, until

from chefha_core import etcd_formation
from chefha_core.etcd_formation import NotYet
from chefha_core.layout.etcd import peer_url
from chefha_core.parts.etcd import EtcdClient
from chefha_core.parts.etcd_members import heard_at
from chefha_core.secrets import generate
from chefha_core.verbs.etcd_access import establish
from chefha_core.verbs.reach import tls_files

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")


@pytest.fixture(autouse=True)
def reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the reason for waiting is written."""
    path = tmp_path / "run" / "etcd-formation"
    monkeypatch.setattr(etcd_formation, "FORMATION", path)
    return path


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path) as made:
        yield made


@pytest.fixture
def formed(machines: Machines, tmp_path: Path) -> Machines:
    """Three members with authentication on and a key."""
    for name in MEMBERS:
        machines.start(name)
    machines.wait_healthy()
    establish(machines.settings, "be1", tmp_path / "kept")
    machines.client().put("leader", "be1")
    return machines


def ids(client: EtcdClient) -> dict[str, str]:
    return {member.name: member.id_hex for member in client.members()}


def test_the_first_three_begin_one_after_the_other(machines: Machines) -> None:
    assert machines.start("be1").state == "new"
    assert machines.start("be2").state == "new"
    machines.wait_healthy(("be1", "be2"))
    machines.client().put("leader", "be1")
    with timed("the third, when the others have formed already"):
        assert machines.start("be3").state == "existing"
        machines.wait_healthy()
    before = ids(machines.client())
    assert sorted(before) == sorted(MEMBERS)
    for name in MEMBERS:  # all are stopped and started again: data decide, and nobody is asked
        machines.stop(name)
    for name in MEMBERS:
        assert machines.start(name, patience=0).state == "new"
    machines.wait_healthy()
    assert ids(machines.client()) == before


@pytest.mark.parametrize("name", ["be1", "be3"])
def test_a_replaced_machine_joins_by_itself(formed: Machines, name: str) -> None:
    """Under a new identity, with the others' data; they answer all the time."""
    others = tuple(other for other in MEMBERS if other != name)
    before = ids(formed.client())
    formed.stop(name)
    formed.wipe(name)
    formed.wait_healthy(others)  # the machine may have held etcd's leadership; its loss is not what is measured here
    client, ended, refused = formed.client(others[0], timeout=2.0), threading.Event(), []

    def write() -> None:
        while not ended.wait(0.02):
            try:
                client.put("beat", "x")
            except Exception as error:
                refused.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    with timed("from an empty machine to a healthy member"):
        begin = formed.start(name)
        formed.wait_healthy()
    ended.set()
    writer.join()
    assert begin.state == "existing"
    assert refused == []
    after = ids(formed.client())
    assert {other: after[other] for other in others} == {other: before[other] for other in others}
    assert after[name] != before[name]
    formed.stop(others[0])  # and now the new one is needed for the quorum
    formed.wait_healthy((name, others[1]))
    found = formed.client(name, timeout=5.0).get("leader")
    assert found is not None
    assert found.value == "be1"


def test_a_member_let_in_that_never_started_begins_all_the_same(formed: Machines) -> None:
    """The machine was lost again between being let in and its first start."""
    formed.stop("be2")
    formed.wipe("be2")
    assert etcd_formation.patient(formed.of("be2"), "be2").state == "existing"
    let_in = {member.peer_urls: member.id_hex for member in formed.client().members()}
    formed.start("be2")
    formed.wait_healthy()
    assert {member.peer_urls: member.id_hex for member in formed.client().members()} == let_in


def test_two_fresh_machines_cannot_outvote_the_one_that_has_the_data(formed: Machines, reason: Path) -> None:
    """No quorum can let them in: they wait, and say why; with one machine's data back the other joins."""
    for name in ("be2", "be3"):
        formed.stop(name)
    kept = formed.folder / "be2"
    kept.rename(formed.folder / "aside")
    formed.wipe("be3")
    for name in ("be2", "be3"):
        with pytest.raises(NotYet, match=f"have an etcd already and cannot let {name} in: .*quorum"):
            formed.start(name, patience=1.5)
    assert "cannot let be3 in" in reason.read_text()
    (formed.folder / "aside").rename(kept)
    formed.start("be2")
    formed.wait_healthy(("be1", "be2"))
    formed.start("be3")
    formed.wait_healthy()


def test_the_last_one_up_after_an_outage_of_all_waits_for_a_quorum(formed: Machines) -> None:
    """be1 restarted with its data and serves nobody yet; still it tells be3 that this is no first formation."""
    for name in MEMBERS:
        formed.stop(name)
    formed.wipe("be3")
    formed.start("be1")
    until(lambda: _answers(formed, "be1"))
    with pytest.raises(NotYet, match="have an etcd already"):
        formed.start("be3", patience=0)
    formed.start("be2")
    formed.start("be3")
    formed.wait_healthy()


def _answers(machines: Machines, name: str) -> bool:
    return heard_at(peer_url(machines.settings, name), tls_files(machines.settings), 1.0).formed


def test_a_running_member_is_never_struck_off(formed: Machines) -> None:
    """Somebody's etcd answers at this member's address: whoever has no data there is not its owner."""
    (formed.folder / "be3").rename(formed.folder / "elsewhere")
    before = ids(formed.client())
    with pytest.raises(NotYet, match=r"runs at https://127\.0\.0\.3:"):
        etcd_formation.patient(formed.of("be3"), "be3", 0)
    assert ids(formed.client()) == before


def test_whoever_cannot_be_understood_is_not_taken_for_absent(machines: Machines) -> None:
    """Certificates of another authority: the others may have an etcd, so this one begins none."""
    machines.start("be1")
    machines.start("be2")
    machines.wait_healthy(("be1", "be2"))
    machines.write_tls(generate(MEMBERS, "127.0.0.9")["tls"])
    with pytest.raises(NotYet, match="not certain whether the others have an etcd"):
        machines.start("be3", patience=0)


def test_the_program_writes_what_etcd_reads(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reason: Path
) -> None:
    config, run, settings = (machines.folder / name for name in ("etcd.yaml", "run/etcd.yaml", "settings.json"))
    config.write_text("name: be1\n")
    settings.write_text(json.dumps(machines.of("be1").to_dict()))
    monkeypatch.setattr(etcd_formation, "CONFIG_FILE", str(config))
    monkeypatch.setattr(etcd_formation, "RUN_CONFIG", str(run))
    monkeypatch.setattr(shutil, "chown", lambda path, user, group: None)  # etcd's user need not be on this machine
    monkeypatch.setattr("sys.argv", ["etcd_formation", "--name", "be1", "--settings", str(settings)])
    assert etcd_formation.main() == 0
    lines = run.read_text().splitlines()
    assert lines[:2] == ["name: be1", "initial-cluster-state: new"]
    assert lines[2].startswith("initial-cluster: be1=https://127.0.0.1:")
    assert run.stat().st_mode & 0o777 == 0o600
    settings.unlink()
    assert etcd_formation.main() == 1
    assert "is not there" in capsys.readouterr().err
