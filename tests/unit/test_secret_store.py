"""The secrets on the master: made once, handed out to whom they belong, rotated in steps that nobody can confuse."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chefha_core import authority, secrets
from chefha_core.authority import check_certificate
from chefha_core.layout.catalogue import checked
from chefha_core.secrets import ROTATIONS, SecretsError, Store, handed_out
from chefha_core.settings import SECRETS_OF, from_pillar

TREE: dict[str, Any] = {
    "members": {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"},
    "frontends": {"fe1": "192.0.2.21"},
    "search": {"source": {"package": "search-engine"}},
    "vip": "192.0.2.100",
}
NAMES = ["be1", "192.0.2.11", "192.0.2.100", "localhost", "127.0.0.1"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store("chefha", tmp_path / "salt" / "chefha")
    made.make()
    return made


def given(store: Store, name: str, **more: Any) -> dict[str, Any]:
    return handed_out(from_pillar({**TREE, **more}, "anybody"), name, store)


def all_members(store: Store) -> dict[str, dict[str, str]]:
    return {name: given(store, name)["tls"] for name in TREE["members"]}


def texts(store: Store) -> dict[str, str]:
    return {str(path): path.read_text() for path in store.folder.rglob("*") if path.is_file()}


# ---- making


def test_everything_is_made_once(tmp_path: Path) -> None:
    store = Store("chefha", tmp_path)
    assert store.make() == [*SECRETS_OF["backend"], "certificate authority, good for 20 years"]
    before = texts(store)
    assert store.make() == [] and texts(store) == before


def test_only_the_owner_reads_it(store: Store) -> None:
    given(store, "be1")
    for path in [store.base, store.folder, *store.folder.rglob("*")]:
        assert oct(path.stat().st_mode & 0o777) == ("0o700" if path.is_dir() else "0o600")


def test_what_a_new_version_needs_more_is_added(store: Store) -> None:
    path = store.folder / "secrets.json"
    known = json.loads(path.read_text())
    del known["etcd_password"]
    path.write_text(json.dumps(known))
    assert store.make() == ["etcd_password"]
    assert {**json.loads(path.read_text()), **known} == json.loads(path.read_text())


def test_two_runs_at_once_are_refused(store: Store) -> None:
    with (store.folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for change in (store.make, lambda: store.rotate("token")):
            with pytest.raises(SecretsError, match="another run is changing"):
                change()


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    for name in ("..", "../x", "/etc", "", "A"):
        with pytest.raises(SecretsError, match="no name of a cluster"):
            Store(name, tmp_path)


def test_what_cannot_be_read_or_written_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="secrets cluster=other"):
        Store("other", store.base).passwords()
    (store.folder / "authority.json").write_text("{")
    with pytest.raises(SecretsError, match=r"authority\.json on the master is not what was written"):
        store.authorities()
    (tmp_path / "file").touch()
    with pytest.raises(SecretsError, match="cannot be written"):
        Store("chefha", tmp_path / "file").make()


SHAPES: dict[str, list[Any]] = {
    "secrets.json": [["x"], "x", None, {"token": 7}, {"token": {"a": 1}}],
    "authority.json": [["x"], None, {"issuer": "authority-x"}, {"issuer": 7, "coming": None, "going": None},
                       {"issuer": "a", "coming": None, "going": None, "generation": [1]}],
    "members/be1.json": [["x"], {"pair": {}}, {"pair": 7}, {"pair": {"certificate": "x"}}],
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_json_of_another_shape_is_one_sentence_and_is_left_as_it_is(store: Store, name: str) -> None:
    given(store, "be1")
    path = store.folder / name
    whole = json.loads(path.read_text())
    also = {field: {**whole, field: {"a": 1}} for field in whole if field not in ("names", "trusts")}
    for wrong in [*SHAPES[name], *also.values()]:
        path.write_text(json.dumps(wrong))
        with pytest.raises(SecretsError, match=rf"{name} on the master is not what was written there") as refusal:
            given(store, "be1")
        assert "\n" not in str(refusal.value) and json.loads(path.read_text()) == wrong
        if name == "secrets.json":
            with pytest.raises(SecretsError, match="restore it from a backup"):
                store.make()


# ---- handing out


def test_each_role_gets_its_own(store: Store) -> None:
    member, front = given(store, "be1"), given(store, "fe1")
    assert set(member["secrets"]) == set(SECRETS_OF["backend"])
    assert set(member["tls"]) == {"ca", "certificate", "key"}
    assert set(front["secrets"]) == set(SECRETS_OF["frontend"]) and set(front["tls"]) == {"ca"}
    assert given(store, "web1") == {}
    [own] = store.folder.glob("authority-*.key")
    assert own.read_text().splitlines()[2] not in json.dumps([member, front])


def test_members_are_satisfied_with_it(store: Store) -> None:
    for name in TREE["members"]:
        assert checked({**TREE, **given(store, name)}, name).tls.enabled
    front = from_pillar({**TREE, **given(store, "fe1")}, "frontend")
    assert front.secrets.token == ""


def test_each_member_has_a_certificate_of_its_own(store: Store) -> None:
    tls = all_members(store)
    assert len({one["key"] for one in tls.values()}) == 3
    one = tls["be1"]
    assert check_certificate(one["ca"], one["certificate"], one["key"], NAMES) == []
    assert check_certificate(one["ca"], one["certificate"], one["key"], ["192.0.2.12"]) != []


def test_what_the_pillar_has_wins(store: Store) -> None:
    own = {"ca": "a", "certificate": "b", "key": "c"}
    found = given(store, "be1", secrets={"token": "mine"}, tls=own)
    assert "token" not in found["secrets"] and "tls" not in found and "etcd_password" in found["secrets"]
    everything = {name: "mine" for name in SECRETS_OF["backend"]}
    assert handed_out(from_pillar({**TREE, "secrets": everything, "tls": own}, "anybody"), "be1", Store("none")) == {}
    assert "tls" not in given(store, "be1", tls={"enabled": False})


def test_nothing_is_made_where_nothing_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = given(store, "be1")
    monkeypatch.setattr(secrets, "issue", lambda *_: pytest.fail("a key was made"))
    monkeypatch.setattr(Store, "_write", lambda *_: pytest.fail("a file was written"))
    began = time.perf_counter()
    assert given(store, "be1") == before
    assert time.perf_counter() - began < 0.05


def test_a_new_address_or_vip_gets_a_new_certificate(store: Store) -> None:
    before = given(store, "be1")["tls"]
    after = given(store, "be1", vip="192.0.2.101")["tls"]
    assert after["certificate"] != before["certificate"]
    assert check_certificate(after["ca"], after["certificate"], after["key"], ["192.0.2.101"]) == []


def test_a_certificate_is_renewed_before_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = given(store, "be1")["tls"]["certificate"]
    day, now = 86400.0, time.time()
    monkeypatch.setattr(secrets.time, "time", lambda: now + (authority.LIFE_DAYS - 31) * day)
    assert given(store, "be1")["tls"]["certificate"] == before
    monkeypatch.setattr(secrets.time, "time", lambda: now + (authority.LIFE_DAYS - 29) * day)
    assert given(store, "be1")["tls"]["certificate"] != before


def test_the_end_of_the_authority_does_not_issue_again_and_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    given(store, "be1")
    trust, leaf = store._trust(), store._leaf("be1")
    assert leaf is not None
    monkeypatch.setattr(secrets.time, "time", lambda: trust.issuer.ends - 86400)
    late = dataclasses.replace(leaf, ends=trust.issuer.ends)
    assert late.why_renew(trust, leaf.names) == ""


# ---- rotating


def test_passwords_change_and_the_token_stays(store: Store) -> None:
    before = store.passwords()
    said = store.rotate("passwords")
    after = store.passwords()
    assert after["token"] == before["token"] and set(after) == set(before)
    assert all(after[name] != before[name] for name in before if name.endswith("_password"))
    assert not any(text in said for text in (*before.values(), *after.values()))


def test_a_token_is_rotated_in_two_steps(store: Store) -> None:
    before = given(store, "be1")["secrets"]
    assert "previous_token" not in before
    store.rotate("token")
    between = given(store, "be1")["secrets"]
    assert between["previous_token"] == before["token"] != between["token"]
    assert "previous_token" not in given(store, "fe1")["secrets"]
    store.rotate("token_done")
    after = given(store, "be1")["secrets"]
    assert "previous_token" not in after and after["token"] == between["token"]


def test_new_certificates_from_the_same_authority(store: Store) -> None:
    before = all_members(store)
    store.rotate("certificates")
    after = all_members(store)
    for name in before:
        assert after[name]["ca"] == before[name]["ca"]
        assert after[name]["certificate"] != before[name]["certificate"] and after[name]["key"] != before[name]["key"]


def test_old_and_new_members_trust_each_other_in_every_step(store: Store) -> None:
    """Whatever mixture of the step before and this one runs, each member accepts each other's certificate."""
    before = all_members(store)
    first = before
    for step in ("authority", "certificates", "authority_done"):
        store.rotate(step)
        after = all_members(store)
        for trusting in (*before.values(), *after.values()):
            for shown in (*before.values(), *after.values()):
                assert check_certificate(trusting["ca"], shown["certificate"], shown["key"], []) == [], step
        before = after
    assert check_certificate(first["be1"]["ca"], after["be1"]["certificate"], after["be1"]["key"], []) != []
    assert after["be1"]["ca"].count("BEGIN CERTIFICATE") == 1
    assert len(list(store.folder.glob("authority-*.key"))) == 1, "the former authority's key is gone"


