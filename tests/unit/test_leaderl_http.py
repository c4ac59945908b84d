"""leaderl's HTTP: TLS that follows its files, silent clients that hold up nobody, and who may ask what."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chefha_core import secrets
from chefha_core.authority import issue, new_authority
from chefha_core.leaderl.client import Way
from chefha_core.leaderl.doors import MAY, Client, Doors
from chefha_core.leaderl.http import serve
from chefha_core.leaderl.memory import Memory
from chefha_core.leaderl.peers import Peers
from chefha_core.parts.signing import ForgedMessage
from chefha_core.parts.tls import server_context
from chefha_core.settings import SECRETS_OF, Settings, from_pillar

MEMBERS = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}
VIP, FRONT, STRANGER = "127.0.0.9", "127.0.0.5", "127.0.0.7"


@dataclasses.dataclass
class Played:
    """What the server asks of leaderl."""

    tokens: tuple[str, ...] = ("new",)

    def leading(self) -> int:
        return 7

    def status(self) -> dict[str, Any]:
        return {"name": "be1"}

    def metrics(self) -> str:
        return "chefha_leader 1\n"

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"epoch": 7, **question}

    def converge(self, epoch: int, timeout: float) -> dict[str, Any]:
        return {}


@dataclasses.dataclass
class Place:
    """A server on be1's address, and where its certificates are."""

    settings: Settings
    service: Played
    folder: Path

    def way(self) -> Way:
        return Way.of(self.settings)

    def put(self, tls: dict[str, str]) -> None:
        for file, text in (("ca.crt", tls["ca"]), ("server.crt", tls["certificate"]), ("server.key", tls["key"])):
            new = self.folder / f"{file}.new"
            new.write_text(text)
            new.replace(self.folder / file)

    def plain(self, path: str, source: str) -> tuple[int, dict[str, Any]]:
        """What HAProxy sends."""
        port = self.settings.leaderl.http_port
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(source, 0))
        ) as ask:
            ask.request("GET", path, headers={"Host": "localhost:7331"})
            answer = ask.getresponse()
            return answer.status, json.loads(answer.read())


def pillar(folder: Path, **more: Any) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tls = secrets.generate(MEMBERS, VIP)["tls"]
    return {
        "members": MEMBERS,
        "vip": VIP,
        "frontends": {"fe1": FRONT},
        "search": {"source": {"package": "search-engine"}},
        "secrets": dict.fromkeys(SECRETS_OF["backend"], "new"),
        "tls": {"directory": str(folder), **tls},
        "leaderl": {"http_port": port},
        **more,
    }


@contextlib.contextmanager
def serving(folder: Path, **more: Any) -> Iterator[Place]:
    settings = from_pillar(pillar(folder, **more))
    place = Place(settings, Played(), folder)
    place.put(settings.to_dict()["tls"])
    # on this machine everybody is at home: the test's strangers are not
    doors = dataclasses.replace(Doors.of(settings), networks=())
    port = settings.leaderl.http_port
    servers = serve(place.service, "127.0.0.1", port, folder / "s", doors, server_context(settings))
    try:
        yield place
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("tls")) as found:
        yield found


@pytest.fixture
def place(server: Place) -> Place:
    """The server as it was at first."""
    server.put(server.settings.to_dict()["tls"])
    server.service.tokens = ("new",)
    return server


@pytest.fixture
def members_way(tmp_path: Path) -> Iterator[Place]:
    with serving(tmp_path, frontend={"way": "members"}) as found:
        yield found


# ---- TLS


def test_a_member_is_asked_over_tls(place: Place) -> None:
    assert place.way().ask("be1", "GET", "/leader", 2.0) == (200, b'{"leader": true, "epoch": 7}')
    assert place.way().ask("be1", "GET", "/status", 2.0)[0] == 200
    assert place.way().ask("be1", "GET", "/nothing", 2.0)[0] == 404


