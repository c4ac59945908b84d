"""How a member's etcd begins, and what its users lack: the decisions as tables, without an etcd."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.test_settings import GOOD

from chefha_core.etcd_formation import Entry, NotYet, entry, first_three
from chefha_core.layout.etcd import config_text, etcd_member, token_key, unit_text
from chefha_core.parts.etcd import EtcdMember, EtcdRefused
from chefha_core.parts.etcd_access import Found, member_user, missing, wanted
from chefha_core.parts.etcd_login import Login, token_wanted
from chefha_core.parts.etcd_members import Said
from chefha_core.settings import Settings, from_pillar

OWN, B, C = (f"https://192.0.2.1{n}:2380" for n in (1, 2, 3))
SETTINGS = from_pillar({**GOOD, "cluster": "prod"})


def member(name: str, url: str, *, started: bool = True, number: int = 1) -> EtcdMember:
    return EtcdMember(f"{number:x}", name, (url,), (url.replace("2380", "2379"),) if started else ())


ABSENT = Said(absent=True)
UNCLEAR = Said(problem="https://192.0.2.12:2380 does not answer as etcd does: certificate verify failed")
#: from an etcd that has just begun with the static list, like the one that is asked for
WAITING = Said(tuple(member(name, url, started=False) for name, url in (("be1", OWN), ("be2", B), ("be3", C))))
#: from one that has had a quorum
FORMED = Said((member("be1", OWN), member("be2", B), member("be3", C, started=False)))


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ({B: ABSENT, C: ABSENT}, True),
        ({B: WAITING, C: ABSENT}, True),
        ({B: WAITING, C: WAITING}, True),
        ({B: FORMED, C: ABSENT}, False),
        ({B: WAITING, C: FORMED}, False),
        ({B: UNCLEAR, C: FORMED}, False),
        ({B: UNCLEAR, C: ABSENT}, "not certain"),
        ({B: UNCLEAR, C: WAITING}, "certificate verify failed"),
        ({OWN: FORMED, B: FORMED, C: FORMED}, "runs at https://192.0.2.11:2380 already"),
        ({OWN: UNCLEAR, B: ABSENT, C: ABSENT}, "runs at https://192.0.2.11:2380 already"),
    ],
    ids=[
        "nobody is there", "one waits as well", "both wait as well", "one has formed", "the slower one waits",
        "one has formed, another is unclear", "unclear alone", "unclear and waiting", "own address taken",
        "own address taken by somebody strange",
    ],
)  # fmt: skip
def test_an_etcd_begins_anew_only_where_none_has_formed(said: dict[str, Said], first: bool | str) -> None:
    if isinstance(first, bool):
        assert first_three(OWN, {OWN: ABSENT, **said}) is first
        return
    with pytest.raises(NotYet, match=first):
        first_three(OWN, {OWN: ABSENT, **said})


OTHERS = (member("be2", B, number=2), member("be3", C, number=3))


@pytest.mark.parametrize(
    ("listed", "running", "expected"),
    [
        ((), (), Entry(add=True)),
        ((member("be1", OWN, started=False),), (), Entry()),
        ((member("", OWN, started=False),), (), Entry()),
        ((member("be1", OWN, number=10),), (), Entry(remove="a", add=True)),
        ((member("former", OWN, number=10),), (), Entry(remove="a", add=True)),
        ((member("be1", "https://192.0.2.99:2380", number=10),), (), Entry(remove="a", add=True)),
        ((member("be1", "https://192.0.2.99:2380", started=False, number=10),), (), Entry(remove="a", add=True)),
        ((member("be1", OWN),), (OWN,), "find out whose it is"),
        ((member("be1", "https://192.0.2.99:2380"),), ("https://192.0.2.99:2380",), "runs at https://192.0.2.99:2380"),
        ((member("be1", "https://192.0.2.99:2380"), member("", OWN)), (), "both could be be1"),
    ],
    ids=[
        "not listed", "of the first three, never started", "let in, never started", "replaced", "renamed",
        "moved to another address", "let in at another address", "running here", "running at its old address", "twice",
    ],
)  # fmt: skip
def test_how_a_member_without_data_gets_in(
    listed: tuple[EtcdMember, ...], running: tuple[str, ...], expected: Entry | str
) -> None:
    members = (*listed, *OTHERS)
    if isinstance(expected, Entry):
        assert entry("be1", OWN, members, lambda url: url in running) == expected
        return
    with pytest.raises(NotYet, match=expected):
        entry("be1", OWN, members, lambda url: url in running)


def test_a_new_password_is_a_new_user() -> None:
    other = dataclasses.replace(SETTINGS.secrets, etcd_password="b")
    first, second = member_user(SETTINGS), member_user(dataclasses.replace(SETTINGS, secrets=other))
    assert first.startswith("chefha-prod-")
    assert len(first) == len("chefha-prod-") + 8
    assert first != second
    assert member_user(dataclasses.replace(SETTINGS, secrets=type(SETTINGS.secrets)())) == ""


WANT = wanted(SETTINGS)
WELL = Found(
    enabled=True,
    roles=frozenset({WANT.role, "root"}),
    granted=True,
    users={WANT.user: frozenset({WANT.role}), "root": frozenset({"root"})},
    user_accepted=True,
    root_accepted=True,
    named=WANT.user,
)


@pytest.mark.parametrize(
    ("found", "paths"),
    [
        (WELL, []),
        (Found(), ["kv/put", "role/add", "role/grant", "user/add", "user/grant", "role/add", "user/add", "user/grant",
                   "enable"]),
        (dataclasses.replace(WELL, granted=False), ["role/grant"]),
        (dataclasses.replace(WELL, named="chefha-prod-00000000"), ["kv/put"]),
        (dataclasses.replace(WELL, user_accepted=False), ["user/changepw"]),
        (dataclasses.replace(WELL, root_accepted=False), ["user/changepw"]),
        (dataclasses.replace(WELL, users={**WELL.users, WANT.user: frozenset()}), ["user/grant"]),
        (dataclasses.replace(WELL, enabled=False, user_accepted=False, root_accepted=False),
         ["user/changepw", "user/changepw", "enable"]),
    ],
    ids=["nothing", "everything", "rights", "the key", "the user's password", "root's password", "the user's role",
         "turned off by hand, so no password is known to be right"],
)  # fmt: skip
def test_what_is_missing_and_in_which_order(found: Found, paths: list[str]) -> None:
    steps = missing(WANT, found)
    assert [step.path.removeprefix("/v3/").removeprefix("auth/") for step in steps] == paths
    assert not any(WANT.password in repr(step) for step in steps if len(WANT.password) > 1)


@pytest.mark.parametrize(
    ("message", "code", "token", "wanted_"),
    [
        ("etcdserver: invalid auth token", 16, "old", True),
        ("etcdserver: revision of auth store is old", 3, "old", True),
        ("etcdserver: user name is empty", 3, "", True),
        ("etcdserver: permission denied", 7, "", True),
        ("etcdserver: permission denied", 7, "good", False),
        ("etcdserver: mvcc: database space exceeded", 8, "", False),
        ("etcdserver: duplicate key given in txn request", 3, "", False),
    ],
)
def test_which_refusals_ask_for_a_token(message: str, code: int, token: str, wanted_: bool) -> None:
    refusal = EtcdRefused(f"etcd refused: {message}", code)
    assert token_wanted(refusal, token) is wanted_
    assert not Login().wanted(refusal, token), "whoever has no user cannot get one"
    assert Login("u", "p").wanted(refusal, token) is wanted_


def with_tls(ca: str, certificate: str, key: str) -> Settings:
    tls = dataclasses.replace(SETTINGS.tls, enabled=True, ca=ca, certificate=certificate, key=key)
    return dataclasses.replace(SETTINGS, tls=tls)


def test_only_the_authority_changes_the_configuration_not_the_certificate() -> None:
    before = config_text(with_tls("ca", "certificate", "key"), "be1")
    assert config_text(with_tls("ca\n", "another", "another"), "be1") == before
    assert config_text(with_tls("another", "certificate", "key"), "be1") != before


def test_the_configuration_does_not_say_how_etcd_begins() -> None:
    """That stands in the copy that is written before each start, so that no highstate ever finds a change."""
    text = config_text(SETTINGS, "be1")
    assert "initial-cluster:" not in text
    assert "initial-cluster-state" not in text
    assert "etcd_formation --name be1\n" in unit_text("be1", "/usr/bin/python3")
    restarting = [wish for wish in etcd_member(SETTINGS, "be1") if wish.restart]
    assert [wish.in_turn for wish in restarting] == [True]


def test_the_key_of_the_tokens_is_one_for_all_and_tells_nothing() -> None:
    root = dataclasses.replace(SETTINGS.secrets, etcd_root_password="b" * 48)
    other = dataclasses.replace(SETTINGS, secrets=root)
    assert token_key(SETTINGS) == token_key(from_pillar({**GOOD, "cluster": "prod"}))
    assert len({token_key(SETTINGS), token_key(other), token_key(from_pillar(GOOD))}) == 3
    assert "b" * 48 not in token_key(other)