ORDERS: dict[str, tuple[list[str], str, str]] = {
    "done before it began": ([], "authority_done", "rotate=authority comes first"),
    "done before certificates": (["authority"], "authority_done", "rotate=certificates comes first"),
    "a third authority": (["authority"], "authority", "then rotate=certificates"),
    "a third authority at the end": (["authority", "certificates"], "authority", "then rotate=authority_done"),
    "a third token": (["token"], "token", "then rotate=token_done"),
    "no token to forget": ([], "token_done", "rotate=token makes a new one first"),
    "no such step": ([], "everything", f"expected one of {', '.join(ROTATIONS)}"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_step_out_of_order_changes_nothing(store: Store, case: str) -> None:
    before, step, words = ORDERS[case]
    for earlier in before:
        store.rotate(earlier)
        all_members(store)
    present = texts(store)
    with pytest.raises(SecretsError, match=words) as refusal:
        store.rotate(step)
    assert texts(store) == present and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("before", "step", "words"),
    [
        (["authority"], "certificates", "be2 has not been told of the new authority"),
        (["authority", "certificates"], "authority_done", "be2 still has a certificate of the former authority"),
    ],
)
def test_a_member_that_was_left_behind_holds_the_next_step_up(
    store: Store, before: list[str], step: str, words: str
) -> None:
    all_members(store)
    *earlier, last = before
    for each in earlier:
        store.rotate(each)
        all_members(store)
    store.rotate(last)
    for name in ("be1", "be3"):
        given(store, name)
    with pytest.raises(SecretsError, match=words):
        store.rotate(step)
    given(store, "be2")
    store.rotate(step)


def test_a_crash_between_writing_and_replacing_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.passwords()

    def crash(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    crashing: Callable[..., Any] = crash
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crashing)
        with pytest.raises(KeyboardInterrupt):
            store.rotate("passwords")
    assert store.passwords() == before
    store.rotate("passwords")
    assert store.passwords() != before