def test_who_cannot_prove_its_address_is_not_believed(place: Place) -> None:
    authority = new_authority()
    for names, ca in ((["be2", "127.0.0.2"], authority), (["be1", "127.0.0.1"], new_authority())):
        own = issue(authority, names)
        place.put({"ca": ca.certificate, "certificate": own.certificate, "key": own.key})
        with pytest.raises(ssl.SSLCertVerificationError):
            place.way().ask("be1", "GET", "/leader", 2.0)


def test_new_certificates_count_from_the_next_question_on(place: Place) -> None:
    way = place.way()
    way.ask("be1", "GET", "/leader", 2.0)
    before = shown(place)
    new = secrets.generate(MEMBERS, VIP)["tls"]
    place.put({**new, "ca": new["ca"] + (place.folder / "ca.crt").read_text()})
    assert way.ask("be1", "GET", "/leader", 2.0)[0] == 200
    assert shown(place) != before


def test_half_a_rotation_leaves_the_former_certificate(place: Place) -> None:
    before = shown(place)
    new = secrets.generate(MEMBERS, VIP)["tls"]
    (place.folder / "server.crt").write_text(new["certificate"])
    assert shown(place) == before
    (place.folder / "server.key").write_text(new["key"])
    assert shown(place) != before


def shown(place: Place) -> str:
    return ssl.get_server_certificate(("127.0.0.1", place.settings.leaderl.http_port), timeout=5)


def test_silent_clients_hold_up_nobody(place: Place) -> None:
    port = place.settings.leaderl.http_port
    with contextlib.ExitStack() as silent:
        for first in (b"", b"\x16", b"\x16\x03\x01", b"GET /leader"):
            connection = silent.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            connection.sendall(first)
        time.sleep(0.1)
        began = time.monotonic()
        assert place.way().ask("be1", "GET", "/leader", 2.0)[0] == 200
        assert time.monotonic() - began < 0.5


def test_a_deadline_holds_against_who_accepts_and_says_nothing(tmp_path: Path) -> None:
    settings = from_pillar(pillar(tmp_path))
    (tmp_path / "ca.crt").write_text(settings.tls.ca)
    with socket.create_server(("127.0.0.1", settings.leaderl.http_port)):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
            Way.of(settings).ask("be1", "GET", "/leader", 0.3)
        assert 0.25 < time.monotonic() - began < 0.6


# ---- who may ask what


def doors(**more: Any) -> Doors:
    return Doors.of(from_pillar(pillar(Path("/tmp/x"), members={"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"},
                                       vip="192.0.2.9", frontends={"fe1": "192.0.2.5"}, **more)))  # fmt: skip


WHO = {
    "192.0.2.1": Client.MEMBER,
    "127.0.0.1": Client.READER,
    "192.0.2.9": Client.READER,
    "198.51.100.7": Client.READER,
    "192.0.2.5": Client.STRANGER,
    "203.0.113.1": Client.STRANGER,
}


@pytest.mark.parametrize("address", WHO)
def test_what_an_address_makes_of_who_asks(address: str) -> None:
    made = doors(leaderl={"http_networks": ["198.51.100.0/24", "2001:db8::/32"]})
    assert made.client(address) is WHO[address]
    assert made.may(address, encrypted=True) == MAY[WHO[address]]
    assert made.may(address, encrypted=False) == frozenset()


def test_front_ends_ask_one_thing_where_they_find_the_leader_themselves() -> None:
    made = doors(frontend={"way": "members"})
    assert made.may("192.0.2.5", encrypted=False) == made.may("192.0.2.5", encrypted=True) == {"GET /leader"}
    assert made.may("192.0.2.1", encrypted=False) == frozenset()


def test_without_tls_everything_is_plain() -> None:
    made = doors(tls={"enabled": False})
    assert "POST /ask" in made.may("192.0.2.1", encrypted=False)
    assert made.may("203.0.113.1", encrypted=False) == frozenset()


def test_strangers_are_hung_up_on(place: Place) -> None:
    for source in (STRANGER, FRONT):
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            place.plain("/leader", source)


def test_members_are_told_to_use_tls(place: Place) -> None:
    code, said = place.plain("/leader", "127.0.0.2")
    assert code == 403 and said["error"] == "GET /leader is not for 127.0.0.2 without TLS"


