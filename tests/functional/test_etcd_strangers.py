"""EtcdClient and members that are slow, silent or confused, or do not know who asks: real ones, and played ones."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import pytest
from tests.functional.etcd_server import ETCD, EtcdServers
from tests.functional.etcd_tools import LATE, timed, until

from chefha_core.parts.etcd import Compare, EtcdClient, EtcdUnreachable, NotAccepted, Put

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")


def workers() -> int:
    return sum(thread.name == "chefha-etcd" for thread in threading.enumerate())


class Nuisance:
    """A server that accepts and then misbehaves: ``silent``, ``trickle`` (headers for ever), ``html``,
    ``close``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.stopped = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.stopped.is_set():
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._annoy, args=(peer,), daemon=True).start()

    def _annoy(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.recv(65536)
                if self.kind == "html":
                    body = b"<html>Bad gateway</html>"
                    peer.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                elif self.kind == "trickle":
                    peer.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not self.stopped.wait(0.02):
                        peer.sendall(b"X")
                elif self.kind == "silent":
                    self.stopped.wait(30)
            except OSError:
                pass

    def close(self) -> None:
        self.stopped.set()
        self.socket.close()


Answer = dict[str, object]


@contextmanager
def gateway(delay: float, by_path: Mapping[str, list[Answer]] = {}, **answer: object) -> Iterator[str]:
    """A member that answers everything with ``answer`` after ``delay`` seconds, but the questions at some paths with
    one of the answers listed there after the other (the last again and again); its URL.
    """
    listed = {path: list(answers) for path, answers in by_path.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            threading.Event().wait(delay)
            answers = listed.get(self.path, [answer])
            said = answers.pop(0) if len(answers) > 1 else answers[0]
            body = json.dumps(said).encode()
            with suppress(OSError):
                self.send_response(400 if "code" in said else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("slow", "succeeded", "doubtful"), [(0.25, True, False), (0.6, False, True), (0.0, True, False)]
)
def test_a_transaction_that_loses_against_itself(slow: float, succeeded: bool, doubtful: bool) -> None:
    """The first member applies it but is slow; asked as well, the second one says that the compare fails."""
    with (
        gateway(slow, header={"revision": "7"}, succeeded=True) as first,
        gateway(0.0, header={"revision": "7"}) as second,
    ):
        client = EtcdClient([first, second], prefix="/x", timeout=0.8)
        result = client.txn([Compare.mod_revision("leader", 6)], [Put("leader", "a")])
        assert (result.succeeded, result.doubtful, result.revision) == (succeeded, doubtful, 7)
        client.close()


def test_f34_a_slow_etcd_gets_the_whole_deadline(client: EtcdClient) -> None:
    """All members take three quarters of the deadline: that is no reason to call etcd unreachable."""
    with gateway(0.6, header={"revision": "7"}) as a, gateway(0.6) as b, gateway(0.6) as c:
        slow = EtcdClient([a, b, c], prefix="/x", timeout=0.8)
        with timed("every member needs 0.6 s, deadline 0.8 s", within=0.8):
            assert slow.range().revision == 7
        slow.close()


@pytest.mark.parametrize("kind", ["silent", "trickle", "html", "close"])
def test_a_member_that_misbehaves(client: EtcdClient, servers: EtcdServers, kind: str) -> None:
    nuisance = Nuisance(kind)
    try:
        alone = EtcdClient([nuisance.url], prefix="/x", timeout=0.4)
        with (
            timed(f"{kind} endpoint alone, deadline 0.4 s", within=0.4 + LATE),
            pytest.raises(EtcdUnreachable) as caught,
        ):
            alone.get("a")
        print(f"\n  {caught.value}", end="")
        before = workers()
        for _ in range(5):
            with pytest.raises(EtcdUnreachable):
                alone.get("a", timeout=0.1)
        until(lambda: workers() <= before + 1, 1.0)
        mixed = EtcdClient([nuisance.url, *servers.endpoints], prefix="/x", timeout=0.8, tls=servers.tls)
        with timed(f"{kind} endpoint first, then real ones, deadline 0.8 s", within=0.8):
            mixed.get("a")
        with timed("the next call", within=0.2):
            mixed.get("a")
    finally:
        nuisance.close()


def test_a_black_hole_is_left_in_time(client: EtcdClient, servers: EtcdServers) -> None:
    """A full backlog drops connection requests, like a host that is off."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    stuffed = [socket.socket() for _ in range(4)]
    for sock in stuffed:
        sock.setblocking(False)
        sock.connect_ex(hole.getsockname())
    try:
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        mixed = EtcdClient([url, *servers.endpoints], prefix="/x", timeout=0.8, tls=servers.tls)
        with timed("black hole first, deadline 0.8 s", within=0.8):
            mixed.get("a")
        alone = EtcdClient([url], prefix="/x", timeout=0.4)
        with timed("black hole alone, deadline 0.4 s", within=0.4 + LATE), pytest.raises(EtcdUnreachable):
            alone.get("a")
    finally:
        for sock in [*stuffed, hole]:
            sock.close()


def test_a_name_that_does_not_resolve(servers: EtcdServers) -> None:
    """F29."""
    mixed = EtcdClient(["http://nobody.invalid:2379", *servers.endpoints], prefix="/x", timeout=1, tls=servers.tls)
    with timed("unknown name first, deadline 1 s", within=1.0):
        mixed.get("a")


def test_the_program_ends_while_a_member_hangs() -> None:
    """Daemon threads: a call that hangs holds up nobody, not even the interpreter's end."""
    nuisance = Nuisance("silent")
    code = (
        "from chefha_core.parts.etcd import *\n"
        f"c = EtcdClient(['{nuisance.url}'], prefix='/x', timeout=20)\n"
        "try: c.get('a', timeout=0.2)\nexcept EtcdUnreachable as e: print(e)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10, check=True)
    assert "did not answer" in done.stdout
    assert time.monotonic() - start < 3
    nuisance.close()


# ---- the user

OLD: Answer = {"code": 3, "message": "etcdserver: revision of auth store is old"}
UNKNOWN: Answer = {"code": 3, "message": "etcdserver: authentication failed, invalid user ID or password"}
LOGIN, TXN = "/v3/auth/authenticate", "/v3/kv/txn"


def ask(*endpoints: str) -> bool:
    client = EtcdClient(endpoints, prefix="/x", timeout=0.8, user="u", password="p")
    try:
        return client.txn([Compare.absent("a")], [Put("a", "1")]).succeeded
    finally:
        client.close()


def test_an_old_token_is_renewed_at_the_member_that_refused_it() -> None:
    with gateway(0.0, {TXN: [OLD, {"succeeded": True}], LOGIN: [{"token": "t"}]}) as member:
        assert ask(member)


def test_a_member_that_does_not_know_the_user_may_only_lag() -> None:
    with (
        gateway(0.0, {TXN: [OLD], LOGIN: [UNKNOWN]}) as lagging,
        gateway(0.0, {TXN: [OLD, {"succeeded": True}], LOGIN: [{"token": "t"}]}) as other,
    ):
        assert ask(lagging, other)
        with pytest.raises(NotAccepted, match="does not accept the user u"):
            ask(lagging, lagging)


def test_a_member_that_refuses_its_own_tokens_is_left() -> None:
    with (
        gateway(0.0, {TXN: [OLD], LOGIN: [{"token": "t"}, {"token": "u"}, {"token": "v"}, {"token": "w"}]}) as confused,
        gateway(0.0, succeeded=True) as other,
    ):
        assert ask(confused, other)
        with pytest.raises(EtcdUnreachable, match="refused 3 tokens"):
            ask(confused)


def test_a_write_that_may_have_arrived_is_not_called_refused() -> None:
    """The first has the transaction in its hands; that the second does not know the user says nothing of that."""
    nuisance = Nuisance("silent")
    with gateway(0.0, {TXN: [OLD], LOGIN: [UNKNOWN]}) as lagging:
        with pytest.raises(EtcdUnreachable, match="did not answer") as caught:
            ask(nuisance.url, lagging)
        assert "does not accept the user u" in caught.value.reasons[lagging]
    nuisance.close()
