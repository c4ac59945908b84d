"""Authentication of a real etcd: turned on under running clients, its users, tokens that end, passwords exchanged."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.functional.etcd_machines import MEMBERS, Machines
from tests.functional.etcd_server import ETCD
from tests.functional.etcd_tools import timed, until

from chefha_core.parts.etcd import Compare, EtcdClient, EtcdRefused, EtcdUnreachable, NotAccepted, Put
from chefha_core.parts.etcd_access import ROOT, forget_others, member_user
from chefha_core.parts.etcd_watch import Doorbell
from chefha_core.settings import Settings
from chefha_core.verbs.etcd_access import establish, pending
from chefha_core.verbs.member import etcd_problem
from chefha_core.verbs.reach import VerbError, etcd_client

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path) as made:
        for name in MEMBERS:
            made.start(name)
        made.wait_healthy()
        yield made


@pytest.fixture
def closed(machines: Machines, tmp_path: Path) -> Machines:
    """The same with authentication on."""
    establish(machines.settings, "be1", tmp_path / "kept")
    return machines


def with_secrets(settings: Settings, **changed: str) -> Settings:
    return dataclasses.replace(settings, secrets=dataclasses.replace(settings.secrets, **changed))


def listen(client: EtcdClient) -> tuple[Doorbell, list[str]]:
    """A watch, and the values of the leader key that it has heard."""
    heard: list[str] = []

    def hear(key: str, kind: str, value: str | None, revision: int, at: float) -> None:
        if key == "leader":
            heard.append(value or "")

    bell = Doorbell(client, hear)
    bell.start()
    assert bell.listening.wait(10)
    return bell, heard


class Renewals(threading.Thread):
    """Writes a key by transactions on its revision, as a leader does; what failed, and how long the slowest took."""

    def __init__(self, client: EtcdClient) -> None:
        super().__init__(daemon=True)
        self.client, self.ended = client, threading.Event()
        self.count, self.slowest = 0, 0.0
        self.failed: list[str] = []

    def run(self) -> None:
        revision = self.client.txn([Compare.absent("leader")], [Put("leader", "first")]).revision
        while not self.ended.wait(0.005):
            begun = time.monotonic()
            try:
                result = self.client.txn([Compare.mod_revision("leader", revision)], [Put("leader", str(self.count))])
                assert result.succeeded
            except (EtcdRefused, EtcdUnreachable, AssertionError) as error:
                self.failed.append(repr(error))
                return
            revision, self.count = result.revision, self.count + 1
            self.slowest = max(self.slowest, time.monotonic() - begun)

    @property
    def written(self) -> list[str]:
        return ["first", *(str(number) for number in range(self.count))]

    def end(self) -> None:
        self.ended.set()
        self.join(10)
        print(f"\n  measured: {self.count} renewals, the slowest took {self.slowest * 1000:.0f} ms", end="")
        assert self.failed == []
        assert self.count > 20


def test_authentication_is_turned_on_under_running_clients(machines: Machines, tmp_path: Path) -> None:
    """Three members do it at once; nobody who renews or watches notices, nobody else gets in any more."""
    settings, kept = machines.settings, {name: tmp_path / f"kept-{name}" for name in MEMBERS}
    renewals = Renewals(machines.client(timeout=0.8))
    bell, heard = listen(machines.client())
    renewals.start()
    until(lambda: renewals.count > 10)
    announced = pending(settings, "be1", kept["be1"])
    assert announced[-2:] == ["authentication is on", "this node remembers root's password"]
    with ThreadPoolExecutor(3) as pool, timed("three members set up users and authentication at once"):
        done = list(pool.map(lambda name: establish(settings, name, kept[name]), MEMBERS))
    steps = {step for one in done for step in one}
    assert set(announced) <= steps
    # one may find a user that another has just made, and give it the same password again
    assert all(step.startswith("password of user ") for step in steps - set(announced))
    assert all(pending(settings, name, kept[name]) == [] for name in MEMBERS)
    assert all(establish(settings, name, kept[name]) == [] for name in MEMBERS)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept.values())
    count = renewals.count
    until(lambda: renewals.count > count + 20)
    renewals.end()
    until(lambda: heard == renewals.written)
    bell.stop()
    nobody = etcd_client(settings, "be1", 2.0, user="")
    with pytest.raises(EtcdRefused, match="permission denied"):
        nobody.get("leader")
    assert all(health.ok for health in nobody.healthy_endpoints()), "whoever is refused has been answered"
    assert etcd_problem(settings, "be1") == ""
    member = machines.client()
    for question in (
        lambda: member.call("/v3/auth/user/add", {"name": "x", "password": "y"}),
        lambda: etcd_client(dataclasses.replace(settings, cluster="other"), "be1", 2.0, user=member_user(settings),
                            password=settings.secrets.etcd_password).range(),
    ):  # fmt: skip
        with pytest.raises(EtcdRefused, match="permission denied"):
            question()


def test_without_a_quorum_nobody_is_answered(closed: Machines) -> None:
    for name in ("be2", "be3"):
        closed.stop(name)
    assert "does not answer with a quorum" in etcd_problem(closed.settings, "be1")
    health = etcd_client(closed.settings, "be1", 1.0, user="").healthy_endpoints()
    assert [one.ok for one in health] == [False] * 3


def test_tokens_end_and_are_renewed_within_the_deadline(closed: Machines) -> None:
    """A user more, a member restarted, a token signed by another key: no renewal fails, no watch misses anything."""
    renewals = Renewals(closed.client(timeout=0.8))
    bell, heard = listen(closed.client())
    renewals.start()
    root = etcd_client(closed.settings, "be1", 2.0, user=ROOT, password=closed.settings.secrets.etcd_root_password)
    for number in range(5):
        root.call("/v3/auth/user/add", {"name": f"user{number}", "password": "x"})
        count = renewals.count
        until(lambda count=count: renewals.count > count + 5)  # type: ignore[misc]
    renewals.end()
    until(lambda: heard == renewals.written)
    # be1, first in everybody's list, comes back with another key, as in the middle of an exchange of root's password
    closed.settings = with_secrets(closed.settings, etcd_root_password="f" * 48)
    closed.stop("be1")
    until(lambda: bell.endpoint not in closed.settings.endpoints("be1")[:1] and bell.listening.is_set())
    closed.start("be1")
    closed.wait_healthy()
    before = len(heard)
    client = closed.client(timeout=0.8)
    for number in range(30):
        mixed = closed.client(("be1", "be2", "be3")[number % 3], timeout=0.8)
        mixed.login._newest = client.login.token(closed.settings.endpoints("be1")[0])  # another member's token
        mixed.put("leader", str(number))
        client.put("leader", str(number))
    until(lambda: len(heard) == before + 60)
    bell.stop()


def test_a_wrong_password_is_one_sentence_without_it(
    closed: Machines, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = with_secrets(closed.settings, etcd_root_password="secret-root", etcd_password="secret-member")
    said = []
    with pytest.raises(NotAccepted, match="does not accept the user chefha-test-") as refused:
        etcd_client(wrong, "be1", 2.0).txn([Compare.absent("a")], [Put("a", "1")])
    said.append(str(refused.value))
    with pytest.raises(VerbError, match="pillar chefha:secrets:etcd_root_password") as verb:
        establish(wrong, "be1", tmp_path / "nothing")
    said += [str(verb.value), repr(etcd_client(wrong, "be1", 2.0).login), caplog.text]
    bell = Doorbell(etcd_client(wrong, "be1", 2.0), lambda *event: None)
    bell.start()
    until(lambda: "does not accept the user" in bell.problem)
    assert not bell.listening.is_set()
    bell.stop()
    bell.join(5)
    said.append(caplog.text)
    assert not any("secret-" in text for text in said)
    assert closed.client().get("a") is None
    logs = "".join(path.read_text() for path in closed.folder.glob("*.log"))
    secrets = closed.settings.secrets
    assert not any(secret in logs for secret in (secrets.etcd_password, secrets.etcd_root_password, "secret-"))


def test_etcdctl_gets_in_without_a_password_on_its_command_line(closed: Machines) -> None:
    """As docs/etcd.md says; an independent witness, over gRPC, of who may read what."""
    closed.client().put("leader", "be1")
    tls, secrets = closed.settings.tls.directory, closed.settings.secrets
    command = ["etcdctl", "--endpoints", closed.settings.endpoints("be1")[0], "--cacert", f"{tls}/ca.crt"]
    command += ["--cert", f"{tls}/server.crt", "--key", f"{tls}/server.key", "get", "--print-value-only"]
    member = {"ETCDCTL_USER": member_user(closed.settings), "ETCDCTL_PASSWORD": secrets.etcd_password}
    root = {"ETCDCTL_USER": ROOT, "ETCDCTL_PASSWORD": secrets.etcd_root_password}
    nobody: dict[str, str] = {}
    for user, key, expected in (
        (root, "/chefha/test/leader", "be1"),
        (member, "/chefha/test/leader", "be1"),
        (root, "/elsewhere", ""),
        (member, "/elsewhere", None),
        (nobody, "/chefha/test/leader", None),
    ):
        environment = {**os.environ, "ETCDCTL_API": "3", **user}
        done = subprocess.run([*command, key], env=environment, capture_output=True, text=True, check=False)
        assert (done.stdout.strip() if done.returncode == 0 else None) == expected, done.stderr


def test_one_password_after_the_other_is_exchanged(closed: Machines, tmp_path: Path) -> None:
    """The old user works on until it is deleted; root's new password gets in by the one that this node remembers."""
    old, kept = closed.settings, tmp_path / "kept"
    new = with_secrets(old, etcd_password="a" * 48, etcd_root_password="b" * 48)
    fresh = tmp_path / "fresh"
    with pytest.raises(VerbError, match="nor the former one"):
        establish(new, "be2", fresh)  # a machine that was not there before
    expected = ["key access names", "user chefha-test-", "has role chefha-test", "password of user root", "remembers"]
    for said in (pending(new, "be1", kept), establish(new, "be1", kept)):
        assert len(said) == len(expected)
        assert all(part in text for part, text in zip(expected, said, strict=True))
    assert pending(new, "be1", kept) == []
    assert establish(new, "be2", fresh) == ["this node remembers root's password"]
    for settings in (old, new):
        etcd_client(settings, "be1", 2.0).put("leader", member_user(settings))
    root = etcd_client(new, "be1", 2.0, user=ROOT, password=new.secrets.etcd_root_password)
    assert forget_others(root, old) == (), "the key names the new user: whoever still has the old one deletes nobody"
    assert forget_others(root, new) == (member_user(old),)
    assert forget_others(root, new) == ()
    with pytest.raises(NotAccepted):
        etcd_client(old, "be1", 2.0).get("leader")
    with pytest.raises(NotAccepted):
        etcd_client(old, "be1", 2.0, user=ROOT, password=old.secrets.etcd_root_password).get("leader")
    assert json.loads(root.get("access").value) == {"user": member_user(new)}  # type: ignore[union-attr]


def test_members_that_exchange_the_passwords_at_once_are_all_let_in(closed: Machines, tmp_path: Path) -> None:
    """Each finds etcd with the former or the new password of root, or sees it change between two questions."""
    kept = {name: tmp_path / f"kept-{name}" for name in MEMBERS}
    for name in MEMBERS:
        establish(closed.settings, name, kept[name])
    with ThreadPoolExecutor(6) as pool:
        for number in range(5):
            new = with_secrets(closed.settings, etcd_password=f"{number}" * 48, etcd_root_password=f"{number}r" * 24)
            asked = pool.map(lambda name, new=new: pending(new, name, kept[name]), MEMBERS)
            done = list(pool.map(lambda name, new=new: establish(new, name, kept[name]), MEMBERS))
            assert all(said[-1] == "this node remembers root's password" for said in done)
            assert any("password of user root" in said for said in done)
            assert len(list(asked)) == 3
            assert all(pending(new, name, kept[name]) == [] for name in MEMBERS)