def posted(place: Place, length: str, source: str = "", local: bool = False) -> tuple[int, str]:
    """Code and words that answer a POST whose body never comes."""
    head = f"POST {'/converge' if local else '/ask'} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    port, context = place.settings.leaderl.http_port, ssl.create_default_context(cadata=place.settings.tls.ca)
    with contextlib.ExitStack() as opened:
        if local:
            asks = opened.enter_context(socket.socket(socket.AF_UNIX))
            asks.connect(str(place.folder / "s"))
        else:
            asks = opened.enter_context(socket.create_connection(("127.0.0.1", port), 5, (source, 0)))
            if source == MEMBERS["be2"]:
                asks = opened.enter_context(context.wrap_socket(asks, server_hostname="127.0.0.1"))
        asks.settimeout(2)  # less than the server waits for a body
        asks.sendall(head.encode())
        answer = b"".join(iter(lambda: asks.recv(65536), b""))
    return int(answer.split()[1]), json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "9" * 5000])
def test_a_length_that_is_none_is_refused_and_nothing_is_read(
    place: Place, length: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = (400, "Content-Length is not a number of bytes")
    assert posted(place, length, MEMBERS["be2"]) == posted(place, length, local=True) == wrong
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("length", ["-1", "abc", "60000"])
def test_who_may_not_post_is_refused_before_anything_is_read(place: Place, length: str) -> None:
    assert posted(place, length, MEMBERS["be3"]) == (403, "POST /ask is not for 127.0.0.3 without TLS")


def test_haproxy_of_a_front_end_asks_plain_who_leads_and_nothing_else(members_way: Place) -> None:
    assert members_way.plain("/leader", FRONT) == (200, {"leader": True, "epoch": 7})
    assert members_way.plain("/status", FRONT)[0] == 403
    assert members_way.plain("/leader", "127.0.0.2")[0] == 403
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        members_way.plain("/leader", STRANGER)


# ---- tokens, while the members change over one after the other


def peer(place: Place, token: str, previous: str = "") -> Peers:
    tree = {**place.settings.to_dict()["secrets"], "token": token, "previous_token": previous}
    settings = dataclasses.replace(place.settings, secrets=type(place.settings.secrets)(**tree))
    return Peers(settings, "be2", Memory(), 2.0)


#: (asker's token and previous one, asked one's), for each member before, between and after the two steps
STEPS: list[tuple[str, str]] = [("old", ""), ("new", "old"), ("new", "")]
MIXED = [(a, b) for a in STEPS for b in STEPS if abs(STEPS.index(a) - STEPS.index(b)) <= 1]


@pytest.mark.parametrize(("asking", "asked"), MIXED)
def test_members_one_step_apart_understand_each_other(
    place: Place, asking: tuple[str, str], asked: tuple[str, str]
) -> None:
    place.service.tokens = tuple(token for token in asked if token)
    peers = peer(place, *asking)
    for _ in range(2):
        assert peers._ask("be1", {"question": "leads"}) == {"epoch": 7, "question": "leads"}


def test_a_member_that_changes_over_is_followed_both_ways(place: Place) -> None:
    peers = peer(place, "new", "old")
    for tokens in (("old",), ("new", "old"), ("new",), ("old",)):
        place.service.tokens = tokens
        assert peers._ask("be1", {"question": "leads"})["epoch"] == 7


def test_another_token_is_refused(place: Place) -> None:
    for peers in (peer(place, "else"), peer(place, "else", "older")):
        with pytest.raises(ForgedMessage, match="be1 answered 403"):
            peers._ask("be1", {"question": "leads"})


def test_descriptors_are_given_back(place: Place) -> None:
    count: Callable[[], int] = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731, PTH208
    way = place.way()
    way.ask("be1", "GET", "/leader", 2.0)
    before = count()
    for _ in range(30):
        way.ask("be1", "GET", "/leader", 2.0)
    until = time.monotonic() + 5
    while count() > before:
        assert time.monotonic() < until, f"{count() - before} descriptors are left open"
        time.sleep(0.05)
